"""Errors that are the reader's to mend: a sentence says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something given to the package cannot be used. The message is meant for people."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number."""

    def __init__(self, update: int, loss: float) -> None:
        super().__init__(f"The loss is {loss} at update {update}: lower the learning rate.")
        self.update, self.loss = update, loss


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a table, with the nearest valid name."""
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(names)}."
    return InputError(f"There is no {kind} {name!r}: {hint}")
