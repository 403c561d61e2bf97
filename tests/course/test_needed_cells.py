"""Which cells of a notebook are executed for grading."""

from __future__ import annotations

import nbformat
import pytest

from finetune_reg import paths
from finetune_reg.course.grading.needed_cells import needed_cells
from finetune_reg.course.grading.submission_cells import code_cells

CHECK = 'check("holm", answer, strict_exercises)'


@pytest.mark.parametrize(
    ("cells", "unneeded"),
    [
        (["import a", "from b import c, check", "x = c", "y = 2", f"answer = x\n{CHECK}"], ["import a", "y = 2"]),
        (
            ["x = [1]", "def f():\n    return g(x)", "def g(a):\n    y = a", "y = f()", f"answer = f\n{CHECK}"],
            ["y = f()"],
        ),
        (["x = []", "x.append(1)", "x[0] = 2", "x += [3]", "y = len(x)", f"answer = x\n{CHECK}"], ["y = len(x)"]),
        (["x, y = [], 1", "fill(x)", "print(x)", "y = fill(x)", f"answer = x\n{CHECK}"], ["print(x)", "y = fill(x)"]),
        (["def fill(x): ...", "x = 1", "a = fill(y=x)", f"answer = x\n{CHECK}"], ["def fill(x): ...", "a = fill(y=x)"]),
        (["def slow(): ...", "%time x = slow()", "z = 3", f"answer = x\n{CHECK}"], ["z = 3"]),
        (["%%time\nx = 3", "z = 3", f"answer = x\n{CHECK}"], ["z = 3"]),
        (
            ["np.random.seed(0)", "_ = np.random.seed(0)", "plot(np.arange(3))", f"answer = np.random.rand()\n{CHECK}"],
            ["plot(np.arange(3))"],
        ),
        (["x = 3", "exec('y = 3')", f"answer = 1\n{CHECK}"], []),
        (["x = 3", "_", f"answer = 1\n{CHECK}"], []),
        (["def broken(:", "x = 3", f"answer = 1\n{CHECK}"], ["x = 3"]),
        (["x = 3", f"# {CHECK}", f"answer = 1\n{CHECK}"], ["x = 3", f"# {CHECK}"]),
    ],
)
def test_cells_are_left_out_that_no_check_needs(cells, unneeded):
    assert [cell for cell in cells if cell not in needed_cells(cells)] == unneeded


def test_of_a_notebook_without_solved_exercises_little_is_needed():
    cells = code_cells(nbformat.read(paths.NOTEBOOKS / "07_dps.ipynb", as_version=4))
    needed = needed_cells(cells)
    assert len(needed) <= 8 < len(cells)
    assert not any("run(" in cell for cell in needed)
