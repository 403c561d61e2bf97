"""Several methods as one.

**Idea.** Regularizers that act in different places add up: a Mixout run can also pull its weights with decay.

**Where it acts.** `setup`, `after_backward` and `after_step` run in the order given, each member adds to the loss of
those before it, `finalize` runs in reverse. Any member may switch ordinary weight decay off for all. A member that puts
something in the task loss's place (FreeLB) comes first in the loss, one that adds the gradient of its penalty (L2-SP)
first after the backward pass, one that delivers other weights (averaging) last after the step and first at the end,
wherever they stand. SAM climbs by the completed gradient and makes the passes of all members again, before others mask
or read the gradients.

**Under adapters.** Each member's own.

**Rules.** Members stand in the order of what their `setup` does: first one that puts adapters into the model, under
which the others act or refuse, then those that change the initial weights (re-initialization, noise), then one that
trains the head alone, then those that take snapshots or change modules, then those that search or measure on the
training data, last those that copy the whole model. At most one member replaces linear layers, sets dropout rates,
replaces the task loss, brings its own optimizer, delivers other weights than those trained, makes the passes of all
again. Anything else is refused: it would run, and be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.pretrained_model import named_outputs
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Precision
from finetune_reg.method import FineTuningMethod, TrainingContext
from finetune_reg.methods.sam import SAM

_STAGES = {
    "adapter": "puts adapters into the model",
    "initialization": "changes the initial weights",
    "head": "trains the head",
    "preparation": "takes snapshots of the weights or changes modules",
    "search": "searches or measures on the training data",
    "reference": "copies the whole model",
}


@dataclass
class Combination(FineTuningMethod):
    """Apply several methods together, for example `Combination([Mixout(0.7), PretrainedWeightDecay(0.01)])`.

    Args:
        members: at least one method; those of a combination among them stand in its place.

    Raises:
        InputError: no members, something that is not a method, or members that break a rule of this module.
    """

    members: list[FineTuningMethod]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.members = [leaf for m in self.members for leaf in (m.members if isinstance(m, Combination) else [m])]
        if not self.members:
            raise InputError("Combination needs at least one method.")
        for matches, reason in (
            (lambda member: member.replaces_linears, "both replace the linear layers"),
            (lambda member: member.sets_dropout, "both set the dropout rates"),
            (lambda member: member.replaces_task_loss, "both replace the task loss"),
            (lambda member: member.brings_optimizer, "each brings its own optimizer"),
            (lambda member: member.delivers_other_weights, "both deliver other weights than those trained"),
            (lambda member: isinstance(member, SAM), "each makes the passes of all members again"),
        ):
            clashing = [type(member).__name__ for member in self.members if matches(member)]
            if len(clashing) > 1:
                raise InputError(f"{clashing[0]} and {clashing[1]} cannot be combined: {reason}.")
        for first, second in pairwise(self.members):
            if list(_STAGES).index(first.setup_stage) > list(_STAGES).index(second.setup_stage):
                raise InputError(
                    f"{type(second).__name__} must stand before {type(first).__name__} in a Combination: it "
                    f"{_STAGES[second.setup_stage]}, and {type(first).__name__} {_STAGES[first.setup_stage]}."
                )

    @property
    def replaces_weight_decay(self) -> bool:
        """True when any member decays elsewhere."""
        return any(member.replaces_weight_decay for member in self.members)

    @property
    def delivers_other_weights(self) -> bool:
        """True when one member does."""
        return any(member.delivers_other_weights for member in self.members)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Each member as its registry name and hyperparameters, as `build_method` takes them."""
        from finetune_reg.methods import method_name

        return {"members": [{"method": method_name(m), **m.hyperparameters} for m in self.members]}

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """One pass forward and backward, and what each member adds.

        A member that replaces the task loss has differentiated the main pass by itself: for members whose further
        passes are compared with it, it is differentiated once more. SAM makes all of these passes twice.
        """
        members = [member for member in self.members if not isinstance(member, SAM)]
        forward, backward = (1 + sum(m.passes_per_update[i] - 1 for m in members) for i in (0, 1))
        replaced = any(m.replaces_task_loss and m.passes_per_update[1] > 1 for m in members)
        compared = any(not m.replaces_task_loss and m.passes_per_update[0] > 1 for m in members)
        times = next((m.passes_per_update[0] for m in self.members if isinstance(m, SAM)), 1)
        return times * forward, times * (backward + (replaced and compared))

    def search_passes(self, n_examples: int, batch_size: int, n_updates: int) -> tuple[int, int]:
        """Add up those of the members."""
        passes = [member.search_passes(n_examples, batch_size, n_updates) for member in self.members]
        return sum(forward for forward, _ in passes), sum(backward for _, backward in passes)

    def check_precision(self, precision: Precision) -> None:
        """Ask all members."""
        for member in self.members:
            member.check_precision(precision)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Set up the members in order, SAM last: it watches passes that others may begin by drawing noise."""
        for member in sorted(self.members, key=lambda member: isinstance(member, SAM)):
            if isinstance(member, SAM):
                member.share(self.training_loss, self._complete_gradient)
            member.setup(model, self._without_replaced_decay(context))

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Let the member with its own optimizer build it, or build the default."""
        context = self._without_replaced_decay(context)
        for member in self.members:
            if member.brings_optimizer:
                return member.create_optimizer(model, context)
        return super().create_optimizer(model, context)

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Pass the loss through the members, through the one that replaces the task's loss first."""
        loss_so_far = copy(named_outputs(outputs))
        for member in sorted(self.members, key=lambda member: not member.replaces_task_loss):
            loss_so_far.loss = member.training_loss(model, batch, loss_so_far)
        return loss_so_far.loss

    def after_backward(self, model: nn.Module) -> None:
        """Pass the gradients through the members: those that complete them, SAM, and the others in order."""
        self._complete_gradient(model)
        others = [member for member in self.members if not member.completes_gradient]
        for member in sorted(others, key=lambda member: not isinstance(member, SAM)):
            member.after_backward(model)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let the members act on the moved weights in order, the one that makes others of them last."""
        for member in sorted(self.members, key=lambda member: member.delivers_other_weights):
            member.after_step(model, optimizer)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the states of the members, each name after the position of its member."""
        return {f"{i}.{name}": t for i, member in enumerate(self.members) for name, t in member.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Give each member its state."""
        for i, member in enumerate(self.members):
            own = {name.removeprefix(f"{i}."): t for name, t in state_dict.items() if name.startswith(f"{i}.")}
            member.load_state_dict(own)

    def finalize(self, model: nn.Module) -> None:
        """Undo the members in reverse order, the one that delivers other weights first."""
        for member in sorted(reversed(self.members), key=lambda member: not member.delivers_other_weights):
            member.finalize(model)

    def delivered_weights(self, model: nn.Module) -> Mapping[nn.Parameter, torch.Tensor]:
        """Return those of the member that has any."""
        return {p: value for member in self.members for p, value in member.delivered_weights(model).items()}

    def _complete_gradient(self, model: nn.Module) -> None:
        for member in self.members:
            if member.completes_gradient:
                member.after_backward(model)

    def _without_replaced_decay(self, context: TrainingContext) -> TrainingContext:
        return replace(context, weight_decay=0.0) if self.replaces_weight_decay else context
