"""A real Slurm: its jobs make the runs of a sweep, a job array makes them, and what it refuses is said at once."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import dask
import pytest
from command_line import call
from sweep_plans import ENVIRONMENT, comparable, start_sweep, wait_for, write_plan

from finetune_reg.errors import INTERRUPTED
from finetune_reg.experiment.run import run
from finetune_reg.sweep import read_plan


def answers() -> bool:
    if shutil.which("scontrol") is None:
        return False
    return "is UP" in subprocess.run(["scontrol", "ping"], capture_output=True, text=True).stdout


pytestmark = [
    pytest.mark.skipif(not answers(), reason="needs a Slurm that answers `scontrol ping`: .ci/slurm starts one"),
    pytest.mark.xdist_group("slurm"),
]


@pytest.fixture(scope="module")
def plan(tiny_world, tmp_path_factory) -> Path:
    """Two notebooks of one run."""
    grid = {"task": ["rte", "stsb"]}
    return write_plan(tmp_path_factory.mktemp("plans") / "plan.yaml", tiny_world, grid, seeds=[0], batch_size=8)


@pytest.fixture(scope="module")
def expected(plan, tmp_path_factory):
    """The records of the same runs made one after the other in this process."""
    folder = tmp_path_factory.mktemp("expected")
    for settings in [settings for notebook in read_plan(plan) for settings in notebook.settings]:
        run(settings, folder)
    return comparable(folder)


@pytest.fixture(autouse=True)
def small_jobs_here(tmp_path, monkeypatch):
    """Jobs that fit on any machine; Slurm writes their output into the current folder."""
    pytest.importorskip("dask_jobqueue", reason="needs the extra `slurm`")
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"jobqueue.slurm.memory": "1GB"}):
        yield


def queued() -> list[str]:
    """The jobs of this user that wait or run."""
    time.sleep(0.2)  # or asking often would take a core
    command = ["squeue", "--noheader", "--format=%A", "--states=PENDING,RUNNING", f"--user={getpass.getuser()}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_jobs_make_the_runs_of_a_sweep_and_end_with_it(plan, expected, tmp_path):
    folder = tmp_path / "out"
    made = call("sweep", "run", plan, "--output-dir", folder, "--engine", "slurm", "--slots", 2)
    assert made.returncode == 0, made.stderr
    assert comparable(folder) == expected
    wait_for(lambda: not queued(), seconds=60)
    assert {path.name for path in folder.iterdir()} == {"locks", "notebooks", "plans", "records"}


def test_a_job_array_makes_the_runs(plan, expected, tmp_path):
    script, folder = tmp_path / "array.sh", tmp_path / "it's out"
    exported = call("sweep", "export", plan, "--slurm-array", script, "--output-dir", folder, "--time-limit", 30)
    assert exported.returncode == 0, exported.stderr
    subprocess.run(["sbatch", "--mem=1G", script], capture_output=True, check=True)
    wait_for(lambda: not queued(), seconds=240)
    assert comparable(folder) == expected, [path.read_text() for path in folder.glob("slurm-*.out")]


def test_jobs_that_slurm_refuses_end_the_sweep_at_once_in_its_own_words(plan, tmp_path):
    start = time.monotonic()
    with dask.config.set({"jobqueue.slurm.memory": "1000TB"}):
        refused = call("sweep", "run", plan, "--output-dir", tmp_path / "out", "--engine", "slurm", "--slots", 2)
    assert time.monotonic() - start < 15
    assert refused.returncode == 2
    (sentence,) = refused.stderr.splitlines()
    assert sentence.startswith("Error: Slurm refused the jobs (Memory specification can not be satisfied; ")
    wait_for(lambda: not queued(), seconds=15)  # those of another test may still be ending


def test_ctrl_c_takes_the_jobs_back(plan, tmp_path):
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    environment = ENVIRONMENT | {"DASK_JOBQUEUE__SLURM__MEMORY": "1GB"}
    arguments = ("run", plan, "--output-dir", tmp_path / "out", "--engine", "slurm", "--slots", 2)
    sweep = start_sweep(*arguments, log=tmp_path / "log", env=environment, **hears)
    wait_for(lambda: len(queued()) == 2)
    for _ in range(2):
        os.killpg(sweep.pid, signal.SIGINT)  # all processes of the terminal, scancel among them
        time.sleep(0.3)
    assert sweep.wait(timeout=60) == 130
    assert (tmp_path / "log").read_text().splitlines()[-1] == INTERRUPTED
    wait_for(lambda: not queued(), seconds=15)
