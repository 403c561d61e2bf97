"""Programs with the structure of the public examples train with a method, and not as vanilla does."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import pytest
import torch
from training_hosts import largest_difference, weights

from finetune_reg.methods import L2SP, FreeLB, Mixout, RDrop, Vanilla

PROGRAMS = (
    "accelerate_loop",
    "causal_language_modelling",
    "lightning_hooks",
    "multiple_choice",
    "question_answering",
    "sequence_to_sequence",
    "token_classification",
)
METHODS = {"mixout": lambda: Mixout(0.5), "r_drop": RDrop, "freelb": FreeLB, "l2_sp": L2SP}


def trained(program: str, method, folder) -> torch.nn.Module:
    torch.manual_seed(0)
    return import_module(f"programs.{program}").main(method, str(folder))


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory):
    return cache(lambda program: weights(trained(program, Vanilla(), tmp_path_factory.mktemp(program))))


@pytest.mark.parametrize("program", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in PROGRAMS])
@pytest.mark.parametrize("name", METHODS)
def test_a_program_of_the_public_kind_trains_with_a_method(program, name, vanilla, tmp_path):
    model = trained(program, METHODS[name](), tmp_path)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert largest_difference(vanilla(program), weights(model)) > 1e-5
    assert not any("MixLinear" in type(module).__name__ for module in model.modules())
