"""Several methods as one.

**Where it acts.** `setup`, `after_backward` and `after_step` run in the order given, extra losses are summed,
`finalize` runs in reverse. At most one member may bring its own optimizer; any member may switch ordinary weight
decay off for all. A snapshot is taken by whoever asks for it when its turn comes: put methods that change the initial
weights before methods that pull toward them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from finetune_reg.errors import InputError
from finetune_reg.method import FineTuningMethod, TrainingContext


@dataclass
class Combination(FineTuningMethod):
    """Apply several methods together, for example `Combination([Mixout(0.7), PretrainedWeightDecay(0.01)])`.

    Args:
        members: at least one method.

    Raises:
        InputError: no members, something that is not a method, or two members with an optimizer of their own.
    """

    members: list[FineTuningMethod]

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("Combination needs at least one method.")
        for member in self.members:
            if not isinstance(member, FineTuningMethod):
                raise InputError(f"Combination takes methods, not {type(member).__name__}.")
        if len(self._optimizer_owners) > 1:
            first, second, *_ = (type(member).__name__ for member in self._optimizer_owners)
            raise InputError(f"{first} and {second} cannot be combined: each brings its own optimizer.")

    @property
    def _optimizer_owners(self) -> list[FineTuningMethod]:
        return [m for m in self.members if type(m).create_optimizer is not FineTuningMethod.create_optimizer]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Each member as its registry name and hyperparameters, as `build_method` takes them."""
        from finetune_reg.methods import method_name

        return {"members": [{"method": method_name(m), **m.hyperparameters} for m in self.members]}

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Set up the members in order."""
        for member in self.members:
            member.setup(model, context)

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Let the member with its own optimizer build it, or build the default."""
        if any(member.replaces_weight_decay for member in self.members):
            context = replace(context, weight_decay=0.0)
        owner = self._optimizer_owners[0] if self._optimizer_owners else super()
        return owner.create_optimizer(model, context)

    def extra_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor | float:
        """Sum the members' extra losses."""
        return sum(member.extra_loss(model, batch, outputs) for member in self.members)

    def after_backward(self, model: nn.Module) -> None:
        """Pass the gradients through the members in order."""
        for member in self.members:
            member.after_backward(model)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let the members act on the moved weights in order."""
        for member in self.members:
            member.after_step(model, optimizer)

    def finalize(self, model: nn.Module) -> None:
        """Undo the members in reverse order."""
        for member in reversed(self.members):
            member.finalize(model)
