"""Errors that are the reader's to mend: a sentence says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

SHOWN_CHARACTERS = 100
SHOWN_NAMES = 40


class InputError(ValueError):
    """Something given to the package cannot be used. The message is meant for people."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number."""

    def __init__(self, update: int, loss: float) -> None:
        super().__init__(f"The loss is {loss} at update {update}: lower the learning rate.")
        self.update, self.loss = update, loss


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a table, with the nearest valid name."""
    names, shown = sorted(set(known)), in_brief(name)
    nearest = get_close_matches(name if isinstance(name, str) else shown, names, n=1)
    listed = ", ".join(names[:SHOWN_NAMES] + ["..."] * (len(names) > SHOWN_NAMES))
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {listed}."
    return InputError(f"There is no {kind} {shown}: {hint}")


def in_brief(value: Any) -> str:
    """Return a value as Python writes it, cut to a length that fits into a sentence."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python converts
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
