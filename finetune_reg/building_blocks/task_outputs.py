"""Further passes that have the task's loss, whoever computes it: the model's head, a weighted loss, smoothed labels.

A plain loop has nothing to do: the model's own loss is the default. A host whose loss is another one says so:

    with task_outputs_from(weighted):  # weighted(model, batch) runs the model and sets outputs.loss
        outputs = weighted(model, batch)
        loss = method.training_loss(model, batch, outputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import in_mode
from finetune_reg.building_blocks.pretrained_model import device_of, unwrapped
from finetune_reg.building_blocks.random_replay import RandomState

TaskPass = Callable[[nn.Module, Mapping[str, torch.Tensor]], Any]


def _model_itself(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
    return model(**batch)


_task_pass: ContextVar[TaskPass] = ContextVar("task_pass", default=_model_itself)


def task_outputs(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Any:
    """Run the model, without what it is wrapped in, on a batch; return its outputs, whose `loss` is the task's loss."""
    return _task_pass.get()(unwrapped(model), batch)


@contextmanager
def task_outputs_from(task_pass: TaskPass) -> Iterator[None]:
    """Let `task_pass` be what `task_outputs` does in the block."""
    token = _task_pass.set(task_pass)
    try:
        yield
    finally:
        _task_pass.reset(token)


@torch.no_grad()
def divides_by_count(model: nn.Module, batch: Mapping[str, torch.Tensor], counted_pass: Callable[..., Any]) -> bool:
    """Return whether the task's loss divides by `num_items_in_batch`, found by computing it with two counts.

    The class of a head does not tell. In transformers v5 most heads accept the count and many ignore it: those of
    causal language models divide by it, `BertForMaskedLM` and most classifiers do not. The Trainer takes every head
    that accepts the count for one that divides, and so lets gradients grow with the accumulation steps.

    Args:
        batch: any with labels.
        counted_pass: takes model, batch and count, and returns outputs with the task's loss.
    """
    device = device_of(model)
    random_state = RandomState(device)
    losses = []
    for count in (1, 2):
        with in_mode(model, training=False), random_state.again():
            losses.append(counted_pass(model, batch, torch.tensor(count, device=device)).loss)
    return not torch.equal(*losses)


class TaskPassModule(nn.Module):
    """`task_outputs` of a model as a module, for `torch.func.functional_call` with other weights.

    Its parameters are those of the model, with "model." before their names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return the outputs of the model, see `task_outputs`."""
        return task_outputs(self.model, batch)
