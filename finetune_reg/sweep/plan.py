"""From a YAML file to the notebooks of a sweep: one per point of the grid, one run per seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_reg.errors import unknown_name
from finetune_reg.experiment.notebook_parameters import settings_from
from finetune_reg.experiment.records import FINISHED, Status, read_record, record_path
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.results.method_labels import method_label
from finetune_reg.sweep.protocol import Protocol, read_protocol
from finetune_reg.sweep.worker import NotebookJob, PlannedRun, storage_errors, unfinished_notebook
from finetune_reg.tasks import get_task

PLANS = NOTEBOOKS / "parameters"


@dataclass(frozen=True)
class NotebookRun:
    """One execution of the template: its parameters (without `output_dir`) and the runs it makes.

    Raises:
        InputError: parameters that the template refuses.
    """

    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        _ = self.settings

    @cached_property
    def settings(self) -> list[RunSettings]:
        """Its runs, one per seed."""
        return settings_from(self.parameters)

    @property
    def run_ids(self) -> list[str]:
        """The records it writes, one per seed."""
        return [settings.run_id for settings in self.settings]

    @property
    def label(self) -> str:
        """The method, as one would construct it."""
        return method_label(self.settings[0].method, self.settings[0].method_hyperparameters)

    @property
    def stem(self) -> str:
        """What it is called: task, method and the hash of its first run."""
        first = self.settings[0]
        return f"{first.task}-{first.method}-{first.run_id}"

    @property
    def name(self) -> str:
        """File name of the executed notebook."""
        return f"{self.stem}.ipynb"

    @property
    def job(self) -> NotebookJob:
        """What a worker needs to know."""
        metric = get_task(self.settings[0].task).metrics[0]
        runs = tuple(PlannedRun(s.seed_init, s.run_id, asdict(s), metric) for s in self.settings)
        return NotebookJob(self.name, f"{self.settings[0].task}, {self.label}", dict(self.parameters), runs)

    def is_finished(self, output_dir: Path) -> bool:
        """Tell whether every record exists and is finished."""
        paths = [record_path(output_dir, run_id) for run_id in self.run_ids]
        return all(path.exists() and read_record(path).status in FINISHED for path in paths)


def read_plan(path: Path | str, scale: str | None = None) -> list[NotebookRun]:
    """Read a sweep plan, at one of its scales if it has any; `read_protocol` says what a plan is.

    Raises:
        InputError: as `read_protocol`, or a parameter that the template refuses.
    """
    return notebooks_of(read_protocol(path, scale))


def notebooks_of(protocol: Protocol) -> list[NotebookRun]:
    """Return the notebooks of a protocol, one per point.

    Raises:
        InputError: a parameter that the template refuses.
    """
    return [NotebookRun(point) for point in protocol.points]


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
    """Keep the parameters of a sweep's notebooks in its folder, for `stored_plan`; known ones are not added again."""
    folder = output_dir / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        path = folder / f"{run.stem}.json"
        text = json.dumps(run.parameters, indent=1, sort_keys=True)
        if not path.exists() or path.read_text() != text:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text)
            temporary.replace(path)


def stored_plan(output_dir: Path) -> list[NotebookRun]:
    """Return the notebooks of all sweeps that were started in this folder."""
    return [NotebookRun(json.loads(path.read_text())) for path in sorted((output_dir / "plans").glob("*.json"))]


def prepare(runs: list[NotebookRun], output_dir: Path, retry_failed: bool = False) -> None:
    """Keep the plan in the folder, and remove the records of runs that are to be made again.

    Raises:
        InputError: the folder cannot be written.
    """
    again: tuple[Status, ...] = ("killed", "timeout", "failed") if retry_failed else ("killed", "timeout")
    with storage_errors(output_dir):
        store_plan(runs, output_dir)
        for run_id in (run_id for run in runs for run_id in run.run_ids):
            path = record_path(output_dir, run_id)
            if path.exists() and read_record(path).status in again:
                path.unlink(missing_ok=True)
                unfinished_notebook(output_dir, run_id).unlink(missing_ok=True)
