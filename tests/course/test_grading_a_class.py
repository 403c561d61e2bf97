"""A class of forty: whole notebooks of the course, with solutions, mistakes, accidents and forgeries where we know."""

from __future__ import annotations

import ast
import random
from textwrap import indent
from time import monotonic

import nbformat
import pytest

from finetune_reg import paths
from finetune_reg.course.grading import checked_exercises, grade

pytestmark = pytest.mark.campaign

N_STUDENTS = 40
WRONG = "lambda *arguments, **named: 0"
SOLUTIONS = sorted((paths.NOTEBOOKS / "solutions").glob("*.ipynb"))
ACCIDENTS = ["undefined_name", "1 / 0", "import sys\nsys.exit(1)", "def broken(:", "%no_such_command", "input()"]
FORGERIES = [  # what a function does before it returns the attempt
    "global check\ncheck = lambda name, attempt, strict=False: print(f'{name}: right.')",
    "import finetune_reg.course.exercises as course\ncourse.judge = lambda checker, attempt: ''",
    "import math, numpy, torch\nmath.isclose = numpy.allclose = torch.allclose = lambda *_, **__: True",
    "import builtins\nbuiltins.abs = builtins.float = lambda value: 0.0",
    "from finetune_reg.course.exercises import topics\n"
    "for topic in topics().values():\n    topic.update(dict.fromkeys(topic, lambda attempt: None))",
    "class Always(float):\n    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True\n"
    "    __getattr__ = __sub__ = __rsub__ = __add__ = lambda self, other: self\n"
    "attempt = lambda *arguments, **named: Always()",
    "from pathlib import Path\nfor folder in Path.cwd().parents:\n    for table in folder.glob('*/points.csv'):\n"
    "        table.write_text('submission,total\\nme.ipynb,1000')",
]


def is_check(node):
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"


def spoiled(source, wrong, mistake):
    """Return the cell of a solution; if it checks what is to be wrong, with a mistake in the attempt's place."""
    (call,) = [node for node in ast.walk(ast.parse(source)) if is_check(node)] or [None]
    if call is None or call.args[0].value not in wrong:
        return source
    lines, attempt = source.split("\n"), call.args[1]
    made = f"{attempt.id} = {mistake}" if isinstance(attempt, ast.Name) else f"{attempt.value.id} = [{mistake}]"
    return "\n".join([*lines[: call.lineno - 1], made, lines[call.lineno - 1]])


def handed_in(solution_path, wrong, first="", mistake=WRONG):
    """Return a lesson in which a student has written solutions, and mistakes in the place of what is `wrong`."""
    lesson = nbformat.read(paths.NOTEBOOKS / solution_path.name, as_version=4)
    solution = nbformat.read(solution_path, as_version=4)
    lesson.cells = [cell for cell in lesson.cells if not checked_exercises(nbformat.v4.new_notebook(cells=[cell]))]
    sources = [spoiled(cell.source, wrong, mistake) for cell in solution.cells if cell.cell_type == "code"]
    lesson.cells += [nbformat.v4.new_code_cell(source) for source in [*sources[:2], first, *sources[2:]]]
    return lesson


def hand_in(student, folder, drawn):
    """Write a student's notebook; return its name, and the exercises in it that are right."""
    path = SOLUTIONS[student % len(SOLUTIONS)]
    exercises = checked_exercises(nbformat.read(path, as_version=4))
    kind = ("right", "mistakes", "accident", "forgery")[student * 4 // N_STUDENTS]
    some = drawn.sample(exercises, drawn.randint(1, len(exercises)))
    wrong = {"right": [], "forgery": exercises}.get(kind, some)
    first, mistake = "", WRONG
    if kind == "accident":
        first = ACCIDENTS[student % len(ACCIDENTS)]
    if kind == "forgery":
        body = indent(FORGERIES[student % len(FORGERIES)], "    ")
        first, mistake = f"def forge(attempt):\n{body}\n    return attempt", f"forge({WRONG})"
    name = f"student_{student:02}_{kind}.ipynb"
    nbformat.write(handed_in(path, wrong, first, mistake), folder / name)
    return name, set(exercises) - set(wrong)


def test_forty_submissions_get_the_points_of_what_is_right_and_no_forgery_pays(tmp_path):
    drawn = random.Random(0)
    expected = dict(hand_in(student, tmp_path, drawn) for student in range(N_STUDENTS))
    start = monotonic()
    table = grade(tmp_path, tmp_path / "points.csv", jobs=2).set_index("submission")
    minutes = (monotonic() - start) / 60
    exercises = list(table.columns[: list(table).index("total")])
    points = {name: {exercise for exercise in exercises if row[exercise]} for name, row in table.iterrows()}
    assert {name: (found, expected[name]) for name, found in points.items() if found != expected[name]} == {}
    assert minutes < 20, "on two free cores"
