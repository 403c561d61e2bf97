"""The course for otter-grader: each lesson with the test files that otter reads, made from the course's own checks.

What carries over: every check is a question of one point, whose test prints the sentence of `check`; the cells for
answers that are read. What does not: otter runs a check in the submission's own process, so a submission that patches
the checkers is not noticed; the rubrics; the table of points of `finetune-reg grade`.
"""

from __future__ import annotations

import ast
from pathlib import Path
from pprint import pformat

import nbformat

from finetune_reg.course.grading.submission_cells import checked_exercises, parsed, read_notebook
from finetune_reg.course.student_bundle import new_folder, students_notebook
from finetune_reg.errors import InputError
from finetune_reg.paths import NOTEBOOKS

START = 'import otter\n\ngrader = otter.Notebook("{name}")'
JUDGED = (
    ">>> from finetune_reg.course.exercises import exercises, judge\n>>> judge(exercises()[{name!r}], {attempt})\n''\n"
)


def write_for_otter(out: Path | str) -> list[Path]:
    """Write, to a new or empty folder, a folder for each lesson with exercises: the notebook, and its `tests`.

    Returns:
        The notebooks. `otter check` runs a notebook's tests beside it, `otter generate` packs them for Gradescope.

    Raises:
        InputError: the folder has something in it, cannot be written, or a check is no statement of its own.
    """
    folder, written = new_folder(out), []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = students_notebook(read_notebook(path))
        if not checked_exercises(notebook):
            continue
        tests = folder / path.stem / "tests"
        tests.mkdir(parents=True)
        for cell in notebook.cells:
            if cell.cell_type == "code" and checked_exercises(nbformat.v4.new_notebook(cells=[cell])):
                cell.source, attempts = _asking_otter(cell.source)
                for name, attempt in attempts.items():
                    (tests / f"{name}.py").write_text(_test_file(name, attempt), encoding="utf-8")
        start = nbformat.v4.new_code_cell(START.format(name=path.name)) | {"id": "otter"}
        notebook.cells.insert(0, nbformat.from_dict(start))
        written.append(tests.parent / path.name)
        nbformat.write(notebook, written[-1])
    return written


def _asking_otter(source: str) -> tuple[str, dict[str, str]]:
    """Return a cell that asks otter in the place of `check`, and the attempts as Python, by exercise."""
    lines, attempts, tree = source.split("\n"), dict[str, str](), parsed(source)
    for statement in reversed(tree.body if tree else []):
        match statement:
            case (
                ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=str(name)), attempt, *_]))
                | ast.Assign(
                    value=ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=str(name)), attempt, *_])
                )
            ):
                lines[statement.lineno - 1 : statement.end_lineno] = [f'grader.check("{name}")']
                attempts[name] = ast.unparse(attempt)
    if not attempts:
        raise InputError(f"This cell checks no exercise in a statement of its own: {source}")
    return "\n".join(lines), attempts


def _test_file(name: str, attempt: str) -> str:
    case = {"code": JUDGED.format(name=name, attempt=attempt), "hidden": False, "locked": False}
    suite = {"cases": [case], "scored": True, "setup": "", "teardown": "", "type": "doctest"}
    return f"OK_FORMAT = True\n\ntest = {pformat({'name': name, 'points': 1, 'suites': [suite]}, sort_dicts=False)}\n"
