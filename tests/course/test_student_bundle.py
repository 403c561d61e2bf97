"""The student's notebooks: every exercise of the course, and nothing of its solutions."""

from __future__ import annotations

import nbformat
import pytest
from command_line import call

from finetune_reg.course.grading import checked_exercises
from finetune_reg.course.grading.rubrics import RUBRICS
from finetune_reg.course.grading.submission_cells import course_checks, hand_read_tasks
from finetune_reg.course.student_bundle import students_notebook, without_solutions
from finetune_reg.paths import NOTEBOOKS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "notebooks"
    assert call("course", "student", folder).returncode == 0
    return {path.name: nbformat.read(path, as_version=4) for path in folder.iterdir()}


def test_bundle_has_every_notebook_and_exercise_and_no_word_on_solutions(bundle):
    assert set(bundle) == {path.name for path in NOTEBOOKS.glob("*.ipynb")}
    exercises = [name for notebook in bundle.values() for name in checked_exercises(notebook)]
    assert sorted(exercises) == sorted(course_checks())
    for notebook in bundle.values():
        nbformat.validate(notebook)
        assert not [
            cell.source for cell in notebook.cells if "solutions/" in cell.source or "`solutions`" in cell.source
        ]


def test_bundle_changes_nothing_but_those_sentences_and_the_answer_cells(bundle):
    for name, notebook in bundle.items():
        original = nbformat.read(NOTEBOOKS / name, as_version=4)
        kept = [cell for cell in notebook.cells if "answer" not in cell.metadata.get("tags", [])]
        assert [cell.id for cell in kept] == [cell.id for cell in original.cells]
        changed = [new for new, old in zip(kept, original.cells, strict=True) if new.source != old.source]
        assert len(changed) <= 1, [cell.source for cell in changed]


def test_answers_that_are_read_have_a_cell_below_their_task_and_a_rubric(bundle):
    tasks = {task for of_exercise in hand_read_tasks().values() for task in of_exercise}
    assert set(RUBRICS) == tasks
    below = {
        cell.source.split("“")[1].split("”")[0]: above.source
        for notebook in bundle.values()
        for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False)
        if "answer" in cell.metadata.get("tags", [])
    }
    assert set(below) == tasks
    assert all(f"### {task}" in above for task, above in below.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run it often. The solutions are in\n[solutions/02.ipynb](solutions/02.ipynb).\n\n### 1. A task", None),
        ("Run it often. Solutions are in the folder `solutions`.\n\n### 1. A task", None),
        ("Run it often.\n\nSolutions: [solutions/05.ipynb](solutions/05.ipynb).\n\n### 1. A task", None),
        ("The equation has two solutions. Which?", "The equation has two solutions. Which?"),
        ("[solutions/05.ipynb](solutions/05.ipynb)", ""),
    ],
)
def test_sentences_about_the_folder_are_left_out(text, expected):
    assert " ".join(without_solutions(text).split()) == (
        "Run it often. ### 1. A task" if expected is None else expected
    )


def test_a_cell_of_nothing_but_the_link_goes():
    cell = nbformat.v4.new_markdown_cell("Solutions: [solutions/05.ipynb](solutions/05.ipynb).")
    assert students_notebook(nbformat.v4.new_notebook(cells=[cell])).cells == []


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "file").touch()
    refused = call("course", "student", tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "is not empty" in refused.stderr
    assert "Not a directory" in call("course", "student", tmp_path / "file" / "below").stderr
