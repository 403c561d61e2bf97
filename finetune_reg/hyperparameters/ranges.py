"""Ranges of hyperparameters and settings, declared in their types: checked at construction, printed by
`finetune-reg methods`.

@dataclass
class Mixout(FineTuningMethod):
    mix_probability: Probability = 0.7
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from finetune_reg.errors import InputError, shortened
from finetune_reg.hyperparameters.typed_parameters import check_value, describe_type


@dataclass(frozen=True)
class Interval:
    """A range of numbers in mathematical notation; a square bracket includes its end, for example `"[0, inf)"`."""

    notation: str

    @cached_property
    def _ends(self) -> tuple[float, float]:
        low, high = self.notation[1:-1].split(", ")
        return float(low), float(high)

    @cached_property
    def inside(self) -> tuple[float, float]:
        """The least and the largest float in the range."""
        low, high = self._ends
        return (
            low if self.notation[0] == "[" else math.nextafter(low, math.inf),
            high if self.notation[-1] == "]" else math.nextafter(high, -math.inf),
        )

    def __contains__(self, value: float) -> bool:
        low, high = self._ends
        above = value >= low if self.notation[0] == "[" else value > low
        below = value <= high if self.notation[-1] == "]" else value < high
        return above and below and not math.isnan(value)


Probability = Annotated[float, Interval("[0, 1]")]
DropoutRate = Annotated[float, Interval("[0, 1)")]
Fraction = Annotated[float, Interval("(0, 1]")]
NonNegative = Annotated[float, Interval("[0, inf)")]
Positive = Annotated[float, Interval("(0, inf)")]
Count = Annotated[int, Interval("[1, inf)")]
CountOrZero = Annotated[int, Interval("[0, inf)")]
Seed = Annotated[int, Interval(f"[0, {2**32 - 1}]")]  # what every generator takes: of Python, NumPy and PyTorch
Precision = Literal["float32", "bfloat16"]  # of forward passes


def check_hyperparameters(method: object) -> None:
    """Check the constructor's arguments of a dataclass against their types and ranges; integers become floats.

    Raises:
        InputError: a value of the wrong type or outside its range; the sentence names what is allowed.
    """
    check_fields(method, type(method).__name__)


def check_fields(instance: Any, where: str) -> None:
    """Check the fields of a dataclass, frozen or not, as `check_hyperparameters` does; `where` begins the sentence."""
    declaring: type = type(instance)
    for name, (plain, interval) in _kinds_and_ranges(declaring).items():
        object.__setattr__(instance, name, _checked(name, getattr(instance, name), plain, interval, where))


def check_ranges(instance: Any, where: str) -> None:
    """Check those fields of a dataclass that declare a range, as `check_fields` does all of them."""
    declaring: type = type(instance)
    for name, (plain, interval) in _kinds_and_ranges(declaring).items():
        if interval is not None:
            object.__setattr__(instance, name, _checked(name, getattr(instance, name), plain, interval, where))


def check_in_range(name: str, value: Any, declared: Any, where: str) -> Any:
    """Return `value` if it has the declared type and lies in its range; see `check_value`.

    Raises:
        InputError: it does not.
    """
    return _checked(name, value, without_range(declared), interval_of(declared), where)


def _checked(name: str, value: Any, plain: Any, interval: Interval | None, where: str) -> Any:
    value = check_value(name, value, plain, where)
    if interval is not None and value is not None and value not in interval:
        raise InputError(f"{where} needs {name} in {interval.notation}, not {shortened(value)}.")
    return value


def describe_ranges(method_type: type) -> dict[str, str]:
    """Return the allowed values of each hyperparameter, in words or as an interval."""
    described = {}
    for name, (plain, interval) in _kinds_and_ranges(method_type).items():
        words = describe_type(plain)
        described[name] = words if interval is None else re.sub(r"a number|an integer", interval.notation, words)
    return described


@cache
def _kinds_and_ranges(declaring: type) -> dict[str, tuple[Any, Interval | None]]:
    """Return the type without its range, and the range, of each argument of a dataclass."""
    hints = get_type_hints(declaring, include_extras=True)
    declared = {field.name: hints[field.name] for field in fields(declaring) if field.init}
    return {name: (without_range(kind), interval_of(kind)) for name, kind in declared.items()}


def interval_of(declared: Any) -> Interval | None:
    """Return the range that a type declares, its options included."""
    if get_origin(declared) is Annotated:
        return next((note for note in declared.__metadata__ if isinstance(note, Interval)), None)
    return next((found for option in get_args(declared) if (found := interval_of(option)) is not None), None)


def without_range(declared: Any) -> Any:
    """Return a type without its range."""
    if get_origin(declared) is Annotated:
        return get_args(declared)[0]
    if any(get_origin(option) is Annotated for option in get_args(declared)):
        kinds = tuple(without_range(option) for option in get_args(declared))
        union = kinds[0]
        for kind in kinds[1:]:
            union = union | kind
        return union
    return declared
