"""The reproducibility checklist of a set of runs, answered from their records.

The questions are those that machine-learning conferences ask of empirical results (NeurIPS paper checklist, the Machine
Learning Reproducibility Checklist), in our own words. What no record can know is left to the author.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_reg.experiment.environment import PACKAGES
from finetune_reg.experiment.settings import SEEDS
from finetune_reg.results.run_tables import RECIPE, collect, passes_of, short_name
from finetune_reg.tasks import get_task

LEFT_TO_THE_AUTHOR = (
    "Which hyperparameters were tried elsewhere, on which data they were chosen, and what that cost",
    "Licences of data, models and code, and the consent of people in the data",
    "What the pretrained model has seen of the evaluation data (contamination)",
    "Limitations, and possible harm of the results",
    "Where readers find the code, the records and this checklist",
)


def checklist(output_dir: Path | str) -> str:
    """Return the checklist of all records below a folder, as Markdown: answered items ticked, the author's not.

    Raises:
        InputError: there is no record.
    """
    items = [f"- [x] **{item}:** {answer}" for item, answer in checklist_items(collect(output_dir))]
    open_items = [f"- [ ] {item}" for item in LEFT_TO_THE_AUTHOR]
    parts = ["# Reproducibility checklist", "", "Answered from the records:", "", *items]
    return "\n".join([*parts, "", "For the author to answer:", "", *open_items, ""])


def checklist_items(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return each question that records answer, with its answer.

    Args:
        table: as from `results_table`.
    """
    environments = environment_facts(table)
    runs = table.groupby(["method_label", "task", *RECIPE[:2]], dropna=False).size()
    statuses = ", ".join(f"{count} {status}" for status, count in table.status.value_counts().items())
    below = int(table.below_majority.fillna(True).astype(bool).sum())
    methods = table.drop_duplicates("method_label")
    hyperparameters = zip(methods.method_label, methods.method_hyperparameters, strict=True)
    tasks = table.drop_duplicates("task")
    metrics = [f"{row.task}: {row.metric}" for row in tasks.itertuples()]
    scored = table.drop_duplicates(["task", "split"])
    splits = [
        f"{name}: {get_task(name, source).scored_split(split)}"
        for name, source, split in zip(scored.task, scored.source, scored.split, strict=True)
    ]
    subsets = {json.loads(subset).get("content_hash") for subset in table.subset.unique()} - {None}
    recipe = [f"{name} {_values(table[name])}" for name in RECIPE[2:]]
    seeds = [f"{name} {_values(table[name])}" for name in (*SEEDS, "seed_subset")]
    return [
        ("Model", f"{_models(table)}; pretrained: {_values(table.pretrained)}"),
        ("Methods, all hyperparameters", "; ".join(f"{label} {values}" for label, values in hyperparameters)),
        ("Data", f"{', '.join(tasks.task)}; source {_values(table.source.map(short_name))}"),
        (
            "Training rows",
            f"{_values(table.n_train)} per task, drawn from the training split with seed_subset "
            f"{_values(table.seed_subset)}; row ids are in the records; content hashes {', '.join(sorted(subsets))}",
        ),
        ("Evaluation split", f"{', '.join(splits)}; the score is that of the last epoch"),
        ("Other hyperparameters", f"{'; '.join(recipe)}. These are all values in the records"),
        ("Number of runs", f"{len(table)} ({statuses}), {_range(runs, 0)} per method and task"),
        ("Seeds", "; ".join(seeds)),
        ("Metric", "; ".join(metrics)),
        (
            "Central tendency and variation",
            "mean, standard deviation (ddof 1) over seeds, median, maximum, 95 % t interval of the mean; differences "
            "paired by seed, with sign-flip permutation tests and Holm's correction",
        ),
        ("Runs without success", f"{below} of {len(table)} do not beat the best constant prediction, or have no score"),
        (
            "Hardware",
            f"{environments['device']}; {environments['platform']}; torch threads {environments['threads']}; "
            f"{environments['dtype']}; peak memory {_range(table.peak_memory_mb, 0)} MiB",
        ),
        (
            "Runtime",
            f"{_range(table.wall_seconds, 1)} s per run, {table.wall_seconds.sum() / 3600:.2f} h in all; "
            f"{_range(passes_of(table), 0)} forward and backward passes per run",
        ),
        ("Code version", code_version(environments)),
        ("Software", ", ".join(f"{name} {environments[name]}" for name in ("python", *PACKAGES))),
    ]


def environment_facts(table: pd.DataFrame) -> dict[str, str]:
    """Return each fact of the records' environments; "unknown" if no record has it, several values with commas."""
    environments = pd.DataFrame(json.loads(text) for text in table.environment.unique())
    names = ("python", *PACKAGES, "device", "platform", "threads", "dtype", "commit", "uncommitted_changes")
    return {name: _values(environments[name].dropna()) if name in environments else "unknown" for name in names}


def code_version(environments: dict[str, str]) -> str:
    """Return package version and commit, and whether the code was changed beyond it."""
    changed = "True" in environments["uncommitted_changes"]
    return (
        f"finetune_reg {environments['finetune_reg']}, commit {environments['commit']}"
        f"{', with uncommitted changes in at least one run' if changed else ''}"
    )


def _models(table: pd.DataFrame) -> str:
    models: Iterable[Any] = (
        table[table.n_parameters.notna()].drop_duplicates(["model_name", "weights_hash"]).itertuples()
    )
    described = ", ".join(
        f"{short_name(row.model_name)} ({row.n_parameters / 1e6:.2f} M parameters, weights hash {row.weights_hash})"
        for row in models
    )
    return described or _values(table.model_name.map(short_name))


def _values(values: pd.Series) -> str:
    found = values.drop_duplicates().sort_values()
    return ", ".join("all" if pd.isna(value) else _text(value) for value in found) or "unknown"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(values: pd.Series, digits: int) -> str:
    low, high = values.astype(float).min(), values.astype(float).max()
    if pd.isna(low):
        return "unknown"
    return f"{low:,.{digits}f}" if low == high else f"{low:,.{digits}f} to {high:,.{digits}f}"
