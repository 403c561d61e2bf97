r"""Selective projection decay (SPD): take back growth of the distance to the pretrained weights, tensor by tensor.

**Idea.** A pull on all weights at all times either does little or hinders fitting. SPD lets a tensor move freely while
descent leads it on from where it started, and holds it where descent points back and Adam's momentum carries it on all
the same.

**Equation** (paper, equations 3, 4 and 9). For each tensor, with the gradient `g`, the deviation `d = theta - theta0`
from the pretrained weights before the update, and `d~` the deviation after Adam's move to `theta~`: where
`c = -g . d < 0`,

    theta <- theta~ - lambda r d~,        r = max(0, |d~| - |d|) / |d~|,

and elsewhere `theta <- theta~`. `lambda` is `strength`. At 1 this projects on the ball through the weights before the
update: where it acts, the distance does not grow. At 0 it is AdamW without weight decay.

**Where it acts.** `setup` takes the snapshot, `after_backward` measures `c` and `|d|`, `after_step` projects. Decay
toward zero is off. In a combination it judges the gradients as the members before it leave them, so that one that masks
gradients stands before it.

**Under adapters.** Holds each tensor of the adapter near its start, with any adapter; of LoRA each factor by itself.

**Differences from the released code** (README of GT-RIPL/Selective-Projection-Decay; its `adamSPD.py` was read in
copies by others). (1) It anchors all parameters, the random head among them (`include_head=True`, `official()`); here
the head has no pretrained weights and is free. (2) Its `weight_decay` is `lambda`. (3) For adapters it measures the
distance of each of their tensors from zero; here it is the distance from where that tensor started.

**Reference.** Tian, Huang, Kira. Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models. NeurIPS 2024,
arXiv:2411.01713.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import unwrapped
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext

PIECE = 2**18  # entries


def removed_share(distance_before: torch.Tensor, distance_after: torch.Tensor, strength: float) -> torch.Tensor:
    """Return `lambda r`, the share of the deviation after the move that is taken back: 0 if the distance did not grow.

    Args:
        distance_before: `|theta - theta0|`, a scalar.
        distance_after: `|theta~ - theta0|`, a scalar.
        strength: `lambda`.
    """
    smallest = torch.finfo(distance_after.dtype).tiny
    return strength * (distance_after - distance_before).clamp_min(0.0) / distance_after.clamp_min(smallest)


def distance_and_product(
    weight: torch.Tensor, pretrained_weight: torch.Tensor, gradient: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `|d|` and `g . d` with `d = theta - theta0`, scalars; the latter is 0 without a gradient.

    The deviation is made in pieces that stay in the processor's cache, in half the time and without the memory.
    """
    square = product = weight.new_zeros(())
    tensors = (weight, pretrained_weight) if gradient is None else (weight, pretrained_weight, gradient)
    for first, second, *third in zip(*(tensor.flatten().split(PIECE) for tensor in tensors), strict=True):
        deviation = first - second
        square = square + torch.dot(deviation, deviation)
        for piece in third:
            product = product + torch.dot(piece, deviation)
    return square.sqrt(), product


@dataclass
class SelectiveProjectionDecay(FineTuningMethod):
    """Take back growth of the distance to the pretrained weights where the gradient points back.

    Args:
        strength: the paper's lambda, at least 0; 1 takes back all growth where it acts.
        include_head: also hold the task head near its initial weights.

    Raises:
        InputError: a negative strength.
    """

    replaces_weight_decay: ClassVar[bool] = True

    strength: NonNegative = 1.0
    include_head: bool = False
    _pretrained: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _distances: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, strength: float = 1.0) -> SelectiveProjectionDecay:
        """Return the released code's behaviour: the head is held near its random start, too."""
        return cls(strength, include_head=True)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Snapshot the weights that are held."""
        if self.strength == 0:
            return
        held = dict(named_backbone_parameters(model))
        if self.include_head:
            held |= dict(named_head_parameters(model))
        self._pretrained = {name: p.detach().clone() for name, p in held.items()}

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """Find the tensors whose gradient points back, and how far they are."""
        held = list(self._held(model))
        distances, products = [], []
        for name, parameter, gradient in held:
            distance, product = distance_and_product(parameter, self._pretrained[name], gradient)
            distances.append(distance)
            products.append(product)
        points_back = torch.stack(products).gt(0).tolist() if held else []
        self._distances = {name: d for (name, *_), d, back in zip(held, distances, points_back, strict=True) if back}

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take back what the move has added to their distance."""
        for name, parameter, _ in self._held(model):
            if name in self._distances:
                distance, _ = distance_and_product(parameter, self._pretrained[name])
                parameter.lerp_(self._pretrained[name], removed_share(self._distances[name], distance, self.strength))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the snapshot."""
        return self._pretrained

    def finalize(self, model: nn.Module) -> None:
        """Drop the snapshot."""
        self._pretrained.clear()
        self._distances.clear()

    def _held(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
        for name, parameter in unwrapped(model).named_parameters():
            if name in self._pretrained and parameter.grad is not None:
                yield name, parameter, parameter.grad
