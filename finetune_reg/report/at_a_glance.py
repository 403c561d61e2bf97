"""What a set of runs is about and what came out, in a few lines, for the top of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pandas as pd

from finetune_reg.report.checklist import code_version, environment_facts
from finetune_reg.report.page_tables import number
from finetune_reg.results.comparable_runs import SCALE
from finetune_reg.results.run_tables import short_name
from finetune_reg.results.verdicts import Outcome, Verdict


def at_a_glance(table: pd.DataFrame, verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """Return names and texts: scope, scale, runs, verdicts, hardware, time, versions.

    Args:
        table: as from `results_table`.
        verdicts: on all claims, at each scale of the table.
    """
    facts = environment_facts(table)
    statuses = ", ".join(f"{count} {status}" for status, count in table.status.value_counts().items())
    finished = sorted(table.finished_at.dropna())
    return [
        ("Scope", f"{table.method_label.nunique()} methods on {', '.join(sorted(set(table.task)))}"),
        ("Scale", "; ".join(_scale(*values) for values in table[SCALE].drop_duplicates().itertuples(index=False))),
        ("Runs", f"{len(table)} ({statuses})"),
        ("Claims of papers", outcome_counts([verdict for verdict in verdicts if verdict.claim.read != "ours"])),
        ("Our own studies", outcome_counts([verdict for verdict in verdicts if verdict.claim.read == "ours"])),
        ("Hardware", f"{facts['device']}, {facts['platform']}, torch threads {facts['threads']}"),
        ("Time", f"{_duration(table.wall_seconds.sum() / 60)} of training and evaluation"),
        ("Finished", f"{finished[0]} to {finished[-1]}" if finished else "unknown"),
        ("Versions", ", ".join(f"{name} {facts[name]}" for name in ("python", "torch", "transformers", "numpy"))),
        ("Code", code_version(facts) if facts["commit"].count(",") < 2 else "several commits, see the checklist"),
    ]


def outcome_counts(verdicts: Sequence[Verdict]) -> str:
    """Count verdicts by outcome, in words; a claim is not run if it was run at no scale.

    A claim that was judged at several scales or settings counts at each; `at reduced scale` is said where all are.
    """
    run = [verdict for verdict in verdicts if verdict.outcome != "not run"]
    waiting = {verdict.claim.id for verdict in verdicts} - {verdict.claim.id for verdict in run}
    outcomes = [verdict.outcome for verdict in run]
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in get_args(Outcome) if outcome in outcomes]
    reduced = " (at reduced scale)" if run and all(verdict.reduced for verdict in run) else ""
    judged = f"{', '.join(counts)}{reduced}" if counts else ""
    return "; ".join(filter(None, (judged, f"{len(waiting)} not run" if waiting else ""))) or "not judged"


def _duration(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _scale(source: str, model_name: str, n_train: float | None) -> str:
    return f"{short_name(model_name)}, source {short_name(source)}, {number(n_train)} training rows"
