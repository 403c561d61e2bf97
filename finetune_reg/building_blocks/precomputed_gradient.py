"""Losses that were differentiated already, for methods that need a gradient before the loop's own backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed, nn

from finetune_reg.building_blocks.random_replay import several_processes


class GradientSum:
    """The summed gradients of losses that are differentiated one after another, with respect to some weights.

    Args:
        weights: the parameters; those without gradient are left out.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._weights = [weight for weight in weights if weight.requires_grad]
        self._gradients: list[torch.Tensor | None] = [None] * len(self._weights)
        self._value: torch.Tensor | float = 0.0

    def add(self, loss: torch.Tensor, *inputs: torch.Tensor, retain_graph: bool = False) -> Sequence[torch.Tensor]:
        """Differentiate a loss, a scalar; keep its gradient for the weights, return that for `inputs`."""
        gradients = torch.autograd.grad(loss, [*inputs, *self._weights], retain_graph=retain_graph, allow_unused=True)
        for i, gradient in enumerate(gradients[len(inputs) :]):
            if gradient is not None:
                kept = self._gradients[i]
                self._gradients[i] = gradient if kept is None else kept.add_(gradient)
        self._value = self._value + loss.detach()
        return gradients[: len(inputs)]

    def joined_to(self, loss: torch.Tensor) -> torch.Tensor:
        """Return `loss` plus all losses added, as a scalar whose backward pass adds the kept gradients to its own."""
        used = [(w, g) for w, g in zip(self._weights, self._gradients, strict=True) if g is not None]
        return _Joined.apply(loss, self._value, [gradient for _, gradient in used], *(weight for weight, _ in used))


@torch.no_grad()
def average_over_processes(weights: Iterable[nn.Parameter]) -> None:
    """Average the gradients of weights over the processes of a data-parallel run; one process has nothing to do.

    The wrapper of such a run does so in the backward pass that follows its own forward pass, and in no other.
    """
    for weight in weights if several_processes() else ():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        distributed.all_reduce(weight.grad)
        weight.grad.div_(distributed.get_world_size())


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, value: torch.Tensor, gradients: list, *weights: torch.Tensor) -> Any:
        ctx.gradients = gradients
        return loss + value

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        return scale, None, None, *torch._foreach_mul(ctx.gradients, scale)
