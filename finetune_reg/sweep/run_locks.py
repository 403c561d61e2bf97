"""Locks: whoever makes a run holds a lock on `locks/RUN_ID.lock`, so that two sweeps never make the same run.

The lock is the operating system's (`flock`, through the library `filelock`): it ends with the process that holds it,
however that process ends, so there is no stale lock and nothing to take over. It reaches across machines where the
shared file system carries it (NFS 4, GPFS, Lustre mounted with `flock`); on one without locks `filelock` falls back to
lock files that name host and process. The empty files stay: removing one that others may be opening breaks the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# Long enough to outlast `is_locked`, which holds a lock for an instant.
PATIENCE_SECONDS = 1.0


@contextmanager
def lock_runs(output_dir: Path, run_ids: Iterable[str]) -> Iterator[bool]:
    """Hold all these runs while the block runs; yield False, holding none, if another process has one of them."""
    with ExitStack() as held:
        try:
            for run_id in sorted(run_ids):
                path = _lock_path(output_dir, run_id)
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(path, timeout=PATIENCE_SECONDS))
        except Timeout:
            held.close()
            yield False
        else:
            yield True


def is_locked(output_dir: Path, run_id: str) -> bool:
    """Tell whether a live process is making this run."""
    path = _lock_path(output_dir, run_id)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _lock_path(output_dir: Path, run_id: str) -> Path:
    return output_dir / "locks" / f"{run_id}.lock"
