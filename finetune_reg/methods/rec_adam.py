r"""RecAdam: Adam that recalls the pretrained weights first and learns the task later.

**Idea.** Fine-tuning forgets because only the task's loss remains. RecAdam trains on both tasks at once, with a
quadratic penalty in place of the pretraining loss, and shifts the weight from recalling to learning along a sigmoid.
The penalty and the annealing stay outside Adam's moments, which would divide them away.

**Equation** (paper, section 3). With pretrained weights `w0`, learning rate `eta`, Adam's bias-corrected moments `m, v`
of the task gradient and update number `t = 1, 2, ...`,

    lambda = 1 / (1 + exp(-k (t - t0))),
    w <- w - eta lambda m / (sqrt(v) + epsilon),
    w <- w - eta (1 - lambda) gamma (w - w0).

`gamma` is `pretrained_strength`, `k` is `annealing_rate`, `t0` is `annealing_midpoint`. While `lambda` is near 0 an
update removes the share `eta gamma` of the distance: 0.1 at 2e-5 and 5000, and above 2 it diverges. The head has no
pretrained weights and gets AdamW.

**Where it acts.** `setup` takes the snapshot, `create_optimizer` builds an AdamW whose step does the above. It counts
its own steps, reads the scheduled learning rate and leaves it as it is. The snapshot costs 4 bytes per weight.

**Under adapters.** Pulls the adapter's weights toward their start, whatever the adapter; of LoRA each factor by itself,
`B` toward 0 and `A` toward its random start. `random_start` is refused.

**Differences from the released code** (`RecAdam.py` and `run_glue_with_RecAdam.py` of Sanyuan-Chen/RecAdam).
`official()` restores (1) to (3). (1) Its `t0`, 250 by default, counts updates and can exceed a short run; here it is a
share of the run, 0.1 by default (the paper's 250 to 1000 of RTE's 7800 updates are 0.03 to 0.13). (2) It decays weights
last (`decay_last`), PyTorch's AdamW first: they differ by `eta` times the decay of the move. (3) It adds
epsilon before the bias correction of `v` (`uncorrected_epsilon`), as if epsilon were `epsilon / sqrt(1 - beta2^t)`.
(4) Its script starts from random weights unless told otherwise, as the paper prefers; here that is
`random_start=True`, never a default. (5) Its weight on both terms together (1 by default) is left out: it
is a factor on the learning rate. (6) It pairs parameters by their order in two models, and what has no partner is
silently never trained; here the pair is the parameter itself before training. (7) Its `"constant"` annealing is
lambda = 1 and pulls nothing, so it is AdamW; the same here.

**Reference.** Chen, Hou, Cui, Che, Liu, Yu. Recall and Learn: Fine-tuning Deep Pretrained Language Models with Less
Forgetting. EMNLP 2020, arXiv:2004.12651.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_adapters
from finetune_reg.building_blocks.parameter_groups import (
    backbone,
    named_backbone_parameters,
    named_head_parameters,
    split_by_weight_decay,
)
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext
from finetune_reg.methods.top_layer_reinitialization import reinitialize

Annealing = Literal["sigmoid", "linear", "constant"]


def task_weight(update: int, annealing: Annealing, rate: float, midpoint: float) -> float:
    """Return lambda in (0, 1] at an update, counted from 1.

    Args:
        annealing: `"sigmoid"` is `1 / (1 + exp(-k (t - t0)))`, `"linear"` is `min(1, t / t0)`, `"constant"` is 1.
        rate: `k`, per update; for the sigmoid.
        midpoint: `t0`, in updates; for the line, where it ends.
    """
    if annealing == "sigmoid":
        return 1.0 / (1.0 + math.exp(min(-rate * (update - midpoint), 500.0)))
    if annealing == "linear":
        return min(1.0, update / max(midpoint, 1.0))
    return 1.0


class RecallingAdamW(torch.optim.AdamW):
    """AdamW with an annealed move and a pull toward anchors, for the groups marked `recalls`.

    Args:
        groups: parameter groups as AdamW takes them, each with `recalls`, True or False.
        anchors: `id` of each parameter of the recalling groups -> the tensor it is pulled toward.
        annealing: lambda by update, counted from 1; above 0.
        strength: gamma.
        decay_last: decay after move and pull instead of before.
        uncorrected_epsilon: add epsilon to the square root of the second moment before its bias is corrected.
        **arguments: AdamW's own.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        anchors: Mapping[int, torch.Tensor],
        annealing: Callable[[int], float],
        strength: float,
        decay_last: bool = False,
        uncorrected_epsilon: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__([{**group, "n_updates": 0} for group in groups], **arguments)
        self.anchors, self.annealing, self.strength = anchors, annealing, strength
        self.decay_last, self.uncorrected_epsilon = decay_last, uncorrected_epsilon
        self._scheduled: list[dict[str, float]] = []
        self.register_step_pre_hook(self._anneal)
        self.register_step_post_hook(self._recall)

    @property
    def n_updates(self) -> int:
        """Steps so far, which the state dict of the optimizer holds."""
        return self.param_groups[0]["n_updates"]

    def _anneal(self, *_: Any) -> None:
        """Give each group the rates of AdamW's move."""
        for group in self.param_groups:
            group["n_updates"] += 1
        weight = self.annealing(self.n_updates)
        self._scheduled = [{name: group[name] for name in ("lr", "weight_decay", "eps")} for group in self.param_groups]
        for group in self.param_groups:
            if group["recalls"]:
                # AdamW decays by the product of the two, which must not be annealed.
                group["lr"] *= weight
                group["weight_decay"] /= weight
            if self.decay_last:
                group["weight_decay"] = 0.0
            if self.uncorrected_epsilon:
                group["eps"] /= math.sqrt(1.0 - group["betas"][1] ** self._next_step(group))

    @torch.no_grad()
    def _recall(self, *_: Any) -> None:
        """Give each group its scheduled rates back, pull, and decay."""
        weight = self.annealing(self.n_updates)
        for group, scheduled in zip(self.param_groups, self._scheduled, strict=True):
            group.update(scheduled)
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            pull = group["lr"] * (1.0 - weight) * self.strength if group["recalls"] else 0.0
            if moved and pull:
                torch._foreach_lerp_(moved, [self.anchors[id(parameter)] for parameter in moved], pull)
            if moved and self.decay_last and group["weight_decay"]:
                torch._foreach_add_(moved, moved, alpha=-group["lr"] * group["weight_decay"])

    def _next_step(self, group: dict[str, Any]) -> float:
        """Return the step by which Adam is about to correct; a late one where bias correction is skipped."""
        steps = (self.state[parameter]["step"].item() for parameter in group["params"] if parameter in self.state)
        return next(steps, 0.0) + 1.0


