"""Ranges of hyperparameters, declared in their types: checked at construction, printed by `finetune-reg methods`.

@dataclass
class Mixout(FineTuningMethod):
    mix_probability: Probability = 0.7
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.typed_parameters import check_value, describe_type


@dataclass(frozen=True)
class Interval:
    """A range of numbers in mathematical notation; a square bracket includes its end, for example `"[0, inf)"`."""

    notation: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.notation[1:-1].split(", "))
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


def check_hyperparameters(method: object) -> None:
    """Check the constructor's arguments of a dataclass against their types and ranges; integers become floats.

    Raises:
        InputError: a value of the wrong type or outside its range; the sentence names what is allowed.
    """
    method_type: type = type(method)
    name = method_type.__name__
    for field_name, declared in _declared_types(method_type).items():
        value = check_value(field_name, getattr(method, field_name), _without_range(declared), name)
        interval = _interval(declared)
        if interval is not None and value is not None and value not in interval:
            raise InputError(f"{name} needs {field_name} in {interval.notation}, not {value}.")
        setattr(method, field_name, value)


def describe_ranges(method_type: type) -> dict[str, str]:
    """Return the allowed values of each hyperparameter, in words or as an interval."""
    described = {}
    for name, declared in _declared_types(method_type).items():
        interval, words = _interval(declared), describe_type(_without_range(declared))
        described[name] = words if interval is None else re.sub(r"a number|an integer", interval.notation, words)
    return described


@cache
def _declared_types(method_type: type) -> dict[str, Any]:
    hints = get_type_hints(method_type, include_extras=True)
    return {field.name: hints[field.name] for field in fields(method_type) if field.init}


def _interval(declared: Any) -> Interval | None:
    if get_origin(declared) is Annotated:
        return next((note for note in declared.__metadata__ if isinstance(note, Interval)), None)
    return next((found for option in get_args(declared) if (found := _interval(option)) is not None), None)


def _without_range(declared: Any) -> Any:
    if get_origin(declared) is Annotated:
        return get_args(declared)[0]
    if any(get_origin(option) is Annotated for option in get_args(declared)):
        kinds = tuple(_without_range(option) for option in get_args(declared))
        union = kinds[0]
        for kind in kinds[1:]:
            union = union | kind
        return union
    return declared
