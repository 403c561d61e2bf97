"""What a method is called in tables, and which two are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.methods import METHODS, build_method

MethodSpec = str | dict[str, Any]  # a method's name, or a mapping of the name to hyperparameters


def method_label(name: str, hyperparameters: dict[str, Any]) -> str:
    """Write a method as one would construct it: the first hyperparameter and those that differ from the default.

    A mapping is written as its size and four hex digits of its SHA-256.
    """
    if name == "combination":
        return " + ".join(method_label(*member) for member in _members(hyperparameters))
    defaults = _defaults(name)
    shown = [
        f"{key}={_shortened(value)}"
        for i, (key, value) in enumerate(hyperparameters.items())
        if value != defaults.get(key) or (i == 0 and value is not None)
    ]
    return f"{METHODS[name].__name__}({', '.join(shown)})"


def short_method_label(name: str, hyperparameters: dict[str, Any]) -> str:
    """Write a method as `method_label` does, without what has its default; a mapping is `...`.

    The preset `official()` is written as such, where it is not the default.
    """
    if name == "combination":
        return " + ".join(short_method_label(*member) for member in _members(hyperparameters))
    method, defaults = METHODS[name], _defaults(name)
    if hasattr(method, "official") and hyperparameters == method.official().hyperparameters != defaults:
        return f"{method.__name__}.official()"
    differing = {key: value for key, value in hyperparameters.items() if value != defaults[key]}
    shown = [f"{key}={'...' if isinstance(value, dict) else value}" for key, value in differing.items()]
    return f"{method.__name__}({', '.join(shown)})"


@cache
def _defaults(name: str) -> dict[str, Any]:
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]().hyperparameters


def _members(hyperparameters: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for member in hyperparameters["members"]:
        yield member["method"], {key: value for key, value in member.items() if key != "method"}


def _shortened(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return f"<{len(value)} values, {digest[:4]}>"


def method_identity(spec: MethodSpec) -> str:
    """Return a method with all its hyperparameters, defaults included, as JSON text.

    Raises:
        InputError: not one method, or an unknown method or hyperparameter.
    """
    return json.dumps(_name_and_hyperparameters(spec), sort_keys=True)


def method_words(spec: MethodSpec) -> str:
    """Return a method as one would construct it; errors as `method_identity`."""
    return method_label(*_name_and_hyperparameters(spec))


def _name_and_hyperparameters(spec: MethodSpec) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, dict) and len(spec) != 1:
        raise InputError(f"A method is a name, or one name with its hyperparameters, not {spec}.")
    name, hyperparameters = next(iter(spec.items())) if isinstance(spec, dict) else (spec, None)
    return name, build_method(name, **(hyperparameters or {})).hyperparameters
