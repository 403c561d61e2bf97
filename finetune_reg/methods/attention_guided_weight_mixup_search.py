"""Search on two levels: weights follow one part of the training data, `alpha` follows the rest.

One iteration: look ahead at where a step on a training batch leads, move `alpha` down the validation loss there, then
make the step on the same training batch with the new `alpha`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from finetune_reg.building_blocks.bias_correction import skip_bias_correction
from finetune_reg.building_blocks.hypergradient import (
    Hypergradient,
    Loss,
    adam_denominator,
    identity_hypergradient,
    one_step_hypergradient,
    same_masks,
)
from finetune_reg.building_blocks.module_surgery import in_mode
from finetune_reg.building_blocks.parameter_groups import weight_decay_groups
from finetune_reg.building_blocks.pretrained_model import device_of, refuse_reentrant_checkpointing, task_loss
from finetune_reg.building_blocks.random_replay import extra_pass, random_state_kept
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.errors import InputError, TrainingDivergedError
from finetune_reg.method import TrainingContext

_WARMUP_FRACTION = 0.1


def split_examples(n: int, validation_fraction: float, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Split `range(n)` at random into `int((1 - validation_fraction) n)` training and the other validation examples.

    Raises:
        InputError: one of the parts would be empty.
    """
    n_train = int((1.0 - validation_fraction) * n)
    if not 0 < n_train < n:
        raise InputError(
            f"{n} training examples cannot be split into {1.0 - validation_fraction:g} for the weights and "
            f"{validation_fraction:g} for alpha: both parts need at least one."
        )
    order = torch.randperm(n, generator=generator).tolist()
    return order[:n_train], order[n_train:]


