"""Recompute the numbers of recorded runs in README and notebook 12, and compare them with what is written.

    python benchmarks/recompute.py

The numbers are computed from the tables in data/results and data/selection with pandas, NumPy and SciPy alone, without
finetune_reg, and are compared with those read from the documents. A number agrees if the recomputed one rounds to the
digits that are written. The exit code is 1 if any does not, or if words that stand before numbers are gone.

Compared are the tables and sentences of README's results with their counts and hours of runs, the counts of
data/README.md, and the tables and sentences of notebook 12, those of its verdicts among them. Left out are the outcomes
of verdicts, how many claims have which, and p-values corrected within one paper, all of which need the rules of
`finetune_reg.results.verdicts`; published figures; the texts that stand for figures; and numbers in sentences that have
neither a decimal point nor an interval. README's toy world is left out as well: its runs are not recorded.

At the end of the report stands what was passed over: columns of tables, and intervals and deviations in sentences of
which `recomputation/sentences.toml` does not say what they are.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

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
from recomputation.verdict_sentences import check_study, read_studies, row_of
from recomputation.written_numbers import (
    NUMBER,
    Comparisons,
    Notebook,
    Row,
    markdown_tables,
    prose,
    quantities,
    read_notebook,
    section,
)

ROOT = Path(__file__).resolve().parents[1]
LEVEL = 0.05
LEARNT = ["mrpc", "sst2", "stsb"]
PARTS = {"value": "difference", "low": "from", "high": "to"}
POINTS = ["n", "failed", "mean", "std", "pairs", "difference", "from", "to", "p", "holm"]


def check_readme(records: Records, readme: str, comparisons: Comparisons) -> None:
    tables = markdown_tables(section(readme, "Results"))
    variants = variants_of(records)
    for place, found in (("At the rate chosen for vanilla", records.main), ("Variants", {"sst2": variants})):
        for row in tables[place]:
            for heading in list(row)[1:]:
                check_cell(f"README, {place}", row, heading, found[heading.split()[0]], comparisons)
    for row in tables[place := "At the rate chosen for each"]:
        for task, own in records.own.items():
            rate = records.chosen[task].rate.get(row["minus vanilla"], math.nan)
            comparisons.check(f"README, {place}", f"rate of {row['minus vanilla']}", row[f"{task}: rate"], rate)
            (heading,) = (name for name in row if name.startswith(f"{task} ("))
            check_cell(f"README, {place}", row, heading, own, comparisons)
    for row in tables[place := "Failed runs"]:
        method, uncorrected = row.pop("failed runs (mean score)"), row.pop("bias correction") == "no"
        for rate, cell in row.items():
            runs = records.arm("sst2", f"{method} at {rate}{' uncorrected' * uncorrected}")
            values = (count_failed(runs), len(runs), runs.points.mean())
            for written, value in zip(re.findall(NUMBER, cell), values, strict=True):
                comparisons.check(f"README, {place}", f"{method} at {rate}", written, value)


def check_cell(place: str, row: Row, heading: str, table: pd.DataFrame, comparisons: Comparisons) -> None:
    """Check a cell of README: the mean or the difference with its interval, the failed runs, and bold or not."""
    method, cell = row["minus vanilla"], row[heading]
    what = f"{method}, {heading}"
    if method not in table.index:
        return comparisons.check(place, what, cell, "")
    found = table.loc[method]
    parts = quantities(cell)[0].parts if cell else {}
    for part, name in {"value": "mean", "std": "std"}.items() if method == BASELINE else PARTS.items():
        comparisons.check(place, f"{what}, {name}", parts.get(part, ""), found[name])
    failed = re.search(r"\((\d+)\)$", cell)
    comparisons.check(place, f"{what}, failed", failed[1] if failed else "0", found.failed)
    comparisons.check(place, f"{what}, bold", str("**" in cell), str(bool(found.holm < LEVEL)))


def count_failed(runs: pd.DataFrame) -> int:
    return int((runs.failed > 0).sum())


def variants_of(records: Records) -> pd.DataFrame:
    """Summarize the variants of methods on SST-2 beside vanilla and the methods themselves."""
    variants = records.runs[records.runs.plan == f"results/{MAIN}_variants"]
    families = {BASELINE, "Vanilla(dropout=0.0)", *variants.family}
    main = records.main_runs["sst2"]
    return summary(pd.concat([main[main.family.isin(families)], variants]))


def check_sentences(
    place: str, text: str, meanings: Mapping[str, list[str]], records: Records, comparisons: Comparisons
) -> None:
    read = set()
    for words, meant in meanings.items():
        if (times := text.count(words)) != 1:
            comparisons.check(place, f'"{words}"', f"{times} times", "once")
            continue
        found = quantities(text, text.index(words) + len(words))[: len(meant)]
        for quantity, meaning in zip(found, meant, strict=True):
            values = value_of(meaning, records)
            for part, written in quantity.parts.items():
                comparisons.check(place, f'"{words}" {meaning}, {part}', written, values.get(part, math.nan))
            read.add(quantity.start)
    unread = [quantity.text for quantity in quantities(text) if len(quantity.parts) > 1 and quantity.start not in read]
    comparisons.passed_over += [f"{place}: {written}" for written in unread]


def value_of(meaning: str, records: Records) -> dict[str, float]:
    """Return what a meaning in sentences.toml stands for, as the parts of a quantity."""
    where, _, words = meaning.partition(": ")
    if where == "hours":
        runs = pd.concat([records.everything, records.held_out])
        return {"value": runs.wall_seconds[runs.plan == words].sum() / 3600}
    task, _, column = where.partition(", ")
    ours, _, theirs = words.partition(" minus ")
    if column.endswith("holm"):
        return {"value": (records.own if column == "own holm" else records.main)[task].holm[ours]}
    if theirs:
        effect = records.compare([task], ours, theirs, column or "points")
        return {"value": effect.value, "low": effect.low, "high": effect.high}
    runs = records.arm(task, ours, column == "held out")
    scores = runs["points" if column in ("", "held out") else column]
    return {"value": scores.mean(), "std": scores.std()}


def check_counts(records: Records, readme: str, of_data: str, notebook: Notebook, comparisons: Comparisons) -> None:
    """Check how many runs each table has, as README, data/README.md and notebook 12 say."""
    runs = pd.concat([records.everything, records.held_out]).groupby("plan").size()
    for suffix, written in re.findall(r"`(_\w+)`, (\d+)", prose(readme)):
        folder = "selection" if suffix.endswith("selection") else "results"
        plan = f"{folder}/{MAIN}{suffix.removesuffix('_selection')}"
        comparisons.check("README, runs of a table", plan, written, runs[plan])
    for stem, written in re.findall(r"`(\w+)` (?:the first )?(\d+)", prose(of_data).replace("and ", "")):
        comparisons.check("data/README.md, runs of a table", stem, written, runs[f"results/{stem}"])
    total = re.match(r"\d+", notebook.printed["records"])
    comparisons.check("notebook 12, records", "runs", total[0] if total else "", len(records.everything))


def check_notebook(records: Records, notebook: Notebook, controls: Mapping[str, str], comparisons: Comparisons) -> None:
    """Check the tables of notebook 12, cell by cell, and the numbers in its verdicts."""
    for cell, values_of in rows_of_notebook(records).items():
        for row in notebook.table(cell):
            comparisons.check_row(f"notebook 12, {cell}", row, values_of(row))
    of_papers, ours = (read_studies(notebook.markdown[cell], records) for cell in ("needed", "sentences"))
    for cell, studies in (("needed", of_papers), ("sentences", ours)):
        for study in studies:
            check_study(f"notebook 12, {cell}", study, comparisons)
    spreads = {}
    for row, study in zip(notebook.table("mechanisms"), ours, strict=True):
        comparisons.check_row("notebook 12, mechanisms", row, row_of(study, controls.get(row["study"])))
        spreads[row["study"]] = study.effect.std
    for row in notebook.table("interval"):
        study, (column,) = row[""], set(row) - {""}
        comparisons.check("notebook 12, interval", study, row[column], spreads[study])


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
        "effects": effect,
    }


def at_twice_the_rate(records: Records) -> pd.DataFrame:
    """Compare the methods at their own rates on SST-2 with vanilla at 2e-4."""
    own = records.own_runs["sst2"]
    return summary(pd.concat([own[own.method != BASELINE], records.arm("sst2", f"{BASELINE} at 2e-4").reset_index()]))


def at_other_recipes(records: Records) -> dict[tuple[str, float, str], pd.DataFrame]:
    """Compare methods by task, rate and bias correction, where these are not those of the first table of README."""
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


@cache
def recorded() -> Records:
    return Records(ROOT / "data")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--notebook", type=Path, default=ROOT / "notebooks" / "12_results.ipynb")
    given = parser.parse_args(arguments)
    readme, notebook = given.readme.read_text(encoding="utf-8"), read_notebook(given.notebook)
    meanings = tomllib.loads((Path(__file__).parent / "recomputation" / "sentences.toml").read_text(encoding="utf-8"))
    records, comparisons = recorded(), Comparisons()
    check_readme(records, readme, comparisons)
    check_sentences("README, sentences", prose(section(readme, "Results")), meanings["readme"], records, comparisons)
    check_counts(records, readme, (ROOT / "data" / "README.md").read_text(encoding="utf-8"), notebook, comparisons)
    check_notebook(records, notebook, meanings["controls"], comparisons)
    check_sentences("notebook 12, sentences of pages", notebook.prose, meanings["notebook"], records, comparisons)
    print(comparisons.report())
    return 1 if comparisons.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
