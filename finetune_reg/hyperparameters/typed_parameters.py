"""Typed checks of what comes from outside: notebook parameters, YAML files, the command line.

Papermill only logs a misspelt parameter and passes a string for a number on; both would end in a wrong experiment.
Here they are refused before anything runs.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from finetune_reg.errors import InputError, unknown_name


def check_value(name: str, value: Any, expected: Any, where: str) -> Any:
    """Return `value` if it has the expected type; an int passes, converted, where a float is expected.

    Raises:
        InputError: it has another type.
    """
    if _matches(value, expected):
        options = get_args(expected) or (expected,)
        is_number = isinstance(value, int) and not isinstance(value, bool) and float in options and int not in options
        return float(value) if is_number else value
    raise InputError(f"{where} needs {name} to be {describe_type(expected)}, not {value!r} ({type(value).__name__}).")


def check_arguments(target: Callable, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check keyword arguments against the annotations of a function or dataclass.

    Raises:
        InputError: an unknown name, a missing argument or a value of the wrong type.
    """
    parameters = inspect.signature(target).parameters
    hints = _type_hints(target)
    for name in values:
        if name not in parameters:
            raise unknown_name(f"parameter of {where}", name, parameters)
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in values]
    if missing:
        raise InputError(f"{where} needs {', '.join(missing)}.")
    return {name: check_value(name, value, hints[name], where) for name, value in values.items()}


@cache
def _type_hints(target: Callable) -> dict[str, Any]:
    return get_type_hints(target)


class _Yaml12Loader(yaml.SafeLoader):
    """YAML as in version 1.2, where `2e-5` is a number."""


_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.nan$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str = "the value") -> Any:
    """Read YAML with YAML-1.2 floats.

    Raises:
        InputError: not YAML.
    """
    try:
        return yaml.load(text, Loader=_Yaml12Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None


def load_yaml(path: Path | str) -> Any:
    """Read a YAML file with YAML-1.2 floats.

    Raises:
        InputError: no such file, or not YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no parameter file {path}.")
    return parse_yaml(path.read_text(), str(path))


def _matches(value: Any, expected: Any) -> bool:
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_matches(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_matches(k, arguments[0]) for k in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)


def describe_type(expected: Any) -> str:
    """Return a type annotation in words: `list[int]` is "a list of integers"."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(option) for option in arguments)
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if origin is list:
        return f"a list of {describe_type(arguments[0]).removeprefix('a ').removeprefix('an ')}s"
    names = {float: "a number", int: "an integer", str: "a string", bool: "true or false", dict: "a mapping"}
    return names.get(
        origin or expected, "None" if expected is type(None) else getattr(expected, "__name__", str(expected))
    )
