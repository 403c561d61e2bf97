"""Choose hyperparameters on held-out fifths of the training rows; the development set is not touched."""

from __future__ import annotations

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import FINISHED
from finetune_reg.experiment.settings import SEEDS
from finetune_reg.results.run_tables import RECIPE, counted_scores
from finetune_reg.results.table_checks import comparable

SPLIT_BY = ["task", "held_out_fold", "seed_subset", *SEEDS]
CANDIDATE = ["method", "method_label", *(name for name in RECIPE if name not in ("held_out_fold", "seed_subset"))]


def rank_candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Rank settings by their scores on the held-out folds, averaged over folds, then over tasks.

    A diverged run counts as the best constant prediction. Equal means rank in the order of the table.

    Args:
        table: as from `results_table`; runs without `held_out_fold` are left out.

    Returns:
        One row per candidate, best first: the method, every setting in which candidates differ, the mean per task and
        `mean`, in points; `runs` per task; and `chosen`, the best of each method, where vanilla without dropout, a
        control, is a method of its own.

    Raises:
        InputError: no finished run on held-out folds, candidates that were not run on the same folds, or runs that may
            not be compared (see `comparable`).
    """
    table = comparable(table)
    runs = table[table.held_out_fold.notna() & table.status.isin(FINISHED)]
    if runs.empty:
        raise InputError("No run has held_out_fold 0 to 4: the development set reports, it does not choose.")
    points = 100 * counted_scores(runs)
    parts = pd.Series(list(runs[SPLIT_BY].itertuples(index=False, name=None)), runs.index)
    runs = runs.assign(points=points, part=parts)
    differing = [name for name in CANDIDATE if name.startswith("method") or runs[name].nunique(dropna=False) > 1]
    candidates = runs.groupby(differing, dropna=False, sort=False)
    wanted = set(runs.part)
    for values, group in candidates:
        if missing := wanted - set(group.part):
            task, fold = min(missing)[:2]
            what = ", ".join(f"{name} {value}" for name, value in zip(differing[1:], values[1:], strict=True))
            raise InputError(
                f"The candidate {what} was not run on fold {fold:.0f} of {task}: run the same folds of all."
            )
    ranked = pd.DataFrame(candidates[["task", "points"]].apply(lambda runs: runs.groupby("task").points.mean()))
    ranked = ranked.assign(mean=ranked.mean(axis=1), runs=candidates.size() // runs.task.nunique())
    ranked = ranked.reset_index().sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    methods = ranked.method.mask(ranked.method == "vanilla", ranked.method_label)
    return ranked.assign(chosen=~methods.duplicated())


def runs_as_chosen(table: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of each method at the settings that are its best on held-out folds.

    Args:
        table: as from `results_table`; runs on held-out folds are left out.
        held_out: as for `rank_candidates`.

    Returns:
        Rows of `table`, on the tasks of `held_out`. Every setting in which candidates differ reads "chosen", so that
        `summary_table` compares methods each at its own.

    Raises:
        InputError: as `rank_candidates`.
    """
    ranked = rank_candidates(held_out)
    settings = ["task", *CANDIDATE]
    own = [name for name in CANDIDATE if name in ranked]
    chosen = held_out.merge(ranked[ranked.chosen], on=own)[settings].drop_duplicates()
    table = comparable(table)
    runs = table[table.held_out_fold.isna()].merge(chosen, on=settings)
    return runs.assign(**dict.fromkeys(set(own) & set(RECIPE), "chosen"))
