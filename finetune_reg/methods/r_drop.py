r"""R-Drop: two passes with different dropout masks must agree.

**Idea.** Dropout trains many sub-networks and predicts with their mean. R-Drop runs each example through two of them,
trains both and pulls their predictions together.

**Equation** (paper, section 2). With outputs `P1`, `P2` of two passes and batch means,

    -log P1(y | x) - log P2(y | x) + alpha / 2 (KL(P1 || P2) + KL(P2 || P1));

regression: `(y - y1)^2 + (y - y2)^2 + alpha (y1 - y2)^2`. `alpha` is `strength`. The two task losses are summed, not
averaged: without dropout the loss is twice the ordinary one.

**Where it acts.** `setup` refuses models whose outputs cannot be compared; `training_loss` makes the second pass.

**Under adapters.** The adapter's dropout is one more that differs between the passes; any adapter.

**Differences from the released code** (README and `modeling_bert.py`, `modeling_roberta.py` of dropreg/R-Drop). All
three sum the KL over the batch while the task loss is a mean, so that `alpha` grows with the batch (`kl_reduction`).
Written with `KL_S` for the sum of both directions: README, `(CE1 + CE2) / 2 + alpha KL_S / 2`; BERT,
`CE1 + CE2 + 0.5 KL_S / 2`; RoBERTa, `0.5 CE1 + 0.7 KL_S / 2`, because the branch that should add the second task loss
is never reached. For regression BERT weighs the squared error by 1, RoBERTa by 0.8. `official(form)` returns each. The
paper concatenates two copies of the batch; two passes have the same distribution.

**Reference.** Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu. R-Drop: Regularized Dropout for Neural Networks.
NeurIPS 2021, arXiv:2106.14448.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.output_divergence import (
    Reduction,
    compared_logits,
    is_regression,
    squared_error,
    symmetric_kl,
)
from finetune_reg.building_blocks.pretrained_model import refuse_tuples, task_loss
from finetune_reg.building_blocks.random_replay import extra_pass
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.errors import unknown_name
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext


def consistency(
    model: nn.Module, first_logits: torch.Tensor, second_logits: torch.Tensor, kl_reduction: Reduction = "mean"
) -> torch.Tensor:
    """Return what `alpha` weighs: the mean of the two KL directions, or the mean squared error of a regression.

    Args:
        model: decides which.
        first_logits: shape (batch, labels).
        second_logits: same shape.
        kl_reduction: of the KL over the batch.
    """
    if is_regression(model, first_logits):
        return squared_error(first_logits, second_logits)
    return symmetric_kl(first_logits, second_logits, kl_reduction) / 2


@dataclass
class RDrop(FineTuningMethod):
    """Train two passes with their own dropout masks and pull their predictions together.

    Args:
        strength: the paper's alpha, at least 0 (grid 0.1, 0.5, 1).
        first_loss_weight: of the task loss of the first pass, at least 0; the paper's is 1. In a combination it weighs
            the loss that the members before it have made.
        second_loss_weight: of the task loss of the second pass, at least 0; the paper's is 1. With 0 here and as
            `strength` the second pass is left out.
        kl_reduction: `"mean"` or `"sum"` of the KL over the batch.

    Raises:
        InputError: a value outside its range; at `setup`, a model of transformers that returns tuples.
    """

    strength: NonNegative = 1.0
    first_loss_weight: NonNegative = 1.0
    second_loss_weight: NonNegative = 1.0
    kl_reduction: Literal["mean", "sum"] = "mean"

    @classmethod
    def official(cls, form: Literal["readme", "bert", "roberta"] = "bert", regression: bool = False) -> RDrop:
        """Return one of the released losses with its hard-coded strength.

        Args:
            form: where the loss stands; the README's has no regression.
            regression: whether the labels are numbers, for which the strengths are others.

        Raises:
            InputError: an unknown form.
        """
        strengths = {"readme": (1.0, 1.0), "bert": (0.5, 1.0), "roberta": (0.7, 0.8)}
        loss_weights = {"readme": (0.5, 0.5), "bert": (1.0, 1.0), "roberta": (0.5, 0.0)}
        if form not in strengths:
            raise unknown_name("form", form, strengths)
        return cls(strengths[form][regression], *loss_weights[form], kl_reduction="sum")

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """Two each, or one if nothing asks for the second."""
        return (2, 2) if self._needs_second_pass else (1, 1)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Refuse models whose outputs cannot be compared."""
        if self.strength > 0:
            refuse_tuples(model)

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the weighted task losses of both passes and their weighted consistency."""
        loss = self.first_loss_weight * task_loss(outputs)
        if not self._needs_second_pass:
            return loss
        with extra_pass():
            second = task_outputs(model, batch)
        if self.second_loss_weight > 0:
            loss = loss + self.second_loss_weight * task_loss(second)
        if self.strength > 0:
            first_logits, second_logits = (compared_logits(model, batch, each) for each in (outputs, second))
            loss = loss + self.strength * consistency(model, first_logits, second_logits, self.kl_reduction)
        return loss

    @property
    def _needs_second_pass(self) -> bool:
        return self.strength > 0 or self.second_loss_weight > 0
