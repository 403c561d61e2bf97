"""`check`: three answers in one sentence, and strict on request."""

from __future__ import annotations

import pytest

import finetune_reg.course.exercises as package
from finetune_reg.course.exercises import NotSolvedError, check, exercises, topics
from finetune_reg.errors import InputError


def double_of_three(attempt):
    if attempt(3) != 6:
        raise AssertionError("Three doubled is another number.")


@pytest.fixture(autouse=True)
def one_exercise(monkeypatch):
    monkeypatch.setattr(package, "topics", lambda: {"doubling": {"double": double_of_three}})


def not_attempted(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda x: 2 * x, "double: right."),
        (lambda x: x, "double: not yet: Three doubled is another number."),
        (None, "double: not attempted yet."),
        (not_attempted, "double: not attempted yet."),
        (lambda x: x / 0, "double: the attempt raises ZeroDivisionError: division by zero."),
        (3, "double: the attempt raises TypeError: 'int' object is not callable."),
    ],
)
def test_check_answers_in_one_sentence_and_raises_only_when_strict(capsys, attempt, sentence):
    right = sentence.endswith("right.")
    assert check("double", attempt) == right
    assert capsys.readouterr().out == f"{sentence}\n"
    if right:
        assert check("double", attempt, strict=True)
    else:
        with pytest.raises(NotSolvedError, match="double: "):
            check("double", attempt, strict=True)


def test_a_notebook_shows_the_sentence_alone():
    from IPython.core.formatters import DisplayFormatter

    assert DisplayFormatter().format(check("double", None)) == ({}, {})


def test_a_misspelt_exercise_gets_the_nearest_name():
    with pytest.raises(InputError, match="There is no exercise 'duoble': did you mean 'double'"):
        check("duoble", None)


def test_every_module_has_exercises_whose_names_are_unique(monkeypatch):
    monkeypatch.undo()
    assert set(exercises()) == {name for topic in topics().values() for name in topic}
    assert all(topics().values())
    assert all(not check(name, None) for name in exercises())
