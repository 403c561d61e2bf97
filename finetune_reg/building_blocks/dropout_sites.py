"""The dropouts of a transformer by position, each with the pretrained parameters of the sub-layer before it.

| position                          | sub-layer before it                                             |
|-----------------------------------|-----------------------------------------------------------------|
| `embeddings`                      | embedding tables and their LayerNorm                            |
| `layer.3.attention_probabilities` | query, key and value projections (for GPT-2 one fused matrix)   |
| `layer.3.attention_output`        | output projection of attention and the LayerNorm after it       |
| `layer.3.feed_forward_output`     | second matrix of the feed-forward block and its LayerNorm       |

Layers count from 0, bottom first. Positions are told by module type and order, not by name: in each block the
outermost module whose type is called attention holds the attention dropouts, and a LayerNorm belongs to the matrix
registered before it. DistilBERT has no dropout after the attention output. The matrix that widens the feed-forward
block has no dropout. Left alone are the dropouts of the task head, those of adapters, and DeBERTa's dropout of relative
positions, whose table is shared by all layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import modules_without_adapters
from finetune_reg.building_blocks.module_surgery import refuse_exchanged_attention
from finetune_reg.building_blocks.parameter_groups import backbone, transformer_blocks
from finetune_reg.building_blocks.pretrained_model import name_of, unwrapped
from finetune_reg.errors import InputError

SUB_LAYERS = ("attention_probabilities", "attention_output", "feed_forward_output")
_DropoutModule = nn.modules.dropout._DropoutNd
_Holder = tuple[nn.Module, str]
_Found = tuple[str, list[_Holder], list[nn.Parameter]]


@dataclass(frozen=True)
class DropoutSite:
    """One dropout of the backbone.

    Attributes:
        position: as in the table above.
        holders: what keeps the rate, as (module, attribute): `p` of a dropout module, and any plain float that the
            attention module reads in its place.
        parameters: the preceding sub-layer's, by their names in the model.
    """

    position: str
    holders: tuple[_Holder, ...]
    parameters: dict[str, nn.Parameter]

    @property
    def rate(self) -> float:
        """The dropout rate now, in [0, 1]."""
        module, attribute = self.holders[0]
        return getattr(module, attribute)

    def set_rate(self, rate: float, undo: ExitStack) -> None:
        """Set the rate in every holder; closing `undo` puts the old one back."""
        for module, attribute in self.holders:
            undo.callback(setattr, module, attribute, getattr(module, attribute))
            setattr(module, attribute, rate)


def dropout_sites(model: nn.Module) -> list[DropoutSite]:
    """Return the dropouts of the model's backbone, bottom first: 37 for BERT-base.

    Raises:
        InputError: the model has no backbone, no stack of blocks with attention, no dropout but that of attention
            probabilities, or exchanges its attention in mid-run.
    """
    refuse_exchanged_attention(model)
    blocks = transformer_blocks(model)
    found = _embeddings_site(model, blocks)
    for i, block in enumerate(blocks):
        found += [(f"layer.{i}.{name}", holders, parameters) for name, holders, parameters in _block_sites(block)]
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    sites = [
        DropoutSite(position, tuple(holders), {names[id(parameter)]: parameter for parameter in parameters})
        for position, holders, parameters in found
        if holders
    ]
    if not sites:
        raise InputError(f"{name_of(model)} has no dropout module in its backbone: there is no rate to set.")
    if all(site.position.endswith("attention_probabilities") for site in sites):
        raise InputError(
            f"{name_of(model)} has dropout on its attention probabilities alone, not on what a sub-layer adds, as "
            "decoders such as Llama: use a model with dropout after its sub-layers, such as BERT or GPT-2."
        )
    return sites


def dropout_variance(dropout_rate: float) -> float:
    """Return p / (1 - p): variance of the factor m / (1 - p), m ~ Bernoulli(1 - p), that dropout multiplies by.

    Its mean is 1. For a linear model the variance is the strength of an L2 penalty (see `GuidedDropout`).
    """
    return dropout_rate / (1.0 - dropout_rate)


def _embeddings_site(model: nn.Module, blocks: nn.ModuleList) -> list[_Found]:
    inside_blocks = set(blocks.modules())
    for parent in backbone(model).modules():
        children = list(parent.children())
        if parent in inside_blocks or not any(isinstance(child, nn.Embedding) for child in children):
            continue
        before_blocks = children[: children.index(blocks)] if blocks in children else children
        if holders := _dropout_modules(before_blocks):
            parameters = [p for child in before_blocks for p in child.parameters(recurse=False)]
            return [("embeddings", holders, parameters)]
    return []


def _block_sites(block: nn.Module) -> list[_Found]:
    attention = next((m for m in block.modules() if "attention" in type(m).__name__.lower() and m is not block), None)
    if attention is None:
        raise InputError(f"{type(block).__name__} has no attention module: use a model built from transformer blocks.")
    inside = set(modules_without_adapters(attention))
    matrices = _matrices_with_norms(block)
    projections = [parameters for module, parameters in matrices if module in inside]
    feed_forward = [parameters for module, parameters in matrices if module not in inside]

    probabilities = _dropout_modules(modules_without_adapters(attention))
    floats = [
        (module, attribute)
        for module in attention.modules()
        for attribute, value in vars(module).items()
        if "dropout" in attribute and isinstance(value, float)
    ]
    has_output_dropout = len(probabilities) + bool(floats) > 1
    output = [probabilities.pop()] if has_output_dropout else []
    return [
        ("attention_probabilities", probabilities[-1:] + floats, [p for own in projections[:-1] for p in own]),
        ("attention_output", output, projections[-1]),
        (
            "feed_forward_output",
            _dropout_modules(module for module in modules_without_adapters(block) if module not in inside)[-1:],
            feed_forward[-1] if feed_forward else [],
        ),
    ]


def _matrices_with_norms(block: nn.Module) -> list[tuple[nn.Module, list[nn.Parameter]]]:
    """Pair each module that owns a matrix with its parameters and those of the norms registered after it."""
    pairs: list[tuple[nn.Module, list[nn.Parameter]]] = []
    for module in modules_without_adapters(block):
        own = list(module.parameters(recurse=False))
        if any(parameter.ndim >= 2 for parameter in own):
            pairs.append((module, own))
        elif own and pairs:
            pairs[-1][1].extend(own)
    return pairs


def _dropout_modules(modules: Iterable[nn.Module]) -> list[_Holder]:
    return [(module, "p") for module in modules if isinstance(module, _DropoutModule)]
