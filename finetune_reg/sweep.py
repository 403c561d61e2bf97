"""A grid of papermill runs of the template notebook: one notebook per task and method, one record per seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment import RunSettings
from finetune_reg.notebook_execution import KERNEL_ARGUMENTS
from finetune_reg.notebook_parameters import settings_from
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.records import FINISHED, read_record, record_path
from finetune_reg.results import method_label
from finetune_reg.typed_parameters import load_yaml

TEMPLATE = NOTEBOOKS / "11_low_resource_glue.ipynb"
PLANS = NOTEBOOKS / "parameters"


@dataclass(frozen=True)
class NotebookRun:
    """One execution of the template: its parameters (without `output_dir`) and the runs it makes."""

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
    def description(self) -> str:
        """Task and method, for people."""
        first = self.settings[0]
        return f"{first.task}, {method_label(first.method, first.method_hyperparameters)}"

    @property
    def name(self) -> str:
        """File name of the executed notebook."""
        first = self.settings[0]
        return f"{first.task}-{first.method}-{first.run_id}.ipynb"

    def is_finished(self, output_dir: Path) -> bool:
        """Tell whether every record exists and is finished."""
        paths = [record_path(output_dir, run_id) for run_id in self.run_ids]
        return all(path.exists() and read_record(path).status in FINISHED for path in paths)


def read_plan(path: Path | str) -> list[NotebookRun]:
    """Read a sweep plan: `base`, parameters of all runs, and `grid`, lists of values that are combined.

    A method in the grid is a name, or a mapping of a name to its hyperparameters.

    Raises:
        InputError: not a plan, or a parameter that the template refuses.
    """
    plan = load_yaml(path)
    if not isinstance(plan, dict) or not set(plan) <= {"base", "grid"} or "grid" not in plan:
        raise InputError(f"{path} is not a sweep plan: it needs the mappings base and grid, and nothing else.")
    for name, values in plan["grid"].items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{path} needs a list of values for {name!r} in its grid, not {values!r}.")
    return [NotebookRun(plan.get("base", {}) | point) for point in _grid_points(plan["grid"])]


def find_plan(name: str) -> Path:
    """Return the file of a named plan.

    Raises:
        InputError: there is no plan of that name.
    """
    known = {path.stem: path for path in PLANS.glob("*.yaml")}
    if name not in known:
        raise unknown_name("plan", name, known)
    return known[name]


def run_notebook(run: NotebookRun, output_dir: Path) -> Path:
    """Execute the template with papermill in a fresh kernel; the executed notebook goes to `output_dir/notebooks`.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the notebook up to there is kept.
    """
    import papermill

    output = output_dir / "notebooks" / run.name
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    papermill.execute_notebook(
        TEMPLATE,
        output,
        parameters=run.parameters | {"output_dir": str(output_dir)},
        kernel_name="python3",
        progress_bar=False,
        start_timeout=120,
        extra_arguments=KERNEL_ARGUMENTS,
    )
    return output


def run_sweep(runs: list[NotebookRun], output_dir: Path) -> None:
    """Execute all runs that are not finished, one after the other, with a progress bar."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("notebooks", total=len(runs))
        for run in runs:
            progress.update(bar, description=run.description)
            if not run.is_finished(output_dir):
                run_notebook(run, output_dir)
            progress.advance(bar)


def _grid_points(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        if isinstance(point.get("method"), dict):
            ((point["method"], hyperparameters),) = point["method"].items()
            point["method_hyperparameters"] = hyperparameters or {}
        yield point
