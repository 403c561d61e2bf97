"""From a YAML file to the notebooks of a sweep: one per point of the grid, one run per seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment import RunSettings
from finetune_reg.notebook_parameters import TEMPLATE_PARAMETERS, settings_from
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.records import FINISHED, Status, read_record, record_path
from finetune_reg.results import method_label
from finetune_reg.sweep.worker import NotebookJob, PlannedRun, storage_errors, unfinished_notebook
from finetune_reg.tasks import get_task
from finetune_reg.typed_parameters import load_yaml

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


def read_plan(path: Path | str) -> list[NotebookRun]:
    """Read a sweep plan.

    A plan has `base`, parameters of all runs; `grid`, lists of values that are combined; and `exclude`, a list of
    partial points of the grid that are left out. A method in the grid is a name, or a mapping of a name to its
    hyperparameters; in `exclude`, a name stands for all its variants.

    Raises:
        InputError: not a plan, an excluded value that is not in the grid, or a parameter that the template refuses.
    """
    plan = load_yaml(path)
    if not isinstance(plan, dict) or not set(plan) <= {"base", "grid", "exclude"} or not plan.get("grid"):
        raise InputError(f"{path} is not a sweep plan: it needs the mappings grid and base, and may have exclude.")
    base, grid, exclude = plan.get("base") or {}, plan["grid"], plan.get("exclude") or []
    for name, mapping in (("base", base), ("grid", grid)):
        if not isinstance(mapping, dict):
            raise InputError(f"{path} needs {name} to be a mapping of parameter names, not {mapping!r}.")
    for name, values in grid.items():
        if name not in TEMPLATE_PARAMETERS:
            raise unknown_name("notebook parameter", name, TEMPLATE_PARAMETERS)
        if not isinstance(values, list) or not values:
            raise InputError(f"{path} needs a list of values for {name!r} in its grid, not {values!r}.")
    if not isinstance(exclude, list):
        raise InputError(f"{path} needs exclude to be a list of mappings, for example `- {{task: rte}}`.")
    for excluded in exclude:
        _check_excluded(excluded, grid, path)
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    kept = [point for point in points if not any(_lies_in(point, excluded) for excluded in exclude)]
    if not kept:
        raise InputError(f"{path} excludes every run: take something out of its exclude.")
    return [NotebookRun(base | dict(_parameters_at(point))) for point in kept]


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


def _check_excluded(excluded: Any, grid: Mapping[str, list[Any]], path: Path | str) -> None:
    if not isinstance(excluded, dict) or not excluded:
        raise InputError(f"{path} needs mappings like `{{task: rte, method: mixout}}` in exclude, not {excluded!r}.")
    for name, value in excluded.items():
        if name not in grid:
            raise unknown_name("parameter in the grid to exclude", name, grid)
        if not any(_lies_in({name: known}, {name: value}) for known in grid[name]):
            known = [str(next(iter(v)) if isinstance(v, dict) else v) for v in grid[name]]
            raise unknown_name(f"{name} in the grid to exclude", value, known)


def _lies_in(point: Mapping[str, Any], excluded: Mapping[str, Any]) -> bool:
    return all(point[name] == value or _named(name, point[name], value) for name, value in excluded.items())


def _named(name: str, entry: Any, value: Any) -> bool:
    return name == "method" and isinstance(entry, dict) and isinstance(value, str) and value in entry


def _parameters_at(point: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in point.items():
        if name == "method" and isinstance(value, dict):
            if len(value) != 1:
                raise InputError(f"A method in the grid is a name, or one name with its hyperparameters, not {value}.")
            ((method, hyperparameters),) = value.items()
            yield from (("method", method), ("method_hyperparameters", hyperparameters or {}))
        else:
            yield name, value
