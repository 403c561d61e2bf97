"""Errors that are the reader's to mend: a sentence says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

INTERRUPTED = "Interrupted. Finished runs are kept: repeat the command to go on."
INTERRUPTED_CODE = 130  # of a program that Ctrl-C ended, as shells count
LONGEST_SHOWN = 200
LONGEST_LIST = 600


class InputError(ValueError):
    """Something given to the package cannot be used. The message is meant for people."""


class MissingInputError(InputError):
    """Rows or a model that are not where they were said to be; what is there, but damaged, is an `InputError`."""


class TrainingDivergedError(RuntimeError):
    """The loss, or what training left behind, is no longer a finite number."""

    def __init__(self, update: int, value: float, what: str = "The loss") -> None:
        super().__init__(f"{what} is {value} at update {update}: lower the learning rate.")
        self.update, self.value = update, value


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a table, with the nearest valid name."""
    names, shown = sorted(set(known)), shortened(name)
    nearest = get_close_matches(name if isinstance(name, str) else shown, names, n=1)
    listed = ", ".join(names)
    if len(listed) > LONGEST_LIST:
        listed = f"{listed[:LONGEST_LIST].rpartition(', ')[0]} and others"
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {listed}."
    return InputError(f"There is no {kind} {shown}: {hint}")


def shortened(value: Any) -> str:
    """Return a value as Python writes it, cut to a length that fits into a sentence."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python writes no integer of more than 4,300 digits
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
