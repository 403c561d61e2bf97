"""What every model of transformers carries, with its type: PyTorch declares the attributes of a module in general only.

A wrapper that passes these attributes on, as those of peft do, serves as well. One that hides them, as those of
data-parallel training and of `torch.compile` do, is seen through.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of `torch.compile`, data-parallel training and their like.

    A wrapper is a module with nothing of its own but one child named `module` or `_orig_mod`. Parameters have the names
    of the model inside, whether it was wrapped before or after a method was set up.
    """
    while list(dict(model.named_children())) in (["module"], ["_orig_mod"]):
        if model._parameters or model._buffers:
            break
        model = next(model.children())
    return model


def name_of(model: nn.Module) -> str:
    """Return the name of the model's class, for a sentence."""
    return type(unwrapped(model)).__name__


def device_of(model: nn.Module) -> torch.device:
    """Return where the model computes: the device of its first parameter."""
    return next(model.parameters()).device


def precision_of(model: nn.Module) -> Precision:
    """Return the precision of passes that begin now: `"bfloat16"` inside autocast to 16 bits."""
    device_type = device_of(model).type
    rounds = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type).itemsize < 4
    return "bfloat16" if rounds else "float32"


def refuse_untrainable(model: nn.Module) -> None:
    """Refuse a model that no method can train.

    Raises:
        InputError: no parameter requires a gradient, or the model returns tuples.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"{name_of(model)} has no parameter to train: set requires_grad of at least one of them to True."
        )
    refuse_tuples(model)


def refuse_reentrant_checkpointing(model: nn.Module, method: str) -> None:
    """Refuse gradient checkpointing that allows no other derivative than one backward pass to all parameters.

    Raises:
        InputError: a module checkpoints with `use_reentrant=True`, or leaves it to PyTorch, which takes it.
    """
    for module in model.modules():
        checkpoint: Any = getattr(module, "_gradient_checkpointing_func", None)
        options = getattr(checkpoint, "keywords", {})
        if getattr(module, "gradient_checkpointing", False) and checkpoint and options.get("use_reentrant", True):
            raise InputError(
                f"{method} takes gradients that reentrant gradient checkpointing does not give: enable checkpointing "
                "with use_reentrant=False."
            )


def refuse_tuples(model: nn.Module) -> None:
    """Refuse a model of transformers that does not name its outputs.

    Raises:
        InputError: `config.return_dict` is off.
    """
    if getattr(getattr(unwrapped(model), "config", None), "return_dict", True) is False:
        raise InputError(
            f"{name_of(model)} returns tuples, in which loss and logits have no names: set config.return_dict=True."
        )


def task_loss(outputs: Any) -> torch.Tensor:
    """Return the loss that a model has computed from the labels of its batch.

    Raises:
        InputError: there is none.
    """
    loss = getattr(outputs, "loss", None)
    if not isinstance(loss, torch.Tensor):
        raise InputError(
            f"The model's outputs, a {type(outputs).__name__}, have no loss: give it labels, and let forward return an "
            "object with loss and logits, such as a ModelOutput of transformers."
        )
    return loss


def config_of(model: nn.Module) -> PreTrainedConfig:
    """Return the model's configuration.

    Raises:
        InputError: the model has none.
    """
    config: Any = getattr(unwrapped(model), "config", None)
    if config is None:
        raise InputError(
            f"{name_of(model)} has no config, which says what its outputs are: use a model of transformers, or give "
            "yours a config with num_labels."
        )
    return config


def token_embeddings(model: nn.Module) -> nn.Embedding:
    """Return the table of word embeddings, before positions and token types are added.

    Of an encoder with a decoder it is the table that the encoder reads, the one that `inputs_embeds` replaces.

    Raises:
        InputError: the model has no such table, as one of images.
    """
    whole: Any = unwrapped(model)
    for reader in (whole.get_encoder() if hasattr(whole, "get_encoder") else whole, whole):
        if hasattr(reader, "get_input_embeddings"):
            with suppress(NotImplementedError):  # what transformers raises for a module that looks nothing up
                table = reader.get_input_embeddings()
                if getattr(getattr(table, "weight", None), "ndim", 0) == 2:
                    return table
    raise InputError(
        f"{name_of(model)} has no table of word embeddings: use a text model of transformers, whose "
        "get_input_embeddings() returns an nn.Embedding."
    )
