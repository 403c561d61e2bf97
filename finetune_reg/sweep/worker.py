"""What a worker does with one notebook: execute the template until each of its runs has a record.

A run whose kernel dies is recorded as `killed`, one that is in the way when the time is up as `timeout`, one that
raises as `failed`; the seeds after it go on in a new kernel. Nothing here imports PyTorch: only the kernel needs it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import FINISHED, RunRecord, Status, read_record, record_path, write_record
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.sweep.run_locks import lock_runs

TEMPLATE = NOTEBOOKS / "13_low_resource_glue.ipynb"
KERNEL_START_SECONDS = 120
MAX_MINUTES = 525_600  # a year
# Dask makes its workers return free memory at once. A kernel that inherits this faults its pages in again at each step.
DASK_TRIM_THRESHOLD = "65536"
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class PlannedRun:
    """One seed of a notebook: the id, settings and primary metric of its record."""

    seed: int
    run_id: str
    settings: dict[str, Any]
    metric: str


@dataclass(frozen=True)
class NotebookJob:
    """A notebook to execute, in plain values: it travels to workers.

    Attributes:
        name: file name of the executed notebook.
        description: task and method, for people.
        parameters: of the template, without `output_dir`.
        runs: in the order of the parameter `seeds`.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    runs: tuple[PlannedRun, ...]

    def unrecorded(self, output_dir: Path) -> list[PlannedRun]:
        """Return the runs that have no record yet."""
        return [run for run in self.runs if not record_path(output_dir, run.run_id).exists()]


@dataclass
class JobOutcome:
    """What became of a job: `busy` if another sweep is making its runs, else one sentence per problem."""

    busy: bool = False
    problems: list[str] = field(default_factory=list)


def execute_job(job: NotebookJob, output_dir: Path, time_limit: float | None = None) -> JobOutcome:
    """Make all runs of a job that have no record, under a lock on them.

    Args:
        time_limit: minutes that a kernel may run, > 0; None sets no limit.

    Raises:
        InputError: a time limit out of range, or the folder cannot be written.
    """
    check_time_limit(time_limit)
    outcome = JobOutcome()
    with storage_errors(output_dir), lock_runs(output_dir, [run.run_id for run in job.runs]) as ours:
        outcome.busy = not ours
        while ours and (remaining := job.unrecorded(output_dir)):
            if (problem := _execute(job, remaining, output_dir, time_limit)) is not None:
                outcome.problems.append(problem)
    return outcome


def check_time_limit(minutes: float | None) -> None:
    """Refuse a time limit that is not more than 0 minutes and at most a year.

    Raises:
        InputError: it is out of range or not a number.
    """
    if minutes is not None and not 0 < minutes <= MAX_MINUTES:
        raise InputError(
            f"The time limit is {minutes:g}: give minutes above 0, at most {MAX_MINUTES}, or leave it out."
        )


@contextmanager
def storage_errors(output_dir: Path) -> Iterator[None]:
    """Turn a full disk or a read-only folder into an `InputError` that says so, also if tidying up failed after it."""
    try:
        yield
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS):
            cause = cause.__context__
        if cause is None:
            raise
        raise InputError(
            f"Cannot write below {output_dir}: {cause.strerror}. Make it writable or make space, then run again: "
            "finished runs are kept."
        ) from error


def record_end(run: PlannedRun, status: Status, reason: str, output_dir: Path) -> None:
    """Write the record of a run that could not write its own."""
    record = RunRecord(run.run_id, run.settings, status, run.metric, environment={"device": "unknown"}, error=reason)
    record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
    write_record(record, output_dir)


def unfinished_notebook(output_dir: Path, run_id: str) -> Path:
    """Return where the notebook is kept that ended with this run, traceback included."""
    return output_dir / "notebooks" / "unfinished" / f"{run_id}.ipynb"


def _execute(job: NotebookJob, remaining: list[PlannedRun], output_dir: Path, time_limit: float | None) -> str | None:
    """Execute the template once; return None, or what ended it, by then also in the record of the run it ended."""
    end = _run_papermill(job, remaining, output_dir, time_limit)
    left = job.unrecorded(output_dir)
    if end is None and not left:
        return None
    status, reason = end or ("failed", "The template ended without a record of this run.")
    made = [run for run in remaining if run not in left]
    if made and read_record(record_path(output_dir, made[-1].run_id)).status not in FINISHED:
        run = made[-1]
    elif left:
        run = left[0]
        record_end(run, status, reason, output_dir)
    else:
        return f"{job.description}: all runs are recorded, but the notebook ended as {status} ({reason})"
    kept = unfinished_notebook(output_dir, run.run_id)
    kept.parent.mkdir(exist_ok=True)
    (output_dir / "notebooks" / job.name).replace(kept)
    return f"{job.description}, seed {run.seed}: {status} ({reason})"


def _run_papermill(
    job: NotebookJob, remaining: list[PlannedRun], output_dir: Path, time_limit: float | None
) -> tuple[Status, str] | None:
    import papermill
    from nbclient.exceptions import CellTimeoutError

    from finetune_reg.sweep.kernel_sockets import private_kernel_sockets

    logging.getLogger("papermill").addHandler(logging.NullHandler())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") == DASK_TRIM_THRESHOLD:
        del os.environ["MALLOC_TRIM_THRESHOLD_"]
    notebook = output_dir / "notebooks" / job.name
    notebook.parent.mkdir(parents=True, exist_ok=True)
    deadline = monotonic() + 60 * time_limit if time_limit is not None else None
    try:
        with private_kernel_sockets() as sockets:
            papermill.execute_notebook(
                TEMPLATE,
                str(notebook).replace("{", "{{").replace("}", "}}"),  # papermill fills in parameters there
                parameters=job.parameters | {"seeds": [run.seed for run in remaining], "output_dir": str(output_dir)},
                kernel_name="python3",
                progress_bar=False,
                start_timeout=KERNEL_START_SECONDS,
                timeout_func=None if deadline is None else lambda cell: max(deadline - monotonic(), 0.1),
                shutdown_kernel="immediate",
                config=sockets,
            )
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError" and error.evalue.startswith("Cannot write"):
            raise InputError(error.evalue) from error
        return "failed", f"{error.ename}: {error.evalue}"
    except CellTimeoutError:
        return "timeout", f"The kernel ran for the {time_limit:g} minutes it was given."
    except RuntimeError as error:  # nbclient's DeadKernelError, and a kernel that never answered
        return "killed", f"{error}."
    return None
