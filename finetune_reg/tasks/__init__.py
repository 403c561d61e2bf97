"""Tasks: what they are, their rows, their scores.

task_table.py  every task: columns, labels, metrics
own_task.py    a task of the user's own: a folder with a few lines of YAML
row_files.py   JSONL and Parquet files -> rows; what is damaged is named
subsets.py     frozen low-resource subsets and held-out folds
loading.py     rows from pocket, a folder or the hub
batching.py    rows -> tokens -> padded batches
metrics.py     scores, those of constant answers among them

The names of `__init__.pyi` are loaded when first used, so that the table of tasks is read without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from finetune_reg.paths import public_names

_HOME = public_names(__file__)
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
