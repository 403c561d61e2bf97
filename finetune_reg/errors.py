"""The one kind of error that is the reader's to mend: a sentence that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something given to the package cannot be used. The message is meant for people."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not in a table, with the nearest valid name."""
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are: {', '.join(names)}."
    return InputError(f"There is no {kind} {name!r}: {hint}")
