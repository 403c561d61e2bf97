"""Values as JSON: all that a submission's process can say. Reading it runs no code of the submission.

Numbers, texts, lists, tuples, sets, dictionaries, arrays, tensors and tables arrive as what they were, subclasses as
their base. Whatever else there is stays in its process, and a number stands for it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, KeysView, Mapping, Set, ValuesView
from fractions import Fraction
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import torch

LONGEST_ITERATOR = 1_000_000
TENSOR_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


def encode(value: Any, other: Callable[[Any], Mapping[str, Any]]) -> Any:
    """Return a value as what `json.dumps` takes.

    Args:
        value: of any kind.
        other: called with what is no plain data, and with tensors that have a graph; returns what stands for it.
    """

    def many(values: Any) -> list[Any]:
        return [encode(one, other) for one in islice(values, LONGEST_ITERATOR)]

    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case np.generic() | np.ndarray():
            return _encoded_array(value, many)
        case torch.Tensor():
            graph = dict(other(value)) if value.requires_grad else {}
            return {"tensor": [*_tensor_bytes(value), isinstance(value, torch.nn.Parameter)], **graph}
        case pd.DataFrame():
            columns = [[encode(label, other), _encoded_column(value.iloc[:, i], many)] for i, label in enumerate(value)]
            return {"table": [columns, _encoded_column(value.index.to_series(), many)]}
        case pd.Series():
            return {"series": [_encoded_column(value, many), _encoded_column(value.index.to_series(), many)]}
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Fraction():
            return {"fraction": [value.numerator, value.denominator]}
        case list():
            return many(value)
        case tuple():
            return {"tuple": many(value)}
        case range() | Set() | KeysView() | ValuesView() if not isinstance(value, Mapping):
            return {"set" if isinstance(value, set | frozenset) else "tuple": many(value)}
        case Mapping():
            return {"dictionary": [many(pair) for pair in value.items()]}
        case Iterator():
            return {"iterator": many(value)}
    return other(value)


def followed(value: Any) -> list[torch.Tensor]:
    """Return the tensors in lists, tuples and dictionaries that gradients are asked for, in order."""
    match value:
        case torch.Tensor():
            return [value] if value.requires_grad else []
        case list() | tuple():
            return [tensor for one in value for tensor in followed(one)]
        case dict():
            return followed(list(value.values()))
    return []


def decode(data: Any, other: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the value that `encode` wrote.

    Args:
        data: as read from JSON.
        other: called with what stands for something else.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: this is not what `encode` writes.
    """

    def many(values: list[Any]) -> list[Any]:
        return [decode(one, other) for one in values]

    match data:
        case None | bool() | int() | float() | str():
            return data
        case list():
            return many(data)
        case {"tuple": list(values)}:
            return tuple(many(values))
        case {"set": list(values)}:
            return set(many(values))
        case {"iterator": list(values)}:
            return iter(many(values))
        case {"dictionary": list(pairs)}:
            return dict(many(pair) for pair in pairs)
        case {"fraction": [int(numerator), int(denominator)]}:
            return Fraction(numerator, denominator)
        case {"array": [str(name), list(shape), str(content)]}:
            return np.frombuffer(b64decode(content), _plain(np.dtype(name))).reshape(shape).copy()
        case {"scalar": [str(name), str(content)]}:
            return np.frombuffer(b64decode(content), _plain(np.dtype(name)))[0]
        case {"objects": [list(shape), list(values)]}:
            objects = np.empty(len(values), dtype=object)
            objects[:] = many(values)
            return objects.reshape(shape)
        case {"tensor": [str(name), list(shape), str(content), bool(is_parameter)]}:
            tensor = _tensor(name, shape, b64decode(content))
            if "graph" in data:
                return other({**data, "tensor": tensor})
            return torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        case {"series": [values, index]}:
            return pd.Series(decode(values, other), index=pd.Index(decode(index, other)))
        case {"table": [list(columns), index]}:
            series = {i: decode(values, other) for i, (_, values) in enumerate(columns)}
            table = pd.DataFrame(series, index=pd.Index(decode(index, other)))
            return table.set_axis(pd.Index(many([label for label, _ in columns])), axis=1)
        case dict():
            return other(data)
    raise TypeError(f"a {type(data).__name__} stands for nothing")


def _encoded_array(value: np.generic | np.ndarray, many: Callable[[Any], list[Any]]) -> dict[str, Any]:
    if value.dtype.kind not in "biufc":
        return {"objects": [list(value.shape), many(value.reshape(-1).tolist())]}
    content = b64encode(np.ascontiguousarray(value).tobytes()).decode()
    if isinstance(value, np.generic):
        return {"scalar": [value.dtype.str, content]}
    return {"array": [value.dtype.str, list(value.shape), content]}


def _encoded_column(column: pd.Series, many: Callable[[Any], list[Any]]) -> Any:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biufc":
        return _encoded_array(column.to_numpy(), many)
    return many(None if one is pd.NA else one for one in column.astype(object).tolist())


def _tensor_bytes(tensor: torch.Tensor) -> tuple[str, list[int], str]:
    plain = tensor.detach().to_dense().cpu().resolve_conj().resolve_neg().contiguous()
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return str(plain.dtype).removeprefix("torch."), list(plain.shape), b64encode(content).decode()


def _tensor(name: str, shape: list[int], content: bytes) -> torch.Tensor:
    dtype = TENSOR_TYPES[name]
    if len(content) != prod(shape) * dtype.itemsize:
        raise ValueError("the shape of a tensor is not that of its content")
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in "biufc":
        raise ValueError(f"arrays of {dtype} are no numbers")
    return dtype
