"""What keeps a submission's process in its place: limits, and on Linux neither network nor disk nor other processes.

`bwrap` (bubblewrap) or `unshare` (util-linux) start the process apart, whichever is there and works. The solutions of
the course are hidden from it then, and its runs go to the folder that it may write to. Without them a submission runs
with your rights, within the limits of time and memory, and what it leaves running is ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import psutil

from finetune_reg.paths import NOTEBOOKS, output_folder

MOST_PROCESSES = 256
LARGEST_FILE = 2**30

# Constants of Linux, from its headers.
SET_CHILD_SUBREAPER, DROP_FROM_BOUNDING_SET, SET_NO_NEW_PRIVILEGES = 36, 24, 38
MOUNT_SETATTR, HERE, RECURSIVE, READ_ONLY, BIND = 442, -100, 0x8000, 1, 0x1000
CAPABILITIES_VERSION = 0x20080522

BWRAP = ["bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
BWRAP += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
UNSHARE = ["unshare", "--net", "--pid", "--ipc", "--mount", "--fork", "--kill-child", "--mount-proc"]
APART = "FINETUNE_REG_APART"
SOLUTIONS = NOTEBOOKS / "solutions"
RUNS = output_folder("runs")  # where notebooks write their records


@cache
def isolation() -> str:
    """Return the program that starts processes apart here: bwrap, unshare, or nothing."""
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in ("bwrap", "unshare"):
        try:
            tried = subprocess.run([*_prefix(name, "/tmp"), "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if tried.returncode == 0:
            return name
    return ""


def describe_isolation() -> str:
    """Say in one sentence how far submissions are kept apart on this machine."""
    if name := isolation():
        return f"Submissions run without network, and write to a folder of their own only ({name})."
    return (
        "Neither bwrap nor unshare works here: submissions run with your rights and with network, "
        "so grade those of people you do not trust in a container."
    )


def start_apart(command: list[str], folder: str, descriptors: tuple[int, ...]) -> subprocess.Popen:
    """Start a command apart, as far as this machine can; what it prints is dropped.

    Args:
        command: and its arguments.
        folder: that it may write to.
        descriptors: open files that it inherits.
    """
    environment = {
        **os.environ,
        APART: isolation(),
        **dict.fromkeys(("TMPDIR", "IPYTHONDIR"), folder),
        **dict.fromkeys(("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "PYTHONDONTWRITEBYTECODE"), "1"),
        "MPLBACKEND": "agg",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        [*_prefix(isolation(), folder), *command],
        env=environment,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def confine(folder: str, n_bytes: int) -> None:
    """Limit this process, and all that it starts, to a size of memory, and its writing to a folder.

    Args:
        folder: it is empty, and becomes one in memory where `unshare` has started this process.
        n_bytes: of memory, for each process.
    """
    if os.environ.pop(APART, "") == "unshare":
        _make_read_only(folder, n_bytes // 2)
        _drop_capabilities()
    adopt_orphans()
    limit_memory(n_bytes)
    _limit(resource.RLIMIT_FSIZE, LARGEST_FILE)
    _limit(resource.RLIMIT_CORE, 0)


def limit_memory(n_bytes: int) -> None:
    """Let this process, and each that it starts, have so much memory at most."""
    _limit(resource.RLIMIT_DATA, n_bytes)


def adopt_orphans() -> None:
    """Become the parent of processes that a child leaves behind; only Linux can."""
    if sys.platform == "linux":
        _library().prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_tree(pid: int, itself: bool = True) -> None:
    """Kill the processes below one, and the process itself."""
    try:
        top = psutil.Process(pid)
        while below := top.children(recursive=True):
            for process in [*below, top] if itself else below:
                _kill(process)
            _, alive = psutil.wait_procs(below, timeout=2)
            if alive:  # not ours to end
                break
        if itself:
            _kill(top)
    except psutil.NoSuchProcess:
        return


def size_of_tree(pid: int) -> tuple[int, int]:
    """Return how many processes there are from one on downwards, and how many bytes of memory they hold."""
    try:
        top = psutil.Process(pid)
        sizes = [_resident(process) for process in [top, *top.children(recursive=True)]]
    except psutil.NoSuchProcess:
        return 0, 0
    return len(sizes), sum(sizes)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has just ended, or is nobody else's to see
        return 0


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:  # it has ended, or changed its user
        return


def _prefix(name: str, folder: str) -> list[str]:
    if name == "bwrap":
        hidden = ["--tmpfs", str(SOLUTIONS)] if SOLUTIONS.is_dir() else []
        return [*BWRAP, *hidden, "--bind", folder, folder, "--bind", folder, str(RUNS), "--"]
    if name == "unshare":
        return [*UNSHARE, *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--"]
    return []


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _make_read_only(folder: str, n_bytes: int) -> None:
    """Make all mounted disks read-only for this process; mount memory over a folder, /dev/shm and the solutions."""
    read_only = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
    library = _library()
    _demand(library.syscall(MOUNT_SETATTR, HERE, b"/", RECURSIVE, read_only, ctypes.sizeof(read_only)))
    for place in (Path(folder), Path("/dev/shm"), SOLUTIONS):
        if place.is_dir():
            _demand(library.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={n_bytes}".encode()))
    _demand(library.mount(os.fsencode(folder), os.fsencode(RUNS), None, BIND, None))


def _drop_capabilities() -> None:
    """Give up the rights over mounts that come with `unshare`, also for programs started later."""
    library = _library()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _demand(library.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0))
    _demand(library.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    _demand(library.capset(header, nothing))


def _demand(returned: int) -> None:
    if returned != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
