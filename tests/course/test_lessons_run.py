"""Each lesson runs to its end with other parameters: two seeds, few rows, few updates; its facts stay what they are.

`make campaigns` executes the notebooks as they are committed.
"""

from __future__ import annotations

import nbformat
import papermill
import pytest

from finetune_reg.paths import NOTEBOOKS
from finetune_reg.sweep.kernel_sockets import private_kernel_sockets

SMALL = {"seeds": [0, 1], "n_train": 48, "epochs": 2}
OWN = {
    "07_dps": SMALL | {"epochs": 7},  # a stage is a twentieth of the updates, and needs one
    "12_results": {},  # reads records and trains nothing
}


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell printed or returned, without its figures."""
    found = (output.get("text") or output.get("data", {}).get("text/plain") for output in cell.outputs)
    return [text for text in found if text]


@pytest.mark.parametrize("lesson", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_lesson_runs_with_other_parameters(lesson, tmp_path):
    stored = {cell.id: cell for cell in nbformat.read(lesson, as_version=4).cells}
    (known,) = (cell.source for cell in stored.values() if "parameters" in cell.metadata.get("tags", []))
    wanted = {"output_dir": str(tmp_path)} | OWN.get(lesson.stem, SMALL)
    with private_kernel_sockets() as sockets:
        executed = papermill.execute_notebook(
            lesson,
            tmp_path / lesson.name,
            parameters={name: value for name, value in wanted.items() if f"{name} = " in known},
            kernel_name="python3",
            cwd=NOTEBOOKS,
            progress_bar=False,
            shutdown_kernel="immediate",
            config=sockets,
        )
    facts = [cell for cell in executed.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert [texts(fact) for fact in facts] == [texts(stored[fact.id]) for fact in facts]
