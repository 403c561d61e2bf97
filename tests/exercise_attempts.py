"""What each checker of an exercise answers: right attempts pass, wrong ones are helped, stubs are not attempted.

The grader's processes judge attempts that live elsewhere; each is judged that way, too, with the same sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from time import monotonic
from typing import Any

import pytest

from finetune_reg.course.exercises import NotSolvedError, check, exercises, judge
from finetune_reg.course.grading.remote_attempts import Conversation
from finetune_reg.course.grading.submission_process import Attempts


def judged_from_elsewhere(name: str, attempt: Any) -> str:
    """Return the verdict on an attempt at the other end of a connection."""
    here, there = Pipe()
    talk = Conversation(here, monotonic() + 60, "The attempt does not answer.")
    with ThreadPoolExecutor(1) as thread, here, there:
        checked = thread.submit(Attempts(there).check, name, attempt)
        verdict = judge(exercises()[name], talk.attempt(talk.receive()["attempt"]))
        talk.send("verdict", verdict)
        assert checked.result() == (not verdict)
    return verdict


def right_attempts(attempts: Iterable[tuple[str, Any]]) -> Callable:
    """Return a test of (exercise, attempt)."""

    @pytest.mark.parametrize(("name", "attempt"), attempts)
    def test(capsys, name, attempt):
        assert check(name, attempt, strict=True)
        assert capsys.readouterr().out == f"{name}: right.\n"
        assert judged_from_elsewhere(name, attempt) == ""

    return test


def wrong_attempts(attempts: Iterable[tuple[str, Any, str]]) -> Callable:
    """Return a test of (exercise, attempt, part of the help that is printed)."""

    @pytest.mark.parametrize(("name", "attempt", "help"), attempts)
    def test(capsys, name, attempt, help):
        assert not check(name, attempt)
        said = capsys.readouterr().out
        assert said.startswith((f"{name}: not yet: ", f"{name}: the attempt raises "))
        assert help in said
        assert said == f"{name}: {judged_from_elsewhere(name, attempt)}.\n"
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
