"""Which notebooks come before which: read from their first cells, and drawn."""

from __future__ import annotations

import re
from typing import Any

import nbformat
from matplotlib.axes import Axes

from finetune_reg.paths import NOTEBOOKS
from finetune_reg.results.plotting import PALETTE


def prerequisites() -> dict[str, list[str]]:
    """Return, by the number of each notebook, the numbers that its first cell names as prerequisites."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        (line,) = re.findall(r"^Prerequisites?:.*", nbformat.read(path, as_version=4).cells[0].source, re.MULTILINE)
        found[path.stem[:2]] = re.findall(r"\b\d\d\b", line.split("Running time")[0])
    return found


def needed_directly(needs: dict[str, list[str]]) -> dict[str, list[str]]:
    """Leave out what another prerequisite needs itself."""
    return {
        name: [one for one in needed if not any(one in _all_before(other, needs) for other in needed)]
        for name, needed in needs.items()
    }


def draw_dependencies(axes: Axes, names: dict[str, str]) -> None:
    """Draw an arrow from each notebook to those that need it, from left to right.

    Args:
        axes: to draw on; its frame and ticks are removed.
        names: what to write below each number.
    """
    needs = needed_directly(prerequisites())
    columns: dict[int, list[str]] = {}
    for name in needs:
        columns.setdefault(_depth(name, needs), []).append(name)
    place = {
        name: (depth, (len(column) - 1) / 2 - row)
        for depth, column in columns.items()
        for row, name in enumerate(column)
    }
    style = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": PALETTE[0], "linewidth": 1.5}
    text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "bbox": style}
    boxes = {name: axes.text(x, y, f"{name}\n{names.get(name, '')}", **text) for name, (x, y) in place.items()}
    half = max(map(len, columns.values())) / 2
    axes.set(xlim=(-0.5, max(columns) + 0.5), ylim=(-half, half))
    figure: Any = axes.figure
    figure.draw_without_rendering()  # arrows end at boxes, which have their sizes once drawn
    for name, needed in needs.items():
        for one in needed:
            ends = {"patchA": boxes[one].get_bbox_patch(), "patchB": boxes[name].get_bbox_patch()}
            arrow = {"arrowstyle": "-|>", "color": "0.45", "shrinkA": 0, "shrinkB": 3, **ends}
            axes.annotate("", xy=place[name], xytext=place[one], arrowprops=arrow, zorder=1)
    axes.set_axis_off()


def _all_before(name: str, needs: dict[str, list[str]]) -> set[str]:
    return {before for one in needs[name] for before in {one} | _all_before(one, needs)}


def _depth(name: str, needs: dict[str, list[str]]) -> int:
    return 1 + max((_depth(one, needs) for one in needs[name]), default=-1)
