"""Where the package finds its data and notebooks: the repository, or the copies inside an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent
ROOT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else _PACKAGE

POCKET = ROOT / "data" / "pocket"
RESULTS = ROOT / "data" / "results"
SELECTION = ROOT / "data" / "selection"
NOTEBOOKS = ROOT / "notebooks"


def output_folder(name: str | Path) -> Path:
    """Return an output folder: an absolute path as it is, a relative one below the repository.

    Kernels start in different folders; this makes a notebook's output land in one place. Outside a checkout a
    relative path is taken from the current folder.
    """
    base = ROOT if ROOT == _CHECKOUT else Path.cwd()
    return base / Path(name).expanduser()
