r"""L2-SP: a quadratic penalty on the distance to the pretrained weights (the "starting point").

**Idea.** Ordinary weight decay forgets pretraining because it pulls toward zero. L2-SP pulls the backbone toward the
weights it started from and only the new head toward zero.

**Equation.** With pretrained backbone weights `w0`, backbone weights `w` and head weights `v`, the loss gains

    alpha / 2 |w - w0|^2  +  beta / 2 |v|^2.

`alpha` is `pretrained_strength`, `beta` is `head_strength`. The penalty is part of the loss: its gradient passes
through Adam's moments and through clipping. `PretrainedWeightDecay` is the decoupled form.

**Where it acts.** `setup` takes the snapshot, `training_loss` adds the value of the penalty, `after_backward` its
gradient, `alpha (w - w0)` and `beta v`, which costs less in closed form. Weight decay toward zero is off.

**Under adapters.** Under LoRA, where `W - w0 = s B A`, the penalty is `alpha / 2 s^2 <B'B, A A'>`, which costs products
of size r x r; all else that trains in the backbone is pulled to its start. Refused under DoRA and other adapters.

**Differences from the released code.** None was released for language models. beta 0.01 and the grid {0.001, 0.01,
0.1, 1} for alpha are the vision paper's; for BERT, Mixout (arXiv:1909.11299, section 5) uses this loss with {0.01,
0.04, 0.07, 0.10} and no penalty on the head.

**Reference.** Li, Grandvalet, Davoine. Explicit Inductive Bias for Transfer Learning with Convolutional Networks.
ICML 2018, arXiv:1802.01483; for language models Wiese, Weissenborn, Neves. CoNLL 2017, arXiv:1706.03610.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.low_rank import (
    LowRankLayer,
    half_squared_norm_gradients,
    low_rank_layers,
    squared_norm,
)
from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import task_loss, unwrapped
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext


def squared_distance(
    parameters: Mapping[str, torch.Tensor], anchors: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Return the summed squared distance of the parameters to their anchors (to zero without anchors), a scalar."""
    deviations = (p if anchors is None else p - anchors[name] for name, p in parameters.items())
    squares = [torch.dot(deviation.flatten(), deviation.flatten()) for deviation in deviations]
    return torch.stack(squares).sum() if squares else torch.zeros(())


@dataclass
class L2SP(FineTuningMethod):
    """Penalize the squared distance of the backbone to its pretrained weights.

    Args:
        pretrained_strength: alpha >= 0, on all trainable backbone parameters.
        head_strength: beta >= 0, on all parameters of the task head.

    Raises:
        InputError: a negative strength.
    """

    replaces_weight_decay: ClassVar[bool] = True
    completes_gradient: ClassVar[bool] = True

    pretrained_strength: NonNegative = 0.1
    head_strength: NonNegative = 0.01
    _pretrained: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _deviation: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _head: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _low_rank: list[LowRankLayer] = field(default_factory=list, init=False, repr=False, compare=False)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Snapshot the backbone, and keep room for the deviations: allocating it anew costs more than filling it."""
        self._low_rank = [layer for layer in low_rank_layers(model, "L2SP") if layer.trains]
        factors = {id(factor) for layer in self._low_rank for factor in layer.factors}
        pulled = ((name, p) for name, p in named_backbone_parameters(model) if id(p) not in factors)
        self._pretrained = {name: p.detach().clone() for name, p in pulled}
        self._deviation = {name: torch.empty_like(p) for name, p in self._pretrained.items()}
        self._head = {name for name, _ in named_head_parameters(model)}

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the task loss and the penalty, whose gradient `after_backward` adds."""
        with torch.no_grad():
            for name, parameter in _named(model, self._pretrained):
                torch.sub(parameter, self._pretrained[name], out=self._deviation[name])
            distance = squared_distance(self._deviation)
            for layer in self._low_rank:
                distance = distance + squared_norm(*layer.factors, layer.scaling)
            toward_pretrained = self.pretrained_strength / 2 * distance
            toward_zero = self.head_strength / 2 * squared_distance(dict(_named(model, self._head)))
        return task_loss(outputs) + (toward_pretrained + toward_zero)

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """Add the gradient of the penalty."""
        for name, parameter in _named(model, self._pretrained):
            _add_gradient(parameter, self._deviation[name], self.pretrained_strength)
        for layer in self._low_rank:
            directions = half_squared_norm_gradients(*layer.factors, layer.scaling)
            for factor, direction in zip(layer.factors, directions, strict=True):
                if factor.requires_grad:
                    _add_gradient(factor, direction, self.pretrained_strength)
        for _, parameter in _named(model, self._head):
            _add_gradient(parameter, parameter, self.head_strength)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the snapshot."""
        return self._pretrained

    def finalize(self, model: nn.Module) -> None:
        """Drop the snapshot and the deviations."""
        self._pretrained.clear()
        self._deviation.clear()
        self._head, self._low_rank = set(), []


def _named(model: nn.Module, names: Container[str]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in unwrapped(model).named_parameters() if name in names)


def _add_gradient(parameter: nn.Parameter, direction: torch.Tensor, strength: float) -> None:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(direction, alpha=strength)
