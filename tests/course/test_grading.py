"""Grading: real notebooks through papermill, in fresh kernels."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from command_line import call

from finetune_reg.course.exercises import CHECK_LOG
from finetune_reg.course.grading import checked_exercises, grade
from finetune_reg.errors import InputError

EXERCISES = ["best-of-k-without-replacement", "sign-flip-test", "fewest-pairs"]
BEST_OF_K = """
from math import comb

def best_of_k(scores, k):
    return sum(score * comb(i, k - 1) for i, score in enumerate(sorted(scores))) / comb(len(scores), k)
"""
SIGN_FLIP = """
from itertools import product

def sign_flip(differences):
    signs = list(product((-1, 1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(row, differences)) for row in signs]
    return sum(abs(one) >= abs(sum(differences)) for one in sums) / len(sums)
"""
STUB = "\ndef {name}(*arguments):\n    raise NotImplementedError\n"
CHECKS = [
    'check("best-of-k-without-replacement", best_of_k, strict_exercises)',
    'check("sign-flip-test", sign_flip, strict_exercises)',
    'check("fewest-pairs", answer, strict_exercises)',
]


def submission(path: Path, best_of_k: str, sign_flip: str, answer: str, before_last: str = "") -> None:
    """Write notebook 02's exercises as a student hands them in: filled in, not executed, with the strict switch on."""
    sources = ["strict_exercises = True  # True: an unsolved exercise is an error"]
    sources += ["from finetune_reg.course.exercises import check"]
    sources += [f"{best_of_k}\n{CHECKS[0]}", f"{sign_flip}\n{CHECKS[1]}"]
    sources += [before_last, f"answer = {answer}\n{CHECKS[2]}"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources if source])
    notebook.cells[0].metadata.tags = ["parameters"]
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions")
    submission(folder / "ada.ipynb", BEST_OF_K, SIGN_FLIP, "6")
    submission(folder / "bob.ipynb", BEST_OF_K, STUB.format(name="sign_flip"), "5")
    submission(folder / "cleo.ipynb", BEST_OF_K, SIGN_FLIP, "6", before_last="undefined_name")
    (folder / "eve.ipynb").write_text("not a notebook")
    os.environ.pop(CHECK_LOG, None)
    table = grade(folder, folder / "points.csv")
    return folder, table.set_index("submission")


@pytest.mark.parametrize(
    ("name", "points", "error"),
    [
        ("ada.ipynb", [1, 1, 1], r""),
        ("bob.ipynb", [1, 0, 0], r""),
        ("cleo.ipynb", [1, 1, 0], r"NameError: name 'undefined_name' is not defined"),
        ("eve.ipynb", [0, 0, 0], r"\w+: .+"),
    ],
)
def test_points_are_those_of_the_checks_up_to_the_end_or_the_crash(graded, name, points, error):
    row = graded[1].loc[name]
    assert row[EXERCISES].tolist() == points
    assert row.total == sum(points)
    assert pd.Series([row.error]).str.fullmatch(error).all(), row.error


def test_the_table_is_a_csv_with_one_row_per_submission(graded):
    folder, table = graded
    stored = pd.read_csv(folder / "points.csv", keep_default_na=False).set_index("submission")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert list(stored.columns) == [*EXERCISES, "total", "error"]


def test_executed_copies_are_kept_and_the_submissions_are_untouched(graded):
    folder, _ = graded
    executed = nbformat.read(folder / "points_executed" / "cleo.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in executed.cells for output in cell.get("outputs", []))
    assert all(not cell.outputs for cell in nbformat.read(folder / "cleo.ipynb", as_version=4).cells)
    assert CHECK_LOG not in os.environ


def test_a_submission_that_does_not_end_is_stopped(tmp_path):
    submission(tmp_path / "dan.ipynb", BEST_OF_K, SIGN_FLIP, "6", before_last="import time\ntime.sleep(600)")
    row = grade(tmp_path, tmp_path / "points.csv", time_limit=0.05).iloc[0]
    assert row.error == "It did not end in the 0.05 minutes it was given."
    assert row["fewest-pairs"] == 0


def test_who_deletes_an_exercise_is_still_graded_on_it(tmp_path):
    submission(tmp_path / "ada.ipynb", BEST_OF_K, SIGN_FLIP, "6")
    notebook = nbformat.read(tmp_path / "ada.ipynb", as_version=4)
    assert checked_exercises(notebook) == EXERCISES
    del notebook.cells[-1], notebook.cells[-1]
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    row = grade(tmp_path, tmp_path / "points.csv").iloc[0]
    assert row[EXERCISES].tolist() == [1, 0, 0]


def test_folders_without_anything_to_grade_are_refused(tmp_path):
    with pytest.raises(InputError, match="There are no notebooks to grade"):
        grade(tmp_path, tmp_path / "points.csv")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "empty.ipynb")
    with pytest.raises(InputError, match="checks an exercise of the course"):
        grade(tmp_path, tmp_path / "points.csv")


def test_the_command_grades_a_folder(tmp_path):
    submission(tmp_path / "ada.ipynb", BEST_OF_K, STUB.format(name="sign_flip"), "6")
    out = tmp_path / "points.csv"
    finished = call("grade", tmp_path, "--out", out)
    assert finished.returncode == 0, finished.stderr
    assert pd.read_csv(out).total.tolist() == [2]
    assert "ada.ipynb" in finished.stdout
