"""The plain PyTorch loop with the six calls of a method, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from finetune_reg.building_blocks.adapters.adapted_models import adapter_kinds
from finetune_reg.building_blocks.bias_correction import skip_bias_correction
from finetune_reg.building_blocks.pretrained_model import device_of, name_backbone, named_outputs, refuse_untrainable
from finetune_reg.errors import InputError, TrainingDivergedError, shortened
from finetune_reg.hyperparameters.ranges import Count, Precision, Probability, check_in_range
from finetune_reg.method import FineTuningMethod, TrainingContext

Batch = dict[str, torch.Tensor]


@dataclass
class Predictions:
    """Model outputs over a data set: logits of shape (examples, labels) and labels of shape (examples,)."""

    logits: np.ndarray
    labels: np.ndarray


def train(
    model: nn.Module,
    method: FineTuningMethod,
    loader: Iterable[Batch],
    context: TrainingContext,
    *,
    warmup_fraction: float = 0.1,
    max_grad_norm: float = 1.0,
    accumulation_steps: int = 1,
    precision: Precision = "float32",
    backbone: str | None = None,
    after_epoch: Callable[[int, list[float]], Any] | None = None,
) -> list[float]:
    """Fine-tune `model` in place for `context.n_updates` updates.

    The learning rate rises linearly over the first `warmup_fraction` of the updates, see `warmup_updates`, and falls
    linearly to 0.
    Noise (dropout, masks) is seeded after `setup`, so what a method draws there does not shift it.

    Args:
        loader: micro-batches of one epoch; iterated anew for each epoch.
        max_grad_norm: global norm to which gradients are clipped, above 0.
        accumulation_steps: micro-batches per update.
        precision: of forward passes and losses, what the method adds included. Under `"bfloat16"` PyTorch's
            autocast chooses operation by operation; weights, gradients and the optimizer's state stay in float32,
            and so does what a method computes in `setup`.
        backbone: name of the pretrained part of a module of one's own, see `name_backbone`; by default it is found.
        after_epoch: called with the number of finished epochs and the losses so far, for example to evaluate: the model
            has the weights that the method would deliver.

    Returns:
        The training loss of each update, what the method adds included.

    Raises:
        InputError: no method, a model without a parameter to train or with AdaLoRA, an epoch without batches, outputs
            without a loss, no such backbone, a value out of range, or a precision that the method cannot use.
        TrainingDivergedError: a loss is not finite. The method is finalized all the same, as after any other error.
    """
    from transformers import get_linear_schedule_with_warmup

    if not isinstance(method, FineTuningMethod):
        raise InputError(f"train cannot use {shortened(method)} as a method: give it an object such as Mixout(0.9).")
    if not max_grad_norm > 0:
        raise InputError(f"max_grad_norm must be above 0, not {max_grad_norm}: float('inf') clips nothing.")
    for name, value, declared in (
        ("warmup_fraction", warmup_fraction, Probability),
        ("accumulation_steps", accumulation_steps, Count),
        ("precision", precision, Precision),
    ):
        check_in_range(name, value, declared, "train")
    method.check_precision(precision)
    if backbone is not None:
        name_backbone(model, backbone)
    refuse_untrainable(model)
    if "ADALORA" in adapter_kinds(model):
        raise InputError(
            "train does not allocate the ranks of AdaLoRA: write the loop with the six calls, and call "
            "model.base_model.update_and_allocate(update) after each step of the optimizer."
        )
    losses: list[float] = []
    try:
        method.setup(model, context)
        torch.manual_seed(context.seed)
        optimizer = method.create_optimizer(model, context)
        if not context.bias_correction:
            skip_bias_correction(optimizer)
        n_warmup = warmup_updates(warmup_fraction, context.n_updates)
        scheduler = get_linear_schedule_with_warmup(optimizer, n_warmup, context.n_updates)
        epoch = 0
        while len(losses) < context.n_updates:
            model.train()
            before = len(losses)
            for micro_batches in _grouped(loader, accumulation_steps):
                update_loss = 0.0
                for batch in micro_batches:
                    batch = {name: tensor.to(device_of(model)) for name, tensor in batch.items()}
                    with _autocast(model, precision):
                        outputs = model(**batch)
                        loss = method.training_loss(model, batch, outputs) / len(micro_batches)
                    loss.backward()
                    update_loss += loss.item()
                if not math.isfinite(update_loss):
                    raise TrainingDivergedError(len(losses) + 1, update_loss)
                method.after_backward(model)
                clip_grad_norm_(model.parameters(), max_grad_norm)
                optimizer.step()
                method.after_step(model, optimizer)
                scheduler.step()
                optimizer.zero_grad()
                losses.append(update_loss)
                if len(losses) == context.n_updates:
                    break
            if len(losses) == before:
                raise InputError("The loader gave no batch in this epoch: pass a DataLoader of data that is not empty.")
            epoch += 1
            if after_epoch is not None:
                with method.delivering(model):
                    after_epoch(epoch, losses)
    finally:
        method.finalize(model)
    return losses


def warmup_updates(fraction: float, n_updates: int) -> int:
    """Return in how many of the updates the learning rate rises: a fraction, rounded up, but never all of them.

    The first of them has the rate 0, so that a run of one update would train nothing.
    """
    return min(math.ceil(fraction * n_updates), max(n_updates - 1, 0))


@torch.inference_mode()
def predict(model: nn.Module, loader: Iterable[Batch], precision: Precision = "float32") -> Predictions:
    """Run the model over a loader in evaluation mode, with `precision` as in `train`; the order is the loader's."""
    model.eval()
    logits, labels = [], []
    for batch in loader:
        batch = {name: tensor.to(device_of(model)) for name, tensor in batch.items()}
        labels.append(batch.pop("labels").cpu())
        with _autocast(model, precision):
            logits.append(named_outputs(model(**batch)).logits.float().cpu())
    return Predictions(torch.cat(logits).numpy(), torch.cat(labels).numpy())


def _autocast(model: nn.Module, precision: Precision) -> torch.autocast:
    return torch.autocast(device_of(model).type, torch.bfloat16, enabled=precision == "bfloat16")


def _grouped(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    batches = iter(loader)
    return iter(lambda: list(islice(batches, size)), [])
