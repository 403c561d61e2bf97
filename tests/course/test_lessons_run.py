"""Each lesson runs to its end with other parameters: each toy task, few rows and updates; its facts stay the same.

`make test` runs each lesson on one task, the next lesson on the next, and `make campaigns` on the others. There the
notebooks also run as they are committed.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from finetune_reg.paths import NOTEBOOKS
from finetune_reg.sweep.kernel_sockets import private_kernel_sockets

TASKS = ("entailment", "acceptability", "paraphrase", "similarity")
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
SMALL = {"seeds": [0, 1], "n_train": 48, "epochs": 2}
REFUSED = {("05_smart", "similarity")}
OWN = {
    "07_dps": SMALL | {"epochs": 7},  # a stage is a twentieth of the updates, and needs one
    "14_results": {},  # reads records and trains nothing
    "15_your_own_rows": {"rows": 60, "methods": ["head only"], "budget": 0.5},
}


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell printed or returned, without its figures."""
    found = (output.get("text") or output.get("data", {}).get("text/plain") for output in cell.outputs)
    return [text for text in found if text]


def cases():
    """Each lesson on each task; all but one task of a lesson are left to the campaign."""
    for number, lesson in enumerate(LESSONS):
        if "task = " not in lesson.read_text():
            yield pytest.param(lesson, "entailment", id=lesson.stem)
            continue
        for place, task in enumerate(TASKS):
            if (lesson.stem, task) in REFUSED:
                continue
            marks = [] if place == number % len(TASKS) else [pytest.mark.campaign]
            yield pytest.param(lesson, task, id=f"{lesson.stem}-{task}", marks=marks)


def executed(lesson: Path, task: str, folder: Path) -> nbformat.NotebookNode:
    """The lesson after a run with small settings."""
    (known,) = (
        cell.source
        for cell in nbformat.read(lesson, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    wanted = {"task": task, "output_dir": str(folder)} | OWN.get(lesson.stem, SMALL)
    with private_kernel_sockets() as sockets:
        return papermill.execute_notebook(
            lesson,
            folder / lesson.name,
            parameters={name: value for name, value in wanted.items() if f"{name} = " in known},
            kernel_name="python3",
            cwd=NOTEBOOKS,
            progress_bar=False,
            shutdown_kernel="immediate",
            config=sockets,
        )


@pytest.mark.parametrize(("lesson", "task"), list(cases()))
def test_a_lesson_runs_with_other_parameters(lesson, task, tmp_path):
    stored = {cell.id: cell for cell in nbformat.read(lesson, as_version=4).cells}
    cells = executed(lesson, task, tmp_path).cells
    facts = [cell for cell in cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert [texts(fact) for fact in facts] == [texts(stored[fact.id]) for fact in facts]


@pytest.mark.parametrize(("name", "task"), sorted(REFUSED))
def test_a_lesson_that_a_task_does_not_fit_says_so_in_its_first_cell(name, task, tmp_path):
    lesson = NOTEBOOKS / f"{name}.ipynb"
    with pytest.raises(PapermillExecutionError, match=r"this notebook .*: set `task` to one of") as refusal:
        executed(lesson, task, tmp_path)
    first = next(cell for cell in nbformat.read(lesson, as_version=4).cells[2:] if cell.cell_type == "code")
    assert refusal.value.source == first.source
