"""Scores against what they cost: passes, training rows, and what pretraining had taught."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from finetune_reg.results.plotting import METRIC_LABELS, Palette, method_palette
from finetune_reg.results.run_tables import BASELINE

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
APART = 1.02  # factor on a logarithmic axis between neighbours, so that their intervals stay apart


def passes_figure(found: pd.DataFrame) -> Figure:
    """Draw, task by task, scores against passes with the frontier, and differences to vanilla of as many passes.

    Args:
        found: as from `equal_passes_table`, of one recipe.
    """
    palette = method_palette(list(dict.fromkeys(found.method)))
    tasks = list(dict.fromkeys(found.task))
    figure, grid = plt.subplots(len(tasks), 2, figsize=(9.2, 3.3 * len(tasks) + 0.5), squeeze=False)
    for (left, right), task in zip(grid, tasks, strict=True):
        of_task = found[found.task == task]
        _draw_frontier(of_task, left, palette)
        _draw_differences(of_task, right, palette)
    _legend(figure, grid[0][0], palette)
    return figure


def rows_figure(summary: pd.DataFrame) -> Figure:
    """Draw, task by task, mean scores with their 95 % t intervals against the number of training rows.

    Args:
        summary: as from `summary_table`; a method has one row per task and number of training rows.
    """
    palette = method_palette(list(dict.fromkeys(summary.method)))
    tasks = list(dict.fromkeys(summary.task))
    figure, grid = plt.subplots(1, len(tasks), figsize=(0.6 + 5.6 * len(tasks), 3.9), squeeze=False)
    for axes, task in zip(grid[0], tasks, strict=True):
        of_task = summary[summary.task == task]
        for label, x, rows in _apart(of_task, "n_train", palette):
            _draw_intervals(axes, x, rows, ("mean", "low", "high"), label, palette)
        _logarithmic(axes, of_task.n_train, "training rows")
        axes.set(title=task, ylabel=METRIC_LABELS[of_task.metric.iloc[0]])
    _legend(figure, grid[0][0], palette)
    return figure


def forgetting_figure(found: pd.DataFrame) -> Figure:
    """Draw, method by method, what was forgotten, the distance from the pretrained weights and the score.

    Args:
        found: as from `forgetting_table`, of one task and recipe; its order is that of the methods from the top.
    """
    labels = {
        "forgotten": "rise of the\nmasked-token loss (nats)",
        "distance": "distance from\npretrained weights",
        "score": METRIC_LABELS[found.metric.iloc[0]],
    }
    figure, grid = plt.subplots(1, len(labels), figsize=(9.6, 1.0 + 0.25 * len(found)), sharey=True)
    places = range(len(found))
    for axes, (name, label) in zip(grid, labels.items(), strict=True):
        value, low, high = (found[f"{name}{part}"].astype(float) for part in ("", "_low", "_high"))
        axes.errorbar(value, places, xerr=[value - low, high - value], fmt="o", markersize=5, linewidth=1)
        axes.set(xlabel=label, ylim=(len(found) - 0.5, -0.5))
    grid[0].set_yticks(places, found.method, fontsize="small")
    return figure


def _draw_frontier(found: pd.DataFrame, axes: Axes, palette: Palette) -> None:
    """Draw mean scores against passes, search included, and a line through the rows that are efficient."""
    searched = found.search_passes.notna().any()
    costed = found.assign(cost=found.passes + found.search_passes.fillna(0.0))
    efficient = []
    for label, x, rows in _apart(costed, "cost", palette):
        _draw_intervals(axes, x, rows, ("mean", "low", "high"), label, palette)
        efficient += [(x[i], rows["mean"][i]) for i in rows.index[rows.efficient.astype(bool)]]
    places, scores = zip(*sorted(efficient), strict=True)
    axes.plot(places, scores, color="0.55", linewidth=6, alpha=0.35, solid_capstyle="round", zorder=0)
    axes.plot(places, scores, "o", markersize=13, markerfacecolor="none", color="0.35", zorder=1)
    what = "passes of the search and of one run" if searched else "passes of one run"
    _logarithmic(axes, costed[costed.method == BASELINE].cost, what)
    axes.set(title=found.task.iloc[0], ylabel=METRIC_LABELS[found.metric.iloc[0]])


def _draw_differences(found: pd.DataFrame, axes: Axes, palette: Palette) -> None:
    compared = found[found.difference.notna()]
    for label, x, rows in _apart(compared, "baseline_passes", palette):
        _draw_intervals(axes, x, rows, ("difference", "difference_low", "difference_high"), label, palette)
    axes.axhline(0.0, color="0.35", linestyle="--", linewidth=1)
    _logarithmic(axes, found[found.method == BASELINE].passes, "passes of one run")
    axes.set(title=found.task.iloc[0], ylabel="minus vanilla of as many passes")


def _draw_intervals(
    axes: Axes, x: pd.Series, rows: pd.DataFrame, names: tuple[str, str, str], label: str, palette: Palette
) -> None:
    value, low, high = (rows[name].astype(float) for name in names)
    marker = MARKERS[list(palette).index(label) % len(MARKERS)]
    axes.errorbar(
        x,
        value,
        yerr=[value - low, high - value],
        color=palette[label],
        marker=marker,
        markersize=5,
        linewidth=1,
        label=label,
    )


def _apart(found: pd.DataFrame, name: str, palette: Palette) -> Iterator[tuple[str, pd.Series, pd.DataFrame]]:
    """Yield each method with its places on the logarithmic axis, moved a little, and its rows, in their order."""
    for i, label in enumerate(palette):
        rows = found[found.method == label].sort_values(name)
        if len(rows):
            yield label, rows[name].astype(float) * APART ** (i - len(palette) / 2), rows


def _logarithmic(axes: Axes, places: pd.Series, label: str) -> None:
    """Make the x axis logarithmic, with a tick at each place."""
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_locator(FixedLocator(sorted(places.unique())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))


def _legend(figure: Figure, axes: Axes, palette: Palette) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(palette), 3)
    below = 0.25 * ceil(len(palette) / columns)
    figure.set_figheight(figure.get_figheight() + below)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
