"""A grid of parameters and its exceptions -> points, one notebook each; whatever would be ignored is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError, shortened, unknown_name
from finetune_reg.experiment.notebook_parameters import TEMPLATE_PARAMETERS
from finetune_reg.experiment.settings import SETTING_DEFAULTS

Point = dict[str, Any]
MAX_NOTEBOOKS, MAX_RUNS, MAX_EXCLUDED = 10_000, 100_000, 100


def points_of(part: Mapping[str, Any], path: Path | str) -> list[Point]:
    """Return the parameters at the points of a grid that are not excluded, one mapping per notebook.

    Args:
        part: `base`, `grid`, `by_task` and `exclude`, as `read_protocol` describes them.
        path: of the plan, for messages.

    Raises:
        InputError: as `read_protocol`.
    """
    base, grid, by_task = (mapping_of(part, name, path) for name in ("base", "grid", "by_task"))
    if not grid:
        raise not_a_plan(path)
    names = [name for entry in grid for name in _names_in(entry)]
    for name in (*base, *names):
        check_parameter_name(name)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has {twice[0]} in two entries of its grid: leave it out of one.")
    for entry, values in grid.items():
        _check_list(entry, values, "its grid", path)
    tasks = grid.get("task", [base.get("task", SETTING_DEFAULTS["task"])])
    for task in tasks:
        if not isinstance(task, str):
            raise InputError(f"{path} needs the names of tasks, not {shortened(task)}.")
    for task in by_task:
        if task not in tasks:
            raise unknown_name("task in the grid to set parameters for", task, tasks)
        for name, value in mapping_of(by_task, task, path).items():
            check_parameter_name(name)
            if name == "task":
                raise InputError(f"{path} sets the task in by_task of {task}: it is {task} there, leave it out.")
            if name in grid:
                _check_list(name, value, f"by_task of {task}", path)
            elif name in names:
                raise InputError(f"{path} sets {name} in by_task of {task}, where the grid does: leave it out.")
    combined = _combined(base, grid, {task: mapping_of(by_task, task, path) for task in tasks}, path)
    exclude = list_of(part, "exclude")
    if not isinstance(exclude, list) or len(exclude) > MAX_EXCLUDED:
        example = "a list of mappings, for example `- {task: rte}`"
        raise InputError(f"{path} needs exclude to be {example}, at most {MAX_EXCLUDED} of them.")
    known = {name: [point[name] for point in combined] for name in names}
    for excluded in exclude:
        _check_excluded(excluded, known, path)
        if not any(_lies_in(point, excluded) for point in combined):
            raise InputError(f"{path} excludes {shortened(excluded)}, which is no point of its grid: leave it out.")
    kept = [point for point in combined if not any(_lies_in(point, excluded) for excluded in exclude)]
    if not kept:
        raise InputError(f"{path} excludes every run: take something out of its exclude.")
    points = [_parameters_at(point, path) for point in kept]
    n_runs = sum(len(seeds) for point in points if isinstance(seeds := point.get("seeds", [0]), list))
    if n_runs > MAX_RUNS:
        raise InputError(f"{path} has {n_runs:,} runs, more than {MAX_RUNS:,}: divide it into several plans.")
    return points


def not_a_plan(path: Path | str) -> InputError:
    """Build the error for a file that is something else."""
    return InputError(
        f"{path} is not a sweep plan: it needs the mapping grid, or scales that have one, and may have base, by_task, "
        "exclude and published."
    )


def _combined(
    base: dict[str, Any], grid: dict[str, list[Any]], by_task: dict[str, dict[str, Any]], path: Path | str
) -> list[Point]:
    """Return all points of the grid of each task, with names of methods and mappings as the plan has them."""
    grids = []
    for task, own in by_task.items():
        of_task = grid | ({"task": [task]} if "task" in grid else {})
        grids.append((of_task | {name: own[name] for name in own if name in grid}, own))
    n_points = sum(prod(map(len, values.values())) for values, _ in grids)
    if n_points > MAX_NOTEBOOKS:
        raise InputError(f"{path} has {n_points:,} points, more than {MAX_NOTEBOOKS:,}: shorten the lists of its grid.")
    combined = []
    for values, own in grids:
        fixed = base | {name: own[name] for name in own if name not in grid}
        entries = [[_parts_of(entry, value) for value in listed] for entry, listed in values.items()]
        combined += [fixed | {name: part for parts in point for name, part in parts} for point in product(*entries)]
    return combined


def _names_in(entry: str) -> list[str]:
    """Return the parameters of an entry of a grid: one, or several that vary together, `method, epochs`."""
    return [name.strip() for name in entry.split(",")]


def _parts_of(entry: str, value: Any) -> list[tuple[str, Any]]:
    names = _names_in(entry)
    return list(zip(names, value, strict=True)) if len(names) > 1 else [(entry, value)]


def check_parameter_name(name: str) -> None:
    """Check that the template has such a parameter, and that its value is not the output folder.

    Raises:
        InputError: it does not, or it is.
    """
    if name == "output_dir":
        raise InputError("The folder of a run is no parameter: leave output_dir out and give --output-dir.")
    if name not in TEMPLATE_PARAMETERS:
        raise unknown_name("notebook parameter", name, TEMPLATE_PARAMETERS)


def mapping_of(part: Mapping[str, Any], name: str, path: Path | str) -> dict[str, Any]:
    """Return an entry that is a mapping; empty, if it is missing or null.

    Raises:
        InputError: it is something else.
    """
    value = part.get(name)
    if not isinstance(value, dict | None):
        raise InputError(f"{path} needs {name} to be a mapping of parameter names, not {shortened(value)}.")
    return value or {}


def list_of(part: Mapping[str, Any], name: str) -> Any:
    """Return an entry; an empty list, if it is missing or null."""
    return [] if part.get(name) is None else part[name]


def _check_list(name: str, values: Any, where: str, path: Path | str) -> None:
    if not isinstance(values, list) or not values:
        raise InputError(f"{path} needs a list of values for {name!r} in {where}, not {shortened(values)}.")
    names, seen = _names_in(name), set()
    if len(names) > 1 and "task" in names:
        raise InputError(f"{path} varies task together with others: give it an entry of its own in {where}.")
    for value in values:
        if len(names) > 1 and not (isinstance(value, list) and len(value) == len(names)):
            raise InputError(
                f"{path} needs lists of {len(names)} values, one each of {name}, in {where}, not {shortened(value)}."
            )
        if (text := json.dumps(value, sort_keys=True)) in seen:
            raise InputError(f"{path} has {shortened(value)} twice in the list of {name!r} in {where}: leave one out.")
        seen.add(text)


def _check_excluded(excluded: Any, values: Mapping[str, list[Any]], path: Path | str) -> None:
    if not isinstance(excluded, dict) or not excluded:
        raise InputError(
            f"{path} needs mappings like `{{task: rte, method: mixout}}` in exclude, not {shortened(excluded)}."
        )
    for name, value in excluded.items():
        if name not in values:
            raise unknown_name("parameter in the grid to exclude", name, values)
        if not any(_lies_in({name: known}, {name: value}) for known in values[name]):
            known = [str(next(iter(v)) if isinstance(v, dict) else v) for v in values[name]]
            raise unknown_name(f"{name} in the grid to exclude", value, known)


def _lies_in(point: Mapping[str, Any], excluded: Mapping[str, Any]) -> bool:
    return all(point[name] == value or _named(name, point[name], value) for name, value in excluded.items())


def _named(name: str, entry: Any, value: Any) -> bool:
    return name == "method" and isinstance(entry, dict) and isinstance(value, str) and value in entry


def _parameters_at(point: Point, path: Path | str) -> Point:
    """Return a point as the template takes it: a method with hyperparameters becomes two parameters."""
    method = point.get("method")
    if not isinstance(method, dict):
        return point
    if len(method) != 1:
        words = "A method in the grid is a name, or one name with its hyperparameters"
        raise InputError(f"{words}, not {shortened(method)}.")
    if "method_hyperparameters" in point:
        raise InputError(f"{path} has hyperparameters of {shortened(method)} twice: leave method_hyperparameters out.")
    ((name, hyperparameters),) = method.items()
    own = {"method": name, "method_hyperparameters": {} if hyperparameters is None else hyperparameters}
    return {key: value for key, value in point.items() if key != "method"} | own
