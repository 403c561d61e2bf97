"""The kernels that notebooks are executed in: this Python's own, reached over Unix sockets."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from filelock import FileLock, Timeout
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

PREFIX = "finetune-reg-kernel-"


class OwnKernelManager(AsyncKernelManager):
    """Starts the kernel of `sys.executable`; another one may be installed as `python3`, without this package."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """What `python -m ipykernel install` writes for this Python; the kernel ends with its worker without a word."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(["--log-level=ERROR"]))


@contextmanager
def private_kernel_sockets() -> Iterator[Config]:
    """Yield the configuration of one kernel of this Python, for papermill or nbclient.

    It is reached over Unix sockets in a folder that only its user can read. Over TCP a kernel dies at its start when
    another process takes a port between its choice and its use: two of 200 did with four starting at a time. Where no
    folder is near enough for the name of a socket, and on Windows, it is Jupyter's default: TCP on loopback.
    """
    config = Config(NotebookClient=Config(kernel_manager_class=OwnKernelManager))
    if (place := _place_for_sockets()) is None:
        yield config
        return
    _remove_dead(place)
    folder = place / f"{PREFIX}{secrets.token_hex(4)}"
    with FileLock(lock := folder.with_suffix(".lock")):
        folder.mkdir(mode=0o700)
        config.KernelManager = Config(transport="ipc", connection_file=f"{folder}/kernel.json")
        try:
            yield config
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _place_for_sockets() -> Path | None:
    """Return the folder for temporary files, or /tmp where names of sockets in it would be above 107 bytes."""
    for place in (tempfile.gettempdir(), "/tmp") if sys.platform != "win32" else ():
        longest = f"{place}/{PREFIX}{secrets.token_hex(4)}/kernel-ipc-99"
        if len(os.fsencode(longest)) <= zmq.IPC_PATH_MAX_LEN and os.access(place, os.W_OK | os.X_OK):
            return Path(place)
    return None


def _remove_dead(place: Path) -> None:
    """Remove the folders of processes that were killed: nobody holds their lock."""
    for lock in place.glob(f"{PREFIX}*.lock"):
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
        except (Timeout, PermissionError):
            continue
