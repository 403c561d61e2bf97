"""A model that is wrapped after `setup`, as distributed training and `torch.compile` do, trains as it does bare."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import tiny_dataset, tiny_encoder
from torch import nn
from training_hosts import context, largest_difference, updates_by_hand, weights

from finetune_reg.building_blocks.pretrained_model import unwrapped
from finetune_reg.methods import METHODS

DATASET = tiny_dataset()


class Wrapper(nn.Module):
    """What DistributedDataParallel looks like: names begin with `module.`, and attributes are not passed on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments, **batch):
        return self.module(*arguments, **batch)


def compiled(model: nn.Module) -> nn.Module:
    torch.compiler.reset()
    return torch.compile(model, backend="eager")


WRAPPERS = {"module": Wrapper, "data parallel": nn.DataParallel}
COMPILED_ALWAYS = {"child_tuning_d", "l2_sp", "pretrained_weight_decay"}  # others take seconds to trace


def three_updates(name: str, wrap, before_setup: bool = False) -> dict[str, torch.Tensor]:
    model, method, run_context = tiny_encoder("bert").train(), METHOD_SETTINGS[name].active(), context(DATASET)
    calls_on = wrap(model) if before_setup else model
    method.setup(calls_on, run_context)
    torch.manual_seed(0)
    optimizer = method.create_optimizer(calls_on, run_context)
    calls_on = calls_on if before_setup else wrap(model)
    updates_by_hand(calls_on, method, optimizer, DATASET)
    method.finalize(calls_on)
    return weights(model)


@cache
def bare(name: str) -> dict[str, torch.Tensor]:
    return three_updates(name, lambda model: model)


@pytest.mark.parametrize("before_setup", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("wrapper", ["module", "data parallel"])
@pytest.mark.parametrize("name", METHODS)
def test_a_wrapper_changes_no_weight(name, wrapper, before_setup):
    assert largest_difference(bare(name), three_updates(name, WRAPPERS[wrapper], before_setup)) == 0.0


@pytest.mark.parametrize(
    "name", [n if n in COMPILED_ALWAYS else pytest.param(n, marks=pytest.mark.campaign) for n in METHODS]
)
def test_compiling_changes_no_weight(name):
    assert largest_difference(bare(name), three_updates(name, compiled)) < 1e-6


def test_wrappers_of_wrappers_are_seen_through_and_models_are_not():
    model = tiny_encoder("bert")
    assert unwrapped(compiled(Wrapper(nn.DataParallel(model)))) is model
    assert unwrapped(model) is model
    own = nn.Module()
    own.module, own.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(()))
    assert unwrapped(own) is own
