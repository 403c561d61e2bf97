"""Sweeps that are killed, starved of space or time, doubled or interrupted: what is left is right, and goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from command_line import COMMAND, Finished, call
from sweep_plans import (
    ENVIRONMENT,
    channels_of,
    comparable,
    count_kernel_starts,
    kernels_of,
    start_sweep,
    stored_records,
    survivors,
    wait_for,
    workers_of,
    write_plan,
)

from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.report.page import write_report
from finetune_reg.sweep import NotebookRun, read_plan
from finetune_reg.sweep.plan import prepare
from finetune_reg.sweep.run_locks import is_locked, lock_runs
from finetune_reg.sweep.worker import JobOutcome, execute_job

VICTIMS = {"worker": workers_of, "kernel": kernels_of}
pytestmark = pytest.mark.xdist_group("faults of sweeps")


@dataclass
class Disturbed:
    """What was seen of a sweep whose processes were ended one after the other, and what it left in the end."""

    runs: list[RunSettings]
    output_dir: Path
    channels_of_the_kernel: int = 0
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    survivors: dict[str, list[psutil.Process]] = field(default_factory=dict)
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    interrupted: tuple[int, str] = (0, "")
    resumed: Finished | None = None

    def look(self, moment: str, *ended: psutil.Process) -> None:
        """Note the state of each run that has a record, and which processes that should end do not."""
        self.survivors[moment] = survivors(ended)
        self.records[moment] = {run_id: record["status"] for run_id, record in stored_records(self.output_dir).items()}


def next_kernel(sweep: subprocess.Popen, before: psutil.Process | None = None) -> psutil.Process:
    (kernel,) = wait_for(lambda: [kernel for kernel in kernels_of(sweep) if kernel != before])
    return kernel


@pytest.fixture(scope="module")
def disturbed(tiny_world, tmp_path_factory) -> Disturbed:
    """Three runs of one notebook: each process that makes them is ended once, then the sweep is resumed."""
    if os.name != "posix":
        pytest.skip("signals and Unix sockets")
    folder = tmp_path_factory.mktemp("disturbed")
    plan = write_plan(folder / "plan.yaml", tiny_world, {"task": ["rte"]}, seeds=[0, 1, 2])
    runs = [settings for notebook in read_plan(plan) for settings in notebook.settings]
    seen, log = Disturbed(runs, folder / "out"), folder / "log"
    arguments = ("run", plan, "--output-dir", seen.output_dir, "--slots", 1)
    hears_interrupts = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start_sweep(*arguments, log=log, **hears_interrupts)
    try:
        first = next_kernel(process)
        seen.channels_of_the_kernel = wait_for(lambda: len(channels_of(first)) >= 5 and len(channels_of(first)))
        seen.environment = {"kernel": first.environ(), "worker": first.parent().environ()}
        first.kill()
        second = next_kernel(process, first)
        seen.look("kernel killed", first)

        (worker,) = workers_of(process)
        worker.kill()
        third = next_kernel(process, second)  # another worker takes the notebook up
        seen.look("worker killed", worker, second)

        workers = workers_of(process)
        os.killpg(process.pid, signal.SIGINT)  # all processes of the terminal
        seen.interrupted = process.wait(timeout=60), log.read_text()
        seen.look("interrupted", third, *workers)

        process = start_sweep(*arguments, log=log)
        last, workers = next_kernel(process), workers_of(process)
        process.kill()
        process.wait()
        seen.look("sweep killed", last, *workers)
    finally:
        process.kill()
    seen.resumed = call("sweep", *arguments)
    return seen


def test_the_five_channels_of_a_kernel_are_sockets_that_no_other_process_can_take(disturbed):
    assert disturbed.channels_of_the_kernel == 5


def test_kernels_keep_memory_between_steps_though_dask_workers_return_it(disturbed):
    assert "MALLOC_TRIM_THRESHOLD_" in disturbed.environment["worker"]
    assert "MALLOC_TRIM_THRESHOLD_" not in disturbed.environment["kernel"]


def test_kernels_end_with_their_worker_and_workers_with_their_sweep(disturbed):
    assert disturbed.survivors == {"kernel killed": [], "worker killed": [], "interrupted": [], "sweep killed": []}


def test_only_a_killed_kernel_is_recorded_and_only_on_the_run_it_was_making(disturbed):
    killed = {disturbed.runs[0].run_id: "killed"}
    assert disturbed.records == {
        "kernel killed": killed,
        "worker killed": killed,
        "interrupted": killed,
        "sweep killed": {},  # the second sweep began by taking the killed run up again
    }


def test_ctrl_c_is_answered_in_one_sentence(disturbed):
    code, text = disturbed.interrupted
    assert code == 130
    assert "Interrupted. Finished runs are kept" in text
    assert "Traceback" not in text


def test_a_disturbed_sweep_is_resumed_to_the_records_of_an_undisturbed_one(disturbed, tmp_path):
    for settings in disturbed.runs:
        run(settings, tmp_path)
    assert disturbed.resumed.returncode == 0, disturbed.resumed.stderr
    assert comparable(disturbed.output_dir) == comparable(tmp_path)
    assert not any(is_locked(disturbed.output_dir, settings.run_id) for settings in disturbed.runs)


@pytest.mark.campaign
def test_kills_at_random_moments_leave_the_records_of_an_undisturbed_sweep(tiny_world, tmp_path):
    grid = {"task": ["rte", "stsb"], "method": ["vanilla", "mixout", {"vanilla": {"dropout": 0.0}}]}
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
    resumed = call("sweep", *arguments)

    assert killed == {"worker": 2, "kernel": 2, "sweep": 2}
    assert resumed.returncode == 0, resumed.stderr
    assert stored_records(tmp_path / "disturbed").keys() == {settings.run_id for settings in runs}
    assert comparable(tmp_path / "disturbed") == comparable(tmp_path / "undisturbed")


def test_a_dead_kernel_is_noticed_within_seconds_and_its_run_recorded_as_killed(tiny_world, tmp_path):
    notebook = NotebookRun({"task": "rte", "n_train": 24, "epochs": 100_000} | tiny_world)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(execute_job(notebook.job, tmp_path)))
    thread.start()
    kernel = next_kernel(psutil.Process())
    wait_for(lambda: channels_of(kernel))
    assert is_locked(tmp_path, *notebook.run_ids)
    kernel.kill()
    start = time.monotonic()
    thread.join(timeout=60)
    assert time.monotonic() - start < 8
    (record,) = stored_records(tmp_path).values()
    assert record["status"] == "killed"
    assert "killed" in outcomes[0].problems[0]
    assert not is_locked(tmp_path, *notebook.run_ids)
    write_report(tmp_path)


def test_a_run_out_of_time_is_recorded_and_made_again_by_the_next_sweep(tiny_world, tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]}, seeds=[0])
    stopped = call("sweep", "run", plan, "--output-dir", tmp_path / "out", "--time-limit", 0.01)
    assert stopped.returncode == 1
    assert "1 of 1 runs are not done (1 timeout)" in stopped.stderr
    assert [record["status"] for record in stored_records(tmp_path / "out").values()] == ["timeout"]
    prepare(read_plan(plan), tmp_path / "out")
    assert stored_records(tmp_path / "out") == {}


def test_a_failing_notebook_stops_nothing_and_is_made_again_by_retry_only(tiny_world, tmp_path):
    tasks = shutil.copytree(tiny_world["source"], tmp_path / "tasks")
    hidden = (tasks / "mrpc").rename(tmp_path / "hidden")
    world = tiny_world | {"source": str(tasks)}
    plan = write_plan(tmp_path / "plan.yaml", world, {"task": ["mrpc", "rte"]}, max_grad_norm=1e30, seeds=[0])
    plan.write_text(plan.read_text() + "by_task: {rte: {learning_rate: 1e30, epochs: 20}}\n")
    folder = tmp_path / "out"
    arguments = (plan, "--output-dir", folder, "--slots", 1)
    ended = call("sweep", "run", *arguments)
    assert ended.returncode == 1
    assert "1 of 2 runs are not done (1 failed)" in ended.stderr
    statuses = {(r["settings"]["task"], r["status"]) for r in stored_records(folder).values()}
    assert statuses == {("mrpc", "failed"), ("rte", "diverged")}
    assert "mrpc, vanilla, seed 0: failed (MissingInputError: " in call("sweep", "status", folder).stdout
    assert len(list((folder / "notebooks" / "unfinished").glob("*.ipynb"))) == 1

    before = stored_records(folder)
    assert call("sweep", "run", *arguments).returncode == 1
    assert stored_records(folder) == before
    hidden.rename(tasks / "mrpc")
    assert call("sweep", "retry", *arguments).returncode == 0
    after = stored_records(folder)
    assert after.keys() == before.keys()
    made_again = [run_id for run_id in after if after[run_id] != before[run_id]]
    assert [(before[run_id]["status"], after[run_id]["status"]) for run_id in made_again] == [("failed", "ok")]


def test_two_sweeps_on_one_folder_share_the_runs_and_make_none_twice(tiny_world, tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"], "method": ["vanilla", "mixout"]})
    environment, kernel_starts = count_kernel_starts(tmp_path)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    both = [
        start_sweep("run", plan, "--output-dir", tmp_path / "out", "--slots", 1, log=log, env=environment)
        for log in logs
    ]
    assert [process.wait(timeout=240) for process in both] == [0, 0], [log.read_text() for log in logs]
    assert kernel_starts() == 2
    assert len(stored_records(tmp_path / "out")) == 4


def test_a_notebook_whose_runs_another_sweep_is_making_is_left_alone(tiny_world, tmp_path):
    notebook = NotebookRun({"task": "rte", "n_train": 8, "epochs": 1, "seeds": [0, 1]} | tiny_world)
    with lock_runs(tmp_path, notebook.run_ids[1:]):
        outcome = execute_job(notebook.job, tmp_path)
    assert outcome == JobOutcome(busy=True)
    assert stored_records(tmp_path) == {}


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
sweep() { "$2" sweep run "$3" --output-dir "$1/disk/out" --slots 1 2> "$1/$4.txt"; echo $? > "$1/$4.code"; }
mount -o remount,ro "$1/disk"
sweep "$1" "$2" "$3" read-only
mount -o remount,rw "$1/disk"
head -c 988K /dev/zero > "$1/disk/ballast"
sweep "$1" "$2" "$3" full
rm "$1/disk/ballast"
sweep "$1" "$2" "$3" mended
cp -r "$1/disk/out/records" "$1/records"
"""


@pytest.fixture(scope="module")
def starved(tiny_world, tmp_path_factory) -> Path:
    """A folder with exit code, messages and records of a sweep on a disk that is read-only, then full, then mended."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs user namespaces")
    folder = tmp_path_factory.mktemp("starved")
    plan = write_plan(folder / "plan.yaml", tiny_world, {"task": ["rte"]})
    command = ["unshare", "-rm", "bash", "-c", SCARCE, "bash", folder, COMMAND, plan]
    assert subprocess.run(command, env=ENVIRONMENT).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("disk", "sentence"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_a_folder_that_cannot_be_written_is_one_sentence(starved, disk, sentence):
    message = (starved / f"{disk}.txt").read_text()
    assert (starved / f"{disk}.code").read_text().strip() == "2"
    assert message.startswith("Error: Cannot write")
    assert sentence in message
    assert len(message.strip().splitlines()) == 1, message


def test_the_sweep_resumes_when_its_folder_can_be_written(starved):
    assert (starved / "mended.code").read_text().strip() == "0", (starved / "mended.txt").read_text()
    assert [record["status"] for record in stored_records(starved).values()] == ["ok", "ok"]
