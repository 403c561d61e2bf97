"""What every model of transformers carries, with its type: PyTorch declares the attributes of a module in general only.

A wrapper that passes these attributes on, as those of peft do, serves as well. One that hides them, as those of
data-parallel training and of `torch.compile` do, is seen through. A module of the user's own serves by the one
pretrained model that it holds (a Lightning module, a SentenceTransformer, an encoder under a head of one's own), or by
the part that `name_backbone` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

from finetune_reg.errors import InputError, shortened
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


def task_model(model: nn.Module) -> nn.Module:
    """Return the model of transformers inside wrappers and inside what peft has put around it for its adapters."""
    inside: Any = unwrapped(model)
    if hasattr(inside, "get_base_model"):
        return inside.get_base_model()
    return inside.base_model.model if type(inside).__name__ == "PeftMixedModel" else inside


def name_backbone(model: nn.Module, name: str) -> None:
    """Say which part of a module of one's own is the pretrained backbone; what stands outside of it is the head.

    Needed only where `pretrained_part` does not find it: there are several pretrained models, or none of transformers.

    Args:
        name: of the part in the unwrapped model, as in `named_modules`, for example `"encoder"`.

    Raises:
        InputError: there is no such part, it has no parameters, or it is the whole model.
    """
    whole = unwrapped(model)
    parts = {part: module for part, module in whole.named_modules() if part}
    if name not in parts or next(parts[name].parameters(), None) is None:
        with_parameters = [part for part, child in whole.named_children() if next(child.parameters(), None) is not None]
        raise InputError(
            f"{name_of(model)} has no part with parameters called {shortened(name)} that could be its backbone: name "
            f"one such as {', '.join(with_parameters)}."
        )
    whole.backbone_name = name  # type: ignore[assignment]  # a string, not a module


def pretrained_part(model: nn.Module) -> nn.Module:
    """Return the pretrained model: the named part, the model itself, or the one model of transformers inside it.

    A model that holds none is returned as it is.

    Raises:
        InputError: it holds several.
    """
    whole = unwrapped(model)
    if hasattr(whole, "backbone_name"):
        return task_model(whole.get_submodule(str(whole.backbone_name)))
    if hasattr(whole, "base_model"):
        return task_model(whole)
    parts: dict[str, nn.Module] = {}
    for name, module in whole.named_modules():
        if hasattr(module, "base_model") and not name.startswith(tuple(f"{part}." for part in parts)):
            parts[name] = module
    if len(parts) > 1:
        raise InputError(
            f"{name_of(model)} holds several pretrained models, {' and '.join(parts)}: name the one that is to be its "
            "backbone, with the host's argument backbone or with name_backbone."
        )
    return task_model(next(iter(parts.values()), whole))


def name_of(model: nn.Module) -> str:
    """Return the name of the task model's class, for a sentence."""
    return type(task_model(model)).__name__


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a module is a linear layer; the `Conv1D` of GPT-2 is one whose weight lies the other way round."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a module is a linear layer whose weight has shape (in, out)."""
    return type(module).__name__ == "Conv1D" and getattr(module, "weight", torch.empty(0)).ndim == 2


def writes_language(model: nn.Module) -> bool:
    """Return whether a model has a head over its vocabulary, which is pretrained with it."""
    whole: Any = unwrapped(model)
    return hasattr(whole, "get_output_embeddings") and whole.get_output_embeddings() is not None


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
        InputError: no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"{name_of(model)} has no parameter to train: set requires_grad of at least one of them to True."
        )


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
    """Refuse a model of transformers that does not name its outputs, of which some heads have several to compare.

    Raises:
        InputError: `config.return_dict` is off.
    """
    if getattr(getattr(unwrapped(model), "config", None), "return_dict", True) is False:
        raise InputError(
            f"{name_of(model)} returns tuples, in which loss and logits have no names: set config.return_dict=True."
        )


def named_outputs(outputs: Any) -> Any:
    """Return what a model returned with its parts as attributes: all that the contract needs is `loss` and `logits`.

    Args:
        outputs: an object that has them, as the ModelOutput of transformers; a dictionary of them; or a tuple, in which
            a scalar at the beginning is the loss and what follows is the logits. A tensor alone, or nothing, has no
            names: it may be anything.
    """
    match outputs:
        case Mapping() if not hasattr(outputs, "to_tuple"):
            return SimpleNamespace(**outputs)
        case (torch.Tensor() as loss, *others) if loss.ndim == 0:
            return SimpleNamespace(loss=loss, logits=next(iter(others), None))
        case (torch.Tensor() as logits, *_):
            return SimpleNamespace(logits=logits)
        case torch.Tensor() | None:
            return SimpleNamespace()
    return outputs


def task_loss(outputs: Any) -> torch.Tensor:
    """Return the loss that a model has computed from the labels of its batch.

    Raises:
        InputError: there is none.
    """
    loss = getattr(named_outputs(outputs), "loss", None)
    if not isinstance(loss, torch.Tensor):
        raise InputError(
            f"The model's outputs, a {type(outputs).__name__}, have no loss: give it labels, and let forward return "
            "loss and logits, as a ModelOutput of transformers, a dictionary or a tuple."
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
            f"{name_of(model)} has no config, which says how its attention is computed: use a model of transformers."
        )
    return config


def token_embeddings(model: nn.Module) -> nn.Embedding:
    """Return the table of word embeddings, before positions and token types are added.

    Of an encoder with a decoder it is the table that the encoder reads, the one that `inputs_embeds` replaces.

    Raises:
        InputError: the model has no such table, as one of images.
    """
    whole: Any = pretrained_part(model)
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
