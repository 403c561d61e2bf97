r"""Choose the weights to train from their gradients, in alternating stages of the training itself.

Training is cut into stages of equal length. In Stage I gradients are measured; in Stage II only the weights that
scored highest are trained; then the next cycle begins. Scores are compared within each weight matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from finetune_reg.building_blocks.parameter_groups import backbone
from finetune_reg.building_blocks.pretrained_model import is_linear, name_of
from finetune_reg.errors import InputError

GRADIENT_SCALE = 1e3


def linear_weights(model: nn.Module, method: str) -> list[torch.Tensor]:
    """Return the trainable weight matrix of every linear layer, backbone and head, each once.

    Raises:
        InputError: the backbone has no linear layer.
    """
    if not any(is_linear(module) for module in backbone(model).modules()):
        raise InputError(
            f"{method} found no linear layer in the backbone of {name_of(model)}: it works on models built from "
            "nn.Linear or Conv1D."
        )
    weights: list[Any] = [module.weight for module in model.modules() if is_linear(module)]
    return list({id(weight): weight for weight in weights if weight.requires_grad}.values())


def stage_length(update_ratio: float, n_updates: int, exact_counts: bool, method: str) -> int:
    """Return the number of updates of one stage, `floor(update_ratio * n_updates)`.

    Args:
        exact_counts: take the ratio for the simple number that it is the rounding of; False multiplies binary
            numbers, so that 0.29 of 100 updates is 28.

    Raises:
        InputError: a stage would have no update.
    """
    length = int(n_updates * (_as_written(update_ratio) if exact_counts else update_ratio))
    if length < 1:
        smallest = math.ceil(10_000 / n_updates) / 10_000
        raise InputError(
            f"{method} needs update_ratio of at least {smallest} for n_updates={n_updates}, not {update_ratio}: "
            "a stage of training must have one update or more."
        )
    return length


def stage_of(update: int, length: int) -> tuple[int, int]:
    """Return the stage, 1 or 2, of an update and the update's place in that stage; all count from 1."""
    stage, place = divmod((update - 1) % (2 * length), length)
    return stage + 1, place + 1


def count_kept(n: int, keep_fraction: float, exact_counts: bool = True) -> int:
    """Return how many of `n` weights are trained, `ceil(n * keep_fraction)`; `exact_counts` as in `stage_length`."""
    return max(1, math.ceil(n * (_as_written(keep_fraction) if exact_counts else keep_fraction)))


def select_largest(scores: torch.Tensor, n_kept: int) -> torch.Tensor:
    """Return the mask `scores >= t`, where `t` is the `n_kept`-th largest score; ties with `t` are all kept.

    Args:
        scores: finite, of any shape.
        n_kept: from 1 to the number of scores.

    Returns:
        A boolean tensor like `scores`.
    """
    flat, n_below = scores.flatten(), scores.numel() - n_kept
    if flat.device.type == "cpu":  # numpy's selection takes a tenth of the time of torch's
        threshold: float | torch.Tensor = float(np.partition(flat.numpy(), n_below)[n_below])
    else:
        threshold = flat.kthvalue(n_below + 1).values
    return scores >= threshold


def add_squares(totals: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], divisor: float) -> bool:
    """Add the squared gradients, over `divisor`, to the totals: all of them, or none if any is not finite.

    Args:
        totals: shaped like the weights, in float32 at least; changed in place.

    Returns:
        Whether the squares were added.
    """
    pairs = [(total, weight.grad) for total, weight in zip(totals, weights, strict=True) if weight.grad is not None]
    if not pairs or not torch.stack(torch._foreach_norm([gradient for _, gradient in pairs])).isfinite().all():
        return False
    for total, gradient in pairs:
        total.add_(gradient.to(total.dtype).square().div_(divisor))
    return True


def zeros_for_squares(weight: torch.Tensor) -> torch.Tensor:
    """Return zeros shaped like a weight, in float32 at least."""
    return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))


def _as_written(number: float) -> Fraction:
    """Return 3/10 for 0.3 and for 1 - 0.7, and 1/3 for 1 / 3."""
    return Fraction(number).limit_denominator(10**9)
