"""What each checker of an exercise answers: right attempts pass, wrong ones are helped, stubs are not attempted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from finetune_reg.course.exercises import NotSolvedError, check


def right_attempts(attempts: Iterable[tuple[str, Any]]) -> Callable:
    """Return a test of (exercise, attempt)."""

    @pytest.mark.parametrize(("name", "attempt"), attempts)
    def test(capsys, name, attempt):
        assert check(name, attempt, strict=True)
        assert capsys.readouterr().out == f"{name}: right.\n"

    return test


def wrong_attempts(attempts: Iterable[tuple[str, Any, str]]) -> Callable:
    """Return a test of (exercise, attempt, part of the help that is printed)."""

    @pytest.mark.parametrize(("name", "attempt", "help"), attempts)
    def test(capsys, name, attempt, help):
        assert not check(name, attempt)
        said = capsys.readouterr().out
        assert said.startswith((f"{name}: not yet: ", f"{name}: the attempt raises "))
        assert help in said
        with pytest.raises(NotSolvedError):
            check(name, attempt, strict=True)

    return test


def unattempted(exercises: Iterable[str], answers: Iterable[str] = ()) -> Callable:
    """Return a test of what notebooks hold before the first attempt: a stub, or None for `answers` to fill in."""

    def stub(*arguments):
        raise NotImplementedError

    stubs = [(name, None if name in answers else stub) for name in exercises]

    @pytest.mark.parametrize(("name", "attempt"), stubs)
    def test(capsys, name, attempt):
        assert not check(name, attempt)
        assert capsys.readouterr().out == f"{name}: not attempted yet.\n"

    return test
