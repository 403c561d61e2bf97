"""The figures that papers report, one row per figure, from `data/published_results.csv`, and our scores in their terms.

`data/README.md` describes the columns and how the file was made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_reg.comparable_runs import MethodSpec, method_words
from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment import SEEDS, RunSettings
from finetune_reg.paths import ROOT
from finetune_reg.records import FINISHED
from finetune_reg.results import RECIPE, counted_scores, figures_by_statistic, method_label, summary_table

PUBLISHED_RESULTS = ROOT / "data" / "published_results.csv"
COLUMNS = {
    "key": str,
    "paper": str,
    "table": str,
    "split": str,
    "model": str,
    "method": str,
    "method_name": str,
    "task": str,
    "setting": str,
    "metric": str,
    "unit": str,
    "n_train": "Int64",
    "n_runs": "Int64",
    "statistic": str,
    "value": float,
    "source": str,
    "read": str,
    "note": str,
}
# The tasks of the toy world and the tasks they are shaped like.
COUNTERPARTS = {"acceptability": "cola", "paraphrase": "mrpc", "entailment": "rte", "similarity": "stsb"}
# Metrics that tables print and that are means of ours; of `correlation` the kind is not stated.
MEANS_OF_METRICS = {"pearson_spearman_mean": ("pearson", "spearman"), "correlation": ("spearman",)}
# Averages that tables print; None: over tasks that were not read, beside which stands the mean over all of ours.
NO_SCORES = ("epoch", "update", "train_loss", "constant_prediction")
AVERAGES = {"average_cola_mrpc_rte_stsb": ("cola", "mrpc", "rte", "stsb"), "average_unknown_tasks": None}


@dataclass(frozen=True)
class PublishedRows:
    """Published figures that the runs of a method reproduce.

    Attributes:
        method: a method's name, with its default hyperparameters, or a mapping of the name to hyperparameters.
        rows: what the keys of the figures begin with, up to a slash.
        at: further settings of the runs, by name.

    Raises:
        InputError: an unknown method or hyperparameter.
    """

    method: MethodSpec
    rows: str
    at: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.label

    @property
    def label(self) -> str:
        """The method as one would construct it, as in the column `method_label` of results."""
        return method_words(self.method)


def load_published_results(path: Path | str = PUBLISHED_RESULTS) -> pd.DataFrame:
    """Read the published figures.

    Returns:
        One row per figure, indexed by `key`. Scores, their spreads and differences are in points (the score times
        100); a text that does not apply is empty, a number that does not apply is `<NA>`.

    Raises:
        InputError: no such file, or one with other columns.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no table of published figures {path}.")
    found = list(pd.read_csv(path, nrows=0).columns)
    if found != list(COLUMNS):
        raise InputError(f"{path} is not a table of published figures: it needs the columns {', '.join(COLUMNS)}.")
    table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values={"n_train": "", "n_runs": ""})
    return table.set_index("key")


def check_published_rows(published: Sequence[PublishedRows], where: str) -> None:
    """Check that there are figures for each.

    Raises:
        InputError: no key begins so.
    """
    prefixes = {prefix for key in load_published_results().index for prefix in _prefixes(key)} if published else set()
    for rows in published:
        if rows.rows not in prefixes:
            raise unknown_name(f"published figure ({where}) with a key that begins with", rows.rows, prefixes)


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
    rows = [row | scored for row in table.to_dict("records") for scored in _scores_of(row)]
    scores = pd.DataFrame(rows, columns=[*table.columns, "published_task", "published_metric", "trained_on"])
    return pd.concat([scores, *_averages(table)], ignore_index=True)


def summarize_as_published(table: pd.DataFrame) -> pd.DataFrame:
    """Summarize `scores_as_published`: as `summary_table`, without comparisons, with the columns added there."""
    named = ["published_task", "published_metric", "trained_on"]
    parts = [
        summary_table(scores, baseline="").assign(**dict(zip(named, names, strict=True)))
        for names, scores in scores_as_published(table).groupby(named, sort=False)
    ]
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
        As `results.beside_published`, with the columns of `scores_as_published`. Empty if none matches.
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


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split("/")
    yield from ("/".join(parts[:length]) for length in range(1, len(parts) + 1))


def _scores_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
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
                    below_majority=runs.below_majority.astype(bool).any(),
                    trained_on=f"mean of {', '.join(runs.task)}",
                )
                yield average.assign(metric="average", published_metric="average", published_task=name)
