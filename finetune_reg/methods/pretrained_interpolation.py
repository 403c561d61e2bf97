r"""Interpolation with the pretrained weights (WiSE-FT): fine-tune as usual, deliver a point on the way there.

**Idea.** Fine-tuning gains on the task and loses some of what pretraining knew. The loss along the straight line
between both weights often stays low, so that a point of it may keep more of both than either end.

**Equation.** With pretrained weights `w0` and fine-tuned ones `w` of the backbone,

    w(alpha) = (1 - alpha) w0 + alpha w,        alpha in [0, 1],

and the head as trained: a fresh one has no pretrained value. With `alpha=None` the value is read off training rows: a
trial fine-tunes on four fifths of them, for as many epochs as the run, and of 0, 0.1, ..., 1 the alpha with the
smallest loss on the last fifth is taken, the larger of two equal ones. Then the run begins, from the start and on all
rows.

**Where it acts.** `setup` takes the snapshot and makes the trial; evaluation, checkpoints and `finalize` have the
interpolated weights; training never sees them. In a combination `w0` is what the members before have made of the
pretrained weights, and the trial has their modules but not their losses and steps.

**Under adapters.** Interpolates each tensor of the adapter with its start, with any adapter; of LoRA each factor by
itself, so that the path is no straight line of weights, but its ends are the pretrained and the fine-tuned model.

**Differences from the released code** (`wise_ft.py` of mlfoundations/wise-ft). It has a head from the start, made of
CLIP's text embeddings, and interpolates all weights (`official()`, here toward the head's random start). For encoders
with a fresh head its authors advise what is the default here (issue 8 of that repository). It prints the scores of all
eleven alphas on the test sets; the choice among them is the reader's.

**Reference.** Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Lopes, Hajishirzi, Farhadi, Namkoong, Schmidt. Robust
Fine-Tuning of Zero-Shot Models. CVPR 2022, arXiv:2109.01903.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import in_mode, other_weights
from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import device_of, task_loss
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.hyperparameters.ranges import Probability
from finetune_reg.method import FineTuningMethod, SetupStage, TrainingContext
from finetune_reg.methods.attention_guided_weight_mixup_search import (
    LowerLevel,
    endless_losses,
    split_examples,
    training_on_trial,
)

HELD_OUT_FRACTION = 0.2
GRID = [i / 10 for i in range(11)]


def interpolate(pretrained_weight: torch.Tensor, weight: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return `(1 - alpha) w0 + alpha w`, in float32 at least: `w0` itself at 0, `w` itself at 1."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.lerp(pretrained_weight.to(wide), weight.to(wide), alpha)


@dataclass
class PretrainedInterpolation(FineTuningMethod):
    """Deliver weights between the pretrained and the fine-tuned ones.

    Args:
        alpha: share of the fine-tuned weights, in [0, 1]; None reads it off held-out training rows.
        include_head: also interpolate the task head with its initial weights.

    Attributes:
        chosen_alpha: the alpha in use, from `setup` on.

    Raises:
        InputError: an alpha outside its range; at `setup`, a model without a backbone, or too few rows for a trial.
        TrainingDivergedError: at `setup`, a loss of the trial is not finite. The model is restored.
    """

    alpha: Probability | None = 0.5
    include_head: bool = False
    chosen_alpha: float = field(default=1.0, init=False, repr=False, compare=False)
    _trained: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False, compare=False)
    _pretrained: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, alpha: float = 0.5) -> PretrainedInterpolation:
        """Return the released code's behaviour: all weights, those of the head too."""
        return cls(alpha, include_head=True)

    @property
    def setup_stage(self) -> SetupStage:
        """With a trial it is a search."""
        return "search" if self.alpha is None else "preparation"

    def search_passes(self, n_examples: int, batch_size: int, n_updates: int) -> tuple[int, int]:
        """Return the passes of the trial."""
        if self.alpha is not None:
            return 0, 0
        n_kept = int((1 - HELD_OUT_FRACTION) * n_examples)
        n_trial = _trial_updates(n_updates, n_kept, n_examples)
        return n_trial + len(GRID) * -(-(n_examples - n_kept) // batch_size), n_trial

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Take the snapshot; choose alpha if it is not given."""
        self._trained = dict(named_backbone_parameters(model))
        if self.include_head:
            self._trained |= dict(named_head_parameters(model))
        self._pretrained = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        if self.alpha is not None:
            self.chosen_alpha = self.alpha
        elif not context.resumes:
            self.chosen_alpha = self._read_off(model, context)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return alpha, and the pretrained and the trained weights."""
        state = {f"pretrained.{name}": weight for name, weight in self._pretrained.items()}
        state |= {f"trained.{name}": parameter.detach() for name, parameter in self._trained.items()}
        return {"alpha": torch.tensor(self.chosen_alpha, dtype=torch.float64), **state}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take up alpha and the pretrained weights, and put the trained ones back into the model."""
        super().load_state_dict(state_dict)
        self.chosen_alpha = state_dict["alpha"].item()

    def delivered_weights(self, model: nn.Module) -> Mapping[nn.Parameter, torch.Tensor]:
        """Return the weights at the chosen alpha."""
        return self._at(self.chosen_alpha)

    def finalize(self, model: nn.Module) -> None:
        """Leave the interpolated weights in the model, and drop the snapshot."""
        super().finalize(model)
        self._trained.clear()
        self._pretrained.clear()

    def _at(self, alpha: float) -> dict[nn.Parameter, torch.Tensor]:
        return {p: interpolate(self._pretrained[name], p.detach(), alpha) for name, p in self._trained.items()}

    def _read_off(self, model: nn.Module, context: TrainingContext) -> float:
        """Fine-tune a trial on part of the rows, and return the best alpha on the others."""
        from transformers import get_linear_schedule_with_warmup

        generator = torch.Generator().manual_seed(context.seed)
        kept, held_out = split_examples(len(context.train_dataset), HELD_OUT_FRACTION, generator)
        n_updates = _trial_updates(context.n_updates, len(kept), len(context.train_dataset))
        start: dict[torch.Tensor, torch.Tensor] = {p: p.detach().clone() for p in model.parameters()}
        with training_on_trial(model, start):
            torch.manual_seed(context.seed)
            trial = LowerLevel(model, context, max_grad_norm=1.0)
            schedule = get_linear_schedule_with_warmup(trial.optimizer, n_updates // 10, n_updates)
            for loss in islice(endless_losses(model, context, kept, generator), n_updates):
                trial.step(loss)
                schedule.step()
            losses = {}
            for alpha in reversed(GRID):
                with other_weights(self._at(alpha)):
                    losses[alpha] = _mean_loss(model, context, held_out)
        return min(losses, key=losses.__getitem__)


def _trial_updates(n_updates: int, n_kept: int, n_examples: int) -> int:
    return max(round(n_updates * n_kept / n_examples), 1)


@torch.no_grad()
def _mean_loss(model: nn.Module, context: TrainingContext, indices: list[int]) -> float:
    """Return the mean of the task's loss over examples, without dropout."""
    total = 0.0
    with in_mode(model, training=False):
        for batch in context.batches(device_of(model), indices):
            total += len(next(iter(batch.values()))) * task_loss(task_outputs(model, batch)).item()
    return total / len(indices)
