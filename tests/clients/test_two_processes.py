"""Two processes train as one does at the same global batch, whoever starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from method_settings import METHOD_SETTINGS
from training_hosts import largest_difference
from two_processes import NEXT_TOKENS, Weights, train

from finetune_reg.methods import METHODS

PROGRAM = Path(__file__).with_name("two_processes.py")
NAMES = [*sorted(METHODS), NEXT_TOKENS]
LAUNCHERS = {
    "torch.distributed.run": (["--standalone", "--nproc_per_node", "2"], NAMES[::2]),
    # Its name for several processes is one for GPUs: without any, they train on the CPU.
    "accelerate.commands.launch": (
        ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"],
        NAMES[1::2],
    ),
}
in_one_worker = pytest.mark.xdist_group("two processes")


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory) -> dict[str, list[Weights]]:
    """The weights of both processes, by method: half of the methods are trained by each launcher."""
    found = {}
    for launcher, (arguments, names) in LAUNCHERS.items():
        file = tmp_path_factory.mktemp("two_processes") / "weights.pt"
        command = [sys.executable, "-m", launcher, *arguments, str(PROGRAM), str(file), *names]
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert run.returncode == 0, run.stderr[-5000:]
        found |= torch.load(file)
    return found


@in_one_worker
@pytest.mark.parametrize("name", NAMES)
def test_both_processes_end_with_the_same_weights(name, in_two_processes):
    assert largest_difference(*in_two_processes[name]) == 0.0


@in_one_worker
@pytest.mark.parametrize("name", [name for name in NAMES if name == NEXT_TOKENS or METHOD_SETTINGS[name].deterministic])
def test_two_processes_equal_one(name, in_two_processes):
    assert largest_difference(train(name, n_processes=1), in_two_processes[name][0]) < 1e-6
