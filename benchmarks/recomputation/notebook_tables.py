"""The numbers of notebook 14's tables, computed from the recorded runs, by what a row is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from recomputation.recorded_scores import (
    BASELINE,
    MAIN,
    Records,
    improvement_interval,
    interquartile_mean,
    short,
    summary,
    wins,
)
from recomputation.written_numbers import Row

LEARNT = ["mrpc", "sst2", "stsb"]
POINTS = ["n", "failed", "mean", "std", "pairs", "difference", "from", "to", "p", "holm"]


def count_failed(runs: pd.DataFrame) -> int:
    return int((runs.failed > 0).sum())


def variants_of(records: Records) -> pd.DataFrame:
    """Summarize the variants of methods on SST-2 beside vanilla and the methods themselves."""
    variants = records.runs[records.runs.plan == f"results/{MAIN}_variants"]
    families = {BASELINE, "Vanilla(dropout=0.0)", *variants.family}
    main = records.main_runs["sst2"]
    return summary(pd.concat([main[main.family.isin(families)], variants]))


def rows_of_notebook(records: Records) -> dict[str, Callable[[Row], Mapping[str, float | str]]]:
    """Return for each cell with a table what its numbers are, column by column, from what a row is about."""
    main, everywhere = records.main, ["cola", "mrpc", "rte", "sst2", "stsb"]
    variants, twice, side = variants_of(records), at_twice_the_rate(records), at_other_recipes(records)
    aggregates = aggregates_of(records)

    def recipe(row: Row) -> dict[str, float | str]:
        first = records.main_runs[row["task"]].iloc[0]
        names = {"epochs": "epochs", "learning_rate": "rate", "batch_size": "batch_size", "n_updates": "n_updates"}
        return {column: first[name] for column, name in names.items()} | {"precision": first.precision}

    def at_own_rate(row: Row) -> dict[str, float]:
        own, chosen = records.own[row["task"]].loc[row["method"]], records.chosen[row["task"]].loc[row["method"]]
        return {**own[POINTS], "rate": chosen.rate, "held out": chosen.points}

    def candidate(row: Row) -> dict[str, float | str]:
        folds = records.held_out[records.held_out.plan == f"selection/{MAIN}"]
        folds = folds[folds.task == row["task"]]
        by_candidate = folds.groupby(["epochs", "rate"])
        candidate = int(row["epochs"]), float(row["learning_rate"])
        runs = by_candidate.get_group(candidate)
        chosen = str(by_candidate.points.mean().round(9).idxmax() == candidate)
        return {"points": runs.points.mean(), "runs": len(runs), "failed": count_failed(runs), "chosen": chosen}

    def rest(row: Row) -> dict[str, float]:
        words = f"{short(row['method_label'])} at {row['learning_rate']} for {row['epochs']} epochs"
        runs = records.arm(row["task"], words)
        return {"seeds": len(runs), "failed": count_failed(runs), "mean": runs.points.mean(), "low": runs.points.min()}

    def failures(row: Row) -> dict[str, float]:
        method, corrected = short(row["method"].split(", bias")[0]), row["method"].endswith("bias corrected")
        words = [f"{method} at {rate}{' uncorrected' * (not corrected)}" for rate in list(row)[1:]]
        return {rate: len(records.arm("sst2", arm)) for rate, arm in zip(list(row)[1:], words, strict=True)}

    def effect(row: Row) -> dict[str, float]:
        found, base = (main[row["task"]].loc[label] for label in (short(row["method"]), BASELINE))
        no_interval = {"from": math.nan, "to": math.nan}
        if row["statistic"] == "median":
            return no_interval | {"ours": found["median"] - base["median"]}
        if row["statistic"] == "failed_fraction":
            return no_interval | {"ours": 100 * (found.failed / found.n - base.failed / base.n)}
        names = {"ours": "difference", "from": "from", "to": "to"}
        return {name: found[column].round(1) for name, column in names.items()}

    def passes(row: Row) -> dict[str, float]:
        arms = {task: records.arm(task, row["method_label"]) for task in LEARNT}
        return {task: (runs.forward_passes + runs.backward_passes).mean() for task, runs in arms.items()}

    def learning(row: Row) -> dict[str, float]:
        runs = records.everything
        runs = runs[(runs.task == f"{row['task']}-mpnet") & (runs.method_label == row["method_label"])]
        runs = runs[np.isclose(runs.rate, float(row["learning_rate"]), rtol=1e-3, atol=0)]
        if "bias_correction" in row:
            runs = runs[runs.bias_correction.map(str) == row["bias_correction"]]
        points = {name: runs.points.agg(name) for name in ("mean", "std", "median")}
        return {"n": len(runs), "failed": count_failed(runs), **points, "distance": runs.distance.mean()}

    return {
        "records": recipe,
        "seeds": lambda row: {task: main[task].n.get(row["method"], 0) for task in everywhere},
        "selection": candidate,
        "summary": lambda row: main[row["task"]].loc[row["method"], POINTS],
        "four-tasks": lambda row: main[row["task"]].loc[row["method"], POINTS],
        "variants": lambda row: variants.loc[row["method"], POINTS],
        "rates": at_own_rate,
        "rates-twice": lambda row: twice.loc[row["method"], POINTS],
        "side": lambda row: side[row["task"], float(row["learning_rate"]), row["bias_correction"]].loc[row["method"]],
        "failures": failures,
        "rest": rest,
        "aggregates": lambda row: aggregates[row["method"]],
        "expected": passes,
        "learning": learning,
        "effects": effect,
    }


def at_twice_the_rate(records: Records) -> pd.DataFrame:
    """Compare the methods at their own rates on SST-2 with vanilla at 2e-4."""
    own = records.own_runs["sst2"]
    return summary(pd.concat([own[own.method != BASELINE], records.arm("sst2", f"{BASELINE} at 2e-4").reset_index()]))


def at_other_recipes(records: Records) -> dict[tuple[str, float, str], pd.DataFrame]:
    """Compare methods by task, rate and bias correction, where these are not the main ones."""
    runs = records.runs[~records.runs.plan.isin([f"results/{MAIN}", f"results/{MAIN}_variants"])]
    runs = runs[runs.epochs == runs.task.map({task: main.epochs.iloc[0] for task, main in records.main_runs.items()})]
    recipes = runs.groupby(["task", "rate", runs.bias_correction.map(str)])
    return {recipe: summary(of) for recipe, of in recipes if {BASELINE} < set(of.method)}


def aggregates_of(records: Records) -> dict[str, dict[str, float]]:
    """Return the interquartile mean and the probability of improvement, by task and over the three learnt by most."""
    scores = {task: records.main_runs[task].pivot(index="seed", columns="method", values="score") for task in LEARNT}
    rows: dict[str, dict[str, float]] = {}
    for method in scores["sst2"]:
        ours, theirs = (np.array([scores[task][name] for task in LEARNT]) for name in (method, BASELINE))
        rows[method] = {f"IQM, {task}": interquartile_mean(of_task) for task, of_task in zip(LEARNT, ours, strict=True)}
        is_baseline = method == BASELINE
        won = np.full(3, math.nan) if is_baseline else wins(ours, theirs).mean(axis=(1, 2))
        low, high = (math.nan, math.nan) if is_baseline else improvement_interval(ours, theirs)
        rows[method] |= {f"improves, {task}": share for task, share in zip(LEARNT, won, strict=True)}
        rows[method] |= {"improves, all": won.mean(), "from": low, "to": high}
    return rows
