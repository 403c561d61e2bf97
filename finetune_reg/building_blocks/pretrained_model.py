"""What every model of transformers carries, with its type: PyTorch declares the attributes of a module in general only.

A wrapper that passes these attributes on, as those of peft do, serves as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune_reg.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def device_of(model: nn.Module) -> torch.device:
    """Return where the model computes: the device of its first parameter."""
    return next(model.parameters()).device


def refuse_frozen(model: nn.Module) -> None:
    """Refuse a model without a parameter to train.

    Raises:
        InputError: no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has no parameter to train: set requires_grad of at least one of them to True."
        )


def config_of(model: Any) -> PreTrainedConfig:
    """Return the model's configuration."""
    return model.config


def token_embeddings(model: Any) -> nn.Embedding:
    """Return the table of word embeddings, before positions and token types are added."""
    return model.get_input_embeddings()
