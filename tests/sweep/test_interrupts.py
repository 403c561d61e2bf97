"""Ctrl-C, at any moment and more than once: one sentence, soon, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from sweep_plans import kernels_of, start_sweep, survivors, wait_for, workers_of, write_plan

from finetune_reg.errors import INTERRUPTED

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="a terminal's process group"),
    pytest.mark.xdist_group("interrupts"),
]
MOMENTS = {"its workers start": workers_of, "its kernels run": kernels_of}


@pytest.fixture(scope="module")
def plan(tiny_world, tmp_path_factory) -> Path:
    """Two notebooks of one run without end."""
    forever = {"epochs": 100_000, "evaluate_every": 100_000, "n_train": 24, "seeds": [0]}
    return write_plan(tmp_path_factory.mktemp("plans") / "plan.yaml", tiny_world, {"task": ["rte", "stsb"]}, **forever)


@pytest.fixture
def sweep(plan, tmp_path):
    """A sweep that hears interrupts, as from a terminal, whatever this process hears."""
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    arguments = ("run", plan, "--output-dir", tmp_path / "out", "--slots", 2)
    process = start_sweep(*arguments, log=tmp_path / "log", **hears)
    yield process
    process.kill()


def check_the_end_after(presses: int, sweep: subprocess.Popen, log: Path) -> None:
    """Press Ctrl-C and look at time, code, output and processes."""
    program = psutil.Process(sweep.pid)
    processes, processor = [program, *program.children(recursive=True)], sum(program.cpu_times()[:2])
    start = time.monotonic()
    for _ in range(presses):
        os.killpg(sweep.pid, signal.SIGINT)  # all processes of the terminal
        time.sleep(0.2)
    code = sweep.wait(timeout=60)
    # At its start a sweep takes some seconds of processor time; on a loaded machine its end is as slow as that.
    assert time.monotonic() - start < max(5, 3 * processor)
    assert code == 130, log.read_text()
    said = [line for line in log.read_text().splitlines() if line.strip() and " 0/2 " not in line]  # the progress
    assert said == [INTERRUPTED]
    assert survivors(processes) == []


@pytest.mark.parametrize(
    ("moment", "presses"),
    [
        ("its workers start", 2),
        pytest.param("its workers start", 1, marks=pytest.mark.campaign),
        pytest.param("its kernels run", 1, marks=pytest.mark.campaign),
        pytest.param("its kernels run", 2, marks=pytest.mark.campaign),
    ],
)
def test_ctrl_c_ends_a_sweep_with_a_sentence_when(sweep, tmp_path, moment, presses):
    wait_for(lambda: MOMENTS[moment](sweep), seconds=240)
    check_the_end_after(presses, sweep, tmp_path / "log")


@pytest.mark.campaign
@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1, 2, 3])
def test_ctrl_c_ends_a_sweep_with_a_sentence_after_seconds(sweep, tmp_path, seconds, presses):
    time.sleep(seconds)
    check_the_end_after(presses, sweep, tmp_path / "log")
