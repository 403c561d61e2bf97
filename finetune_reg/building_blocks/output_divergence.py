r"""How far apart two outputs of a model are: the quantity that smoothness and consistency methods keep small.

    classification:  l(P, Q) = KL(P || Q) + KL(Q || P) = sum_k (P_k - Q_k) (log P_k - log Q_k)
    regression:      l(p, q) = (p - q)^2

All functions work in float32 at least and return a scalar. `reduction` is over the batch: `"mean"` or `"sum"`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.pretrained_model import config_of
from finetune_reg.errors import InputError

Reduction = Literal["mean", "sum"]


def symmetric_kl(
    first_logits: torch.Tensor,
    second_logits: torch.Tensor,
    reduction: Reduction = "mean",
    detach_targets: bool = False,
) -> torch.Tensor:
    """Return `KL(P || Q) + KL(Q || P)` of two softmax outputs, without a factor 1/2.

    Args:
        first_logits: shape (batch, labels).
        second_logits: same shape.
        detach_targets: hold the first distribution of each KL constant, as several released codes do: the value is
            the same, the gradient is that of `sum_k c_k (log P_k - log Q_k)` with `c = P - Q` constant, near `P = Q`
            half of the true one.
    """
    log_p, log_q = _log_softmax(first_logits), _log_softmax(second_logits)
    difference = log_p.exp() - log_q.exp()
    if detach_targets:
        difference = difference.detach()
    total = (difference * (log_p - log_q)).sum()
    return total / len(first_logits) if reduction == "mean" else total


def squared_error(first: torch.Tensor, second: torch.Tensor, reduction: Reduction = "mean") -> torch.Tensor:
    """Return the squared difference of two regression outputs; shapes (batch,) and (batch, 1) are the same."""
    return F.mse_loss(_at_least_float32(first).flatten(), _at_least_float32(second).flatten(), reduction=reduction)


def stable_kl(logits: torch.Tensor, target_logits: torch.Tensor, guard: float = 1e-6) -> torch.Tensor:
    """Return what mt-dnn calls a stable KL: `2 sum_k p_k (logit p_k - logit y_k)`, summed over the batch.

    It is not a divergence: the bracket of log-odds, `logit p = -log(1 / (p + guard) - 1 + guard)`, is held constant,
    and the value can be 0 or negative for different distributions.

    Args:
        logits: of `p`, shape (batch, labels); gradients flow through the factor `p_k` only.
        target_logits: of `y`, same shape.
    """
    p, y = _log_softmax(logits).exp(), _log_softmax(target_logits).exp()
    with torch.no_grad():
        log_odds_ratio = torch.log(1 / (y + guard) - 1 + guard) - torch.log(1 / (p + guard) - 1 + guard)
    return 2 * (p * log_odds_ratio).sum()


def is_regression(model: nn.Module) -> bool:
    """Return whether the model predicts numbers rather than classes, by the rule of transformers.

    Raises:
        InputError: several labels at once, whose outputs are no softmax.
    """
    config = config_of(model)
    problem_type = getattr(config, "problem_type", None)
    if problem_type == "multi_label_classification":
        raise InputError("Outputs of a multi-label model cannot be compared: use single-label data or a regression.")
    return config.num_labels == 1 if problem_type is None else problem_type == "regression"


def output_divergence(
    model: nn.Module,
    first: torch.Tensor,
    second: torch.Tensor,
    reduction: Reduction = "mean",
    detach_targets: bool = False,
) -> torch.Tensor:
    """Return `squared_error` of two outputs of a regression model, `symmetric_kl` of those of a classifier.

    Args:
        model: decides which, by `is_regression`.
        first: logits, shape (batch, labels).
        second: logits, same shape.
        detach_targets: for classifiers only, see `symmetric_kl`.
    """
    if is_regression(model):
        return squared_error(first, second, reduction)
    return symmetric_kl(first, second, reduction, detach_targets)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return _at_least_float32(logits).log_softmax(-1)
