"""Sweeps that are killed, starved of space or time, doubled or interrupted: what is left is right, and goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import psutil
import pytest
from sweep_plans import (
    COMMAND,
    ENVIRONMENT,
    comparable,
    count_kernel_starts,
    kernels_of,
    start_sweep,
    stored_records,
    sweep,
    wait_for,
    workers_of,
    write_plan,
)

from finetune_reg.experiment.run import run
from finetune_reg.report.page import write_report
from finetune_reg.sweep import NotebookRun, read_plan
from finetune_reg.sweep.run_locks import is_locked, lock_runs
from finetune_reg.sweep.worker import execute_job

FOREVER = {"epochs": 100_000, "evaluate_every": 100_000, "n_train": 24, "task": "rte"}
METHODS = ["vanilla", "mixout", {"vanilla": {"dropout": 0.0}}]
VICTIMS = {"worker": workers_of, "kernel": kernels_of}


def test_kills_at_random_moments_leave_the_records_of_an_undisturbed_sweep(tiny_world, tmp_path):
    grid = {"task": ["rte", "stsb"], "method": METHODS}
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, grid, seeds=list(range(9)), n_train=16, epochs=3)
    runs = [settings for notebook in read_plan(plan) for settings in notebook.settings]
    assert len(runs) == 54
    for settings in runs:
        run(settings, tmp_path / "undisturbed")

    chance, log = random.Random(0), tmp_path / "log"
    arguments = ("run", plan, "--output-dir", tmp_path / "disturbed", "--slots", 2)
    process, killed = start_sweep(*arguments, log=log), {"worker": 0, "kernel": 0, "sweep": 0}
    while min(killed.values()) < 2 and len(stored_records(tmp_path / "disturbed")) < len(runs):
        wait_for(lambda process=process: kernels_of(process) or process.poll() is not None)
        time.sleep(chance.uniform(0.0, 3.0))
        kind = chance.choice([kind for kind in killed if killed[kind] < 2])
        victims = VICTIMS[kind](process) if kind in VICTIMS else [process]
        if victims and process.poll() is None:
            chance.choice(victims).kill()
            killed[kind] += 1
        if kind == "sweep" or process.poll() is not None:
            process.wait()
            process = start_sweep(*arguments, log=log)
    process.wait(timeout=240)
    resumed = sweep(*arguments)

    assert killed == {"worker": 2, "kernel": 2, "sweep": 2}
    assert resumed.returncode == 0, resumed.stderr
    assert stored_records(tmp_path / "disturbed").keys() == {settings.run_id for settings in runs}
    assert comparable(tmp_path / "disturbed") == comparable(tmp_path / "undisturbed")


def test_a_dead_kernel_is_noticed_within_seconds_and_its_run_recorded_as_killed(tiny_world, tmp_path):
    notebook = NotebookRun(FOREVER | tiny_world)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(execute_job(notebook.job, tmp_path)))
    thread.start()
    kernel = wait_for(lambda: [p for p in psutil.Process().children() if "ipykernel_launcher" in " ".join(p.cmdline())])
    time.sleep(3)
    assert is_locked(tmp_path, *notebook.run_ids)
    kernel[0].kill()
    start = time.monotonic()
    thread.join(timeout=60)
    assert time.monotonic() - start < 8
    (record,) = stored_records(tmp_path).values()
    assert record["status"] == "killed"
    assert "killed" in outcomes[0].problems[0]
    assert not is_locked(tmp_path, *notebook.run_ids)
    write_report(tmp_path)


@pytest.fixture
def kernel(tiny_world, tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]}, **FOREVER)
    process = start_sweep("run", plan, "--output-dir", tmp_path / "out", log=tmp_path / "log")
    try:
        (kernel,) = wait_for(lambda: kernels_of(process))
        yield kernel
    finally:
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="kernels use TCP on Windows")
def test_the_five_channels_of_a_kernel_are_sockets_that_no_other_process_can_take(kernel):
    wait_for(lambda: len({s.laddr for s in kernel.net_connections("unix") if "/kernel-ipc-" in s.laddr}) == 5)


def test_kernels_keep_memory_between_steps_though_dask_workers_return_it(kernel):
    assert "MALLOC_TRIM_THRESHOLD_" in kernel.parent().environ()
    assert "MALLOC_TRIM_THRESHOLD_" not in kernel.environ()


@pytest.mark.parametrize("victim", ["worker", "sweep"])
def test_kernels_end_with_their_worker_and_workers_with_their_sweep(tiny_world, tmp_path, victim):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]}, **FOREVER)
    process = start_sweep("run", plan, "--output-dir", tmp_path / "out", log=tmp_path / "log")
    kernels = wait_for(lambda: kernels_of(process))
    time.sleep(2)
    workers = workers_of(process)
    start = time.monotonic()
    workers[0].kill() if victim == "worker" else process.kill()
    psutil.wait_procs(kernels, timeout=15)
    assert not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels)
    if victim == "worker":
        wait_for(lambda: kernels_of(process))  # another worker takes the notebook up
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive
    assert time.monotonic() - start < 90
    assert not stored_records(tmp_path / "out")


def test_ctrl_c_is_answered_in_one_sentence_and_the_sweep_goes_on_later(tiny_world, tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]}, epochs=2000, n_train=24)
    arguments, log = ("run", plan, "--output-dir", tmp_path / "out"), tmp_path / "log"
    hears_interrupts = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start_sweep(*arguments, log=log, **hears_interrupts)
    wait_for(lambda: kernels_of(process))
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # all processes of the terminal
    assert process.wait(timeout=60) == 130
    text = log.read_text()
    assert "Interrupted. Finished runs are kept" in text
    assert "Traceback" not in text
    write_plan(plan, tiny_world, {"task": ["rte"]}, epochs=1)
    assert sweep(*arguments).returncode == 0


def test_a_run_out_of_time_is_recorded_and_made_again_by_the_next_sweep(tiny_world, tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]}, seeds=[0])
    stopped = sweep("run", plan, "--output-dir", tmp_path / "out", "--time-limit", 0.01)
    assert stopped.returncode == 1
    assert "1 of 1 runs are not done (1 timeout)" in stopped.stderr
    assert [record["status"] for record in stored_records(tmp_path / "out").values()] == ["timeout"]
    assert sweep("run", plan, "--output-dir", tmp_path / "out").returncode == 0
    assert [record["status"] for record in stored_records(tmp_path / "out").values()] == ["ok"]


def test_a_failing_notebook_stops_nothing_and_is_made_again_by_retry_only(tiny_world, tmp_path):
    tasks = shutil.copytree(tiny_world["source"], tmp_path / "tasks")
    hidden = (tasks / "mrpc").rename(tmp_path / "hidden")
    grid = {"task": ["mrpc", "rte"], "learning_rate": [1e-3, 1e30]}
    world = tiny_world | {"source": str(tasks)}
    plan = write_plan(tmp_path / "plan.yaml", world, grid, epochs=20, max_grad_norm=1e30, seeds=[0])
    plan.write_text(plan.read_text() + "exclude: [{task: mrpc, learning_rate: 1e30}]\n")
    folder = tmp_path / "out"
    ended = sweep("run", plan, "--output-dir", folder)
    assert ended.returncode == 1
    assert "1 of 3 runs are not done (1 failed)" in ended.stderr
    statuses = {(r["settings"]["task"], r["status"]) for r in stored_records(folder).values()}
    assert statuses == {("mrpc", "failed"), ("rte", "ok"), ("rte", "diverged")}
    assert "mrpc, vanilla, seed 0: failed (InputError: " in sweep("status", folder).stdout
    assert len(list((folder / "notebooks" / "unfinished").glob("*.ipynb"))) == 1

    before = stored_records(folder)
    assert sweep("run", plan, "--output-dir", folder).returncode == 1
    assert stored_records(folder) == before
    hidden.rename(tasks / "mrpc")
    assert sweep("retry", plan, "--output-dir", folder).returncode == 0
    after = stored_records(folder)
    assert after.keys() == before.keys()
    assert [run_id for run_id in after if after[run_id] != before[run_id]] == [
        run_id for run_id in before if before[run_id]["status"] == "failed"
    ]


def test_two_sweeps_on_one_folder_share_the_runs_and_make_none_twice(tiny_world, tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte", "stsb"], "method": ["vanilla", "mixout"]})
    environment, kernel_starts = count_kernel_starts(tmp_path)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    both = [
        start_sweep("run", plan, "--output-dir", tmp_path / "out", "--slots", 1, log=log, env=environment)
        for log in logs
    ]
    assert [process.wait(timeout=240) for process in both] == [0, 0], [log.read_text() for log in logs]
    assert kernel_starts() == 4
    assert len(stored_records(tmp_path / "out")) == 8


def test_locks_are_all_or_nothing(tmp_path):
    with lock_runs(tmp_path, ["b", "c"]) as ours:
        assert ours
        with lock_runs(tmp_path, ["a", "b"]) as theirs:
            assert not theirs
            assert not is_locked(tmp_path, "a")
        assert is_locked(tmp_path, "c")
    assert not is_locked(tmp_path, "c")


SCARCE = """set -u
mkdir "$1/disk" && mount -t tmpfs -o size=1m tmpfs "$1/disk" || exit 42
{begin}
"$2" sweep run "$3" --output-dir "$1/disk/out" 2> "$1/first.txt"; echo $? > "$1/first.code"
{end}
"$2" sweep run "$3" --output-dir "$1/disk/out" 2> "$1/second.txt"; echo $? > "$1/second.code"
cp -r "$1/disk/out/records" "$1/records"
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="mounting a small disk needs user namespaces",
)
@pytest.mark.parametrize(
    ("begin", "end", "sentence"),
    [
        ('head -c 988K /dev/zero > "$1/disk/ballast"', 'rm "$1/disk/ballast"', "No space left on device"),
        ('mount -o remount,ro "$1/disk"', 'mount -o remount,rw "$1/disk"', "Read-only file system"),
    ],
    ids=["full disk", "read-only folder"],
)
def test_a_folder_that_cannot_be_written_is_one_sentence_and_the_sweep_resumes(
    tiny_world, tmp_path, begin, end, sentence
):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]})
    script = SCARCE.format(begin=begin, end=end)
    arguments = [str(tmp_path), str(COMMAND), str(plan)]
    finished = subprocess.run(["unshare", "-rm", "bash", "-c", script, "bash", *arguments], env=ENVIRONMENT)
    assert finished.returncode == 0
    first = (tmp_path / "first.txt").read_text()
    assert (tmp_path / "first.code").read_text().strip() == "2"
    assert first.startswith("Error: Cannot write")
    assert sentence in first
    assert len(first.strip().splitlines()) == 1, first
    assert (tmp_path / "second.code").read_text().strip() == "0", (tmp_path / "second.txt").read_text()
    assert [r["status"] for r in stored_records(tmp_path).values()] == ["ok", "ok"]
