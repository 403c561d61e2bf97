"""Sweeps that cannot start: one sentence, at once, and nothing is left behind."""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import stat
import subprocess
import sys
import threading

import dask
import pytest
from command_line import COMMAND
from sweep_plans import ENVIRONMENT, stored_records, write_plan

from finetune_reg.errors import InputError
from finetune_reg.sweep import NotebookRun, run_sweep
from finetune_reg.sweep.engines import connect
from finetune_reg.sweep.job_array import job_array_script
from finetune_reg.sweep.worker import execute_job, storage_errors


@pytest.fixture
def notebook(tiny_world):
    return NotebookRun({"task": "rte", "n_train": 8, "epochs": 1, "seeds": [0], **tiny_world})


@pytest.mark.parametrize("minutes", [math.inf, math.nan, 0, -1, 1e9])
def test_a_time_limit_is_above_0_and_at_most_a_year(notebook, tmp_path, minutes):
    for start in (
        lambda: run_sweep([notebook], tmp_path, time_limit=minutes),
        lambda: execute_job(notebook.job, tmp_path, minutes),
        lambda: job_array_script([notebook], tmp_path / "plan.yaml", tmp_path, tmp_path / "command", minutes),
    ):
        with pytest.raises(InputError, match=re.escape(f"The time limit is {minutes:g}: give minutes above 0")):
            start()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slots", [0, -3])
def test_a_sweep_needs_a_slot(notebook, tmp_path, slots):
    with pytest.raises(InputError, match=f"slots is {slots}"):
        run_sweep([notebook], tmp_path, slots=slots)


@pytest.mark.skipif(os.name != "posix", reason="kernels use TCP on Windows")
def test_kernels_start_under_a_long_name_and_are_those_of_this_python(notebook, tmp_path, monkeypatch):
    long = tmp_path / "a_scratch_folder_whose_name_is_as_long_as_batch_systems_make_them" / "of_a_user_and_a_job"
    long.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    other = tmp_path / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "another Python", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert execute_job(notebook.job, tmp_path / "out").problems == []
    assert [record["status"] for record in stored_records(tmp_path / "out").values()] == ["ok"]


def test_run_sweep_at_the_top_of_a_script_is_told_to_go_below_the_guard(tiny_world, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from finetune_reg.sweep import NotebookRun, run_sweep\n"
        f"run_sweep([NotebookRun({tiny_world | {'task': 'rte', 'seeds': [0]}!r})], Path({str(tmp_path)!r}), slots=1)\n"
    )
    ended = subprocess.run([sys.executable, script], env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.splitlines()[-1].startswith("finetune_reg.errors.InputError: The workers did not start")
    assert '`if __name__ == "__main__":`' in ended.stderr.splitlines()[-1]
    assert stored_records(tmp_path) == {}


def test_a_full_disk_is_named_also_if_tidying_up_fails_after_it(tmp_path):
    failed_later = ProcessLookupError(errno.ESRCH, "No such process")
    failed_later.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match=r"Cannot write below .*No space left on device"), storage_errors(tmp_path):
        raise failed_later


SBATCH = {
    "refusing": (
        "#!/bin/sh\necho 'sbatch: error: Memory specification can not be satisfied' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Requested node is not available' >&2\nexit 1\n",
        r"Slurm refused the jobs \(Memory specification can not be satisfied; Batch job submission failed: Requested "
        r"node is not available\): change `jobqueue.slurm`",
    ),
    "silent": ("#!/bin/sh\nexit 0\n", r"Slurm refused the jobs \(Could not parse job id"),
    "missing": (None, "`sbatch` cannot be called .No such file"),
}


@pytest.mark.parametrize("kind", SBATCH)
def test_jobs_that_cannot_be_queued_are_refused_at_once(tmp_path, monkeypatch, kind):
    pytest.importorskip("dask_jobqueue", reason="needs the extra `slurm`")
    text, sentence = SBATCH[kind]
    if text is not None:
        (tmp_path / "sbatch").write_text(text)
        (tmp_path / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if text else str(tmp_path))
    with pytest.raises(InputError, match=sentence), connect("slurm", 2, tmp_path):
        pass


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("memory", "lots"),
        ("cores", "many"),
        ("interface", "nosuch"),
        ("job-script-prologue", 3),
        ("scheduler-options", {"hots": "here"}),
        ("shared-temp-directory", "/nosuch/folder"),
    ],
)
def test_settings_that_dask_jobqueue_cannot_use_are_refused(tmp_path, setting, value):
    pytest.importorskip("dask_jobqueue", reason="needs the extra `slurm`")
    with (
        dask.config.set({f"jobqueue.slurm.{setting}": value}),
        pytest.raises(InputError, match=r"^dask-jobqueue refuses its settings .*: change `jobqueue.slurm`"),
        connect("slurm", 1, tmp_path),
    ):
        pass


def test_a_broken_configuration_of_dask_is_named(tiny_world, tmp_path):
    (tmp_path / "dask.yaml").write_text("jobqueue: [slurm: {")
    plan = write_plan(tmp_path / "plan.yaml", tiny_world, {"task": ["rte"]})
    environment = ENVIRONMENT | {"DASK_CONFIG": str(tmp_path / "dask.yaml")}
    command = [COMMAND, "sweep", "run", plan, "--output-dir", tmp_path / "out"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "Error: Dask refuses its configuration: A dask config file at" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"address": "nosuch://here:1"}', '{"address": 3}'])
def test_a_file_that_is_no_scheduler_file_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr("finetune_reg.sweep.engines.CONNECT_SECONDS", 1)
    (tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(InputError, match="no Dask scheduler at"), connect(str(tmp_path / "scheduler.json"), 1):
        pass


@pytest.mark.parametrize("address", ["tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:port", "nosuch://here:1", "://"])
def test_an_address_that_is_none_is_refused(monkeypatch, address):
    monkeypatch.setattr("finetune_reg.sweep.engines.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match="no Dask scheduler at"), connect(address, 1):
        pass


def test_a_server_that_is_no_scheduler_is_refused(monkeypatch):
    monkeypatch.setattr("finetune_reg.sweep.engines.CONNECT_SECONDS", 1)

    def answer_as_web_servers_do(server: socket.socket) -> None:
        with server.accept()[0] as caller:
            caller.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_as_web_servers_do, args=[server], daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="no Dask scheduler at"), connect(address, 1):
            pass
