r"""How far apart two outputs of a model are: the quantity that smoothness and consistency methods keep small.

    classification:  l(P, Q) = KL(P || Q) + KL(Q || P) = sum_k (P_k - Q_k) (log P_k - log Q_k)
    regression:      l(p, q) = (p - q)^2

All functions work in float32 at least and return a scalar. `reduction` is over the batch: `"mean"` or `"sum"`.

Divergences are between decisions, one row of logits each: `compared_logits` takes them from a model's outputs. A
sequence classifier makes one decision per example, multiple choice one among its choices, a head over tokens one per
labelled token, question answering two per example, where the answer starts and where it ends, and a classifier of
several labels at once one per label, between yes and no.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.pretrained_model import name_of, named_outputs, unwrapped
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
    return total / max(len(first_logits), 1) if reduction == "mean" else total


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


def is_regression(model: nn.Module, logits: torch.Tensor) -> bool:
    """Return whether the model predicts numbers rather than classes, by the rule of transformers.

    Multiple choice is between classes whatever `num_labels` says, which its heads do not read. A model without a
    config of its own predicts numbers where it has one output per example.

    Args:
        logits: of the model, shape (decisions, classes) or (decisions,).
    """
    problem_type = _problem_type(model)
    if problem_type is not None:
        return problem_type == "regression"
    config = getattr(unwrapped(model), "config", None)
    if config is None:
        return logits.ndim == 1 or logits.shape[-1] == 1
    return config.num_labels == 1 and not name_of(model).endswith("ForMultipleChoice")


def compared_logits(model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
    """Return the decisions of a pass, shape (decisions, classes), for `output_divergence`.

    Padding makes no decision: with it or without, the rows are the same. Those of a head over tokens are the tokens
    with a label, which is not -100, or without labels in the batch all but padding; a causal language model decides at
    the token before the labelled one. Of several labels at once each is a decision between yes and no. Other logits of
    shape (batch, classes) are returned as they are.

    Args:
        outputs: with `logits`, or the `start_logits` and `end_logits` of question answering, shape (batch, length); see
            `named_outputs`.

    Raises:
        InputError: other outputs.
    """
    outputs = named_outputs(outputs)
    if getattr(outputs, "start_logits", None) is not None and getattr(outputs, "end_logits", None) is not None:
        both = torch.stack([outputs.start_logits, outputs.end_logits])
        tokens = batch.get("attention_mask")
        if tokens is not None:
            both = both.masked_fill(~tokens.bool(), torch.finfo(both.dtype).min)
        return both.flatten(0, 1)
    logits = getattr(outputs, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise InputError(
            f"Outputs of {name_of(model)} cannot be compared, because they have no logits by that name: use a model "
            "with a head for classification, regression, tokens or question answering, and hand on all that it returns."
        )
    labels = batch.get("labels")
    if logits.ndim < 3:
        return _yes_or_no(logits) if _has_several_labels(model, labels) else logits
    if labels is not None and name_of(model).endswith(("ForCausalLM", "LMHeadModel")):
        logits, labels = logits[:, :-1], labels[:, 1:]
    decides = labels != -100 if labels is not None else batch.get("attention_mask", torch.ones_like(logits[..., 0]))
    if logits.ndim > 3 or decides.shape != logits.shape[:2]:
        raise InputError(
            f"Outputs of {name_of(model)} cannot be compared, because logits of shape {tuple(logits.shape)} do not "
            f"belong to labels or tokens of shape {tuple(decides.shape)}: use a model with one row of logits per "
            "example or token."
        )
    return logits[decides.bool()]


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
    if is_regression(model, first):
        return squared_error(first, second, reduction)
    return symmetric_kl(first, second, reduction, detach_targets)


def _problem_type(model: nn.Module) -> str | None:
    return getattr(getattr(unwrapped(model), "config", None), "problem_type", None)


def _has_several_labels(model: nn.Module, labels: torch.Tensor | None) -> bool:
    """Return whether an example may have several labels at once, by the rule of transformers.

    Raises:
        InputError: the model has no config that tells several labels from several numbers.
    """
    if hasattr(unwrapped(model), "config"):
        return _problem_type(model) == "multi_label_classification"
    if labels is not None and labels.is_floating_point() and labels.ndim > 1 and labels.shape[-1] > 1:
        raise InputError(
            f"Outputs of {name_of(model)} cannot be compared, because labels of shape {tuple(labels.shape)} may be "
            "several labels at once or several numbers: give the model a config whose problem_type is "
            "'multi_label_classification' or 'regression'."
        )
    return False


def _yes_or_no(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of yes and no for each label, shape (batch * labels, 2): their softmax is the sigmoid."""
    return torch.stack([logits, torch.zeros_like(logits)], -1).flatten(0, -2)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return _at_least_float32(logits).log_softmax(-1)
