"""Two processes train as one does at the same global batch, whoever starts them."""

from __future__ import annotations

import pytest
from method_settings import METHOD_SETTINGS
from training_hosts import largest_difference
from two_processes import LAUNCHERS, NEXT_TOKENS, Weights, launched, train

from finetune_reg.methods import METHODS

NAMES = [*sorted(METHODS), NEXT_TOKENS]
in_one_worker = pytest.mark.xdist_group("two processes")


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory) -> dict[str, list[Weights]]:
    """The weights of both processes, by method: half of the methods are trained by each launcher."""
    found = {}
    for number, launcher in enumerate(LAUNCHERS):
        found |= launched(launcher, NAMES[number :: len(LAUNCHERS)], tmp_path_factory.mktemp("two_processes"))
    return found


@in_one_worker
@pytest.mark.parametrize("name", NAMES)
def test_both_processes_end_with_the_same_weights(name, in_two_processes):
    assert largest_difference(*in_two_processes[name]) == 0.0


@in_one_worker
@pytest.mark.parametrize("name", [name for name in NAMES if name == NEXT_TOKENS or METHOD_SETTINGS[name].deterministic])
def test_two_processes_equal_one(name, in_two_processes):
    assert largest_difference(train(name, n_processes=1), in_two_processes[name][0]) < 1e-6
