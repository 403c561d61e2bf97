"""Our recorded runs as the pages show them: summaries at each setting, and verdicts at each scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from _generate.markdown import code, plain, table
from finetune_reg.paths import RESULTS
from finetune_reg.report.page_tables import scores_table
from finetune_reg.results.claims import CLAIMS, MECHANISMS, load_claims
from finetune_reg.results.comparable_runs import SCALE
from finetune_reg.results.method_labels import MethodSpec
from finetune_reg.results.run_tables import by_recipe, load_results, pool_fresh_subsets, short_name, summary_table
from finetune_reg.results.verdicts import Verdict, judge_all

OUTCOMES = ("reproduced", "explained by the control", "not reproduced", "undecided", "not testable here", "not run")
LEGEND = """Scores are of the last epoch, times 100. *Failed* counts runs that diverged or do not beat the best constant
answer. *Minus vanilla* is the mean difference on equal seeds at the same recipe with its 95 % t interval, not corrected
for the number of comparisons; [notebook 14](../../notebooks/14_results.ipynb) has the corrected p-values."""


@dataclass(frozen=True)
class Judged:
    """A verdict and the scale of the runs that it rests on."""

    verdict: Verdict
    scale: str

    def line(self, with_paper: bool = True) -> str:
        """Return the verdict as an item of a list."""
        claim = self.verdict.claim
        source = f" ([{claim.source}](../papers/{claim.paper}.md))" if with_paper and claim.read != "ours" else ""
        return f"* *{plain(claim.statement)}*{source} {plain(self.verdict.sentence)} ({self.scale})"


@cache
def recorded_runs() -> pd.DataFrame:
    """Return all runs that ship with the project, one row per run; those on held-out rows choose and are left out."""
    tables = [load_results(path) for path in sorted(RESULTS.glob("*.parquet"))]
    runs = pd.concat(tables, ignore_index=True).drop_duplicates("run_id")
    return runs[runs.held_out_fold.isna()].reset_index(drop=True)


@cache
def verdicts() -> list[Judged]:
    """Judge all claims at each scale: those of papers by the main recipe of each task, our own studies by all runs."""
    found = []
    for _, runs in recorded_runs().groupby(SCALE, dropna=False, sort=False):
        scale = f"{short_name(runs.model_name.iloc[0])}, {runs.n_train.iloc[0]} rows"
        of_tasks = pool_fresh_subsets(runs).groupby("task")
        main = [max((part.index for _, part in by_recipe(of_task)), key=len) for _, of_task in of_tasks]
        theirs = judge_all(load_claims(CLAIMS), runs.loc[[run for part in main for run in part]])
        found += [Judged(verdict, scale) for verdict in (*theirs, *judge_all(load_claims(MECHANISMS), runs))]
    return found


def judged(found: list[Judged], with_paper: bool = True) -> str:
    """Return verdicts by outcome; a claim counts as not run if it was run at no scale."""
    run = {entry.verdict.claim.id for entry in found if entry.verdict.outcome != "not run"}
    parts = []
    for outcome in OUTCOMES[:-1]:
        if lines := [entry.line(with_paper) for entry in found if entry.verdict.outcome == outcome]:
            parts += [f"**{outcome.capitalize()}**", "", *lines, ""]
    waiting = {entry.verdict.claim.id: entry.verdict.claim for entry in found if entry.verdict.claim.id not in run}
    if waiting:
        parts += ["**Not run**", "", *[f"* *{plain(claim.statement)}*" for claim in waiting.values()], ""]
    return "\n".join(parts)


def outcomes(found: list[Judged]) -> dict[str, str]:
    """Return the outcome of each claim by its id: the first of `OUTCOMES` that it has at any scale and setting."""
    by_claim: dict[str, str] = {}
    for outcome in reversed(OUTCOMES):
        by_claim |= {entry.verdict.claim.id: outcome for entry in found if entry.verdict.outcome == outcome}
    return by_claim


def methods_in(spec: MethodSpec) -> set[str]:
    """Return the names of a method, or of the members of a combination."""
    if isinstance(spec, str):
        return {spec}
    ((name, hyperparameters),) = spec.items()
    return {name, *(member["method"] for member in (hyperparameters or {}).get("members", []))}


@cache
def _summaries() -> list[tuple[str, list[str]]]:
    """Return a method's name and the cells of its row, for each method at each setting."""
    found = []
    for _, runs in by_recipe(pool_fresh_subsets(recorded_runs())):
        summary = summary_table(runs)
        for row, cells in zip(summary.itertuples(), scores_table(summary).rows, strict=True):
            found.append((str(row.method_name), [*_setting(row), *cells]))
    return found


def our_rows(name: str) -> str:
    """Return the table of a method's recorded runs; empty if there are none."""
    rows = [
        [*cells[:2], plain(cells[2]), code(cells[3]), *cells[4:7], cells[10]]
        for method, cells in _summaries()
        if method == name
    ]
    headers = ["encoder", "recipe", "task", "method", "n", "failed", "mean ± std", "minus vanilla"]
    return f"{table(headers, rows, 4)}\n{LEGEND}" if rows else ""


def _setting(row: Any) -> Iterator[str]:
    yield short_name(row.model_name)
    recipe = f"{row.n_train} rows, {row.epochs} epochs, rate {row.learning_rate:g}"
    yield recipe if row.bias_correction else f"{recipe}, no bias correction"
