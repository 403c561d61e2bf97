"""The engine of a sweep: notebooks go to Dask workers, records come back, progress is shown."""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import suppress
from multiprocessing import current_process
from pathlib import Path

from distributed import Client, Future, KilledWorker, wait
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from finetune_reg.console import interrupts_wait, raise_if_interrupted
from finetune_reg.errors import InputError
from finetune_reg.sweep.availability import check_engine, default_slots
from finetune_reg.sweep.engines import connect, replace_lost_workers
from finetune_reg.sweep.plan import NotebookRun, prepare
from finetune_reg.sweep.run_locks import lock_runs
from finetune_reg.sweep.slurm import check_jobs
from finetune_reg.sweep.status import STATES, count_states, run_state
from finetune_reg.sweep.worker import NotebookJob, check_time_limit, execute_job, record_end

POLL_SECONDS = 1.0
BUSY_SECONDS = 3.0
LOOK_SECONDS = 10.0


def run_sweep(
    runs: list[NotebookRun],
    output_dir: Path,
    engine: str = "local",
    slots: int | None = None,
    time_limit: float | None = None,
    retry_failed: bool = False,
) -> Counter[str]:
    """Make all runs that have no record, and again those that were killed or ran out of time.

    Args:
        output_dir: absolute, and the same folder for all workers.
        engine: see `connect`.
        slots: notebooks at a time; default: one per GPU, else one per core. More slots than GPUs share them in
            turn, for encoders that leave a GPU idle.
        time_limit: minutes that a kernel may run, > 0; None sets no limit.
        retry_failed: also make the runs again that failed; their records are replaced.

    Returns:
        The number of runs in each of `finetune_reg.sweep.status.STATES`; all are `done` if all went well.

    Raises:
        InputError: slots or time_limit out of range, the folder cannot be written, the engine cannot be reached, or
            was lost on the way.
    """
    if getattr(current_process(), "_inheriting", False):  # a worker runs the script that started the sweep once more
        sys.exit(1)
    check_engine(engine)
    check_time_limit(time_limit)
    if slots is not None and slots < 1:
        raise InputError(f"slots is {slots}: at least 1 notebook has to run at a time.")
    run_ids = list(dict.fromkeys(run_id for run in runs for run_id in run.run_ids))
    prepare(runs, output_dir, retry_failed)
    states = {run_id: run_state(output_dir, run_id) for run_id in run_ids}
    jobs = [job for job in (run.job for run in runs) if job.unrecorded(output_dir)]
    if jobs:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        with interrupts_wait(), Progress(*columns, TimeRemainingColumn(), refresh_per_second=2) as progress:
            progress.add_task("starting workers", total=len(run_ids))
            with connect(engine, min(slots or default_slots(), len(jobs)), output_dir) as client:
                _Sweep(client, output_dir, time_limit, states, progress).work(jobs)
    return count_states(output_dir, run_ids)


class _Sweep:
    """Notebooks on their way: a job is with Dask, or waits while another sweep makes its runs."""

    def __init__(
        self, client: Client, output_dir: Path, time_limit: float | None, states: dict[str, str], progress: Progress
    ) -> None:
        self.client, self.output_dir, self.time_limit = client, output_dir, time_limit
        self.states, self.progress = states, progress
        self.submitted: dict[Future, NotebookJob] = {}
        self.busy_until: dict[float, NotebookJob] = {}

    def work(self, jobs: list[NotebookJob]) -> None:
        """Submit all jobs and return when none is left."""
        for job in jobs:
            self._submit(job)
        look_at = time.monotonic() + LOOK_SECONDS
        while self.submitted or self.busy_until:
            raise_if_interrupted()
            self._show()
            if time.monotonic() > look_at:
                check_jobs(self.client)
                replace_lost_workers(self.client)
                look_at = time.monotonic() + LOOK_SECONDS
            if self.submitted:
                with suppress(TimeoutError, CancelledError):
                    wait(list(self.submitted), timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
            else:
                time.sleep(POLL_SECONDS)
            for future in [future for future in self.submitted if future.done()]:
                self._finish(future, self.submitted.pop(future))
            for moment in [moment for moment in self.busy_until if moment < time.monotonic()]:
                self._submit(self.busy_until.pop(moment))
        self._show()

    def _submit(self, job: NotebookJob) -> None:
        if job.unrecorded(self.output_dir):
            future = self.client.submit(execute_job, job, self.output_dir, self.time_limit, pure=False)
            self.submitted[future] = job

    def _finish(self, future: Future, job: NotebookJob) -> None:
        if future.status not in ("finished", "error"):
            raise InputError(
                "The Dask scheduler was lost: start it again and repeat the command, finished runs are kept."
            )
        if isinstance(error := future.exception(), KilledWorker):
            self._record_killed(job, "Each worker that took this run died; a likely reason is missing memory.")
            self._submit(job)
        elif error is not None:
            raise error
        elif (outcome := future.result()).busy:
            self.busy_until[time.monotonic() + BUSY_SECONDS] = job
        else:
            for problem in outcome.problems:
                self.progress.console.print(f"[red]{escape(problem)}[/]", highlight=False)

    def _record_killed(self, job: NotebookJob, reason: str) -> None:
        with lock_runs(self.output_dir, [run.run_id for run in job.runs]) as ours:
            if ours and (left := job.unrecorded(self.output_dir)):
                record_end(left[0], "killed", reason, self.output_dir)
                self.progress.console.print(f"[red]{escape(job.description)}, seed {left[0].seed}: {reason}[/]")

    def _show(self) -> None:
        for run_id, state in self.states.items():
            if state in ("running", "waiting"):
                self.states[run_id] = run_state(self.output_dir, run_id)
        counts = Counter(self.states.values())
        text = " · ".join(f"{state} {counts[state]}" for state in STATES if counts[state])
        bar = self.progress.task_ids[0]
        recorded = len(self.states) - counts["running"] - counts["waiting"]
        self.progress.update(bar, description=text, completed=recorded)
