"""The course for otter-grader: the format it reads, and checks that say of an attempt what the course says."""

from __future__ import annotations

import doctest
import runpy

import nbformat
import pytest
from command_line import call

from finetune_reg.course.exercises import check
from finetune_reg.course.grading.submission_cells import course_checks


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "otter"
    assert call("course", "otter", folder).returncode == 0
    return folder


def test_each_exercise_is_a_question_with_a_test_file_beside_its_notebook(exported):
    asked = {}
    for path in exported.glob("*/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert sources[0] == f'import otter\n\ngrader = otter.Notebook("{path.name}")'
        assert not [source for source in sources if "\ncheck(" in source or "= check(" in source]
        asked |= {name: path.parent for name in course_checks() if any(f'grader.check("{name}")' in s for s in sources)}
    assert set(asked) == set(course_checks())
    for name, folder in asked.items():
        test = runpy.run_path(folder / "tests" / f"{name}.py")
        assert test["OK_FORMAT"] is True
        assert (test["test"]["name"], test["test"]["points"]) == (name, 1)
    assert len(list(exported.glob("*/tests/*.py"))) == len(asked)


@pytest.mark.parametrize("answer", [6, 5, None])
def test_a_test_says_of_an_attempt_what_the_course_says(exported, answer, capsys):
    (suite,) = runpy.run_path(exported / "02_instability" / "tests" / "fewest-pairs.py")["test"]["suites"]
    (case,) = suite["cases"]
    question = doctest.DocTestParser().get_doctest(case["code"], {"answer": answer}, "fewest-pairs", None, None)
    printed: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(question, out=printed.append).failed
    is_right = check("fewest-pairs", answer)
    assert bool(failed) != is_right
    assert is_right or capsys.readouterr().out.removeprefix("fewest-pairs: ").rstrip(".\n") in "".join(printed)


def test_a_folder_with_something_in_it_is_refused(exported):
    assert "is not empty" in call("course", "otter", exported).stderr
