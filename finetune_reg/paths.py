"""Where the package finds its data, notebooks and names: the repository, or the copies inside an installed wheel."""

from __future__ import annotations

import ast
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent
ROOT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else _PACKAGE

POCKET = ROOT / "data" / "pocket"
RESULTS = ROOT / "data" / "results"
SELECTION = ROOT / "data" / "selection"
HOTEL_NOTES = ROOT / "data" / "hotel_notes.csv"
NOTEBOOKS = ROOT / "notebooks"


def output_folder(name: str | Path) -> Path:
    """Return an output folder: an absolute path as it is, a relative one below the repository.

    Kernels start in different folders; this makes a notebook's output land in one place. Outside a checkout a
    relative path is taken from the current folder.
    """
    base = ROOT if ROOT == _CHECKOUT else Path.cwd()
    return base / os.path.expanduser(name)


def existing_folder(name: str | Path) -> Path | None:
    """Return a folder by its path, `~` expanded; None if there is none, or none can have such a name."""
    try:
        folder = Path(os.path.expanduser(name))
        return folder if str(name) and folder.is_dir() else None
    except (OSError, ValueError):  # too long; with a null character
        return None


def public_names(init: str) -> dict[str, str]:
    """Return the module of each name that the `.pyi` beside an `__init__.py` imports."""
    return {
        public.name: statement.module
        for statement in ast.parse(Path(init).with_suffix(".pyi").read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for public in statement.names
    }
