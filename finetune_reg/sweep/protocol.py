"""From a YAML file to the points of a sweep: a grid, the same protocol at several scales, and what it reproduces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment.notebook_parameters import TEMPLATE_PARAMETERS
from finetune_reg.hyperparameters.typed_parameters import load_yaml
from finetune_reg.results.method_labels import method_identity
from finetune_reg.results.published_results import PublishedRows, check_published_rows

Point = dict[str, Any]
OF_A_SCALE = ("base", "grid", "exclude", "by_task")


@dataclass(frozen=True)
class Protocol:
    """A plan at one scale.

    Attributes:
        name: of the plan's file; `scale`: which of its scales, None if it has none.
        points: parameters of the template, one mapping per notebook.
        published: which published figures the runs reproduce.
    """

    name: str
    scale: str | None
    points: list[Point] = field(default_factory=list)
    published: list[PublishedRows] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Name and scale, for folders and headings."""
        return f"{self.name}-{self.scale}" if self.scale else self.name


def read_protocol(path: Path | str, scale: str | None = None) -> Protocol:
    """Read a plan.

    A plan has `base`, parameters of all runs; `grid`, lists of values that are combined; `by_task`, parameters of
    single tasks: a value overrides `base`, a list replaces the one of the grid; and `exclude`, a list of partial
    points of the grid that are left out. A method in the grid is a name, or a mapping of a name to its
    hyperparameters; in `exclude`, a name stands for all its variants.

    With `scales`, a mapping of names to these four, it is made at one scale at a time. The entries of a scale's `base`
    and `grid` override those of the plan one by one; its `by_task` and `exclude` stand in the place of the plan's.
    `published` is a list of `{method: ..., rows: ...}`, with further parameters of the grid where needed: runs at these
    points reproduce the figures whose keys begin with `rows`. Here a name is a method with default hyperparameters.

    Raises:
        InputError: not a plan, an unknown scale or none where one must be chosen, an excluded value or a published
            method that is not in the grid, or no published figure with such a key.
    """
    plan = load_yaml(path)
    if not isinstance(plan, dict) or not set(plan) <= {*OF_A_SCALE, "scales", "published"}:
        raise _not_a_plan(path)
    scales = plan.get("scales")
    if scales is None and scale is not None:
        raise InputError(f"{path} has no scales: leave out the scale {scale!r}.")
    points: dict[str | None, list[dict[str, Any]]]
    if scales is None:
        points = {None: _points(plan, path)}
    else:
        points = {name: _points(_at_scale(plan, name, path), path) for name in _checked_scales(scales, path)}
        if scale is None:
            raise InputError(f"{path} has the scales {', '.join(scales)}: choose one with --scale.")
        if scale not in scales:
            raise unknown_name(f"scale of {path}", scale, scales)
    published = _published(plan.get("published") or [], list(points.values()), path)
    reproduced = [rows for rows in published if any(_reproduces(point, rows) for point in points[scale])]
    return Protocol(Path(path).stem, scale, points[scale], reproduced)


def store_protocol(protocol: Protocol, output_dir: Path) -> None:
    """Keep in a sweep's folder which published figures it reproduces, for `stored_protocols`."""
    folder = output_dir / "protocols"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{protocol.title}.json"
    kept = {"name": protocol.name, "scale": protocol.scale, "published": [asdict(rows) for rows in protocol.published]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(kept, indent=1))
    temporary.replace(path)


def stored_protocols(output_dir: Path) -> list[Protocol]:
    """Return the protocols with scales that were started in this folder, without their points."""
    kept = [json.loads(path.read_text()) for path in sorted((output_dir / "protocols").glob("*.json"))]
    return [
        Protocol(entry["name"], entry["scale"], published=[PublishedRows(**rows) for rows in entry["published"]])
        for entry in kept
    ]


def _not_a_plan(path: Path | str) -> InputError:
    return InputError(
        f"{path} is not a sweep plan: it needs the mapping grid, or scales that have one, and may have base, by_task, "
        "exclude and published."
    )


def _checked_scales(scales: Any, path: Path | str) -> list[str]:
    if not isinstance(scales, dict) or not scales:
        raise InputError(f"{path} needs scales to be a mapping of names to base, grid, by_task and exclude.")
    for name, part in scales.items():
        if not isinstance(part, dict) or not set(part) <= set(OF_A_SCALE):
            raise InputError(f"{path} needs scale {name!r} to be a mapping with some of {', '.join(OF_A_SCALE)}.")
    return list(scales)


