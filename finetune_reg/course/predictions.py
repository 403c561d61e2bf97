"""Questions before an outcome: `ask(name, answer, evidence)` asks one, and says what speaks for an answer.

A prediction is for thinking: it gives no points, and no answer is an error. A notebook trains in one cell, asks in the
next, and shows the outcome after it. The questions of a notebook stand beside its exercises, as `PREDICTIONS`. Where
another run may have another outcome, the right answer is computed from the run's own table, the evidence.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_reg.course import exercises
from finetune_reg.errors import unknown_name
from finetune_reg.results.statistics import compare_paired

Rule = Callable[[Any], tuple[str, str]]
Pairs = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Choice:
    """An answer to choose.

    Args:
        text: of the answer, as the reader sees it.
        wrong: what to say to who chose it when it is wrong: what is right in the thought, and what it misses.
        right: why it is right, when it is. Each of the two is needed where it can be said, and nowhere else.
    """

    text: str
    wrong: str = ""
    right: str = ""


@dataclass(frozen=True)
class Prediction:
    """A question with its answers, called a, b, c, ... in their order.

    Args:
        question: one or two sentences.
        choices: the answers.
        right: the letter of a mathematical fact, or a rule for what a run decides: it maps the evidence of the notebook
            to the letter and a sentence with the figures that decide it.
    """

    question: str
    choices: tuple[Choice, ...]
    right: str | Rule

    @property
    def letters(self) -> dict[str, Choice]:
        """The choices by letter."""
        return {chr(ord("a") + number): choice for number, choice in enumerate(self.choices)}

    def outcome(self, evidence: Any) -> tuple[str, str]:
        """Return the right letter, and a sentence of figures where a run decides, or nothing."""
        return (self.right, "") if isinstance(self.right, str) else self.right(evidence)


def paired(below: str, above: str, undecided: str, digits: int = 1, factor: float = 1.0) -> Rule:
    """Return the rule for two settings: does the first lie below the second on equal seeds, above it, or neither?

    Args:
        below: the right letter when the 95 % t interval of the differences, first minus second, is below zero.
        above: the right letter when it is above zero.
        undecided: the right letter when zero is in it.
        digits: of the figures in the sentence.
        factor: of the figures in the sentence: 100 for points.
    """

    def rule(evidence: Pairs) -> tuple[str, str]:
        found = compare_paired(*evidence)
        letter = below if found.high < 0 else above if found.low > 0 else undecided
        mean, low, high = (f"{factor * value:+.{digits}f}" for value in (found.difference, found.low, found.high))
        return letter, f"Here the mean difference is {mean} [{low}, {high}] on {found.n} equal seeds."

    return rule


class Reply(str):
    """Markdown that a notebook renders."""

    def _repr_markdown_(self) -> str:
        return str(self)


def predictions() -> dict[str, Prediction]:
    """Return the predictions of all notebooks by name."""
    modules = (importlib.import_module(f"{exercises.__name__}.{name}") for name in _modules())
    return {name: prediction for module in modules for name, prediction in getattr(module, "PREDICTIONS", {}).items()}


def ask(name: str, answer: str | None = None, evidence: Any = None) -> Reply:
    """Ask a question, and answer the reader's answer.

    Args:
        name: of the prediction.
        answer: the reader's letter; None before there is one.
        evidence: the runs that decide, where the question is about runs.

    Returns:
        The question and the reply, for the notebook to show. A letter that is no choice gets a sentence, too.

    Raises:
        InputError: there is no prediction of that name.
    """
    known = predictions()
    if name not in known:
        raise unknown_name("prediction", name, known)
    asked = known[name]
    choices = [f"- **{letter}:** {choice.text}" for letter, choice in asked.letters.items()]
    return Reply("\n".join([f"**Predict.** {asked.question}", "", *choices, "", _reply(asked, answer, evidence)]))


def _reply(asked: Prediction, answer: str | None, evidence: Any) -> str:
    *first, last = (f'`"{letter}"`' for letter in asked.letters)
    letters = f"{', '.join(first)} or {last}"
    if answer is None:
        return f"*Write {letters} in place of `None` and run this cell, before you read on.*"
    letter = answer.strip().lower() if isinstance(answer, str) else ""
    if letter not in asked.letters:
        return f"*`{answer!r}` is none of the answers: write {letters}.*"
    right, figures = asked.outcome(evidence)
    chosen = asked.letters[letter]
    said = f"**{letter} is right.** {chosen.right}" if letter == right else f"**Not {letter}.** {chosen.wrong}"
    return f"{said} {figures}".rstrip()


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(exercises.__path__)]
