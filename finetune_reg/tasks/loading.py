"""Rows of a task from pocket, a local folder or the hub; frozen low-resource subsets of its training rows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError, MissingInputError, shortened
from finetune_reg.hyperparameters.ranges import Seed, check_in_range
from finetune_reg.paths import existing_folder
from finetune_reg.pocket.tasks import generate_task
from finetune_reg.tasks.own_task import numbered_split
from finetune_reg.tasks.row_files import Row, read_rows
from finetune_reg.tasks.subsets import fold_of, stratified_subset, subset_row_ids
from finetune_reg.tasks.task_table import TASKS, Split, Task, get_task

POOLED_PARTS = 5  # one of them is the test set, rounded up
ENVIRONMENT_VARIABLE = "FINETUNE_REG_GLUE"


@dataclass(frozen=True)
class TaskData:
    """A task with its rows.

    Attributes:
        train: the chosen training rows, in the order of the subset.
        validation: the rows to evaluate on: the split that papers report, never used to choose anything; or the last
            fifth of the pooled rows; or a held-out fold of the training rows, which is there to choose with.
        row_ids: positions of the training rows in the file of the training split, from 0, rows without a gold label
            counted, blank lines not; with `"pooled"`, in that file and the one of the validation split after it.
        content_hash: SHA-256 (16 hex digits) over text and label of the training rows.
        validation_hash: the same of the rows to evaluate on.
    """

    task: Task
    train: list[Row]
    validation: list[Row]
    row_ids: list[int]
    content_hash: str
    validation_hash: str


@dataclass(frozen=True)
class SplitRows:
    """The labelled rows of a split: `positions` in its file, which holds `n_rows`, unlabelled ones included."""

    rows: list[Row]
    positions: list[int]
    n_rows: int


ReadSplit = Callable[[Task, str, str], SplitRows]


def load_task(
    name: str,
    source: str = "pocket",
    n_train: int | None = None,
    subset_seed: int = 0,
    *,
    stratified: bool = False,
    split: Split = "official",
    held_out_fold: int | None = None,
    read_split: ReadSplit | None = None,
) -> TaskData:
    """Load a task and a frozen subset of its training rows.

    Args:
        name: a key of `TASKS`, or a task of the user's own in the folder `source`, see `own_task.py`. Where that has
            numbered splits, `subset_seed` is the number of one, and the splits of the files are not used.
        source: `"pocket"`; `"local"`, the folder in the environment variable FINETUNE_REG_GLUE; `"hub"`; or the
            path of a folder that holds `NAME/SPLIT.jsonl` or `.parquet`.
        n_train: rows to draw without replacement, in the same way for every run with this `subset_seed`; None
            takes all.
        subset_seed: 0 to 2^32 - 1.
        stratified: the subset has the class proportions of the whole, and at least one row of each class.
        split: `"official"`; `"development"`, for tasks whose official scores are of test rows; `"pooled"` shuffles
            training and validation rows together by `subset_seed` and tests on the last fifth, as guided dropout does,
            so that scores are not comparable with the usual ones.
        held_out_fold: 0 to 4 trains on four fifths of the chosen rows and evaluates on this one. For choosing
            hyperparameters: the development set is not even read.
        read_split: reads the rows of a split in the place of `read_labelled_rows`, for example from a cache.

    Raises:
        InputError: unknown task or source, missing folder, split or column, a label out of range, an empty split,
            fewer training rows than asked for, a stratified subset of scores or without a class, or an unreachable
            hub.
    """
    check_in_range("subset_seed", subset_seed, Seed, "load_task")
    task, read_split = get_task(name, source), read_split or read_labelled_rows
    where = f"{name} ({source})"
    training = read_split(task, "train", source)
    train, positions = training.rows, training.positions
    ids = list(range(len(train)))
    validation: list[Row] = []
    numbered = numbered_split(task, source, subset_seed, len(train)) if task.n_splits else None
    if numbered is not None:
        ids, validation = numbered.train, [train[i] for i in numbered.test]
    elif split == "pooled":
        evaluation = read_split(task, task.validation_split, source)
        train = train + evaluation.rows
        positions = positions + [training.n_rows + position for position in evaluation.positions]
        ids = random.Random(subset_seed).sample(range(len(train)), len(train))
        n_test = -(-len(train) // POOLED_PARTS)
        ids, validation = ids[:-n_test], [train[i] for i in ids[-n_test:]]
    elif held_out_fold is None:
        validation = read_split(task, task.scored_split(split), source).rows
    if stratified:
        ids = stratified_subset(task, train, ids, n_train, subset_seed, where)
    else:
        ids = [ids[i] for i in subset_row_ids(len(ids), n_train, subset_seed, where)]
    if held_out_fold is not None and numbered is not None:
        ids, validation = numbered.inside(ids, held_out_fold), [train[i] for i in numbered.held_out[held_out_fold]]
    elif held_out_fold is not None:
        kept, held_out = fold_of(ids, held_out_fold, subset_seed, where)
        ids, validation = kept, [train[i] for i in held_out]
    chosen = [train[i] for i in ids]
    hashes = rows_hash(task, chosen), rows_hash(task, validation)
    return TaskData(task, chosen, validation, [positions[i] for i in ids], *hashes)


def load_split(task: Task, split: str, source: str) -> list[Row]:
    """Load and check the rows of one split. Rows without a gold label (-1) are dropped; label names become numbers.

    Raises:
        InputError: as `load_task`.
    """
    return read_labelled_rows(task, split, source).rows


def read_labelled_rows(task: Task, split: str, source: str) -> SplitRows:
    """Load one split as `load_split` does, and where its rows stand."""
    if task.embedded != (source == "pocket"):
        embedded = ", ".join(t.name for t in TASKS.values() if t.embedded)
        others = ", ".join(t.name for t in TASKS.values() if not t.embedded)
        known = f"source 'pocket' has the tasks {embedded}; the others ({others}) come from 'local', a folder or 'hub'"
        raise InputError(f"Task {task.name!r} does not come from source {source!r}: {known}.")
    if source == "pocket":
        rows, where = _pocket_splits(task.name)[split], f"pocket {task.name} {split}"
    elif source == "hub":
        rows, where = _rows_from_hub(task, split), f"{task.name} {split} on the hub"
    else:
        path = _local_file(task, split, source)
        rows, where = read_rows(path), str(path)
    return _checked(task, rows, where)


def rows_hash(task: Task, rows: Iterable[Row]) -> str:
    """Hash text and label of rows, in order."""
    content = [[*(row[column] for column in task.text_columns), row["label"]] for row in rows]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


@cache
def _pocket_splits(name: str) -> dict[str, list[Row]]:
    return generate_task(name)


def _local_file(task: Task, split: str, source: str) -> Path:
    if source == "local":
        if not os.environ.get(ENVIRONMENT_VARIABLE):
            raise MissingInputError(
                f"Source 'local' needs the environment variable {ENVIRONMENT_VARIABLE}: set it to a folder that "
                f"holds {task.name}/train.jsonl."
            )
        source = os.environ[ENVIRONMENT_VARIABLE]
    folder = existing_folder(source)
    if folder is None:
        raise MissingInputError(
            f"There is no folder {source:.200}: give 'pocket', 'local', 'hub' or a folder with task folders."
        )
    candidates = [folder / name / f"{split}{suffix}" for name in task.folders for suffix in (".jsonl", ".parquet")]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        wanted = " or ".join(str(path.relative_to(folder)) for path in candidates)
        raise MissingInputError(f"{folder} lacks {wanted}: task {task.name!r} needs its {split} split.")
    return found


def _rows_from_hub(task: Task, split: str) -> list[Row]:
    if task.hub is None:
        raise MissingInputError(f"No hub data set is known for {task.name!r}: load it from a local folder.")
    import datasets

    path, configuration = task.hub
    try:
        return datasets.load_dataset(path, configuration, split=split).to_list()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = " ".join(str(error).split())[:200]
        raise MissingInputError(
            f"Cannot load {path} ({task.name}, {split}) from the hub: {cause}. Check the network and HF_HUB_OFFLINE, "
            f"or set {ENVIRONMENT_VARIABLE} to a local folder and use source 'local'."
        ) from error


def _checked(task: Task, rows: list[Row], where: str) -> SplitRows:
    if not rows:
        raise InputError(f"{where} has no rows.")
    checked, positions = [], []
    for number, row in enumerate(rows):
        at = f"{where}, row {number}"
        for column in (*task.text_columns, "label"):
            if column not in row:
                raise InputError(
                    f"{at}: no column {column!r} (it has {', '.join(map(str, row))}); "
                    f"task {task.name!r} needs {', '.join(task.text_columns)} and label."
                )
        for column in task.text_columns:
            _check_text(row[column], column, at)
        label = row["label"]
        if label in task.label_names:
            row = row | {"label": (label := task.label_names.index(label))}
        if label == -1 and not task.is_regression:
            continue
        if not _is_label(task, label):
            classes = ", ".join(f"{i} {label_name}" for i, label_name in enumerate(task.label_names))
            allowed = f"one of {classes}" if classes else "a number from {} to {}".format(*task.label_range)
            raise InputError(f"{at}: label {shortened(label)} is not {allowed}.")
        checked.append(row)
        positions.append(number)
    if not checked:
        raise InputError(f"{where} has no row with a gold label: hidden test labels cannot be used.")
    return SplitRows(checked, positions, len(rows))


def _check_text(text: Any, column: str, at: str) -> None:
    if text is None or (isinstance(text, float) and math.isnan(text)):
        raise InputError(f"{at}: {column} is missing. Fill it in, or leave the row out.")
    if not isinstance(text, str):
        raise InputError(f"{at}: {column} is not text but {shortened(text)} ({type(text).__name__}).")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{at}: {column} holds half of a character (a lone surrogate, {shortened(text)}): repair the text."
        ) from None


def _is_label(task: Task, label: Any) -> bool:
    if isinstance(label, bool):
        return False
    if task.is_regression:
        return isinstance(label, int | float) and task.label_range[0] <= label <= task.label_range[1]
    return isinstance(label, int) and 0 <= label < task.n_outputs