def _at_scale(plan: Mapping[str, Any], scale: str, path: Path | str) -> dict[str, Any]:
    part = plan["scales"][scale]
    merged = {name: part.get(name, plan.get(name)) for name in ("by_task", "exclude")}
    for name in ("base", "grid"):
        common, own = _mapping(plan, name, path), _mapping(part, name, path)
        merged[name] = common | own
    return merged


def _points(part: Mapping[str, Any], path: Path | str) -> list[Point]:
    """Return the parameters at the points of the grid that are not excluded."""
    base, grid, by_task = (_mapping(part, name, path) for name in ("base", "grid", "by_task"))
    if not grid:
        raise _not_a_plan(path)
    tasks = grid.get("task", [base.get("task")])
    for name in (*base, *grid):
        if name not in TEMPLATE_PARAMETERS:
            raise unknown_name("notebook parameter", name, TEMPLATE_PARAMETERS)
    for name, values in grid.items():
        _check_list(name, values, "its grid", path)
    for task, own in by_task.items():
        if task not in tasks:
            raise unknown_name("task in the grid to set parameters for", task, [str(task) for task in tasks])
        for name in _mapping(by_task, task, path):
            if name not in TEMPLATE_PARAMETERS:
                raise unknown_name("notebook parameter", name, TEMPLATE_PARAMETERS)
            if name in grid:
                _check_list(name, own[name], f"by_task of {task}", path)
    exclude = part.get("exclude") or []
    if not isinstance(exclude, list):
        raise InputError(f"{path} needs exclude to be a list of mappings, for example `- {{task: rte}}`.")
    grids = [(grid | {"task": [task]} if "task" in grid else grid, by_task.get(task, {})) for task in tasks]
    combined = []
    for of_task, own in grids:
        values = of_task | {name: value for name, value in own.items() if name in grid}
        fixed = base | {name: value for name, value in own.items() if name not in grid}
        combined += [fixed | dict(zip(values, point, strict=True)) for point in product(*values.values())]
    for excluded in exclude:
        _check_excluded(excluded, {name: [point[name] for point in combined] for name in grid}, path)
    kept = [point for point in combined if not any(_lies_in(point, excluded) for excluded in exclude)]
    if not kept:
        raise InputError(f"{path} excludes every run: take something out of its exclude.")
    return [dict(_parameters_at(point)) for point in kept]


def _mapping(part: Mapping[str, Any], name: str, path: Path | str) -> dict[str, Any]:
    value = part.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{path} needs {name} to be a mapping of parameter names, not {value!r}.")
    return value


def _check_list(name: str, values: Any, where: str, path: Path | str) -> None:
    if not isinstance(values, list) or not values:
        raise InputError(f"{path} needs a list of values for {name!r} in {where}, not {values!r}.")


def _check_excluded(excluded: Any, values: Mapping[str, list[Any]], path: Path | str) -> None:
    if not isinstance(excluded, dict) or not excluded:
        raise InputError(f"{path} needs mappings like `{{task: rte, method: mixout}}` in exclude, not {excluded!r}.")
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


def _parameters_at(point: Point) -> Iterator[tuple[str, Any]]:
    for name, value in point.items():
        if name == "method" and isinstance(value, dict):
            if len(value) != 1:
                raise InputError(f"A method in the grid is a name, or one name with its hyperparameters, not {value}.")
            ((method, hyperparameters),) = value.items()
            yield from (("method", method), ("method_hyperparameters", hyperparameters or {}))
        else:
            yield name, value


def _published(entries: Any, scales: list[list[Point]], path: Path | str) -> list[PublishedRows]:
    """Check that each entry has figures, and runs at some scale."""
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"method", "rows"} <= set(e) for e in entries):
        raise InputError(f"{path} needs published to be a list of mappings like `{{method: mixout, rows: KEY}}`.")
    published = []
    for entry in entries:
        at = {name: value for name, value in entry.items() if name not in ("method", "rows")}
        rows = PublishedRows(entry["method"], entry["rows"], at)
        if not any(_reproduces(point, rows) for points in scales for point in points):
            where = "".join(f" at {name} {value}" for name, value in at.items())
            raise InputError(f"{path}: published names {rows.label}{where}, which no grid of the plan has.")
        published.append(rows)
    check_published_rows(published, str(path))
    return published


def _reproduces(point: Point, rows: PublishedRows) -> bool:
    method = {point.get("method", "vanilla"): point.get("method_hyperparameters")}
    same_method = method_identity(method) == method_identity(rows.method)
    return same_method and all(name in point and point[name] == value for name, value in rows.at.items())
