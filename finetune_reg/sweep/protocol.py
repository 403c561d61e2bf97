"""From a YAML file to the points of a sweep: a grid, the same protocol at several scales, and what it reproduces."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError, shortened, unknown_name
from finetune_reg.experiment.atomic_writing import write_atomically
from finetune_reg.hyperparameters.typed_parameters import load_yaml
from finetune_reg.results.method_labels import MethodSpec, method_identity
from finetune_reg.results.published_results import PublishedRows, check_published_rows
from finetune_reg.sweep.grid import Point, list_of, mapping_of, not_a_plan, points_of

OF_A_SCALE = ("base", "grid", "exclude", "by_task")
MAX_SCALES = 20


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

    A plan has `base`, parameters of all runs; `grid`, lists of values that are combined, in the place of a value in
    `base`; `by_task`, parameters of single tasks: a value overrides `base`, a list replaces the one of the grid; and
    `exclude`, a list of partial points of the grid that are left out. A method in the grid is a name, or a mapping of a
    name to its hyperparameters; in `exclude`, a name stands for all its variants. Parameters that vary together are one
    entry of the grid, `method, epochs: [[vanilla, 6], [r_drop, 3]]`.

    With `scales`, a mapping of names to these four, it is made at one scale at a time. The entries of a scale's `base`
    and `grid` override those of the plan one by one; its `by_task` and `exclude` stand in the place of the plan's.
    `published` is a list of `{method: ..., rows: ...}`, with further parameters of the grid where needed: runs at these
    points reproduce the figures whose keys begin with `rows`. Here a name is a method with default hyperparameters.

    Raises:
        InputError: not a plan, an unknown scale or none where one must be chosen, an entry that would be ignored, an
            excluded value or a published method that is not in the grid, no published figure with such a key, or more
            than 10,000 notebooks or 100,000 runs.
    """
    plan = load_yaml(path)
    if not isinstance(plan, dict) or not set(plan) <= {*OF_A_SCALE, "scales", "published"}:
        raise not_a_plan(path)
    scales = plan.get("scales")
    if scales is None and scale is not None:
        raise InputError(f"{path} has no scales: leave out the scale {scale!r}.")
    points: dict[str | None, list[dict[str, Any]]]
    if scales is None:
        points = {None: points_of(plan, path)}
    else:
        points = {name: points_of(_at_scale(plan, name, path), path) for name in _checked_scales(scales, path)}
        if scale is None:
            raise InputError(f"{path} has the scales {', '.join(scales)}: choose one with --scale.")
        if scale not in scales:
            raise unknown_name(f"scale of {path}", scale, scales)
    published = _published(list_of(plan, "published"), list(points.values()), path)
    reproduced = [rows for rows in published if any(_reproduces(point, rows) for point in points[scale])]
    return Protocol(Path(path).stem, scale, points[scale], reproduced)


def store_protocol(protocol: Protocol, output_dir: Path) -> None:
    """Keep in a sweep's folder which published figures it reproduces, for `stored_protocols`."""
    kept = {"name": protocol.name, "scale": protocol.scale, "published": [asdict(rows) for rows in protocol.published]}
    write_json(output_dir / "protocols" / f"{protocol.title}.json", kept)


def stored_protocols(output_dir: Path) -> list[Protocol]:
    """Return the protocols with scales that were started in this folder, without their points.

    Raises:
        InputError: a file is damaged.
    """
    return [_stored_protocol(path) for path in sorted((output_dir / "protocols").glob("*.json"))]


def _stored_protocol(path: Path) -> Protocol:
    kept = read_json(path)
    try:
        return Protocol(kept["name"], kept["scale"], published=[PublishedRows(**rows) for rows in kept["published"]])
    except (KeyError, TypeError, InputError):
        raise InputError(
            f"{path} is not what a sweep keeps of its plan: move it away and start the sweep again."
        ) from None


def write_json(path: Path, content: Any) -> None:
    """Write a file so that readers see all of it or nothing, whoever else writes it at the same time."""
    text = json.dumps(content, indent=1, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    write_atomically(path, text)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read as a mapping in JSON: move it away and start the sweep again.")
    return content


def _checked_scales(scales: Any, path: Path | str) -> list[str]:
    if not isinstance(scales, dict) or not 0 < len(scales) <= MAX_SCALES:
        entries = f"names to base, grid, by_task and exclude, at most {MAX_SCALES} of them"
        raise InputError(f"{path} needs scales to be a mapping of {entries}.")
    for name, part in scales.items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f"{path} needs names of letters, digits, dots and dashes for its scales, not {name!r}.")
        if not isinstance(part, dict) or not set(part) <= set(OF_A_SCALE):
            raise InputError(f"{path} needs scale {name!r} to be a mapping with some of {', '.join(OF_A_SCALE)}.")
    return list(scales)


def _at_scale(plan: Mapping[str, Any], scale: str, path: Path | str) -> dict[str, Any]:
    part = plan["scales"][scale]
    merged = {name: part.get(name, plan.get(name)) for name in ("by_task", "exclude")}
    for name in ("base", "grid"):
        common, own = mapping_of(plan, name, path), mapping_of(part, name, path)
        merged[name] = common | own
    return merged


def _published(entries: Any, scales: list[list[Point]], path: Path | str) -> list[PublishedRows]:
    """Check that each entry has figures, and runs at some scale."""
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"method", "rows"} <= set(e) for e in entries):
        raise InputError(f"{path} needs published to be a list of mappings like `{{method: mixout, rows: KEY}}`.")
    published = []
    for entry in entries:
        at = {name: value for name, value in entry.items() if name not in ("method", "rows")}
        if not isinstance(entry["method"], str | dict) or not isinstance(entry["rows"], str):
            raise InputError(f"{path} needs a method and the beginning of a key in published, not {shortened(entry)}.")
        rows = PublishedRows(entry["method"], entry["rows"], at)
        if not any(_reproduces(point, rows) for points in scales for point in points):
            where = "".join(f" at {name} {value}" for name, value in at.items())
            raise InputError(f"{path}: published names {rows.label}{where}, which no grid of the plan has.")
        published.append(rows)
    check_published_rows(published, str(path))
    return published


def _reproduces(point: Point, rows: PublishedRows) -> bool:
    made, hyperparameters = point.get("method", "vanilla"), point.get("method_hyperparameters")
    if not all(name in point and point[name] == value for name, value in rows.at.items()):
        return False
    return isinstance(made, str) and _identity({made: hyperparameters}) == _identity(rows.method)


def _identity(method: MethodSpec) -> str:
    return _identity_of(json.dumps(method))


@cache
def _identity_of(method: str) -> str:
    return method_identity(json.loads(method))


def usable_folder(folder: Path) -> Path:
    """Return the absolute path of a folder that is to be written to, if it is one or could become one.

    Raises:
        InputError: it is a file.
        OSError: no folder can have this path: below a file, a loop of links, or too long a name.
    """
    folder = Path(os.path.abspath(folder))
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        return folder
    if not is_folder:
        raise InputError(f"{folder} is a file: give a folder, or a path where none is yet.")
    return folder
