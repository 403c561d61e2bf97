"""What a notebook's table shows, in sentences, so that no prose states what another run may change."""

from __future__ import annotations

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.results.plotting import METRIC_LABELS
from finetune_reg.results.run_tables import BASELINE
from finetune_reg.results.statistics import compare_paired
from finetune_reg.tasks import TASKS


def require_classes(task: str, why: str) -> None:
    """Refuse a task without classes; a notebook calls this before anything else.

    Args:
        task: a name in `TASKS`.
        why: the rest of "this notebook ...".

    Raises:
        InputError: the task is a regression.
    """
    if TASKS[task].is_regression:
        known = ", ".join(name for name, known in TASKS.items() if known.embedded and not known.is_regression)
        raise InputError(f"Task {task!r} has no classes, and this notebook {why}: set `task` to one of {known}.")


def failures(table: pd.DataFrame) -> str:
    """Say of how many runs each setting fails, that is, does not beat the best constant answer.

    Args:
        table: rows of `results_table`, one setting for each `method_label`.
    """
    counted = table.groupby("method_label", sort=False).below_majority.agg(["sum", "size"])
    found = [f"{int(row['sum'])} of {row['size']} ({label})" for label, row in counted.iterrows()]
    return f"Runs that fail, no better than the best constant answer: {', '.join(found)}."


def differences(table: pd.DataFrame, baseline: str = BASELINE) -> str:
    """Say by how much each setting differs from one of them on equal seeds, and what that can decide.

    Args:
        table: rows of `results_table` for one task, one setting for each `method_label`.
        baseline: the setting that the others are compared with.
    """
    scores = 100 * table.pivot(index="seed_init", columns="method_label", values="score").astype(float)
    shown, above, below = [], [], []
    for label in dict.fromkeys(table.method_label):
        pairs = scores[[label, baseline]].dropna()
        if label == baseline or len(pairs) < 2:
            continue
        found = compare_paired(pairs[label], pairs[baseline])
        shown.append(f"{label} {found.difference:+.1f} [{found.low:.1f}, {found.high:.1f}]")
        above += [label] * (found.low > 0)
        below += [label] * (found.high < 0)
    n, metric = scores[baseline].notna().sum(), METRIC_LABELS[table.metric.iloc[0]]
    return (
        f"**Minus {baseline}**, in points of {metric} with 95 % t intervals, on {n} equal seeds: {'; '.join(shown)}. "
        f"The interval lies above zero for {_listed(above)}, below zero for {_listed(below)}. "
        f"No p-value of the sign-flip test can be below {2 / 2**n:.2g} with {n} seeds."
    )


def _listed(labels: list[str]) -> str:
    return ", ".join(labels) or "none"