def count_iterations(n_train: int, batch_size: int, epochs: float) -> int:
    """Return the iterations of a search: `ceil(epochs (floor(n_train / batch_size) + 1))`."""
    return math.ceil(epochs * (n_train // batch_size + 1))


def alpha_start(draws: torch.Tensor, std: float) -> torch.Tensor:
    """Return the factors that a search starts from, `1 + std z`, clamped to [0, 1].

    Args:
        draws: `z`, standard normal, of any shape.
    """
    return torch.ones_like(draws).add_(draws, alpha=std).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class BilevelSearch:
    """How weights and `alpha` are trained together.

    Attributes:
        search_epochs: passes over the training part, a little more when the batch size divides it.
        validation_fraction: share of the examples that `alpha` is trained on, in (0, 1).
        alpha_learning_rate: peak rate of AdamW on `alpha` (10 % warm-up, then a cosine; no decay).
        search_max_grad_norm: gradient clipping of the weights.
        hypergradient: `"one_step"` looks ahead by one plain gradient step and `"identity"` by the optimizer's step;
            the functions of those names in `hypergradient` say what is computed there.
        finite_difference_radius: norm of the perturbation.
        shared_masks: the passes on the training batch that make the hypergradient share their dropout masks.
        precondition, roll_back_look_ahead, undo_perturbation: for `"identity"` only, as in `hypergradient`.
    """

    search_epochs: float
    validation_fraction: float
    alpha_learning_rate: float
    search_max_grad_norm: float
    hypergradient: Literal["one_step", "identity"]
    finite_difference_radius: float
    shared_masks: bool
    precondition: bool
    roll_back_look_ahead: bool
    undo_perturbation: bool

    def run(
        self, model: nn.Module, alphas: Sequence[torch.Tensor], context: TrainingContext, generator: torch.Generator
    ) -> Iterator[dict[str, float]]:
        """Train the model's weights and `alphas` in place; yield a record after each iteration.

        Args:
            alphas: leaf tensors inside the model, kept in [0, 1].
            generator: draws the split and the order of the examples. Dropout draws from the global stream.

        Raises:
            InputError: too few examples to split, or reentrant gradient checkpointing.
            TrainingDivergedError: the training loss is not finite.
        """
        from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

        refuse_reentrant_checkpointing(model, "The search")
        parts = split_examples(len(context.train_dataset), self.validation_fraction, generator)
        n_iterations = count_iterations(len(parts[0]), context.batch_size, self.search_epochs)
        lower = LowerLevel(model, context, self.search_max_grad_norm)
        upper = torch.optim.AdamW(alphas, lr=self.alpha_learning_rate, weight_decay=0.0, fused=True)
        n_warmup = math.ceil(_WARMUP_FRACTION * n_iterations)
        lower_schedule = get_linear_schedule_with_warmup(lower.optimizer, n_warmup, n_iterations)
        upper_schedule = get_cosine_schedule_with_warmup(upper, n_warmup, n_iterations)
        batches = zip(*(endless_losses(model, context, part, generator) for part in parts), strict=True)
        for iteration, (train_loss, validation_loss) in enumerate(islice(batches, n_iterations), start=1):
            gradient = self._hypergradient(lower, alphas, train_loss, validation_loss, first=iteration == 1)
            for alpha, total in zip(alphas, gradient.total, strict=True):
                alpha.grad = total
            upper.step()
            upper_schedule.step()
            upper.zero_grad()
            for alpha in alphas:
                alpha.data.clamp_(0.0, 1.0)
            loss = lower.step(train_loss)
            lower_schedule.step()
            yield _record(iteration, loss, gradient)

    def _hypergradient(
        self, lower: LowerLevel, alphas: Sequence[torch.Tensor], train_loss: Loss, validation_loss: Loss, first: bool
    ) -> Hypergradient:
        perturbed_loss = same_masks(train_loss, lower.device) if self.shared_masks else train_loss
        if self.hypergradient == "one_step":
            return one_step_hypergradient(
                lower.weights,
                alphas,
                perturbed_loss,
                validation_loss,
                step_size=lower.optimizer.param_groups[0]["lr"],
                radius=self.finite_difference_radius,
            )
        roll_back = lower.remember() if self.roll_back_look_ahead else None
        lower.step(perturbed_loss)
        gradient = identity_hypergradient(
            lower.weights,
            alphas,
            perturbed_loss,
            validation_loss,
            radius=self.finite_difference_radius,
            denominators=lower.adam_denominators() if self.precondition else None,
            undo_perturbation=self.undo_perturbation,
        )
        if roll_back is not None:
            roll_back()
        elif first:
            lower.forget()
        return gradient


@contextmanager
def training_on_trial(model: nn.Module, start: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """Train the model inside the block, in training mode and in float32 at least, and take everything back.

    Args:
        start: all parameters with the values that they have again afterwards. Gradients are None afterwards;
            the modes of the modules and the global random state are what they were.
    """
    with extra_pass(), in_mode(model, training=True), random_state_kept(next(iter(start)).device):
        try:
            for parameter, value in start.items():
                parameter.data = parameter.data.to(torch.promote_types(value.dtype, torch.float32))
            yield
        finally:
            for parameter, value in start.items():
                parameter.data = parameter.data.to(value.dtype)
                parameter.data.copy_(value)
                parameter.grad = None


class LowerLevel:
    """The weights that train, and their AdamW."""

    def __init__(self, model: nn.Module, context: TrainingContext, max_grad_norm: float) -> None:
        self.weights: list[torch.Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.weights[0].device
        self.max_grad_norm = max_grad_norm
        self.optimizer = torch.optim.AdamW(weight_decay_groups(model, context.weight_decay), **context.adamw_arguments)
        self.optimizer.zero_grad()
        self.bias_correction = context.bias_correction
        self.forget()
        self.n_steps = 0

    def forget(self) -> None:
        """Start the optimizer's moments again."""
        self.optimizer.state.clear()
        if not self.bias_correction:
            skip_bias_correction(self.optimizer)

    def step(self, loss: Loss) -> torch.Tensor:
        """Make one clipped update of the weights; return the loss before it."""
        value = loss()
        self.n_steps += 1
        if not torch.isfinite(value):
            raise TrainingDivergedError(self.n_steps, value.item())
        torch.autograd.backward(value, inputs=self.weights)
        clip_grad_norm_(self.weights, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value.detach()

    def remember(self) -> Callable[[], None]:
        """Return a function that puts weights and optimizer back to what they are now."""
        weights = [weight.detach().clone() for weight in self.weights]
        state = deepcopy(self.optimizer.state_dict())

        @torch.no_grad()
        def roll_back() -> None:
            torch._foreach_copy_(self.weights, weights)
            self.optimizer.load_state_dict(state)
            self.n_steps -= 1

        return roll_back

    def adam_denominators(self) -> list[torch.Tensor]:
        """Return Adam's scalar denominator of each weight tensor; 1 for a tensor that has had no gradient."""
        (_, beta2), epsilon = (self.optimizer.defaults[name] for name in ("betas", "eps"))
        states = (self.optimizer.state.get(weight) for weight in self.weights)
        return [
            adam_denominator(state["exp_avg_sq"], state["step"].item(), beta2, epsilon)
            if state
            else torch.ones((), device=self.device)
            for state in states
        ]


def endless_losses(
    model: nn.Module, context: TrainingContext, indices: list[int], generator: torch.Generator
) -> Iterator[Loss]:
    """Yield the task's loss on one batch after another, in a new order each epoch."""
    device = device_of(model)
    while True:
        order = torch.randperm(len(indices), generator=generator).tolist()
        for batch in context.batches(device, [indices[i] for i in order]):
            yield _loss_on(model, batch)


def _loss_on(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Loss:
    return lambda: task_loss(task_outputs(model, batch))


def _record(iteration: int, training_loss: torch.Tensor, gradient: Hypergradient) -> dict[str, float]:
    values = {
        "training_loss": training_loss,
        "validation_loss": gradient.validation_loss,
        **dict(zip(("direct_norm", "implicit_norm"), gradient.norms(), strict=True)),
        "cosine": gradient.cosine(),
    }
    numbers = torch.stack([value.double() for value in values.values()]).tolist()
    return {"iteration": iteration, **dict(zip(values, numbers, strict=True))}
