"""Which parameters belong together: decayed or not, pretrained backbone or fresh head, near the input or the output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import prompt_parameters
from finetune_reg.building_blocks.pretrained_model import name_of, pretrained_part, unwrapped, writes_language
from finetune_reg.errors import InputError

_EXEMPT_NAME = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters as `transformers.Trainer` does: decayed, and exempt (biases and norms)."""
    return split_by_weight_decay(model, model.parameters(), weight_decay)


def split_by_weight_decay(
    model: nn.Module, parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Split the trainable ones of some of the model's parameters as `weight_decay_groups` does."""
    decayed = {id(parameter) for _, parameter in named_decayed_parameters(model)}
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in decayed], "weight_decay": 0.0},
    ]


def named_decayed_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that weight decay acts on by the rule of `transformers.Trainer`, frozen ones too.

    Exempt is what a LayerNorm owns and what has bias or norm in its name, a table of relative position biases as well:
    the number of dimensions does not count.
    """
    model = unwrapped(model)
    in_norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in in_norms and not _EXEMPT_NAME.search(name.lower()):
            yield name, parameter


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """Return the current learning rate of each parameter, by its `id`."""
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


def backbone(model: nn.Module) -> nn.Module:
    """Return the pretrained part of a task model; the whole of a language model that has no base model, as T5's.

    Raises:
        InputError: the model has no part that transformers calls its base model, and none that `name_backbone` names.
    """
    part = pretrained_part(model)
    base = getattr(part, "base_model", part)
    if base is unwrapped(model) and not writes_language(model):
        raise InputError(
            f"{name_of(model)} does not separate a pretrained backbone from a task head: "
            "load it with AutoModelForSequenceClassification, or name its pretrained part with name_backbone."
        )
    return base


def named_backbone_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trainable parameters of the pretrained backbone, with their names in the unwrapped model.

    Those of an adapter are among them, wherever it stands.
    """
    return _named_trainable(model, in_backbone=True)


def named_head_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trainable parameters outside the backbone: the freshly initialized task head."""
    return _named_trainable(model, in_backbone=False)


def transformer_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the backbone's stack of transformer blocks, bottom first.

    Raises:
        InputError: the backbone holds no list of blocks of one type, a list per sub-layer, as XLM does, or two stacks.
    """
    if getattr(getattr(backbone(model), "config", None), "is_encoder_decoder", False):
        raise InputError(
            f"{name_of(model)} has two stacks of transformer blocks, and what lies at which depth is defined for one: "
            "use an encoder or a decoder alone."
        )
    for module in backbone(model).modules():
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        stacks = [blocks for blocks in lists if len({type(block) for block in blocks}) == 1]
        if len(stacks) == 1:
            return stacks[0]
        if stacks:
            break
    raise InputError(f"{name_of(model)} has no list of transformer blocks: use an encoder that stacks its layers.")


def parameters_by_depth(model: nn.Module) -> list[list[nn.Parameter]]:
    """Split the trainable parameters by depth, bottom first.

    Embedding tables outside the blocks count as embeddings wherever they are registered (DeBERTa keeps the relative
    positions that all of its blocks read after them; a norm of these counts as above); a parameter shared by several
    depths counts at the lowest block.

    Returns:
        N + 2 lists for N blocks: the embeddings (all that precedes the blocks), each block, and what lies above
        (pooler, final norms, task head).

    Raises:
        InputError: the model has no list of blocks.
    """
    blocks = transformer_blocks(model)
    depth: dict[int, int] = {}
    for level, block in enumerate(blocks, start=1):
        for parameter in block.parameters():
            depth.setdefault(id(parameter), level)
    below = True
    for module in backbone(model).modules():
        below = below and module is not blocks
        if below or isinstance(module, nn.Embedding):
            for parameter in module.parameters(recurse=False):
                depth.setdefault(id(parameter), 0)
    levels: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    for parameter in model.parameters():
        if parameter.requires_grad:
            levels[depth.get(id(parameter), -1)].append(parameter)
    return levels


def _named_trainable(model: nn.Module, in_backbone: bool) -> Iterator[tuple[str, nn.Parameter]]:
    pretrained = {id(parameter) for parameter in backbone(model).parameters()} | prompt_parameters(model)
    for name, parameter in unwrapped(model).named_parameters():
        if parameter.requires_grad and (id(parameter) in pretrained) == in_backbone:
            yield name, parameter
