r"""Decoupled weight decay toward the pretrained weights.

**Idea.** AdamW's decay with another resting point: after each step the backbone moves a little back to the weights
it started from.

**Equation.** `w <- w - eta lambda (w - w0)`, with the learning rate `eta` of that step. `lambda` is `strength`;
toward `w0 = 0` this is AdamW's decay. At `eta = 2e-5` and `lambda = 0.01` a step removes 2e-7 of the distance, so over
a few hundred steps it is almost nothing; `L2SP`, the coupled form, is far stronger at the same number.

**Where it acts.** `setup` takes the snapshot, `after_step` pulls. Weight decay toward zero is off.

**Under adapters.** Under LoRA, where `w - w0 = s B A`, each factor is multiplied by `sqrt(1 - eta lambda)`: the product
decays as the equation says. Refused under DoRA and other adapters.

**Differences from the released code** (`prior_wd_optim.py` of asappresearch/revisit-bert-finetuning). (1) It pulls
before Adam's move, here the pull comes after it; the two differ by `eta lambda` times the move. (2) Its switch that
should exempt the last parameter group can never be true, so that the head is pulled toward its random start:
`official()` does the same (`include_head=True`). Which form Mixout's `wdecay(w_pre, lambda)` rows used is not stated.

**Reference.** Wiese, Weissenborn, Neves. Neural Domain Adaptation for Biomedical Question Answering. CoNLL 2017,
arXiv:1706.03610; Zhang et al. Revisiting Few-sample BERT Fine-tuning. ICLR 2021, arXiv:2006.05987.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.low_rank import LowRankLayer, low_rank_layers
from finetune_reg.building_blocks.parameter_groups import (
    learning_rates,
    named_backbone_parameters,
    named_decayed_parameters,
    named_head_parameters,
)
from finetune_reg.building_blocks.pretrained_model import unwrapped
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext


def pull_toward(
    weight: torch.Tensor,
    pretrained_weight: torch.Tensor,
    learning_rate: float,
    strength: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `w - eta lambda (w - w0)`; all tensors of one shape; `out` takes the result and may be `weight`."""
    return torch.lerp(weight, pretrained_weight, learning_rate * strength, out=out)


@dataclass
class PretrainedWeightDecay(FineTuningMethod):
    """Decay the backbone toward its pretrained weights after every step.

    Args:
        strength: the paper's lambda, at least 0; biases and norms, like AdamW's, are exempt.
        include_head: also pull the task head toward its initial weights.

    Raises:
        InputError: a negative strength; at `setup`, one that would shrink LoRA by more than its whole.
    """

    replaces_weight_decay: ClassVar[bool] = True

    strength: NonNegative = 0.01
    include_head: bool = False
    _pretrained: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _low_rank: list[LowRankLayer] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, strength: float = 0.001) -> PretrainedWeightDecay:
        """Return the released code's behaviour: the head is pulled toward its random start, too."""
        return cls(strength, include_head=True)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Snapshot the weights that are pulled."""
        self._low_rank = [layer for layer in low_rank_layers(model, "PretrainedWeightDecay") if layer.trains]
        if self._low_rank and context.learning_rate * self.strength > 1.0:
            raise InputError(
                f"PretrainedWeightDecay cannot shrink LoRA by the share {context.learning_rate * self.strength:g} at a "
                "step: lower strength, so that its product with the learning rate is at most 1."
            )
        pulled = dict(named_backbone_parameters(model))
        if self.include_head:
            pulled |= dict(named_head_parameters(model))
        factors = {id(factor) for layer in self._low_rank for factor in layer.factors}
        decayed = {name for name, parameter in named_decayed_parameters(model) if id(parameter) not in factors}
        self._pretrained = {name: p.detach().clone() for name, p in pulled.items() if name in decayed}

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Pull each weight by its own learning rate times the strength."""
        rates = learning_rates(optimizer)
        for name, parameter in unwrapped(model).named_parameters():
            if name in self._pretrained:
                pull_toward(parameter, self._pretrained[name], rates[id(parameter)], self.strength, out=parameter)
        for layer in self._low_rank:
            trained = [factor for factor in layer.factors if factor.requires_grad]
            for factor in trained:
                factor.mul_((1.0 - rates[id(factor)] * self.strength) ** (1.0 / len(trained)))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the snapshot."""
        return self._pretrained

    def finalize(self, model: nn.Module) -> None:
        """Drop the snapshot."""
        self._pretrained.clear()
        self._low_rank = []
