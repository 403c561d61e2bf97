"""Files that are written in one step: a reader sees all of a file or nothing of it, whenever its writer is killed.

What is written goes to a temporary file beside its place and is then moved there. A process that is killed in between
leaves the temporary file, whose name says who wrote it: `.RANDOM@HOST@PROCESS.tmp`.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil

A_DAY = 24 * 60 * 60


@contextmanager
def in_one_step(path: Path) -> Iterator[Path]:
    """Give a temporary file to write to, and move it to `path` at the end, unless there was an error.

    `path` lies in a folder that is there. The file gets the permissions that the user's umask gives to new files.

    Raises:
        OSError: the file cannot be written. The error names `path`, which is left as it was.
    """
    if not path.name:  # the current folder
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{uuid4().hex}@{socket.gethostname()}@{os.getpid()}.tmp")
    try:
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def folder_in_one_step(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, and put it in the place of `folder` at the end, unless there was an error."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file as `in_one_step` does.

    Raises:
        OSError: as `in_one_step`.
    """
    with in_one_step(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder that nobody is writing any more.

    These are the files of processes of this host that have ended, and all files older than a day, for writing takes an
    instant. Younger files of other hosts are left alone; so hosts that share a folder need names of their own.
    """
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # its writer has just moved it into place
            if _has_ended(path) or time.time() - path.stat().st_mtime > A_DAY:
                path.unlink()


def _has_ended(temporary: Path) -> bool:
    """Tell whether the writer of a file is known to live no more."""
    _, *writer = temporary.stem.split("@")
    if len(writer) != 2 or writer[0] != socket.gethostname() or not writer[1].isdecimal():
        return False
    try:
        return psutil.Process(int(writer[1])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
