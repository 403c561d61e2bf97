"""The exercises of the course: `check(name, attempt)` says whether an attempt is right, and what is wrong with it.

Each module of this folder holds the exercises of one notebook: `EXERCISES`, a checker by name. A checker takes the
attempt (a function, or a value) and raises `AssertionError` with a sentence that helps; it never shows the solution.
`PREDICTIONS` are the questions that the notebook asks before an outcome (`finetune_reg.course.predictions`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from finetune_reg.errors import unknown_name

Checker = Callable[[Any], None]


class NotSolvedError(AssertionError):
    """An exercise is not solved, and the notebook is strict."""


class Answer(int):
    """True or False; a notebook does not show it below the sentence that `check` prints."""

    def _ipython_display_(self) -> None:
        """Show nothing."""


def topics() -> dict[str, dict[str, Checker]]:
    """Return the checkers by name, of each notebook's module by its name.

    Raises:
        ValueError: two modules have an exercise of the same name.
    """
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    found = {name: importlib.import_module(f"{__name__}.{name}").EXERCISES for name in modules}
    names = [exercise for topic in found.values() for exercise in topic]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two modules have an exercise of the name {', '.join(sorted(twice))}.")
    return found


def exercises() -> dict[str, Checker]:
    """Return the checkers of all exercises by name."""
    return {name: checker for topic in topics().values() for name, checker in topic.items()}


def check(name: str, attempt: Any, strict: bool = False) -> Answer:
    """Check an attempt, print one sentence and return whether it is right.

    Args:
        name: of the exercise, as its cell says.
        attempt: what the exercise asks for; None, or a function that raises NotImplementedError, is not attempted.
        strict: raise unless the attempt is right.

    Raises:
        InputError: there is no exercise of that name.
        NotSolvedError: the attempt is not right, with `strict`.
    """
    checkers = exercises()
    if name not in checkers:
        raise unknown_name("exercise", name, checkers)
    verdict = judge(checkers[name], attempt)
    print(f"{name}: {verdict or 'right'}.")
    if strict and verdict:
        raise NotSolvedError(f"{name}: {verdict}.")
    return Answer(not verdict)


def judge(checker: Checker, attempt: Any) -> str:
    """Return what is wrong with an attempt, or nothing."""
    if attempt is None:
        return "not attempted yet"
    try:
        checker(attempt)
    except NotImplementedError:
        return "not attempted yet"
    except AssertionError as error:
        return f"not yet: {str(error).rstrip('.') or 'an assertion fails'}"
    except Exception as error:
        return f"the attempt raises {type(error).__name__}: {str(error).rstrip('.')}"
    return ""
