r"""The layers of LoRA: `W = W0 + s B A`, with the pretrained weight `W0` frozen and the deviation `s B A` of rank r.

What pulls or mixes `W` toward `W0` needs the deviation only, and of that the factors: with `A` (r x in), `B` (out x r),

    |s B A|_F^2 = s^2 <B'B, A A'>,      gradients of half of it:  s^2 (B'B) A  and  s^2 B (A A').

Nothing here reads `W0`, which may be quantized. Hu et al., arXiv:2106.09685; the layers are those of peft.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import configurations, is_adapter_layer, refuse_adapters
from finetune_reg.building_blocks.pretrained_model import unwrapped
from finetune_reg.errors import InputError

_MOVES_PRETRAINED_WEIGHT = ("pissa", "olora", "loftq", "corda", "lora_ga")  # values of init_lora_weights
_WITHOUT_FACTORED_PASS = ("MultiheadAttention", "ParamWrapper")  # they compute the product
Factors = tuple[torch.Tensor, torch.Tensor]


def squared_norm(down: torch.Tensor, up: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return `|s B A|_F^2`, a scalar, without the product.

    Args:
        down: `A`, shape (r, in).
        up: `B`, shape (out, r).
        scaling: `s`.
    """
    return scaling**2 * ((up.T @ up) * (down @ down.T)).sum()


def half_squared_norm_gradients(down: torch.Tensor, up: torch.Tensor, scaling: float) -> Factors:
    """Return the gradients of half the squared norm, for `A` and for `B`; arguments as in `squared_norm`."""
    return scaling**2 * (up.T @ up) @ down, scaling**2 * up @ (down @ down.T)


@dataclass(frozen=True)
class LowRankLayer:
    """A layer with an active LoRA.

    Attributes:
        base_name: of the frozen layer inside it, in the unwrapped model.
        down: `A`, shape (r, in).
        up: `B`, shape (out, r).
    """

    base_name: str
    down: nn.Parameter
    up: nn.Parameter
    _layer: Any
    _adapter: str

    @property
    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        """`A` and `B`."""
        return self.down, self.up

    @property
    def trains(self) -> bool:
        """Whether any factor trains."""
        return self.down.requires_grad or self.up.requires_grad

    @property
    def scaling(self) -> float:
        """The factor `s`: `alpha / r`, of rsLoRA `alpha / sqrt(r)`."""
        return self._layer.scaling[self._adapter]

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear layer, and not a table of embeddings."""
        return self._adapter in self._layer.lora_A

    def drop_input_units(self, probability: float, undo: ExitStack) -> None:
        """Let the deviation drop input units after LoRA's own dropout; closing `undo` ends it."""
        dropouts = self._layer.lora_dropout
        own = dropouts[self._adapter]
        undo.callback(dropouts.__setitem__, self._adapter, own)
        dropouts[self._adapter] = InputUnitDropout(own, probability).train(own.training)


class InputUnitDropout(nn.Module):
    """Dropout with one coin per input unit for the whole batch, in training, after another dropout.

    Args:
        dropout: the other one.
        probability: of 0 in place of the unit, in [0, 1]; what is kept is divided by `1 - probability`.
    """

    def __init__(self, dropout: nn.Module, probability: float) -> None:
        super().__init__()
        self.dropout, self.probability = dropout, probability

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., units) to the same shape."""
        input = self.dropout(input)
        if not self.training or self.probability == 0.0:
            return input
        kept = torch.empty(1, input.shape[-1], dtype=input.dtype, device=input.device)
        kept.bernoulli_(1.0 - self.probability)
        return input * (kept / (1.0 - self.probability) if self.probability < 1.0 else kept)

    def extra_repr(self) -> str:
        """Show the probability."""
        return f"probability={self.probability}"


def low_rank_layers(model: nn.Module, method: str) -> list[LowRankLayer]:
    """Return the layers with an active LoRA, in the model's order; none of a model without adapter.

    Args:
        method: that acts on the deviation from the pretrained weights; begins a refusal.

    Raises:
        InputError: another adapter or a variant of LoRA, whose deviation is not `s B A`; several adapters at a time; or
            pretrained weights that the adapter's initialization has moved.
    """
    remedy = "use plain LoRA, or train all weights"
    refuse_adapters(
        model,
        method,
        "it acts on the deviation `s B A` of plain LoRA",
        remedy,
        but=["LORA"],
    )
    for configuration in configurations(model):
        initialization = configuration.init_lora_weights
        if isinstance(initialization, str) and initialization.lower().startswith(_MOVES_PRETRAINED_WEIGHT):
            raise InputError(
                f"{method} cannot tell the pretrained weights under LORA of peft, because "
                f"init_lora_weights={initialization!r} has moved a part of them into the adapter: leave it at True."
            )
    layers = []
    for name, module in unwrapped(model).named_modules():
        layer: Any = module
        if not is_adapter_layer(layer) or not hasattr(layer, "lora_embedding_A"):
            continue
        active = [a for a in layer.active_adapters if a in layer.lora_A or a in layer.lora_embedding_A]
        if len(active) > 1:
            raise InputError(f"{method} has no meaning under several adapters of peft at a time: activate one.")
        for adapter in active:
            kind = type(getattr(layer, "lora_variant", {}).get(adapter, layer)).__name__
            linear = adapter in layer.lora_A
            down = layer.lora_A[adapter].weight if linear else layer.lora_embedding_A[adapter]
            up = layer.lora_B[adapter].weight if linear else layer.lora_embedding_B[adapter]
            if adapter in getattr(layer, "lora_variant", {}) or kind in _WITHOUT_FACTORED_PASS or down.ndim != 2:
                raise InputError(f"{method} has no meaning under {kind} of peft ({name}): {remedy}.")
            layers.append(LowRankLayer(f"{name}.base_layer", down, up, layer, adapter))
    return layers
