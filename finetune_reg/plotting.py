"""The figures of the series: one palette per method, points always visible, readable on light and dark pages."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PALETTE = sns.color_palette("colorblind")
METRIC_LABELS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "spearman": "Spearman correlation",
    "pearson": "Pearson correlation",
}


def use_style() -> None:
    """Set the style of all figures: white background, light grid, colour-blind-safe palette."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams |= {
        "figure.dpi": 80,
        "savefig.dpi": 110,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
    }


def method_palette(labels: list[str]) -> dict[str, tuple[float, float, float]]:
    """Give each method a colour, in the order given."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def plot_scores(table: pd.DataFrame, axes: Axes, palette: dict | None = None) -> None:
    """Draw the scores of one task: all points per method, a box from five on, and the best constant prediction.

    Args:
        table: rows of `results_table` for one task.
        palette: colours by method label; its order is the order of the rows.
    """
    palette = palette or method_palette(list(dict.fromkeys(table.method_label)))
    labels = list(palette)
    options = {"x": "score", "y": "method_label", "hue": "method_label", "order": labels, "ax": axes}
    options |= {"palette": palette, "legend": False}
    boxed = table[table.groupby("method_label").score.transform("count") >= 5]
    if len(boxed):
        sns.boxplot(boxed, **options, fliersize=0, width=0.5, boxprops={"alpha": 0.35})
    sns.stripplot(table, **options, jitter=0.15, size=6, edgecolor="white", linewidth=0.6)
    axes.axvline(table.majority_score.iloc[0], color="0.35", linestyle="--", linewidth=1)
    axes.set(title=table.task.iloc[0], xlabel=METRIC_LABELS[table.metric.iloc[0]])
    axes.set(ylabel="", ylim=(len(labels) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def plot_learning_curves(table: pd.DataFrame, axes: Axes, palette: dict | None = None) -> None:
    """Draw the primary metric after each evaluated epoch, one line per run, coloured by method.

    Args:
        table: rows of `results_table` for one task.
    """
    palette = palette or method_palette(list(dict.fromkeys(table.method_label)))
    for run in table.itertuples():
        history = pd.DataFrame(json.loads(run.history))
        if len(history):
            axes.plot(history.epoch, history[run.metric], color=palette[run.method_label], alpha=0.7, marker=".")
    axes.axhline(table.majority_score.iloc[0], color="0.35", linestyle="--", linewidth=1)
    axes.set(title=table.task.iloc[0], xlabel="epoch", ylabel=METRIC_LABELS[table.metric.iloc[0]])


def scores_figure(table: pd.DataFrame) -> Figure:
    """Draw all tasks of a table side by side; the dashed line is the best constant prediction."""
    tasks = list(dict.fromkeys(table.task))
    labels = list(dict.fromkeys(table.method_label))
    palette = method_palette(labels)
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(3.1 * len(tasks) + 1.5, 1.2 + 0.55 * len(labels)), sharey=True, squeeze=False
    )
    for axes, task in zip(grid[0], tasks, strict=True):
        plot_scores(table[table.task == task], axes, palette)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path
