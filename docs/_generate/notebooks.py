"""The notebooks as they are committed, beside the other sources of the site."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_reg.paths import NOTEBOOKS

LESSONS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def copy_notebooks(folder: Path) -> None:
    """Copy the lessons into a folder; an equal copy keeps its time, so that Sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    for stale in set(folder.glob("*.ipynb")) - {folder / lesson.name for lesson in LESSONS}:
        stale.unlink()
    for lesson in LESSONS:
        copy = folder / lesson.name
        if not copy.exists() or copy.read_bytes() != lesson.read_bytes():
            shutil.copyfile(lesson, copy)
