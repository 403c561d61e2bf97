"""Checks of values that hold others, such as those of a record: the shape is declared once, thousands are read quickly.

A shape is a type, with its range where it has one (see `ranges`); `[shape]`, a list of such; or a mapping with the
shape of each name, where `...` stands for all names that are not given.
"""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from finetune_reg.hyperparameters.ranges import check_in_range, interval_of, without_range
from finetune_reg.hyperparameters.typed_parameters import check_value


class Shape:
    """A shape, prepared to be looked at often.

    Attributes:
        holds_integers: whether it is an integer, and no float.
        fits: says quickly whether a value needs no further look; what does not fit may still be right.
    """

    def __init__(self, declared: Any) -> None:
        origin, arguments = get_origin(declared), get_args(declared)
        if origin is list:
            declared = [arguments[0]]
        elif origin is dict:
            declared = {...: arguments[1]}
        self.declared = declared
        kinds = get_args(without_range(declared)) or (without_range(declared),)
        self.holds_integers = int in kinds and float not in kinds
        self.fits: Callable[[Any], bool]
        if isinstance(declared, list):
            self.entry = Shape(declared[0])
            self.fits = self._of_list()
        elif isinstance(declared, dict):
            self.named = {name: Shape(shape) for name, shape in declared.items()}
            self.others = self.named.pop(..., Shape(Any))
            self.fits = self._of_mapping()
        else:
            self.fits = self._of_one()

    def check(self, name: str, value: Any, where: str) -> Any:
        """Return `value` if it has this shape; an integer passes, converted, where a float is expected.

        Raises:
            InputError: it has not; the sentence begins with `where` and says what is wrong at which place.
        """
        if self.fits(value):
            return value
        if isinstance(self.declared, list):
            check_value(name, value, list, where)
            return [self.entry.check(f"{name}[{i}]", entry, where) for i, entry in enumerate(value)]
        if isinstance(self.declared, dict):
            check_value(name, value, dict, where)
            return {
                key: self.named.get(key, self.others).check(repr(f"{name}.{key}")[1:-1][:100], entry, where)
                for key, entry in value.items()
            }
        return check_in_range(name, value, self.declared, where)

    def _of_one(self) -> Callable[[Any], bool]:
        plain, interval = without_range(self.declared), interval_of(self.declared)
        if plain is Any:
            return lambda value: True
        options = get_args(plain) if get_origin(plain) in (Union, UnionType) else (plain,)
        texts = [text for option in options if get_origin(option) is Literal for text in get_args(option)]
        types = frozenset(option for option in options if get_origin(option) is not Literal)
        if interval is None:
            return lambda value: type(value) in types or (type(value) is str and value in texts)
        low, high = interval.inside
        return lambda value: type(value) in types and (value is None or low <= value <= high)

    def _of_list(self) -> Callable[[Any], bool]:
        fits = self.entry.fits
        plain, interval = without_range(self.entry.declared), interval_of(self.entry.declared)
        if plain not in (int, float) or interval is None:
            return lambda values: type(values) is list and all(map(fits, values))
        low, high = interval.inside

        def fits_numbers(values: Any) -> bool:
            if type(values) is not list or not {*map(type, values)} <= {plain}:
                return False
            return not values or low <= min(values) <= max(values) <= high

        return fits_numbers

    def _of_mapping(self) -> Callable[[Any], bool]:
        named, others = {name: shape.fits for name, shape in self.named.items()}, self.others.fits
        of_name = named.get
        return lambda values: (
            type(values) is dict and all([of_name(name, others)(value) for name, value in values.items()])
        )
