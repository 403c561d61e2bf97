"""How far a sweep is: the state of every run, told by its record and its lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import FINISHED, RunRecord, Status, read_records
from finetune_reg.results.method_labels import method_label
from finetune_reg.sweep.plan import planned_runs, recorded_status
from finetune_reg.sweep.run_locks import is_locked

# `done` has a score or diverged; `failed` raised an error; `killed` and `timeout` are made again by the next sweep.
STATES = ("done", "failed", "killed", "timeout", "running", "waiting")


def run_state(output_dir: Path, run_id: str) -> str:
    """Return the state of a run, one of `STATES`."""
    status = recorded_status(output_dir, run_id)
    if status is None:
        return "running" if is_locked(output_dir, run_id) else "waiting"
    return _state_of(status)


def _state_of(status: Status) -> str:
    return "done" if status in FINISHED else status


def count_states(output_dir: Path, run_ids: Iterable[str]) -> Counter[str]:
    """Count the runs in each state."""
    return Counter(run_state(output_dir, run_id) for run_id in run_ids)


def sweep_status(output_dir: Path) -> tuple[dict[tuple[str, str], Counter[str]], list[RunRecord]]:
    """Count the states of all runs that were planned or made in a folder.

    A lock covers all seeds of a notebook that have no record, so these are `running` together.

    Returns:
        The counts by task and method, and the records that are not finished, for their errors.

    Raises:
        InputError: no sweep was started in this folder and no run made.
    """
    planned = planned_runs(output_dir)
    runs = {run_id: (settings.task, label) for run_id, (settings, label) in planned.items()}
    has_records = any((output_dir / "records").glob("*.json"))
    if not runs and not has_records:
        raise InputError(f"{output_dir} holds no sweep: start one with `finetune-reg sweep run PLAN` and this folder.")
    records = read_records(output_dir) if has_records else []
    states = {record.run_id: _state_of(record.status) for record in records}
    for record in records:
        label = method_label(record.settings["method"], record.settings["method_hyperparameters"])
        runs.setdefault(record.run_id, (record.settings["task"], label))
    counts: dict[tuple[str, str], Counter[str]] = {}
    for run_id, group in sorted(runs.items(), key=lambda item: item[1]):
        counts.setdefault(group, Counter())[states.get(run_id) or run_state(output_dir, run_id)] += 1
    unfinished = [record for record in records if record.status not in FINISHED]
    return counts, sorted(unfinished, key=lambda record: (runs[record.run_id], record.settings["seed_init"]))
