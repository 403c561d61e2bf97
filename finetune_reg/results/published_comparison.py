"""Our results beside published figures: our scores in the terms of the papers, and which figures belong to which."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_reg.experiment.records import FINISHED
from finetune_reg.experiment.settings import SEEDS, RunSettings
from finetune_reg.results.method_labels import method_label
from finetune_reg.results.published_results import PublishedRows
from finetune_reg.results.run_tables import RECIPE, counted_scores, summary_table

PUBLISHED_STATISTICS = ["mean", "std", "median", "max", "value", "failed_fraction"]
# The tasks of the toy world and the tasks they are shaped like.
COUNTERPARTS = {"acceptability": "cola", "paraphrase": "mrpc", "entailment": "rte", "similarity": "stsb"}
# Metrics that tables print and that are means of ours; of `correlation` the kind is not stated.
MEANS_OF_METRICS = {"pearson_spearman_mean": ("pearson", "spearman"), "correlation": ("spearman",)}
NO_SCORES = ("epoch", "update", "train_loss", "constant_prediction")
# Averages that tables print; None: over tasks that were not read, beside which stands the mean over all of ours.
AVERAGES = {"average_cola_mrpc_rte_stsb": ("cola", "mrpc", "rte", "stsb"), "average_unknown_tasks": None}


def beside_published(summary: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Put published figures beside ours: same method, task, metric and model.

    Hyperparameters, number of training rows and number of runs may differ; the columns tell. For figures of other
    models see `beside_rows`.

    Args:
        summary: as from `summary_table`.
        published: one row per figure, with the columns paper, method_name, model, task, metric, n_train, statistic,
            value (points) and source, as from `load_published_results`; only scores in points, on the development
            set, are used where it has the columns unit and split.

    Returns:
        One row per row of `summary` and published method: the columns of both, the published ones with the prefix
        `published_`, a column for each of `PUBLISHED_STATISTICS`. Empty if none matches.
    """
    for column, wanted in (("unit", "points"), ("split", "dev")):
        published = published[published[column] == wanted] if column in published else published
    same = ["method_name", "task", "metric", "model"]
    figures = figures_by_statistic(published)
    figures = figures.assign(**{name: figures[f"published_{name}"] for name in same})
    model = summary.model_name.map(lambda name: Path(name).name.lower())
    return summary.assign(model=model).merge(figures, on=same)


def figures_by_statistic(published: pd.DataFrame) -> pd.DataFrame:
    """Return published figures with one row per method, task, metric and model, and a column per statistic.

    All columns have the prefix `published_`. `published_note` joins the notes of the statistics.
    """
    facts = ["method_name", "task", "metric", "model", "paper", "source", "method", "n_train", "n_runs", "setting"]
    facts = [name for name in (*facts, "split", "read") if name in published]
    used = published[published.statistic.isin(PUBLISHED_STATISTICS)]
    values = used.groupby([*facts, "statistic"], dropna=False, sort=False).value.first()
    figures = values.unstack("statistic").reindex(columns=PUBLISHED_STATISTICS).reset_index()
    if "note" in used:
        notes = used.groupby(facts, dropna=False, sort=False).note
        figures = figures.merge(notes.agg(lambda texts: _joined("; ".join(texts).split("; "))).reset_index(), on=facts)
    return figures.add_prefix("published_")


def scores_as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of runs as tables of papers name them.

    Args:
        table: as from `results_table`.

    Returns:
        One row per run and score of its last epoch, in the columns of `table` with `score` and `metric` replaced, and
        three more: `published_task`, the task it was scored on, for a toy task the one it is shaped like;
        `published_metric`; and `trained_on`, our task. Beside all metrics of the run's task these are those of the
        tasks of `evaluate_on`, `MEANS_OF_METRICS` and `AVERAGES`.
    """
    rows = [{**row, **scored} for row in table.to_dict("records") for scored in _scores_of(row)]
    scores = pd.DataFrame(rows, columns=[*table.columns, "published_task", "published_metric", "trained_on"])
    return pd.concat([scores, *_averages(table)], ignore_index=True)


def summarize_as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Summarize `scores_as_published`: as `summary_table`, without comparisons, with the columns added there."""
    named = ["published_task", "published_metric", "trained_on"]
    parts = []
    for names, scores in scores_as_published(table).groupby(named, sort=False):
        added: dict[str, Any] = dict(zip(named, names, strict=True))
        parts.append(summary_table(scores, baseline="").assign(**added))
    return pd.concat(parts, ignore_index=True)


