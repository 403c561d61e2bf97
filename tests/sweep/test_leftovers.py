"""What killed processes leave: the next sweep removes it, and leaves alone what live processes are writing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import call
from sweep_plans import wait_for

from finetune_reg.sweep import NotebookRun
from finetune_reg.sweep.kernel_sockets import PREFIX, private_kernel_sockets
from finetune_reg.sweep.plan import prepare

NOTEBOOK = NotebookRun({"task": "entailment", "seeds": [0]})
AN_HOUR, A_WEEK = 60 * 60, 7 * 24 * 60 * 60

WRITE = """import os, sys
from pathlib import Path
from finetune_reg.experiment.atomic_writing import write_atomically

moved = os.replace
os.replace = lambda *paths: (sys.stdin.read(), moved(*paths))  # it stops before the end of its work
write_atomically(Path(sys.argv[1]), "all of it")
"""
RUN_A_KERNEL = """import sys, tempfile
from finetune_reg.sweep.kernel_sockets import private_kernel_sockets

tempfile.tempdir = sys.argv[1]
with private_kernel_sockets():
    sys.stdin.read()
"""


@contextmanager
def stopped_in(program: str, argument: Path) -> Iterator[subprocess.Popen]:
    """A process that works until it reads its input, and goes on when that is closed."""
    process = subprocess.Popen([sys.executable, "-c", program, argument], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["records", "plans", "protocols"])
def test_a_file_that_was_being_written_is_removed_when_its_writer_is_dead(tmp_path, kind):
    (folder := tmp_path / kind).mkdir()
    with stopped_in(WRITE, folder / "written.json") as writer:
        (temporary,) = wait_for(lambda: list(folder.glob(".*.tmp")))
        prepare([NOTEBOOK], tmp_path)
        assert temporary.exists()
        writer.kill()
        writer.wait()
        prepare([NOTEBOOK], tmp_path)
    assert not temporary.exists()
    assert not (folder / "written.json").exists()


def test_a_writer_is_not_disturbed_by_sweeps_that_start(tmp_path):
    written = tmp_path / "records" / "written.json"
    written.parent.mkdir()
    with stopped_in(WRITE, written) as writer:
        wait_for(lambda: list(written.parent.glob(".*.tmp")))
        prepare([NOTEBOOK], tmp_path)
        writer.communicate()
        assert writer.returncode == 0
    assert written.read_text() == "all of it"
    assert [path.name for path in written.parent.iterdir()] == ["written.json"]


@pytest.mark.parametrize("name", [".0f@another-host@1.tmp", ".0f.tmp", ".0f@host@no-number.tmp"])
@pytest.mark.parametrize(("age", "stays"), [(AN_HOUR, True), (A_WEEK, False)])
def test_a_file_of_a_writer_that_cannot_be_asked_is_removed_when_it_is_old(tmp_path, name, age, stays):
    (tmp_path / "records").mkdir()
    (temporary := tmp_path / "records" / name).touch()
    os.utime(temporary, (time.time() - age,) * 2)
    prepare([NOTEBOOK], tmp_path)
    assert temporary.exists() == stays


@pytest.fixture
def near() -> Iterator[Path]:
    """A folder whose name is short enough for sockets in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.skipif(os.name != "posix", reason="kernels use TCP on Windows")
def test_the_folder_of_a_kernel_is_removed_when_its_worker_is_dead(near, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(near))

    def folders() -> set[Path]:
        return {path for path in near.glob(f"{PREFIX}*") if path.is_dir()}

    with stopped_in(RUN_A_KERNEL, near) as worker:
        theirs = wait_for(folders)
        with private_kernel_sockets():
            assert theirs < folders()
        assert folders() == theirs
        worker.kill()
        worker.wait()
        with private_kernel_sockets():
            assert theirs.isdisjoint(folders())
    assert list(near.iterdir()) == []


def test_all_that_a_run_leaves_has_the_mode_of_the_umask(tiny_world, tmp_path):
    parameters = {"task": "rte", "n_train": 8, "epochs": 1, "seeds": [0], **tiny_world}
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    before = os.umask(umask := 0o007)
    try:
        made = call("run", *given, "--output-dir", tmp_path / "out")
    finally:
        os.umask(before)
    assert made.returncode == 0, made.stderr
    found = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {path.parent.name for path in found} > {"locks", "notebooks", "plans", "records"}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in found}
    assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in found}
