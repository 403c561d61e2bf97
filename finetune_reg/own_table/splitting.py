"""Repeated stratified folds that keep units on one side, written as a task of the user's own for the runs to read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment.atomic_writing import write_atomically
from finetune_reg.own_table.selection import OwnTable
from finetune_reg.tasks.task_table import FOLDS

SCORE_BINS = 5  # scores are stratified by their quantiles


def make_splits(table: OwnTable, units: np.ndarray, folds: int, repeats: int) -> list[dict[str, Any]]:
    """Return `folds` times `repeats` splits as `own_task.py` describes them; each repetition shuffles anew.

    Args:
        units: for each row the number of its unit, shape (rows,); rows of one stand on one side.

    Raises:
        InputError: the units do not leave every class in each part to train on.
    """
    labels = table.rows.label.to_numpy()
    strata = labels if table.task.label_names else pd.qcut(pd.Series(labels).rank(method="first"), SCORE_BINS).cat.codes
    strata = np.asarray(strata)
    splits = []
    for repeat in range(repeats):
        for train, test in _folds(strata, units, folds, repeat):
            held_out = [train[part] for _, part in _folds(strata[train], units[train], FOLDS, repeat)]
            for part in held_out:
                _check_part(table, np.setdiff1d(train, part), part)
            splits.append(
                {"train": train.tolist(), "test": test.tolist(), "held_out": [part.tolist() for part in held_out]}
            )
    return splits


def _folds(strata: np.ndarray, units: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    has_groups = len(np.unique(units)) < len(units)
    splitter = (StratifiedGroupKFold if has_groups else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    if len(np.unique(units)) < folds:
        raise InputError(
            f"All rows belong to {len(np.unique(units))} groups or texts, too few for {folds} folds: label rows of "
            "more groups, or leave --group out."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        yield from splitter.split(strata, strata, units if has_groups else None)


def _check_part(table: OwnTable, train: np.ndarray, part: np.ndarray) -> None:
    names, labels = table.task.label_names, table.rows.label.to_numpy()
    absent = set(range(len(names))) - set(labels[train]) if names else set()
    if absent or not len(part):
        which = f"the class {names[min(absent)]}" if absent else "rows to choose on"
        raise InputError(
            f"Groups and repeated texts leave a part of the rows without {which}: label rows of more groups, or leave "
            "--group out."
        )


def write_task(table: OwnTable, splits: list[dict[str, Any]], folder: Path) -> None:
    """Write the task into `folder`: description, rows and splits; what is there already and equal stays as it is."""
    task = table.task
    described: dict[str, Any] = {"text_columns": list(task.text_columns), "metrics": list(task.metrics)}
    described |= (
        {"label_names": list(task.label_names)} if task.label_names else {"label_range": list(task.label_range)}
    )
    columns = [*task.text_columns, "label", "row"]
    rows = [json.dumps({name: row[name] for name in columns}, ensure_ascii=False) for row in table.records]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("train.jsonl", "\n".join(rows) + "\n"),
        ("splits.json", json.dumps(splits)),
        # JSON is YAML, and leaves no name of a class to be read as a number
        ("task.yaml", json.dumps(described | {"n_splits": len(splits)}, ensure_ascii=False, indent=1)),
    ):
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text:
            write_atomically(folder / name, text)
