r"""Mixout: weights return to their pretrained values at random while training.

**Idea.** Dropout pulls a network toward zero, but the good neighbourhood lies around the pretrained weights.
Mixout is dropout with another resting point: a unit that would be dropped has its outgoing weights replaced by
their pretrained values, and the rest is rescaled so that the expected weight stays the current one.

**Equation** (paper, section 3). With current weight `W`, pretrained weight `U` and `b_j ~ Bernoulli(1 - p)` for
each input unit `j`,

    W~ = U + (W - U) diag(b) / (1 - p),        E[W~] = W,

and for an m-strongly convex loss (Corollary 1.1)

    E L(W~) >= L(W) + m p / (2 (1 - p)) |W - U|^2.

`p` is `mix_probability`; `b` is one draw per layer, forward pass and input unit, shared by the whole batch.

**Where it acts.** `setup` replaces linear layers and switches dropout off; `finalize` restores both.

**Under adapters.** Under LoRA, with `U = W0` and `W - U = s B A`, the mixed layer is `W0 x + s B A (b x) / (1 - p)`:
LoRA dropout with one coin per input unit for the whole batch. That is what `setup` puts in place. Refused under DoRA
and other adapters, as are `rescale_gradient=False` and `granularity="weight"`.

**Differences from the released code** (`mixout.py`, `mixlinear.py` and `example_huggingface.py` of bloodwass/mixout).
(1) Its backward pass multiplies by `b`, not by `b / (1 - p)`: gradients are smaller by exactly `1 - p`
(`rescale_gradient=False`). (2) Its Hugging Face example mixes every linear layer, also the first of each
feed-forward block and the task head (`scope="all_linear"`, `head_mix_probability`); the experiments of the paper
mix the layers that leave dropout sites and leave the head alone. (3) Its target is a plain attribute; here it is a
non-persistent buffer, so that checkpoints keep the plain layout.

**Reference.** Lee, Cho, Kang. Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models.
ICLR 2020, arXiv:1909.11299.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.low_rank import low_rank_layers
from finetune_reg.building_blocks.module_surgery import (
    ReplacementLinear,
    backbone_module_names,
    feed_forward_expansion_names,
    replace_linears,
    set_dropout,
    trained_linear_names,
)
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Probability
from finetune_reg.method import FineTuningMethod, TrainingContext


def draw_keep_mask(
    weight: torch.Tensor, mix_probability: float, granularity: Literal["neuron", "weight"] = "neuron"
) -> torch.Tensor:
    """Draw `b ~ Bernoulli(1 - p)`: 1 where the current weight is kept.

    Returns:
        Shape (1, in) for `"neuron"` (mixout: all weights leaving an input unit share a draw) or the shape of
        `weight` for `"weight"` (the paper's mixconnect).
    """
    shape = (1, weight.shape[-1]) if granularity == "neuron" else weight.shape
    return torch.empty(shape, dtype=weight.dtype, device=weight.device).bernoulli_(1.0 - mix_probability)


def mixout(
    weight: torch.Tensor,
    pretrained_weight: torch.Tensor,
    keep_mask: torch.Tensor,
    mix_probability: float,
    rescale_gradient: bool = True,
) -> torch.Tensor:
    """Mix a weight with its pretrained value: `U + b (W - U) / (1 - p)`.

    Args:
        weight: current weight `W`, shape (out, in).
        pretrained_weight: target `U`, same shape.
        keep_mask: `b`, broadcastable to `weight`.
        mix_probability: `p` in [0, 1]; 0 returns `weight` itself, 1 returns `pretrained_weight`.
        rescale_gradient: False gives the released code's gradient, `b` in place of `b / (1 - p)`.
    """
    if mix_probability == 0.0:
        return weight
    if mix_probability == 1.0:
        return pretrained_weight + 0.0 * weight
    scale = 1.0 / (1.0 - mix_probability)
    deviation = weight.float() - pretrained_weight.float() if weight.itemsize < 4 else weight - pretrained_weight
    if not rescale_gradient:
        deviation = deviation + (scale - 1.0) * deviation.detach()
        scale = 1.0
    factor = keep_mask.to(deviation.dtype) * scale
    return torch.addcmul(pretrained_weight.to(deviation.dtype), deviation, factor).to(weight.dtype)


class MixLinear(ReplacementLinear):
    """A linear layer whose weight, in training mode only, is mixed with its value at construction."""

    pretrained_weight: torch.Tensor

    def __init__(
        self,
        linear: nn.Linear,
        mix_probability: float,
        rescale_gradient: bool = True,
        granularity: Literal["neuron", "weight"] = "neuron",
    ) -> None:
        super().__init__(linear)
        self.register_buffer("pretrained_weight", self.weight.detach().clone(), persistent=False)
        self.mix_probability = mix_probability
        self.rescale_gradient = rescale_gradient
        self.granularity = granularity

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        if not self.training or self.mix_probability == 0.0:
            return self.map(input, self.weight)
        keep_mask = self.turned(draw_keep_mask(self.turned(self.weight), self.mix_probability, self.granularity))
        weight = mixout(self.weight, self.pretrained_weight, keep_mask, self.mix_probability, self.rescale_gradient)
        return self.map(input, weight)

    def extra_repr(self) -> str:
        """Show the mix probability beside the layer's shape."""
        return f"{super().extra_repr()}, mix_probability={self.mix_probability}"


@dataclass
class Mixout(FineTuningMethod):
    """Mix linear layers with their pretrained weights and switch dropout off.

    Args:
        mix_probability: the paper's `p`, probability that an input unit uses the pretrained weights; in [0, 1].
            The paper tries 0.7, 0.8 and 0.9.
        scope: `"dropout_sites"` mixes the backbone's linear layers except the first of each feed-forward block,
            which no dropout feeds (the paper's experiments); `"all_linear"` mixes all of the backbone's.
        head_mix_probability: mixes the task head toward its initial weights (paper, Table 3: 0.7); None leaves it.
        rescale_gradient: True is the derivative of the equation; False is the released code's.
        granularity: `"neuron"` is mixout, `"weight"` is the paper's mixconnect.
        disable_dropout: the paper's runs replace dropout by mixout.

    Raises:
        InputError: a probability outside [0, 1], an unknown scope or granularity; at `setup`, no layer to mix.
    """

    replaces_linears: ClassVar[bool] = True

    mix_probability: Probability = 0.7
    scope: Literal["dropout_sites", "all_linear"] = "dropout_sites"
    head_mix_probability: Probability | None = None
    rescale_gradient: bool = True
    granularity: Literal["neuron", "weight"] = "neuron"
    disable_dropout: bool = True
    _layers: list[MixLinear] = field(default_factory=list, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @property
    def sets_dropout(self) -> bool:
        """True unless `disable_dropout` is off."""
        return self.disable_dropout

    @classmethod
    def official(cls, mix_probability: float = 0.7) -> Mixout:
        """Return the released code's behaviour: every linear layer, the head too, gradients not rescaled."""
        return cls(mix_probability, "all_linear", head_mix_probability=mix_probability, rescale_gradient=False)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Snapshot and replace the linear layers in scope; switch dropout off."""
        inside = backbone_module_names(model)
        spared = feed_forward_expansion_names(model) if self.scope == "dropout_sites" else set()

        low_rank = low_rank_layers(model, "Mixout")
        if low_rank and not (self.rescale_gradient and self.granularity == "neuron"):
            raise InputError(
                "Mixout under LoRA is dropout of input units, with no choice of gradient and granularity: leave "
                "rescale_gradient=True and granularity='neuron', or train all weights."
            )
        trained = trained_linear_names(model) if low_rank else None

        def mix(select: Callable[[str], bool], probability: float) -> None:
            adapted = [layer for layer in low_rank if layer.is_linear and select(layer.base_name)]
            for layer in adapted:
                layer.drop_input_units(probability, self._undo)
            if adapted and not any(map(select, trained or ())):
                return

            def build(linear: nn.Linear) -> MixLinear:
                self._layers.append(MixLinear(linear, probability, self.rescale_gradient, self.granularity))
                return self._layers[-1]

            mixed = select if trained is None else lambda name: name in trained and select(name)
            replace_linears(model, mixed, build, self._undo, method="Mixout")

        mix(lambda name: name in inside and name not in spared, self.mix_probability)
        if self.head_mix_probability is not None:
            mix(lambda name: name not in inside, self.head_mix_probability)
        if self.disable_dropout:
            set_dropout(model, 0.0, self._undo)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the pretrained weights of the mixed layers, in the model's order."""
        return {f"{i}.pretrained_weight": layer.pretrained_weight for i, layer in enumerate(self._layers)}

    def finalize(self, model: nn.Module) -> None:
        """Put the plain linear layers and the dropout rates back."""
        self._layers = []
        self._undo.close()
