"""Typed checks of what comes from outside: notebook parameters, entries of YAML files, the command line.

Papermill only logs a misspelt parameter and passes a string for a number on; both would end in a wrong experiment.
Here they are refused before anything runs. YAML means one thing: what its versions read differently is refused, and so
is what is written twice or grows without end.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from finetune_reg.errors import InputError, shortened, unknown_name

LARGEST_INTEGER = 2**63 - 1
MAX_CHARACTERS = 200_000
MAX_DEPTH = 40
MAX_VALUES = 20_000  # aliases written out

_TRUTH_AND_NOTHING = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_AMBIGUOUS = "!ambiguous"
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]{0,17})",
    # 010 is 8 or 10, 1:30 is 90 or a text, 1_000 is a number or a text, and 1e999 no number at all.
    _AMBIGUOUS: r"[-+]?(0[0-9_]+|0[box][0-9a-fA-F_]+|[0-9]{19,}|[0-9]+_[0-9_]*|[0-9]+(:[0-5]?[0-9])+(\.[0-9_]*)?)",
    "tag:yaml.org,2002:float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN)",
}


def check_value(name: str, value: Any, expected: Any, where: str) -> Any:
    """Return `value` if it has the expected type; an int passes, converted, where a float is expected.

    Raises:
        InputError: it has another type, or is an integer of more than 64 bits.
    """
    if not _matches(value, expected):
        kind = type(value).__name__
        raise InputError(f"{where} needs {name} to be {describe_type(expected)}, not {shortened(value)} ({kind}).")
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise InputError(f"{where} needs {name} to be at most {LARGEST_INTEGER}, not {shortened(value)}.")
    if type(value) is not int:
        return value
    options = _parts(expected)[1] or (expected,)
    return float(value) if float in options and int not in options else value


def check_arguments(target: Callable, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check keyword arguments against the annotations of a function or dataclass.

    Raises:
        InputError: an unknown name, a missing argument or a value of the wrong type.
    """
    parameters, hints = _parameters(target), _type_hints(target)
    for name in values:
        if name not in parameters:
            raise unknown_name(f"parameter of {where}", name, parameters)
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in values]
    if missing:
        raise InputError(f"{where} needs {', '.join(missing)}.")
    return {name: check_value(name, value, hints[name], where) for name, value in values.items()}


@cache
def _parameters(target: Callable) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(target).parameters


@cache
def _type_hints(target: Callable) -> dict[str, Any]:
    return get_type_hints(target)


@cache
def _parts(expected: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(expected), get_args(expected)


class _Refused(Exception):
    """YAML that is valid, but not read."""

    def __init__(self, reason: str, mark: yaml.Mark) -> None:
        super().__init__(f"line {mark.line + 1}: {reason}.")


class _Loader(yaml.SafeLoader):
    """The safe loader with the numbers of YAML 1.2 and limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.n_composed = self.depth = 0
        self.sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        mark = event.start_mark
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"the tag {shortened(event.tag)} is not read, leave it out", mark)
        self.n_composed += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"lists and mappings are nested deeper than {MAX_DEPTH} levels", mark)
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent) and node not in self.sizes:
            raise _Refused(f"&{event.anchor} contains itself", mark)
        if node not in self.sizes:
            self.sizes[node] = self._size(node)
        if max(self.sizes[node], self.n_composed) > MAX_VALUES:
            raise _Refused(f"there are more than {MAX_VALUES} values", mark)
        return node

    def _size(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self.sizes[item] for item in node.value)
        seen = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise _Refused("a name in a mapping must be text, in quotes if it looks like a number", key.start_mark)
            if key.value in seen:
                raise _Refused(f"{shortened(key.value)} is there twice", key.start_mark)
            seen.add(key.value)
        return 1 + sum(self.sizes[key] + self.sizes[value] for key, value in node.value)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        if node.tag == _AMBIGUOUS:
            advice = "write at most 18 decimal digits without leading zeros, or quote a text"
            reason = f"{shortened(node.value)} is not the same number for every reader of YAML: {advice}"
            raise _Refused(reason, node.start_mark)
        number = self.construct_yaml_float(node)
        if number in (float("inf"), float("-inf")) and "inf" not in node.value.lower():
            raise _Refused(f"{shortened(node.value)} is too large for a number", node.start_mark)
        return number


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _TRUTH_AND_NOTHING]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list("-+0123456789."))
_Loader.add_constructor(_AMBIGUOUS, _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def parse_yaml(text: str, where: str = "the value") -> Any:
    """Read YAML with the numbers of version 1.2; a date is a text.

    Raises:
        InputError: not YAML; a name twice in a mapping, a tag, or a number that YAML 1.1 and 1.2 read differently; or
            longer than 200,000 characters, deeper than 40 levels, or more than 20,000 values with aliases written out.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where} is longer than {MAX_CHARACTERS} characters: make it shorter.")
    try:
        return yaml.load(text, Loader=_Loader)
    except _Refused as refused:
        raise InputError(f"{where}, {refused}") from None
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise InputError(f"{where} is not valid YAML: {words[:300].rstrip('.')}.") from None


def load_yaml(path: Path | str) -> Any:
    """Read a YAML file in UTF-8, with or without a byte order mark, as `parse_yaml` does.

    Raises:
        InputError: no such file, not UTF-8, or as `parse_yaml`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no parameter file {path}.")
    with path.open(encoding="utf-8-sig") as file:
        try:
            text = file.read(MAX_CHARACTERS + 1)
        except UnicodeDecodeError:
            raise InputError(f"{path} is not text in UTF-8: save it in this encoding.") from None
    return parse_yaml(text, str(path))


def _matches(value: Any, expected: Any) -> bool:
    if expected is Any or type(value) is expected:
        return True
    origin, arguments = _parts(expected)
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin is list:
        if not isinstance(value, list):
            return False
        return _all_match(value, arguments[0])
    if origin is dict:
        return isinstance(value, dict) and _all_match(value, arguments[0])
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def _all_match(values: Iterable[Any], expected: Any) -> bool:
    of_one_type = {*map(type, values)} <= {expected}  # quick for many values
    return of_one_type or all(_matches(value, expected) for value in values)


def describe_type(expected: Any) -> str:
    """Return a type annotation in words: `list[int]` is "a list of integers"."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(option) for option in arguments)
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if origin is list:
        return f"a list of {describe_type(arguments[0]).removeprefix('a ').removeprefix('an ')}s"
    names = {float: "a number", int: "an integer", str: "a string", bool: "true or false"}
    names |= {dict: "a mapping", list: "a list"}
    return names.get(
        origin or expected, "None" if expected is type(None) else getattr(expected, "__name__", str(expected))
    )
