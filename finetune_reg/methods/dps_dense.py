r"""DPS Dense: train all weights for a while, then only those whose gradients were largest, in turns.

**Idea.** On little data, a well chosen part of a large network trains better than the whole. Child-Tuning chooses it
once, with a separate pass over the data; DPS chooses it again and again, from gradients that training computes anyway.

**Equation** (as the released code computes it). A stage lasts `u = floor(r T)` of `T` updates; stages I and II take
turns. Stage I trains everything and sums squared gradients of each weight matrix, from zero in every cycle,

    A = sum_t G_t^2 / 1000.

Stage II trains the share `k` of the matrix with the largest sums; all other gradients are zero:

    M = [A >= the ceil(k n)-th largest of the n entries of A],        G_t <- M * G_t.

`r` is `update_ratio`, `k` is `keep_fraction`. The constant 1/1000 does not change the choice.

**Where it acts.** `after_backward` measures in Stage I and masks, before clipping, in Stage II, in the weights of all
linear layers, head included; biases, norms and embeddings always train. Weights that are held still move by Adam's
momentum and by weight decay. `setup` switches dropout off.

**Under adapters.** Under LoRA and DoRA the choice is made within each `A`, each `B` and the head. Refused under other
adapters, whose weights are in no `nn.Linear`.

**Differences from the released code** (`DPSDense` of ZhangHaojie077/DPS). (1) Its option `reserve_p` is the fraction
that is dropped: 0.3 keeps 70 %. (2) It counts training passes, here optimizer updates are counted: under gradient
accumulation its stages are shorter. (3) It computes `k n` and `r T` in binary numbers, so that 1 - 0.7 of 10 weights
are 4 (`exact_counts=False`). (4) One gradient that is not finite spoils its whole cycle; here such updates do not
enter the sums. (5) Its script keeps the ordinary dropout in runs of 2000 updates or more (`disable_dropout=False`).
(6) Its classifier starts from other random values, because its layers are no `nn.Linear`. (7) Its low-resource script
takes one epoch for `T` but trains three: `update_ratio=0.05 / 3` has its stages.

**Reference.** Zhang, Li, Li, Zhang, Zhu, Jin. Fine-Tuning Pre-Trained Language Models Effectively by Optimizing
Subnetworks Adaptively. NeurIPS 2022, arXiv:2211.01642.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_adapters
from finetune_reg.building_blocks.module_surgery import set_dropout
from finetune_reg.building_blocks.parameter_selection import (
    GRADIENT_SCALE,
    add_squares,
    count_kept,
    linear_weights,
    select_largest,
    stage_length,
    stage_of,
    zeros_for_squares,
)
from finetune_reg.hyperparameters.ranges import Fraction
from finetune_reg.method import FineTuningMethod, TrainingContext


@dataclass
class DPSDense(FineTuningMethod):
    """Alternate between training everything and training the weights with the largest gradients.

    Args:
        keep_fraction: share of each weight matrix that Stage II trains, in (0, 1]; 1 trains everything.
        update_ratio: length of one stage as a share of all updates, in (0, 1].
        disable_dropout: train without dropout, as the released runs do.
        exact_counts: take fractions for the simple numbers they are written as; False is the released arithmetic.

    Raises:
        InputError: a value outside its range; at `setup`, no linear layer, or stages shorter than one update.
    """

    keep_fraction: Fraction = 0.7
    update_ratio: Fraction = 0.05
    disable_dropout: bool = True
    exact_counts: bool = True
    _weights: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    _squares: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    _masks: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    _stage_length: int = field(default=0, init=False, repr=False, compare=False)
    _update: int = field(default=0, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @property
    def sets_dropout(self) -> bool:
        """True unless `disable_dropout` is off."""
        return self.disable_dropout

    @classmethod
    def official(cls, drop_fraction: float = 0.3, update_ratio: float = 0.05) -> DPSDense:
        """Return the released code's behaviour.

        Args:
            drop_fraction: its `reserve_p`, the share of each matrix that is held in Stage II, in [0, 1).
            update_ratio: as in the constructor.
        """
        return cls(1 - drop_fraction, update_ratio, exact_counts=False)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Find the weight matrices; switch dropout off."""
        if self.keep_fraction < 1.0:
            reason = "that adapter trains no matrix of a linear layer"
            refuse_adapters(model, "DPSDense", reason, "use LoRA, or train all weights", but=("LORA", "DORA"))
        self._stage_length = stage_length(self.update_ratio, context.n_updates, self.exact_counts, "DPSDense")
        self._weights = linear_weights(model, "DPSDense")
        if self.disable_dropout:
            set_dropout(model, 0.0, self._undo)

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """Sum the squared gradients (Stage I) or mask the gradients (Stage II)."""
        if self.keep_fraction == 1.0:
            return
        self._update += 1
        stage, place = stage_of(self._update, self._stage_length)
        if stage == 1:
            if place == 1:
                self._masks.clear()
                self._squares = [zeros_for_squares(weight) for weight in self._weights]
            add_squares(self._squares, self._weights, GRADIENT_SCALE)
            return
        if place == 1:
            self._masks = [self._select(self._squares.pop(0)) for _ in self._weights]
        for weight, mask in zip(self._weights, self._masks, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(mask.view(torch.uint8))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the number of updates and, by the place of each matrix, the sums or the masks of its stage."""
        return {
            "update": torch.tensor(self._update),
            **{f"squares.{i}": squares for i, squares in enumerate(self._squares)},
            **{f"mask.{i}": mask for i, mask in enumerate(self._masks)},
        }

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take up the cycle in its stage."""
        self._update = int(state_dict.get("update", 0))
        self._squares = [zeros_for_squares(weight) for weight in self._weights if "squares.0" in state_dict]
        self._masks = [torch.ones_like(w, dtype=torch.bool) for w in self._weights if "mask.0" in state_dict]
        super().load_state_dict(state_dict)

    def finalize(self, model: nn.Module) -> None:
        """Drop sums and masks, put the dropout rates back."""
        self._weights, self._squares, self._masks = [], [], []
        self._stage_length = self._update = 0
        self._undo.close()

    def _select(self, squares: torch.Tensor) -> torch.Tensor:
        return select_largest(squares, count_kept(squares.numel(), self.keep_fraction, self.exact_counts))
