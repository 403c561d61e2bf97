r"""The diagonal of the empirical Fisher information: mean squared gradients of the log likelihood.

    F_i = 1/n sum_k (d loss(x_k) / d theta_i)^2,        loss(x_k) = -log p(y_k | x_k).

Squares are taken per example: the square of a batch-mean gradient is another, smaller quantity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from finetune_reg.building_blocks.pretrained_model import device_of, refuse_reentrant_checkpointing, task_loss
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.errors import InputError


def fisher_information(
    model: nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    parameters: Mapping[str, nn.Parameter],
    *,
    clip_each_tensor: float | None = None,
) -> dict[str, torch.Tensor]:
    """Return the mean over `batches` of the squared gradient of the task's loss, per parameter.

    Batches of one example give the Fisher information; larger ones give the square of batch means. The mode of the
    model (dropout on or off) is the caller's, and `grad` fields are not touched.

    Args:
        batches: encoded batches with labels.
        parameters: by name, those to measure.
        clip_each_tensor: clip the gradient of each tensor, by itself, to this norm before it is squared.

    Returns:
        Tensors shaped like the parameters, in float32 at least.

    Raises:
        InputError: no batches, no parameters or frozen ones, or reentrant gradient checkpointing.
    """
    if not parameters or not all(parameter.requires_grad for parameter in parameters.values()):
        raise InputError("The Fisher information needs parameters that train: unfreeze those to be measured.")
    refuse_reentrant_checkpointing(model, "The Fisher information")
    totals = {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for name, p in parameters.items()
    }
    n_batches = 0
    for batch in batches:
        batch = {name: tensor.to(device_of(model)) for name, tensor in batch.items()}
        loss = task_loss(task_outputs(model, batch))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for total, gradient in zip(totals.values(), gradients, strict=True):
            if gradient is None:
                continue
            gradient = gradient.to(total.dtype)
            if clip_each_tensor is not None:
                gradient = gradient * (clip_each_tensor / (gradient.norm() + 1e-6)).clamp(max=1.0)
            total.addcmul_(gradient, gradient)
        n_batches += 1
    if n_batches == 0:
        raise InputError("The Fisher information needs at least one batch of training examples.")
    for total in totals.values():
        total.div_(n_batches)
    return totals
