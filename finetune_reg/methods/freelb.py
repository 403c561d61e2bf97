r"""FreeLB: the task loss is averaged over the steps of an adversarial ascent on the input embeddings.

**Idea.** Adversarial training usually throws the intermediate steps of the ascent away. FreeLB trains on all of them:
one update uses the mean gradient over a path of growing perturbations.

**Equation** (paper, Algorithm 1). With `K` passes, `N` the number of real tokens times the embedding width, and norms
over all of one example,

    loss = 1/K sum_{t=0}^{K-1} L(x + delta_t),          delta_0 ~ U(-m, m) / sqrt(N),
    delta_{t+1} = Pi_{|delta| <= epsilon} (delta_t + alpha g_t / |g_t|),    g_t = dL(x + delta_t) / d delta_t.

`K` is `n_passes`, `alpha` is `step_size`, `epsilon` is `max_norm`, `m` is `initial_magnitude`, in the paper the same as
`epsilon`. All passes share one dropout mask, which the paper finds worth a point or more. Padding is never moved. The
defaults are the paper's for RTE and RoBERTa-large (Table 6), its number of steps read as `K`.

**Where it acts.** A hook set by `setup` adds `delta_0` to the word embeddings of the main pass. `training_loss` uses
that pass as the first of `K`: one differentiation gives the ascent and the weights' share of the gradient. It hands the
sum of these shares on with the loss of the last pass, which the loop differentiates: `K` forward and `K` backward
passes. In a combination the further passes of other methods see unmoved embeddings.

**Under adapters.** The word embeddings move under any adapter; the tokens of a prompt do not.

**Differences from the released code** (`run_glue_freelb.py` of zhuchen03/FreeLB). (1) It shares masks through models
that were patched for it: RoBERTa in fairseq, and ALBERT, where the dropouts of the embeddings and behind attention draw
anew all the same. Here all masks of any model are shared. (2) Some of its ALBERT scripts, that for RTE among them, do
not project (`max_norm=None`), and all choose `m` apart from `epsilon`; `official()` has the values for RTE. (3) Its
projection turns a perturbation of exactly zero into NaN, here that stays zero. Its fairseq version counts ascents: `m`
there is `n_passes = m + 1`.

**Reference.** Zhu, Cheng, Gan, Sun, Goldstein, Liu. FreeLB: Enhanced Adversarial Training for Natural Language
Understanding. ICLR 2020, arXiv:1909.11764.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.embedding_perturbation import (
    input_embeddings,
    perturbed_embeddings,
    refuse_unfit_embeddings,
    token_mask,
)
from finetune_reg.building_blocks.precomputed_gradient import GradientSum
from finetune_reg.building_blocks.pretrained_model import refuse_reentrant_checkpointing, task_loss, unwrapped
from finetune_reg.building_blocks.random_replay import RandomReplay, extra_pass, in_main_pass
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Count, NonNegative, Positive
from finetune_reg.method import FineTuningMethod, TrainingContext


def initial_perturbation(embeddings: torch.Tensor, mask: torch.Tensor, magnitude: float) -> torch.Tensor:
    """Draw `U(-m, m) / sqrt(N)`, whose norm per example is at most `m`; magnitude 0 draws nothing.

    Args:
        embeddings: shape (batch, length, width).
        mask: 1 for tokens, 0 for padding, shape (batch, length, 1).
        magnitude: `m`.

    Returns:
        Shaped like `embeddings`, in float32 at least.
    """
    perturbation = torch.zeros_like(embeddings, dtype=torch.promote_types(embeddings.dtype, torch.float32))
    if magnitude == 0:
        return perturbation
    n_coordinates = mask.sum(dim=(1, 2), keepdim=True) * embeddings.shape[-1]
    return perturbation.uniform_(-1, 1).mul_(mask).mul_(magnitude / n_coordinates.to(perturbation.dtype).sqrt())


def ascend(
    perturbation: torch.Tensor, gradient: torch.Tensor, step_size: float, max_norm: float | None
) -> torch.Tensor:
    """Return `delta + alpha g / max(|g|, 1e-8)`, scaled down to the norm `max_norm` where it is longer.

    Args:
        perturbation: `delta`, shape (batch, ...); norms are over all but the first dimension.
        gradient: `g`, same shape.
        step_size: `alpha`.
        max_norm: `epsilon`, or None for no projection.
    """
    moved = torch.addcdiv(perturbation, gradient, _norm(gradient).clamp_min_(1e-8), value=step_size)
    if max_norm is not None:
        moved.mul_((max_norm / _norm(moved).clamp_min_(torch.finfo(moved.dtype).tiny)).clamp_max_(1.0))
    return moved


@dataclass
class FreeLB(FineTuningMethod):
    """Average the task loss over an adversarial path of the word embeddings.

    Args:
        n_passes: the paper's K, at least 1; K - 1 ascents lie between the passes.
        step_size: norm of an ascent of one example, at least 0.
        max_norm: largest norm of the perturbation of one example, above 0; None for no projection.
        initial_magnitude: largest norm of the random start, at least 0; 0 starts at the clean embeddings.
        dropout: `"shared"` gives all passes the masks of the first, `"independent"` draws anew.

    Raises:
        InputError: a value outside its range; at `setup`, weights in less than float32.
    """

    replaces_task_loss: ClassVar[bool] = True

    n_passes: Count = 3
    step_size: NonNegative = 0.03
    max_norm: Positive | None = 0.15
    initial_magnitude: NonNegative = 0.15
    dropout: Literal["shared", "independent"] = "shared"
    _perturbation: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _replay: RandomReplay | None = field(default=None, init=False, repr=False, compare=False)
    _main_pass: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(
        cls, n_passes: int = 3, step_size: float = 0.1, max_norm: float | None = None, initial_magnitude: float = 0.0
    ) -> FreeLB:
        """Return the method with the values of the released ALBERT script for RTE: no projection, no random start."""
        return cls(n_passes, step_size, max_norm, initial_magnitude)

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """K forward and K backward."""
        return self.n_passes, self.n_passes

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Perturb the main passes from now on, and watch them, if their masks are shared."""
        if self.n_passes == 1 and self.initial_magnitude == 0:
            return
        refuse_unfit_embeddings(model, "FreeLB")
        if self.n_passes > 1:
            refuse_reentrant_checkpointing(model, "FreeLB")
        if self.n_passes > 1 and self.dropout == "shared":
            self._replay = RandomReplay(model, self._undo)
        # Drawn first: a replay, of this or another method, must begin after the start has been drawn.
        model = unwrapped(model)
        begin = model.register_forward_pre_hook(self._begin_main_pass, prepend=True, with_kwargs=True)
        end = model.register_forward_hook(self._end_main_pass, always_call=True)
        self._undo.callback(begin.remove)
        self._undo.callback(end.remove)

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the mean loss over the path."""
        if self.n_passes == 1:
            return task_loss(outputs)
        if self._perturbation is None:
            raise InputError(
                "FreeLB has nothing to move: call setup, then the model in training mode, before the loss."
            )
        refuse_reentrant_checkpointing(model, "FreeLB")  # a Trainer enables it after set-up
        perturbation, loss = self._perturbation, task_loss(outputs) / self.n_passes
        earlier = GradientSum(model.parameters())
        for t in range(1, self.n_passes):
            # Other methods of a combination may still compare their passes with the main one.
            (gradient,) = earlier.add(loss, perturbation, retain_graph=t == 1)
            perturbation = ascend(perturbation.detach(), gradient, self.step_size, self.max_norm)
            perturbation.mul_(token_mask(batch)).requires_grad_(t < self.n_passes - 1)
            masks = extra_pass() if self._replay is None else self._replay.again()
            with masks, perturbed_embeddings(model, perturbation):
                loss = task_loss(task_outputs(model, batch)) / self.n_passes
        return earlier.joined_to(loss)

    def finalize(self, model: nn.Module) -> None:
        """Remove the hooks and drop the perturbation."""
        self._main_pass.close()
        self._undo.close()
        self._perturbation = self._replay = None

    def _begin_main_pass(self, model: nn.Module, arguments: tuple, batch: Mapping[str, torch.Tensor]) -> None:
        if in_main_pass(model):
            start = initial_perturbation(input_embeddings(model, batch), token_mask(batch), self.initial_magnitude)
            self._perturbation = start.requires_grad_(self.n_passes > 1)
            self._main_pass.enter_context(perturbed_embeddings(model, self._perturbation))

    def _end_main_pass(self, model: nn.Module, arguments: tuple, outputs: Any) -> None:
        self._main_pass.close()


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
