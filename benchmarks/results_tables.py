"""The tables of docs/results.md, from the records in data/results.

    python benchmarks/results_tables.py

`tests/test_recorded_results.py` checks that the page has them as printed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from finetune_reg.paths import RESULTS, SELECTION
from finetune_reg.results.method_labels import short_method_label
from finetune_reg.results.plotting import METRIC_LABELS
from finetune_reg.results.run_tables import BASELINE, load_results, summary_table
from finetune_reg.results.selection import rank_candidates, runs_as_chosen

STEM = "glue300_minilm"
TASKS = ["sst2", "stsb", "mrpc", "cola", "rte"]
LEVEL = 0.05


def results(plan: str = "") -> pd.DataFrame:
    return relabelled(load_results(RESULTS / f"{STEM}{plan}.parquet"))


def relabelled(table: pd.DataFrame) -> pd.DataFrame:
    hyperparameters = table.method_hyperparameters.map(json.loads)
    return table.assign(method_label=list(map(short_method_label, table.method, hyperparameters)))


def by_task(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a summary by task, rows indexed by method, and check that each row has the ten seeds."""
    assert (summary.n == 10).all(), summary[summary.n != 10]
    return {task: rows.set_index("method") for task, rows in summary.groupby("task")}


def difference(row: Any, failures: bool) -> str:
    """Return `mean difference [interval]`, bold where the corrected p-value is below 0.05."""
    if math.isnan(row.paired_difference):
        text = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
    else:
        value, low, high = (f"{100 * row[f'paired_{name}']:z.1f}" for name in ("difference", "low", "high"))
        text = f"{value if value.startswith(('-', '0.0')) else '+' + value} [{low}, {high}]"
        text = f"**{text}**" if row.paired_holm < LEVEL else text
    return f"{text} ({row.failed})" if failures else text


def column(rows: pd.DataFrame, methods: Iterable[str]) -> list[str]:
    failures = bool(rows.failed.any())
    return [difference(rows.loc[method], failures) if method in rows.index else "" for method in methods]


def in_order(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the methods, vanilla first, then by the mean difference over the tables."""
    differences = pd.concat(tables).groupby("method").paired_difference.mean()
    return [BASELINE, *differences.drop(BASELINE).sort_values(ascending=False).index]


def heading(task: str, rows: pd.DataFrame) -> str:
    return f"{task} ({METRIC_LABELS[rows.metric.iloc[0]]})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|" for line in lines)


def rate_text(learning_rate: float) -> str:
    return f"{learning_rate:.0e}".replace("e-0", "e-")


def named(methods: Iterable[str]) -> list[str]:
    return [f"`{method}`" for method in methods]


def at_one_rate() -> str:
    """Differences to vanilla at the epochs and the learning rate that were chosen for vanilla."""
    found = by_task(summary_table(results()))
    most = max(map(len, found.values()))
    order = in_order([rows for rows in found.values() if len(rows) > 0.5 * most])
    columns = [column(found[task], order) for task in TASKS]
    head = ["minus vanilla", *(heading(task, found[task]) for task in TASKS)]
    return markdown(head, zip(named(order), *columns, strict=True))


def at_own_rates() -> str:
    """Differences to vanilla, each method at the learning rate that was chosen for it."""
    head, columns, found = ["minus vanilla"], [], {}
    chosen: dict[str, pd.Series] = {}
    for task, stem in (("sst2", ""), ("stsb", "_stsb")):
        runs = pd.concat([results(), results(f"{stem}_tuned")], ignore_index=True)
        held_out = relabelled(load_results(SELECTION / f"{STEM}{stem}_tuning.parquet"))
        (found[task],) = by_task(summary_table(runs_as_chosen(runs, held_out))).values()
        ranked = rank_candidates(held_out)
        chosen[task] = ranked[ranked.chosen].set_index("method_label").learning_rate
    order = in_order([found["sst2"]])
    for task, rows in found.items():
        head += [f"{task}: rate", heading(task, rows)]
        columns.append([rate_text(chosen[task][m]) if m in rows.index else "" for m in order])
        columns.append(column(rows, order))
    return markdown(head, zip(named(order), *columns, strict=True))


def of_variants() -> str:
    """Differences to vanilla of variants of methods, and of the methods themselves."""
    main, variants = results(), results("_variants")
    main = main[(main.task == "sst2") & main.method.isin(["vanilla", *variants.method])]
    (found,) = by_task(summary_table(pd.concat([main, variants], ignore_index=True))).values()
    order = in_order([found])
    return markdown(["minus vanilla", heading("sst2", found)], zip(named(order), column(found, order), strict=True))


def failed_runs() -> str:
    """Runs that do not beat the best constant answer, with and without Adam's bias correction."""
    main = results()
    runs = pd.concat([results("_bias_correction"), main[(main.task == "sst2") & (main.method_label == BASELINE)]])
    rates = sorted(runs.learning_rate.unique())
    rows = []
    for (corrected, method), of_arm in runs.groupby(["bias_correction", "method_label"]):
        cells = []
        for rate in rates:
            at_rate = of_arm[of_arm.learning_rate == rate]
            cells.append(f"{at_rate.below_majority.sum()} of {len(at_rate)} ({100 * at_rate.score.mean():.1f})")
        rows.append([f"`{method}`", "yes" if corrected else "no", *cells])
    head = ["failed runs (mean score)", "bias correction", *map(rate_text, rates)]
    return markdown(head, rows)


TABLES = [at_one_rate, at_own_rates, of_variants, failed_runs]

if __name__ == "__main__":
    for table in TABLES:
        print(f"{table.__doc__}\n\n{table()}\n")
