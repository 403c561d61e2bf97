"""The tables of a report, formatted for people: headers, rows and the legend that says what the columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from finetune_reg.experiment.settings import RunSettings
from finetune_reg.results.method_labels import method_label
from finetune_reg.results.published_comparison import AVERAGES, COUNTERPARTS
from finetune_reg.results.run_tables import SETTING, short_name
from finetune_reg.tasks import TASKS

HEADERS = ["task", "method", "n", "failed", "mean ± std", "95 % interval", "median", "max", "minus vanilla", "p"]
HEADERS += ["p (Holm)", "passes"]
SCORES_LEGEND = """n: finished seeds. Failed: seeds that diverged or do not beat the best constant prediction. Scores
are of the last epoch on the development set, times 100. The standard deviation has ddof 1; the interval is the 95 % t
interval of the mean. Minus vanilla: mean paired difference on equal seeds with its 95 % t interval. p: two-sided
sign-flip permutation test; p (Holm): the same, corrected for all comparisons with one baseline. Passes: forward and
backward, mean of the runs."""
EQUAL_PASSES_LEGEND = """Rate: where a search is counted, the one that was chosen on held-out rows. Passes: forward and
backward of a run; of the search: of all runs among which its rate was chosen. Minus vanilla: mean paired difference on
equal seeds to vanilla of as many passes, with its 95 % t interval. p (Holm): two-sided sign-flip permutation test,
corrected for all comparisons of the task. Efficient: no other row of the task is as cheap and better; another set of
seeds may change that."""
AGGREGATES_LEGEND = """Interquartile mean: mean of the middle half of all scores, times 100, with a 95 % t interval from
the jackknife over seeds. Probability of improvement: that a run beats one of vanilla on a task drawn at random, with a
95 % interval stratified by task; no interval where one side wins every pair. A diverged run counts as the best constant
prediction. Passes: forward and backward, mean of all runs."""
PUBLISHED_LEGEND = """Scores times 100: each row of ours below the published rows that it reproduces. Published ones
are as printed; "(not stated)" is a score whose statistic the paper does not state. Failed: runs that diverged or are no
better than the best constant prediction. Ours: mean ± standard deviation with ddof 1, and the 95 % t interval of the
mean, all of the last epoch. Where model, data, training rows or recipe differ these are two experiments, not a
replication."""
READ = {"": "", "read": "", "second_hand": "second hand", "digitized": "read off the figure"}
DEVELOPMENT_SPLITS = ("validation", "validation_matched")


@dataclass(frozen=True)
class PageTable:
    """A table of texts.

    Attributes:
        rows: one cell per header; adjacent rows with the same first cell are shown as a group.
        texts: how many of the first columns are text; the others are numbers.
        marked: rows with this second cell are shaded, in place of every other row.
    """

    headers: list[str]
    rows: list[list[str]]
    texts: int
    legend: str = ""
    marked: str = ""

    @property
    def groups(self) -> list[tuple[str, list[list[str]]]]:
        """Adjacent rows with the same first cell, by that cell."""
        return [(first, list(rows)) for first, rows in groupby(self.rows, key=itemgetter(0))]


def scores_table(summary: pd.DataFrame) -> PageTable:
    """Format `results.summary_table`, scores times 100."""
    rows = []
    row: Any
    for row in summary.itertuples():
        paired = getattr(row, "paired_difference", math.nan)
        compared = not math.isnan(paired)
        rows.append(
            [
                f"{row.task} ({row.metric})",
                row.method,
                *_summary_cells(row),
                f"{100 * paired:+.1f} {_interval(row.paired_low, row.paired_high)}" if compared else "",
                f"{row.paired_p_value:.3f}" if compared else "",
                f"{row.paired_holm:.3f}" if compared else "",
                _count(row.passes),
            ]
        )
    return PageTable(HEADERS, rows, 2, SCORES_LEGEND)


def aggregates_table(aggregates: pd.DataFrame) -> PageTable:
    """Format `results.aggregate_table`, the interquartile mean times 100."""
    headers = ["method", "tasks", "runs per task", "passes per run", "interquartile mean", "probability of improvement"]
    methods: Iterable[Any] = aggregates.itertuples()
    rows = [
        [
            row.method,
            str(row.tasks),
            str(row.runs),
            _count(row.mean_passes),
            f"{_number(100 * row.iqm)} {_interval(row.iqm_low, row.iqm_high)}",
            "" if math.isnan(row.improvement) else f"{row.improvement:.2f} {_probabilities(row)}",
        ]
        for row in methods
    ]
    return PageTable(headers, rows, 1, AGGREGATES_LEGEND)


def equal_passes_rows(found: pd.DataFrame) -> PageTable:
    """Format `results.costs.equal_passes.equal_passes_table`, scores times 100."""
    headers = ["task", "method", "epochs", "rate", "passes", "of the search", "n", "failed", "mean", "minus vanilla"]
    headers += ["p (Holm)", "efficient"]
    rows = []
    row: Any
    for row in found.itertuples():
        compared = not pd.isna(row.difference)
        difference = (
            f"{100 * row.difference:+z.1f} {_interval(row.difference_low, row.difference_high)}" if compared else ""
        )
        rows.append(
            [
                f"{row.task} ({row.metric})",
                row.method,
                str(row.epochs),
                f"{row.learning_rate:g}",
                _count(row.passes),
                _count(row.search_passes),
                str(row.n),
                str(row.failed),
                f"{_number(100 * row.mean)} {_interval(row.low, row.high)}",
                difference,
                f"{row.p_holm:.3f}" if compared else "",
                "yes" if row.efficient else "",
            ]
        )
    return PageTable(headers, rows, 2, EQUAL_PASSES_LEGEND)


def published_table(beside: pd.DataFrame) -> PageTable:
    """Format `beside_published` or `beside_rows` of `published_comparison`: published rows, then ours."""
    headers = ["task", "", "method", "on", "rows", "runs", "failed", "mean ± std", "95 % interval", "median", "max"]
    blocks: dict[tuple[str, ...], list[list[str]]] = {}
    ours: dict[tuple[str, ...], list[str]] = {}
    row: Any
    for row in beside.itertuples():
        task = _published_task(row)
        key = (task, row.method, getattr(row, "trained_on", ""), *(str(getattr(row, name)) for name in SETTING))
        blocks.setdefault(key, []).append([task, "published", *_published_cells(row)])
        ours[key] = [task, "ours", *_our_cells(row)]
    rows = [cells for key in sorted(blocks, key=itemgetter(0)) for cells in (*blocks[key], ours[key])]
    return PageTable(headers, rows, 4, PUBLISHED_LEGEND, marked="ours")


def waiting_table(runs: Iterable[RunSettings]) -> PageTable:
    """List runs that left no record."""
    rows = [
        [run.task, method_label(run.method, run.method_hyperparameters), str(run.seed_init), run.run_id] for run in runs
    ]
    return PageTable(["task", "method", "seed", "run"], rows, 4, "Planned runs without a record.")


def unfinished_table(table: pd.DataFrame) -> PageTable:
    """List the runs of `results.results_table` that failed, diverged or were ended from outside, and why."""
    runs: Iterable[Any] = table[table.status != "ok"].itertuples()
    rows = [
        [row.task, row.method_label, str(row.seed_init), row.status, row.run_id, row.error or "no error recorded"]
        for row in runs
    ]
    return PageTable(["task", "method", "seed", "status", "run", "error"], rows, 6, "Runs that did not end well.")


def number(value: Any) -> str:
    """Write a setting: None and NaN, which select everything, as "all"."""
    if pd.isna(value):
        return "all"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _published(row: Any, name: str) -> str:
    value = getattr(row, f"published_{name}", None)
    return "" if pd.isna(value) else str(value)


def _published_task(row: Any) -> str:
    if row.published_metric != "average":
        return f"{row.published_task} ({row.published_metric})"
    tasks = AVERAGES.get(row.published_task)
    return f"average of {', '.join(tasks)}" if tasks else "average, tasks unknown"


def _published_cells(row: Any) -> list[str]:
    spread = _spread(row.published_mean, row.published_std)
    if not pd.isna(row.published_value):
        spread = f"{_number(row.published_value)} (not stated)"
    failed = row.published_failed_fraction
    if not pd.isna(failed):
        failed = round(failed / 100 * row.published_n_runs)
    facts = [_published(row, name) for name in ("method", "setting", "paper", "source")]
    facts += [READ[_published(row, "read")], _published(row, "note")]
    return [
        ", ".join(filter(None, facts)),
        ", ".join(filter(None, (_published(row, name) for name in ("model", "split")))),
        _published(row, "n_train") or "–",
        _published(row, "n_runs") or "–",
        "" if pd.isna(failed) else str(failed),
        spread,
        "",
        _number(row.published_median),
        _number(row.published_max),
    ]


def _our_cells(row: Any) -> list[str]:
    return [
        row.method,
        ", ".join([short_name(row.model_name), *_our_task(row), _our_split(row)]),
        number(row.n_train),
        *_summary_cells(row),
    ]


def _summary_cells(row: Any) -> list[str]:
    return [
        str(row.n),
        str(row.failed),
        _spread(100 * row.mean, 100 * row.std),
        _interval(row.low, row.high),
        _number(100 * row.median),
        _number(100 * row.max),
    ]


def _our_task(row: Any) -> list[str]:
    """Name our task where it is not the published one."""
    trained_on = getattr(row, "trained_on", row.published_task)
    if trained_on == row.published_task:
        return []
    if row.published_metric == "average":
        return [trained_on]
    shaped_like = COUNTERPARTS.get(trained_on) == row.published_task
    return [trained_on if shaped_like else f"trained on {trained_on}"]


def _our_split(row: Any) -> str:
    if row.split == "pooled":
        return "own 20 % split"
    if not pd.isna(row.held_out_fold):
        return "held-out fold"
    own = getattr(row, "trained_on", row.published_task) == row.published_task
    task = TASKS.get(row.published_task)
    split = task.scored_split(row.split if own else "official") if task else "validation"
    return "dev" if split in DEVELOPMENT_SPLITS else split


def _probabilities(row: Any) -> str:
    return "" if math.isnan(row.improvement_low) else f"[{row.improvement_low:.2f}, {row.improvement_high:.2f}]"


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1f}"


def _count(value: float) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}"


def _spread(mean: float, std: float) -> str:
    return f"{_number(mean)} ± {_number(std)}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{_number(100 * low)}, {_number(100 * high)}]"
