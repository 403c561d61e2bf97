"""Small sweeps as a user starts them: a plan file, the command, and what its processes are."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml
from command_line import COMMAND

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
SAME_ON_EACH_ENGINE = (
    "settings",
    "status",
    "score",
    "history",
    "subset",
    "weights_hash",
    "forward_passes",
    "n_updates",
)


def write_plan(path: Path, tiny_world: dict[str, str], grid: dict[str, list], **base: Any) -> Path:
    """Write a plan on the tiny world; a run takes a fraction of a second."""
    base = {"n_train": 8, "epochs": 1, "batch_size": 4, "seeds": [0, 1], **tiny_world} | base
    path.write_text(yaml.safe_dump({"base": base, "grid": grid}))
    return path


def start_sweep(*arguments: Any, log: Path, **options: Any) -> subprocess.Popen:
    """Start `finetune-reg sweep ...` in a session of its own, its output in a file."""
    with log.open("a") as file:
        command = [str(COMMAND), "sweep", *map(str, arguments)]
        options = {"env": ENVIRONMENT} | options
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, **options)


def kernels_of(process: subprocess.Popen | psutil.Process) -> list[psutil.Process]:
    return _descendants(process, "ipykernel_launcher")


def channels_of(kernel: psutil.Process) -> set[Path]:
    """The named Unix sockets of a kernel."""
    return {Path(socket.laddr) for socket in kernel.net_connections("unix") if "/kernel-ipc-" in socket.laddr}


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in _descendants(process, "spawn_main") if "resource_tracker" not in child.name()]


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Return the condition's value as soon as it is true; fail after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"nothing happened for {seconds} seconds")


def survivors(processes: Iterable[psutil.Process], seconds: float = 15) -> list[psutil.Process]:
    """Return the processes that have not ended after so many seconds."""
    end = time.monotonic() + seconds
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


def stored_records(output_dir: Path) -> dict[str, dict[str, Any]]:
    """Read all records as JSON, by the name of their file."""
    return {path.stem: json.loads(path.read_text()) for path in (output_dir / "records").glob("*.json")}


def comparable(output_dir: Path) -> dict[str, dict[str, Any]]:
    """Return what must not depend on where, when and how often interrupted a sweep was run."""
    records = stored_records(output_dir).items()
    return {run_id: {name: record[name] for name in SAME_ON_EACH_ENGINE} for run_id, record in records}


def count_kernel_starts(folder: Path) -> tuple[dict[str, str], Callable[[], int]]:
    """Return an environment in which every kernel leaves a line, and a function that counts the lines."""
    log, startup = folder / "kernels.log", folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    log.touch()
    (startup / "00-log.py").write_text(f"print('started', file=open({str(log)!r}, 'a'))\n")
    return ENVIRONMENT | {"IPYTHONDIR": str(folder / "ipython")}, lambda: len(log.read_text().splitlines())


def _descendants(process: subprocess.Popen | psutil.Process, mark: str) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _is_alive(child, mark)]


def _is_alive(process: psutil.Process, mark: str = "") -> bool:
    """Tell whether a process works and has the mark in its command line; a zombie has ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and mark in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
