"""What a method gains over vanilla that was given as many passes, and what the search for its learning rate cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import FINISHED
from finetune_reg.experiment.settings import SEEDS
from finetune_reg.results.run_tables import BASELINE, SETTING, by_method, counted_scores, passes_of, pool_fresh_subsets
from finetune_reg.results.selection import rank_candidates
from finetune_reg.results.statistics import compare_paired, holm, summarize
from finetune_reg.results.table_checks import comparable

AS_MANY = 1.25  # passes are as many up to this factor, because epochs are whole numbers
BUDGETED = [name for name in SETTING if name not in ("epochs", "learning_rate", "evaluate_every", "held_out_fold")]
COMPARED = ["baseline_epochs", "baseline_passes", "paired_n", "difference", "difference_low", "difference_high"]
COMPARED += ["p_value", "p_holm"]
COLUMNS = ["task", "metric", "method", "epochs", "learning_rate", "passes", "search_passes", "tries", "n", "failed"]
COLUMNS += ["mean", "low", "high", "efficient", *COMPARED]


def at_chosen_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Keep each method, at each number of epochs, at the learning rate that is its best on held-out rows.

    Args:
        table: as from `results_table`, with runs on held-out folds of all rates.

    Returns:
        The runs that are not on held-out folds, at the chosen rates, with two more columns: `tries`, the rates among
        which one was chosen, and `search_passes`, the forward and backward passes of all runs of that search.

    Raises:
        InputError: as `rank_candidates`, or a method and number of epochs without runs on held-out folds.
    """
    table = comparable(table)
    parts = []
    for (task, epochs, label), runs in table.groupby(["task", "epochs", "method_label"], sort=False):
        held_out, reported = runs[runs.held_out_fold.notna()], runs[runs.held_out_fold.isna()]
        if reported.empty:
            continue
        if held_out.empty:
            raise InputError(
                f"{label} for {epochs} epochs on {task} has no run on held-out rows: choose its rate first."
            )
        ranked = rank_candidates(held_out)
        best = ranked.learning_rate.iloc[0] if "learning_rate" in ranked else held_out.learning_rate.iloc[0]
        searched = {"tries": held_out.learning_rate.nunique(), "search_passes": passes_of(held_out).sum()}
        parts.append(reported[reported.learning_rate == best].assign(**searched))
    return pd.concat(parts, ignore_index=True) if parts else table.iloc[:0].assign(tries=0, search_passes=0.0)


def equal_passes_table(runs: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Summarize each method at each number of epochs, and compare it with the baseline of as many passes.

    The two agree in every setting but the epochs and, from `at_chosen_rates`, the learning rate. Of the baseline's
    numbers of epochs that one counts whose passes are nearest, if they are as many up to the factor `AS_MANY`. A
    diverged run counts as the best constant prediction.

    Args:
        runs: rows of `at_chosen_rates`, or of `results_table` without held-out folds.

    Returns:
        One row per task, method and number of epochs, and per learning rate where none was chosen: `passes`, forward
        and backward, of a run; the mean score with its 95 % t interval, and the failed runs; `efficient`: no other row
        of the task costs as little or less, search included, and scores higher; the paired difference to the baseline
        with its 95 % t interval, its p-value, and that after Holm's correction over the comparisons of the task. The
        columns are `COLUMNS`; what is unknown is NaN.

    Raises:
        InputError: a row on a held-out fold, or runs that may not be compared (see `comparable`).
    """
    runs = comparable(runs)
    if runs.held_out_fold.notna().any():
        raise InputError("Runs on held-out folds choose, they do not report: give those of at_chosen_rates.")
    runs = pool_fresh_subsets(runs[runs.status.isin(FINISHED)])
    runs = runs.assign(score=counted_scores(runs), passes=passes_of(runs))
    chosen = "search_passes" in runs
    together = BUDGETED if chosen else [*BUDGETED, "learning_rate"]
    parts = [
        pd.DataFrame(_rows(of_setting, baseline)) for _, of_setting in runs.groupby(together, dropna=False, sort=False)
    ]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
    cost = table.passes + table.search_passes.fillna(0.0)
    by_task = [of_task for _, of_task in table.groupby("task", sort=False)]
    table["p_holm"] = pd.concat([pd.Series(holm(found.p_value.astype(float)), found.index) for found in by_task])
    table["efficient"] = pd.concat([_efficient(cost[found.index], found["mean"]) for found in by_task])
    return table


def _rows(runs: pd.DataFrame, baseline: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one setting, whose runs differ in method, epochs, chosen rate and seeds."""
    references = [
        (of_epochs.passes.mean(), int(of_epochs.epochs.iloc[0]), of_epochs.set_index(list(SEEDS)).score)
        for _, of_epochs in runs[runs.method_label == baseline].groupby("epochs")
    ]
    first = runs.sort_values("method_label", key=lambda labels: labels != baseline, kind="stable")
    for label, of_method in by_method(first):
        for (epochs, rate), found in of_method.groupby(["epochs", "learning_rate"]):
            passes = found.passes.mean()
            failed = int(found.below_majority.fillna(True).astype(bool).sum())
            row = {"task": found.task.iloc[0], "metric": found.metric.iloc[0], "method": label, "epochs": epochs}
            row |= {"learning_rate": rate, "passes": passes, **vars(summarize(found.score, failed))}
            row |= {name: found[name].iloc[0] for name in ("search_passes", "tries") if name in found}
            if label != baseline and references:
                row |= _beside(found.set_index(list(SEEDS)).score, passes, references)
            yield row


def _beside(scores: pd.Series, passes: float, references: list[tuple[float, int, pd.Series]]) -> dict[str, Any]:
    theirs, epochs, reference = min(references, key=lambda of: max(of[0] / passes, passes / of[0]))
    paired = pd.concat([scores, reference], axis=1, keys=["ours", "reference"]).dropna()
    if max(theirs / passes, passes / theirs) > AS_MANY or paired.empty:
        return {}
    found = compare_paired(paired.ours, paired.reference)
    row = {"baseline_epochs": epochs, "baseline_passes": theirs, "paired_n": found.n, "difference": found.difference}
    return row | {"difference_low": found.low, "difference_high": found.high, "p_value": found.p_value}


def _efficient(cost: pd.Series, mean: pd.Series) -> pd.Series:
    """Tell of each row whether no other is as cheap or cheaper and better, or cheaper and as good."""
    beaten = [
        (((cost <= own) & (mean > score)) | ((cost < own) & (mean >= score))).any()
        for own, score in zip(cost, mean, strict=True)
    ]
    return pd.Series(~np.array(beaten), cost.index)
