"""One plan gives the same records on a running Dask cluster and in one process; which workers there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, call
from distributed import Client
from sweep_plans import ENVIRONMENT, comparable, wait_for, write_plan

from finetune_reg.errors import InputError
from finetune_reg.experiment.run import run
from finetune_reg.sweep import read_plan
from finetune_reg.sweep.availability import default_slots, visible_gpus
from finetune_reg.sweep.engines import connect, replace_lost_workers

DASK = Path(sys.executable).with_name("dask")
pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def plan(tiny_world, tmp_path_factory):
    grid = {"task": ["rte", "stsb"], "method": [{"mixout": {"mix_probability": 0.5}}]}
    return write_plan(tmp_path_factory.mktemp("plans") / "plan.yaml", tiny_world, grid)


@pytest.fixture(scope="module")
def notebooks(plan):
    return read_plan(plan)


@pytest.fixture(scope="module")
def expected(notebooks, tmp_path_factory):
    """The records of the same runs made one after the other in this process."""
    folder = tmp_path_factory.mktemp("expected")
    for settings in [settings for notebook in notebooks for settings in notebook.settings]:
        run(settings, folder)
    records = comparable(folder)
    assert len(records) == 4
    return records


def test_two_workers_of_a_running_scheduler_give_the_same_records(plan, expected, tmp_path):
    file, log = tmp_path / "scheduler.json", (tmp_path / "log").open("w")
    options = {"env": ENVIRONMENT, "stdout": log, "stderr": log, "cwd": tmp_path}
    scheduler = [DASK, "scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen(scheduler, **options)]
    try:
        wait_for(file.exists)
        for _ in range(2):
            worker = [DASK, "worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard"]
            processes.append(subprocess.Popen(worker, **options))
        finished = call("sweep", "run", plan, "--output-dir", tmp_path / "out", "--engine", file)
        assert finished.returncode == 0, finished.stderr
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)
    assert comparable(tmp_path / "out") == expected


@pytest.fixture
def job_array(plan, tmp_path):
    """A job array's script, and the folder that its runs go to."""
    script, folder = tmp_path / "array.sh", tmp_path / "it's out"
    exported = call("sweep", "export", plan, "--slurm-array", script, "--output-dir", folder, "--time-limit", 30)
    assert exported.returncode == 0, exported.stderr
    assert "2 notebooks" in exported.stdout
    return script, folder


def at_index(script: Path, index: int) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_NUM_THREADS"}
    environment |= {"SLURM_ARRAY_TASK_ID": str(index)}
    return subprocess.run(["bash", script], env=environment, capture_output=True, text=True)


def test_each_index_of_a_job_array_calls_the_command_with_its_notebook(job_array, plan, notebooks):
    script, folder = job_array
    text = script.read_text()
    assert "#SBATCH --array=0-1" in text
    assert "#SBATCH --time=35" in text
    assert text.count(str(COMMAND)) == 1
    script.write_text(text.replace(str(COMMAND), "printf '%s\\n'"))
    for index, notebook in enumerate(notebooks):
        words = ["sweep", "run-one", str(plan), notebook.stem, "--output-dir", str(folder), "--time-limit", "30"]
        assert at_index(script, index).stdout.splitlines() == words


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_job_array_is_clean_shell(job_array):
    checked = subprocess.run(["shellcheck", job_array[0]], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def workers_of(client: Client, slots: int) -> dict[str, dict[str, Any]]:
    """What the scheduler says of its workers, as soon as all are there."""

    def found() -> dict[str, dict[str, Any]] | None:
        replace_lost_workers(client)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return workers if len(workers) == slots else None

    return wait_for(found)


def test_a_worker_that_ended_with_its_nanny_is_replaced():
    with connect("local", 2) as client:
        before = set(workers_of(client, 2))
        client.retire_workers([min(before)], close_workers=True)
        wait_for(lambda: len(client.cluster.workers) == 1)
        assert len(before & set(workers_of(client, 2))) == 1
        assert client.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize(
    ("visible", "slots", "workers_on"), [("3,5", 2, {"3": 1, "5": 1}), ("3,5", 5, {"3": 3, "5": 2}), ("7", 3, {"7": 3})]
)
def test_each_local_worker_is_a_process_with_one_thread_and_sees_one_gpu(visible, slots, workers_on, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with connect("local", slots) as client:
        threads = {worker["nthreads"] for worker in workers_of(client, slots).values()}
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        seen = client.run(lambda: (os.getpid(), *(os.environ[name] for name in names)))
    pids, gpus, openmp = zip(*seen.values(), strict=True)
    assert len({*pids, os.getpid()}) == slots + 1
    assert Counter(gpus) == workers_on
    assert set(openmp) == {"1"}
    assert threads == {1}


@pytest.mark.parametrize(
    ("visible", "gpus"), [("3, 5", ["3", "5"]), ("", []), ("-1", []), ("0,-1,1", ["0"]), ("GPU-8f", ["GPU-8f"])]
)
def test_gpus_are_those_that_cuda_would_show(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus
    assert default_slots() == (len(gpus) or os.cpu_count())


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [("locl", "did you mean 'local'"), ("tcp://127.0.0.1:9", "no Dask scheduler at tcp://127.0.0.1:9")],
)
def test_an_engine_that_is_not_there_is_refused(engine, sentence, monkeypatch):
    monkeypatch.setattr("finetune_reg.sweep.engines.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=sentence), connect(engine, 1):
        pass


def test_slurm_without_its_extra_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match=r"pip install finetune_reg\[slurm\]"), connect("slurm", 1):
        pass