def beside_rows(
    summary: pd.DataFrame,
    published: pd.DataFrame,
    rows: Sequence[PublishedRows],
    planned: Sequence[RunSettings] = (),
) -> pd.DataFrame:
    """Put published figures, chosen by their keys, beside ours: same task and metric, perhaps of another model.

    Where runs and figures are of several numbers of training rows, those that are equal belong together, a whole
    training set and the largest number; if none are, and there are equally many, they are matched in order.

    Args:
        summary: as from `summarize_as_published`.
        published: as from `load_published_results`.
        rows: which figures the runs of a plan reproduce.
        planned: the runs of that plan, made or not, for their numbers of training rows.

    Returns:
        As `beside_published`, with the columns of `scores_as_published`. Empty if none matches.
    """
    parts = []
    for entry in rows:
        is_ours = summary.method == entry.label
        for name, value in entry.at.items():
            is_ours &= summary[name].isna() if value is None else summary[name] == value
        ours = summary[is_ours].assign(size=summary.n_train.fillna(math.inf))
        figures = figures_by_statistic(published[published.index.str.startswith(f"{entry.rows}/")])
        beside = ours.merge(figures, on=["published_task", "published_metric"])
        for (task, _, _), part in beside.groupby(["trained_on", "published_task", "published_metric"], sort=False):
            sizes = {_size(run.n_train) for run in planned if run.task == task and _label(run) == entry.label}
            parts.append(part[_of_equal_size(part, sorted(sizes | set(part["size"])))])
    return pd.concat(parts, ignore_index=True).drop(columns="size") if parts else pd.DataFrame()


def _of_equal_size(beside: pd.DataFrame, ours: list[float]) -> pd.Series:
    """Tell which rows of one task and metric put runs beside figures of as many training rows.

    Args:
        ours: all numbers of training rows of the plan, ascending; infinity for whole training sets.
    """
    size, published = beside["size"], beside.published_n_train
    theirs = sorted(published.dropna().unique())
    if len(ours) == 1 or not theirs:
        return size.notna()
    ours, size = [theirs[-1] if n == math.inf else n for n in ours], size.replace(math.inf, theirs[-1])
    if set(ours) & set(theirs):
        return published.isna() | (published == size).fillna(False)
    if len(ours) != len(theirs):
        return published.isna()
    return published.isna() | (published.map(theirs.index, na_action="ignore") == size.map(ours.index))


def _size(n_train: int | None) -> float:
    return math.inf if n_train is None else n_train


def _label(run: RunSettings) -> str:
    return method_label(run.method, run.method_hyperparameters)


def _scores_of(row: Mapping[Hashable, Any]) -> Iterator[dict[str, Any]]:
    history, transfer = json.loads(row["history"]), json.loads(row.get("transfer") or "{}")
    own = history[-1] if history and row["status"] == "ok" else {row["metric"]: None}
    for task, found in {row["task"]: own, **transfer}.items():
        scores = {name: value for name, value in found.items() if name not in NO_SCORES}
        for name, parts in MEANS_OF_METRICS.items():
            if set(parts) <= set(scores):
                scores[name] = sum(scores[part] for part in parts) / len(parts)
        for name, value in scores.items():
            yield {
                "score": value,
                "metric": name,
                "published_task": COUNTERPARTS.get(task, task),
                "published_metric": name,
                "trained_on": row["task"],
            }


def _averages(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Average the primary metrics over tasks, seed by seed; a diverged run counts as the best constant prediction."""
    finished = table[table.status.isin(FINISHED)]
    finished = finished.assign(
        score=counted_scores(finished),
        published_task=finished.task.replace(COUNTERPARTS),
    )
    for name, wanted in AVERAGES.items():
        tasks = set(wanted or finished.published_task)
        of_tasks = finished[finished.published_task.isin(tasks)]
        for _, runs in of_tasks.groupby(["method_label", *RECIPE, *SEEDS], dropna=False, sort=False):
            if len(runs) == len(tasks) == runs.published_task.nunique():
                average = runs.head(1).assign(
                    score=runs.score.mean(),
                    task=f"mean of {', '.join(runs.task)}",
                    below_majority=bool(runs.below_majority.astype(bool).any()),
                    trained_on=f"mean of {', '.join(runs.task)}",
                )
                yield average.assign(metric="average", published_metric="average", published_task=name)


def _joined(texts: list[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))