@dataclass
class RecAdam(FineTuningMethod):
    """Train with an Adam that first recalls the pretrained weights and then learns the task.

    Args:
        pretrained_strength: gamma, at least 0; times the learning rate it must not exceed 2.
        annealing: course of lambda, the weight of the task: `"sigmoid"`, `"linear"`, or `"constant"`, which is AdamW.
        annealing_rate: k, the slope of the sigmoid, per update; at least 0. The paper tries 0.05 to 1.
        annealing_midpoint: t0, where the sigmoid is 1/2 and the line reaches 1; at least 0.
        midpoint_unit: `"fraction"` of the run's updates (at most 1), or `"updates"`.
        random_start: train the backbone from random weights, matrices N(0, 0.02^2), toward the pretrained ones; frozen
            weights stay pretrained. In a `Combination` it must stand after the methods that take snapshots.
        decay_last: apply weight decay after move and pull.
        uncorrected_epsilon: add Adam's epsilon before bias correction.

    Raises:
        InputError: a value outside its range; at `create_optimizer`, a pull that diverges.
    """

    pretrained_strength: NonNegative = 5000.0
    annealing: Annealing = "sigmoid"
    annealing_rate: NonNegative = 0.5
    annealing_midpoint: NonNegative = 0.1
    midpoint_unit: Literal["fraction", "updates"] = "fraction"
    random_start: bool = False
    decay_last: bool = False
    uncorrected_epsilon: bool = False
    _pretrained: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.midpoint_unit == "fraction" and self.annealing_midpoint > 1.0:
            raise InputError(
                f"RecAdam needs annealing_midpoint in [0, 1], not {self.annealing_midpoint}: it is a share of the run; "
                'midpoint_unit="updates" counts updates.'
            )

    @classmethod
    def official(
        cls,
        pretrained_strength: float = 5000.0,
        annealing: Annealing = "sigmoid",
        annealing_rate: float = 0.5,
        annealing_midpoint: float = 250.0,
    ) -> RecAdam:
        """Return the released optimizer's arithmetic: t0 in updates, decay last, epsilon uncorrected."""
        return cls(
            pretrained_strength,
            annealing,
            annealing_rate,
            annealing_midpoint,
            midpoint_unit="updates",
            decay_last=True,
            uncorrected_epsilon=True,
        )

    @property
    def setup_stage(self) -> Literal["preparation", "reference"]:
        """A random start must come after the other methods' snapshots."""
        return "reference" if self.random_start else "preparation"

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Snapshot the backbone; draw it anew for a random start."""
        if self.random_start:
            reason = "a random start is one of all weights, which an adapter does not train"
            refuse_adapters(model, "RecAdam", reason, "leave random_start off, or train all weights")
        self._pretrained = {name: p.detach().clone() for name, p in named_backbone_parameters(model)}
        if self.random_start:
            frozen = [(p, p.detach().clone()) for p in backbone(model).parameters() if not p.requires_grad]
            reinitialize(backbone(model), 0.02, torch.Generator().manual_seed(context.seed))
            for parameter, pretrained in frozen:
                parameter.data.copy_(pretrained)

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Build the optimizer; its learning rate is the host's to schedule."""
        share = context.learning_rate * self.pretrained_strength
        if share > 2.0 and self.annealing != "constant":
            raise InputError(
                f"RecAdam diverges at learning rate {context.learning_rate:g} and pretrained_strength "
                f"{self.pretrained_strength:g}: their product must not exceed 2, so lower one of them."
            )
        groups = [
            {**group, "recalls": recalls}
            for named, recalls in ((named_backbone_parameters, True), (named_head_parameters, False))
            for group in split_by_weight_decay(model, (p for _, p in named(model)), context.weight_decay)
        ]
        in_updates = context.n_updates if self.midpoint_unit == "fraction" else 1
        midpoint = self.annealing_midpoint * in_updates
        trained = dict(named_backbone_parameters(model))
        return RecallingAdamW(
            groups,
            anchors={id(trained[name]): pretrained for name, pretrained in self._pretrained.items()},
            annealing=lambda update: task_weight(update, self.annealing, self.annealing_rate, midpoint),
            strength=self.pretrained_strength,
            decay_last=self.decay_last,
            uncorrected_epsilon=self.uncorrected_epsilon,
            **context.adamw_arguments,
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the snapshot; the optimizer counts the updates."""
        return self._pretrained

    def finalize(self, model: nn.Module) -> None:
        """Drop the snapshot."""
        self._pretrained.clear()
