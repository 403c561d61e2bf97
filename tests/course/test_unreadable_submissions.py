"""Files that are no notebooks, or hardly: each is refused by itself, so that it costs no row but its own."""

from __future__ import annotations

import json
import os

import pytest
from bad_inputs.refusals import assert_refused

from finetune_reg.course.grading import grade
from finetune_reg.course.grading.submission_cells import checked_exercises, read_notebook

CELL = {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "outputs": [], "execution_count": None}
NOTEBOOK = {"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def with_cell(**changes) -> str:
    return json.dumps(NOTEBOOK | {"cells": [CELL | changes]})


UNREADABLE = {
    "empty": "",
    "rubbish": "{",
    "list": "[]",
    "null": "null",
    "another encoding": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "another format": json.dumps(NOTEBOOK | {"nbformat": 99}),
    "cells are text": json.dumps(NOTEBOOK | {"cells": "x"}),
    "a cell is a number": json.dumps(NOTEBOOK | {"cells": [1]}),
    "a source is a number": with_cell(source=5),
    "a source is nothing": with_cell(source=None),
    "a source is a mapping": with_cell(source={"a": 1}),
    "half of a character": with_cell(source="x = '\ud800'"),
    "a type is a number": with_cell(cell_type=5),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_notebook_is_refused(name, tmp_path):
    path, content = tmp_path / "a.ipynb", UNREADABLE[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(lambda: read_notebook(path), "", tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "nowhere"])
def test_what_is_no_file_is_refused(kind, tmp_path):
    path = tmp_path / "a.ipynb"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}.get(
        kind, lambda: path.symlink_to(path if kind == "loop" else "nowhere")
    )()
    with pytest.raises(ValueError, match=r"no file|cannot be read"):
        read_notebook(path)


def test_what_is_unusual_is_read(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text(with_cell(source="check('holm', 1)\ncheck(5)\ncheck()\n%%rubbish ("))
    assert checked_exercises(read_notebook(path)) == ["holm"]


@pytest.mark.parametrize("out", [".", "", "folder"])
def test_points_do_not_go_where_a_folder_is(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.ipynb").write_text(with_cell(source="check('holm', 1)"))
    assert_refused(lambda: grade("folder", out), "is a folder: name a CSV file", tmp_path)
