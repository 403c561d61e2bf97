"""The figures of the series: one palette per method, points always visible, readable on light and dark pages."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from html import escape
from io import BytesIO
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from finetune_reg.experiment.atomic_writing import in_one_step
from finetune_reg.experiment.records import FINISHED
from finetune_reg.results.run_tables import by_method, passes_of, score_matrix
from finetune_reg.results.statistics import expected_validation_performance

PALETTE = sns.color_palette("colorblind")
Palette = dict[str, tuple[float, float, float]]
LineStyle = Literal["-", "--", ":", "-."]
DASHES: tuple[LineStyle, ...] = get_args(LineStyle)
COLUMNS = 4
SAVED_DPI = 160
JITTER = 0.15  # of a row: points of one score stay apart
PAGE_DPI = 80  # of the page: an inch of a figure is that wide on it
METRIC_LABELS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews correlation",
    "spearman": "Spearman correlation",
    "pearson": "Pearson correlation",
}


def use_style(dpi: int = PAGE_DPI) -> None:
    """Set the style of all figures: white background, light grid, colour-blind-safe palette.

    Args:
        dpi: pixels for each inch of a figure in a notebook. More are sharper, and the figure is no larger on the page.
    """
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams |= {
        "figure.dpi": dpi,
        "savefig.dpi": 110,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.1,
    }


def method_palette(labels: list[str]) -> Palette:
    """Give each method a colour, in the order given."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def plot_scores(table: pd.DataFrame, axes: Axes, palette: Palette | None = None) -> None:
    """Draw the scores of one task: all points per method, a box from five on, and the best constant prediction.

    Args:
        table: rows of `results_table` for one task.
        palette: colours by method label; its order is the order of the rows.
    """
    palette = palette or method_palette(list(dict.fromkeys(table.method_label)))
    labels = list(palette)
    scored = table.loc[table.score.notna(), ["method_label", "score"]].astype({"score": float})
    scores = {label: of_method.to_numpy() for label, of_method in scored.groupby("method_label").score}
    boxed = [label for label in labels if len(scores.get(label, ())) >= 5]
    options: dict[str, Any] = {key: {"color": "0.3"} for key in ("medianprops", "whiskerprops", "capprops")}
    options |= {"orientation": "horizontal", "widths": 0.5, "showfliers": False, "patch_artist": True}
    places = [labels.index(label) for label in boxed]
    boxes = axes.boxplot([scores[label] for label in boxed], positions=places, **options)["boxes"] if boxed else []
    for label, box in zip(boxed, boxes, strict=True):
        box.set(facecolor=palette[label], edgecolor="0.3", alpha=0.35)
    rows = np.array([labels.index(label) for label in scored.method_label])
    rows = rows + np.random.default_rng(0).uniform(-JITTER, JITTER, len(scored))
    colours = [palette[label] for label in scored.method_label]
    axes.scatter(scored.score, rows, s=36, c=colours, edgecolors="white", linewidths=0.6, zorder=3)
    axes.axvline(_majority(table), color="0.35", linestyle="--", linewidth=1)
    axes.set(title=table.task.iloc[0], xlabel=METRIC_LABELS[table.metric.iloc[0]])
    axes.set(ylabel="", ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticks(range(len(labels)), [_wrapped(label) for label in labels])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", visible=False)


def plot_learning_curves(
    table: pd.DataFrame, axes: Axes, palette: Palette | None = None, average: bool = False
) -> None:
    """Draw the primary metric after each evaluated epoch, one line per run, coloured by method.

    Args:
        table: rows of `results_table` for one task.
        palette: colours by method label.
        average: draw runs faintly, and the mean of each method's runs over them.
    """
    palette = palette or method_palette(list(dict.fromkeys(table.method_label)))
    for label, runs in by_method(table):
        style: dict[str, Any] = {"color": palette[label], "linestyle": _dash(label, palette)}
        curves = _curves(runs)
        if not average:
            for _, curve in curves.items():
                axes.plot(curve.dropna(), **style, alpha=0.7, marker=".")
        elif not curves.empty:
            epochs, scores = curves.index.to_numpy(), curves.to_numpy().T
            lines = [
                np.column_stack([epochs[known], run[known]])
                for run, known in zip(scores, ~np.isnan(scores), strict=True)
            ]
            axes.add_collection(LineCollection(lines, **style, alpha=0.3, linewidth=0.8))
            axes.plot(curves.mean(axis=1), **style, linewidth=2, marker=".")
    axes.axhline(_majority(table), color="0.35", linestyle="--", linewidth=1)
    axes.set(title=table.task.iloc[0], xlabel="epoch", ylabel=METRIC_LABELS[table.metric.iloc[0]])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the primary metric of runs of one task: a row per evaluated epoch, a column per run that was evaluated."""
    metric = runs.metric.iloc[0]
    histories = enumerate(map(json.loads, runs.history))
    points = [(run, point["epoch"], point[metric]) for run, history in histories for point in history]
    return pd.DataFrame(points, columns=["run", "epoch", "score"]).pivot(index="epoch", columns="run", values="score")


def plot_expected_performance(table: pd.DataFrame, axes: Axes, palette: Palette | None = None) -> None:
    """Draw the expected best of k runs (with replacement) against what k runs cost, one line per method.

    Args:
        table: rows of `results_table` of one recipe for one task; methods without a finished run are left out.
        palette: colours by method label.
    """
    palette = palette or method_palette(list(dict.fromkeys(table.method_label)))
    for label, runs in by_method(table[table.status.isin(FINISHED)]):
        expected = expected_validation_performance(score_matrix(runs).to_numpy().ravel())
        cost = passes_of(runs).mean() * np.arange(1, len(expected) + 1)
        axes.plot(cost, expected, color=palette[label], linestyle=_dash(label, palette), marker=".")
    axes.set(title=table.task.iloc[0], xscale="log")
    axes.set_xlabel("forward + backward passes", fontsize="small")
    axes.set(ylabel=f"expected best\n{METRIC_LABELS[table.metric.iloc[0]]}")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def scores_figure(table: pd.DataFrame) -> Figure:
    """Draw the scores of all tasks side by side; the dashed line is the best constant prediction."""
    labels = table.method_label.nunique()
    return _facets(table, plot_scores, height=1.2 + 0.55 * labels, width=2.7, margin=2.2, legend=False, sharey=True)


def learning_curves_figure(table: pd.DataFrame) -> Figure:
    """Draw the learning curves of all tasks side by side, runs faintly, means boldly."""
    return _facets(table, partial(plot_learning_curves, average=True))


def expected_performance_figure(table: pd.DataFrame) -> Figure:
    """Draw the expected best score against cost, all tasks side by side."""
    return _facets(table, plot_expected_performance)


def improvement_figure(aggregates: pd.DataFrame) -> Figure:
    """Draw the probability of improvement over the baseline with its interval, one row per method.

    Args:
        aggregates: as from `results.aggregate_table`.
    """
    palette = method_palette(list(aggregates.method))
    compared = aggregates[aggregates.improvement.notna()].reset_index()
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.45 * len(compared)))
    row: Any
    for row in compared.itertuples():
        axes.plot([row.improvement_low, row.improvement_high], [row.Index] * 2, color=palette[row.method], linewidth=3)
        axes.plot(row.improvement, row.Index, "o", color=palette[row.method], markersize=8)
    axes.axvline(0.5, color="0.35", linestyle="--", linewidth=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(compared) - 0.5, -0.5), xlabel="probability of improvement over vanilla")
    axes.set_yticks(range(len(compared)), [_wrapped(label) for label in compared.method])
    axes.grid(axis="y", visible=False)
    return figure


def show(figure: Figure, alt: str, colours: int = 256) -> None:
    """Display a figure in a notebook with a text for those who cannot see it, and close it.

    JupyterLab shows the text of a picture only in HTML, and some formats, PDF for one, take no HTML: the output holds
    both, the same PNG.

    Args:
        alt: what the figure shows, in words.
        colours: of the PNG, 1 to 256; lines and text need few, and a notebook of many figures stays small.
    """
    from IPython.display import display
    from PIL import Image

    drawn, reduced = BytesIO(), BytesIO()
    figure.savefig(drawn, dpi=figure.dpi, bbox_inches="tight")
    plt.close(figure)
    few_colours = (
        Image.open(drawn).convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    few_colours.save(reduced, "png", optimize=True)
    picture = b64encode(reduced.getvalue()).decode()
    width = round(few_colours.width * PAGE_DPI / figure.dpi)
    html = f'<img src="data:image/png;base64,{picture}" width="{width}" alt="{escape(alt)}">'
    display(
        {"text/html": html, "image/png": picture, "text/plain": alt},
        metadata={"image/png": {"alt": alt, "width": width}},
        raw=True,
    )


def score_ranges(table: pd.DataFrame) -> str:
    """Say in words what `plot_scores` draws: the lowest and the highest score of each method, by task.

    Args:
        table: rows of `results_table`.
    """
    sentences = []
    for task, runs in table.groupby("task", sort=False):
        scored = runs[runs.score.notna()].astype({"score": float}).groupby("method_label", sort=False).score
        ranges = [f"{label} {low:.2f} to {high:.2f}" for label, low, high in scored.agg(["min", "max"]).itertuples()]
        sentences.append(f"{task}: {', '.join(ranges) or 'no score'}; best constant answer {_majority(runs):.2f}.")
    return " ".join(sentences)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in one step, in the format that the name of the file ends with, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(SAVED_DPI)
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # where matplotlib does it, it draws all for it, and then once more
        with plt.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
    with in_one_step(path) as temporary:
        figure.savefig(temporary, dpi=SAVED_DPI, format=path.suffix.removeprefix("."))
    plt.close(figure)
    return path


def _facets(
    table: pd.DataFrame,
    plot: Callable[[pd.DataFrame, Axes, Palette], None],
    height: float = 3.0,
    width: float = 3.1,
    margin: float = 0.3,
    legend: bool = True,
    sharey: bool = False,
) -> Figure:
    """Call `plot` on each task's rows, four to a line; sizes in inches."""
    tasks, palette = list(dict.fromkeys(table.task)), method_palette(list(dict.fromkeys(table.method_label)))
    columns = min(len(tasks), COLUMNS)
    lines = ceil(len(tasks) / columns)
    across = 1 if max(map(len, palette)) > 40 else min(columns, 3)
    below = 0.2 + 0.22 * ceil(len(palette) / across) if legend else 0.0
    size = (max(width * columns + margin, 4.5), height * lines + below)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=sharey, squeeze=False)
    for axes, task in zip(grid.flat, tasks, strict=False):
        plot(table[table.task == task], axes, palette)
    for axes in grid.flat[len(tasks) :]:
        axes.remove()
    if legend:
        lines_by_label = [Line2D([], [], color=c, linestyle=_dash(label, palette)) for label, c in palette.items()]
        figure.legend(
            lines_by_label, palette, loc="outside lower center", ncols=across, frameon=False, fontsize="small"
        )
    return figure


def _dash(label: str, palette: Palette) -> LineStyle:
    """Tell methods of equal colour apart when there are more methods than colours."""
    return DASHES[list(palette).index(label) // len(PALETTE) % len(DASHES)]


def _majority(table: pd.DataFrame) -> float:
    return float(table.majority_score.astype(float).max())


def _wrapped(label: str) -> str:
    return "\n".join(wrap(label, 30, break_long_words=False))
