"""Recompute the numbers of recorded runs in the pages and in notebook 14, and compare them with what is written.

    python benchmarks/recompute.py

The numbers are computed from the tables in data/results and data/selection with pandas, NumPy and SciPy alone, without
finetune_reg, and are compared with those read from the documents. A number agrees if the recomputed one rounds to the
digits that are written. The exit code is 1 if any does not, or if words that stand before numbers are gone.

Compared are the tables and sentences of docs/results.md with their counts and hours of runs, the sentences of README,
docs/which_method.md and docs/results_by_table.md, the tables of docs/toy_costs.md, the counts of data/README.md, and
the tables and sentences of notebook 14, those of its verdicts among them. Left out are the outcomes of verdicts and
their reasons, how many claims have which, and p-values corrected within one paper, all of which need the rules of
`finetune_reg.results.verdicts`; published figures; the texts that stand for figures; and numbers in sentences that
have neither a decimal point nor an interval. docs/toy_world.md and docs/cost.md are left out as well: their runs are
not recorded.

At the end of the report stands what was passed over: columns of tables, and intervals and deviations in sentences of
which `recomputation/sentences.toml` does not say what they are.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
from recomputation.notebook_tables import count_failed, rows_of_notebook, variants_of
from recomputation.recorded_scores import BASELINE, LEVEL, MAIN, RESAMPLED, Records
from recomputation.toy_costs import check_toy
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
)

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"results": "docs/results.md", "readme": "README.md", "which_method": "docs/which_method.md"}
PAGES |= {"results_by_table": "docs/results_by_table.md", "toy_costs": "docs/toy_costs.md"}
PARTS = {"value": "difference", "low": "from", "high": "to"}


def check_tables(records: Records, page: str, comparisons: Comparisons) -> None:
    tables = markdown_tables(page)
    variants = variants_of(records)
    for place, found in (("At the rate chosen for vanilla", records.main), ("Variants", {"sst2": variants})):
        for row in tables[place]:
            for heading in list(row)[1:]:
                check_cell(f"results, {place}", row, heading, found[heading.split()[0]], comparisons)
    for row in tables[place := "At the rate chosen for each"]:
        for task, own in records.own.items():
            rate = records.chosen[task].rate.get(row["minus vanilla"], math.nan)
            comparisons.check(f"results, {place}", f"rate of {row['minus vanilla']}", row[f"{task}: rate"], rate)
            (heading,) = (name for name in row if name.startswith(f"{task} ("))
            check_cell(f"results, {place}", row, heading, own, comparisons)
    for row in tables[place := "Failed runs"]:
        method, uncorrected = row.pop("failed runs (mean score)"), row.pop("bias correction") == "no"
        for rate, cell in row.items():
            runs = records.arm("sst2", f"{method} at {rate}{' uncorrected' * uncorrected}")
            values = (count_failed(runs), len(runs), runs.points.mean())
            for written, value in zip(re.findall(NUMBER, cell), values, strict=True):
                comparisons.check(f"results, {place}", f"{method} at {rate}", written, value)


def check_cell(place: str, row: Row, heading: str, table: pd.DataFrame, comparisons: Comparisons) -> None:
    """Check a cell of results: the mean or the difference with its interval, the failed runs, and bold or not."""
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
    if column in RESAMPLED:
        return {"value": float(RESAMPLED[column](runs.points.to_numpy()))}
    scores = runs["points" if column in ("", "held out") else column]
    return {"value": scores.mean(), "std": scores.std()}


def check_counts(records: Records, page: str, of_data: str, notebook: Notebook, comparisons: Comparisons) -> None:
    """Check how many runs each table has, as docs/results.md, data/README.md and notebook 14 say."""
    runs = pd.concat([records.everything, records.held_out]).groupby("plan").size()
    for suffix, written in re.findall(r"`(_\w+)`, (\d+)", prose(page)):
        folder = "selection" if suffix.endswith("selection") else "results"
        plan = f"{folder}/{MAIN}{suffix.removesuffix('_selection')}"
        comparisons.check("results, runs of a table", plan, written, runs[plan])
    for stem, written in re.findall(r"`(\w+)` (?:the first )?(\d+)", prose(of_data).replace("and ", "")):
        comparisons.check("data/README.md, runs of a table", stem, written, runs[f"results/{stem}"])
    total = re.match(r"\d+", notebook.printed["records"])
    comparisons.check("notebook 14, records", "runs", total[0] if total else "", len(records.everything))


def check_notebook(records: Records, notebook: Notebook, controls: Mapping[str, str], comparisons: Comparisons) -> None:
    """Check the tables of notebook 14, cell by cell, and the numbers in its verdicts."""
    for cell, values_of in rows_of_notebook(records).items():
        for row in notebook.table(cell):
            comparisons.check_row(f"notebook 14, {cell}", row, values_of(row))
    encoders = {"needed": "", "learning-verdicts": "-mpnet", "sentences": ""}
    studies = {cell: read_studies(notebook.markdown[cell], records, encoder) for cell, encoder in encoders.items()}
    for cell, of_cell in studies.items():
        for study in of_cell:
            check_study(f"notebook 14, {cell}", study, comparisons)
    spreads = {}
    for row, study in zip(notebook.table("mechanisms"), studies["sentences"], strict=True):
        comparisons.check_row("notebook 14, mechanisms", row, row_of(study, controls.get(row["study"])))
        spreads[row["study"]] = study.effect.std
    for row in notebook.table("interval"):
        study, (column,) = row[""], set(row) - {""}
        comparisons.check("notebook 14, interval", study, row[column], spreads[study])


@cache
def recorded() -> Records:
    return Records(ROOT / "data")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, path in PAGES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, default=ROOT / path)
    parser.add_argument("--notebook", type=Path, default=ROOT / "notebooks" / "14_results.ipynb")
    given = parser.parse_args(arguments)
    pages = {name: vars(given)[name].read_text(encoding="utf-8") for name in PAGES}
    notebook, of_data = read_notebook(given.notebook), (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    meanings = tomllib.loads((Path(__file__).parent / "recomputation" / "sentences.toml").read_text(encoding="utf-8"))
    records, comparisons = recorded(), Comparisons()
    check_tables(records, pages["results"], comparisons)
    check_toy(pages["toy_costs"], ROOT / "data" / "results" / "toy", comparisons)
    for name, page in pages.items():
        check_sentences(f"{name}, sentences", prose(page), meanings[name], records, comparisons)
    check_counts(records, pages["results"], of_data, notebook, comparisons)
    check_notebook(records, notebook, meanings["controls"], comparisons)
    check_sentences("notebook 14, sentences of pages", notebook.prose, {}, records, comparisons)
    print(comparisons.report())
    return 1 if comparisons.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
