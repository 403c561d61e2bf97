"""Frozen parts of a task's training rows: subsets and held-out folds, the same for the same seed on every machine."""

from __future__ import annotations

import random
from collections import Counter

from finetune_reg.errors import InputError
from finetune_reg.tasks.row_files import Row
from finetune_reg.tasks.task_table import FOLDS, Task


def subset_row_ids(n_rows: int, n_train: int | None, seed: int, where: str) -> list[int]:
    """Draw `n_train` of `n_rows` positions; the same for the same seed on every machine.

    Raises:
        InputError: fewer rows than asked for, or less than one asked for.
    """
    if n_train is None:
        return list(range(n_rows))
    if not 1 <= n_train <= n_rows:
        raise InputError(f"n_train must be between 1 and {n_rows}, the training rows of {where}, not {n_train}.")
    return random.Random(seed).sample(range(n_rows), n_train)


def stratified_subset(
    task: Task, rows: list[Row], ids: list[int], n_train: int | None, seed: int, where: str
) -> list[int]:
    """Draw `n_train` of these positions with the class proportions of all, and at least one of each class.

    Raises:
        InputError: scores, or so few rows asked for, left over or of a class that a class would be missing.
    """
    if task.is_regression:
        raise InputError(f"{where} has scores, not classes: leave stratified out.")
    rows_of = Counter(rows[i]["label"] for i in ids)
    n_classes = task.n_outputs
    if n_train is None or not n_classes <= n_train <= len(ids) - n_classes:
        largest = len(ids) - n_classes
        raise InputError(f"A stratified subset of {where} needs n_train from {n_classes} to {largest}, not {n_train}.")
    rarest = min(range(n_classes), key=rows_of.__getitem__)
    if rows_of[rarest] < 2:
        raise InputError(
            f"{where} has {rows_of[rarest]} rows of the class {task.label_names[rarest]}, where a stratified subset "
            "needs two: leave stratified out."
        )
    from sklearn.model_selection import train_test_split

    subset, _ = train_test_split(ids, train_size=n_train, stratify=[rows[i]["label"] for i in ids], random_state=seed)
    if absent := set(range(n_classes)) - {rows[i]["label"] for i in subset}:
        raise InputError(
            f"A stratified subset of {n_train} of the {len(ids)} rows of {where} has none of the {rows_of[rarest]} of "
            f"the class {task.label_names[min(absent, key=rows_of.__getitem__)]}: raise n_train to "
            f"{-(-len(ids) // rows_of[rarest])}."
        )
    return subset


def fold_of(ids: list[int], fold: int, seed: int, where: str) -> tuple[list[int], list[int]]:
    """Return four fifths of these positions, in random order, and the fifth that is held out.

    Raises:
        InputError: no number of a fold, or fewer positions than folds.
    """
    if not 0 <= fold < FOLDS:
        raise InputError(f"held_out_fold is 0 to {FOLDS - 1}, one of {FOLDS} folds, not {fold}.")
    if len(ids) < FOLDS:
        raise InputError(f"{len(ids)} training rows of {where} cannot be cut into {FOLDS} folds.")
    from sklearn.model_selection import KFold

    kept, held_out = list(KFold(FOLDS, shuffle=True, random_state=seed).split(ids))[fold]
    return [ids[i] for i in kept], [ids[i] for i in held_out]
