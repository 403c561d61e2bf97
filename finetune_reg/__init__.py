"""Regularizers for fine-tuning pretrained language models on little data.

The names of `__init__.pyi` are loaded when first used, so that `import finetune_reg` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

from finetune_reg.paths import public_names

__version__ = version("finetune_reg")


_HOME = public_names(__file__)
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'finetune_reg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
