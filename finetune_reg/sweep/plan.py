"""From a YAML file to the notebooks of a sweep: one per point of the grid, one run per seed."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment.atomic_writing import remove_abandoned
from finetune_reg.experiment.notebook_parameters import settings_from
from finetune_reg.experiment.records import FINISHED, Status, record_path, stored_record
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.results.method_labels import method_label
from finetune_reg.sweep.availability import check_sources
from finetune_reg.sweep.grid import check_parameter_name
from finetune_reg.sweep.protocol import Protocol, read_json, read_protocol, write_json
from finetune_reg.sweep.worker import NotebookJob, PlannedRun, storage_errors, unfinished_notebook
from finetune_reg.tasks import get_task

PLANS = NOTEBOOKS / "parameters"


@dataclass(frozen=True)
class NotebookRun:
    """One execution of the template: its parameters (without `output_dir`) and the runs it makes.

    Raises:
        InputError: parameters that the template refuses, or would not use.
    """

    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        for name in self.parameters:
            check_parameter_name(name)
        _ = self.settings

    @cached_property
    def settings(self) -> list[RunSettings]:
        """Its runs, one per seed."""
        return settings_from(self.parameters)

    @cached_property
    def run_ids(self) -> list[str]:
        """The records it writes, one per seed."""
        return [settings.run_id for settings in self.settings]

    @cached_property
    def label(self) -> str:
        """The method, as one would construct it."""
        return method_label(self.settings[0].method, self.settings[0].method_hyperparameters)

    @property
    def stem(self) -> str:
        """What it is called: task, method and the hash of its runs."""
        digest = hashlib.sha256(" ".join(self.run_ids).encode()).hexdigest()[:12]
        return f"{self.settings[0].task}-{self.settings[0].method}-{digest}"

    @property
    def name(self) -> str:
        """File name of the executed notebook."""
        return f"{self.stem}.ipynb"

    @property
    def job(self) -> NotebookJob:
        """What a worker needs to know."""
        metric = get_task(self.settings[0].task, self.settings[0].source).metrics[0]
        made = zip(self.parameters.get("seeds", [0]), self.settings, self.run_ids, strict=True)
        runs = tuple(PlannedRun(seed, run_id, asdict(settings), metric) for seed, settings, run_id in made)
        return NotebookJob(self.name, f"{self.settings[0].task}, {self.label}", dict(self.parameters), runs)

    def is_finished(self, output_dir: Path) -> bool:
        """Tell whether every record exists and is finished."""
        return all(recorded_status(output_dir, run_id) in FINISHED for run_id in self.run_ids)


def read_plan(path: Path | str, scale: str | None = None) -> list[NotebookRun]:
    """Read a sweep plan, at one of its scales if it has any; `read_protocol` says what a plan is.

    Raises:
        InputError: as `read_protocol`, or a parameter that the template refuses.
    """
    return notebooks_of(read_protocol(path, scale))


def notebooks_of(protocol: Protocol) -> list[NotebookRun]:
    """Return the notebooks of a protocol, one per point.

    Raises:
        InputError: a parameter that the template refuses, a source that cannot have a task, or a run twice.
    """
    runs = [NotebookRun(point) for point in protocol.points]
    check_sources(runs)
    labels: dict[str, str] = {}
    for run in runs:
        for run_id in run.run_ids:
            if run_id in labels:
                what = f"of {run.settings[0].task} with {labels[run_id]} and with {run.label}"
                raise InputError(f"{protocol.name} makes a run {what}, which are the same: leave one of them out.")
            labels[run_id] = run.label
    return runs


def find_plan(name: str) -> Path:
    """Return the file of a plan, given its path or, for those of `notebooks/parameters`, its name.

    Raises:
        InputError: there is no such plan.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    known = {path.stem: path for path in PLANS.glob("*.yaml")}
    if name not in known:
        raise unknown_name("plan", name, known)
    return known[name]


def store_plan(runs: list[NotebookRun], output_dir: Path) -> None:
    """Keep the parameters of a sweep's notebooks in its folder, for `stored_plan`; those that are there stay there."""
    for run in runs:
        write_json(output_dir / "plans" / f"{run.stem}.json", run.parameters)


def stored_plan(output_dir: Path) -> list[NotebookRun]:
    """Return the notebooks of all sweeps that were started in this folder.

    Raises:
        InputError: a file is damaged, or holds parameters that the template refuses.
    """
    return [_stored_notebook(path) for path in sorted((output_dir / "plans").glob("*.json"))]


def _stored_notebook(path: Path) -> NotebookRun:
    parameters = read_json(path)
    try:
        return NotebookRun(parameters)
    except InputError as error:
        raise InputError(f"{path} is no notebook of a sweep: {error} Move it away and start the sweep again.") from None


def planned_runs(output_dir: Path) -> dict[str, tuple[RunSettings, str]]:
    """Return settings and label of each run of `stored_plan` by its id; what two sweeps plan is there once."""
    return {
        run_id: (settings, notebook.label)
        for notebook in stored_plan(output_dir)
        for run_id, settings in zip(notebook.run_ids, notebook.settings, strict=True)
    }


def recorded_status(output_dir: Path, run_id: str) -> Status | None:
    """Return the status in a run's record, None if there is none; see `stored_record`."""
    record = stored_record(output_dir, run_id)
    return None if record is None else record.status


def prepare(runs: list[NotebookRun], output_dir: Path, retry_failed: bool = False) -> None:
    """Keep the plan in the folder; remove the records of runs that are to be made again, and what dead processes left.

    Raises:
        InputError: the folder cannot be written, or a finished run was made of other rows or weights than its settings
            name today.
    """
    again: tuple[Status, ...] = ("killed", "timeout", "failed") if retry_failed else ("killed", "timeout")
    found = [stored_record(output_dir, run_id) for run in runs for run_id in run.run_ids]
    records = [record for record in found if record is not None]
    if any(record.status in FINISHED for record in records):
        from finetune_reg.experiment.inputs import check_inputs  # loads PyTorch, which a first sweep does without
        from finetune_reg.experiment.kept_weights import refuse_lost_weights

        check_inputs(records, output_dir)
        for run_id in (run_id for run in runs if run.parameters.get("keep_weights") for run_id in run.run_ids):
            if recorded_status(output_dir, run_id) == "ok":
                refuse_lost_weights(output_dir, run_id)
    with storage_errors(output_dir):
        for name in ("plans", "protocols", "records"):
            remove_abandoned(output_dir / name)
        store_plan(runs, output_dir)
        for run_id in (record.run_id for record in records if record.status in again):
            record_path(output_dir, run_id).unlink(missing_ok=True)
            unfinished_notebook(output_dir, run_id).unlink(missing_ok=True)
