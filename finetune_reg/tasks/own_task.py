"""A task of the user's own: a folder `SOURCE/NAME` with `task.yaml` beside the rows, `train.jsonl` or `train.parquet`.

    text_columns: [question, answer]    # one or two
    label_names: [wrong, right]         # or, for scores, label_range: [0, 5]
    metrics: [macro_f1, accuracy]       # the first is the one that tables report
    n_splits: 10                        # optional: in splits.json; without them the rows of validation.jsonl are tested

`splits.json` is a list, one mapping per split, of positions in the training file: `train`, `test`, and `held_out`, five
parts of `train` to choose hyperparameters on. A run takes the split whose number is its `seed_subset`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.typed_parameters import check_value, load_yaml
from finetune_reg.paths import existing_folder
from finetune_reg.tasks.task_table import FOLDS, MetricName, Task

NAME = r"[a-z0-9_]{1,60}"
DESCRIBED: dict[str, Any] = {
    "text_columns": list[str],
    "label_names": list[str],
    "label_range": list[float],
    "metrics": list[str],
    "n_splits": int,
}
OF_SCORES = ("spearman", "pearson")


@dataclass(frozen=True)
class NumberedSplit:
    """Positions of rows: to train on, to test on, and parts of the former that are held out to choose on."""

    train: list[int]
    test: list[int]
    held_out: list[list[int]]

    def inside(self, ids: list[int], fold: int) -> list[int]:
        """Return those of these positions that are not in a held-out part.

        Raises:
            InputError: no number of a part.
        """
        if not 0 <= fold < len(self.held_out):
            raise InputError(f"held_out_fold is 0 to {FOLDS - 1}, one of {FOLDS} folds, not {fold}.")
        left_out = set(self.held_out[fold])
        return [i for i in ids if i not in left_out]


def find_own_task(name: str, source: str) -> Task | None:
    """Return the task that a folder describes, None if there is no such description.

    Raises:
        InputError: the description lacks something, or has something that would be ignored.
    """
    folder = existing_folder(source)
    if folder is None or not re.fullmatch(NAME, name) or not (path := folder / name / "task.yaml").is_file():
        return None
    return _described(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=100)
def _described(path: Path, _modified: int) -> Task:
    content = load_yaml(path)
    if not isinstance(content, dict) or not {"text_columns", "metrics"} <= set(content) <= set(DESCRIBED):
        raise InputError(f"{path} needs text_columns and metrics, and may have {', '.join(list(DESCRIBED)[1:])}.")
    for key, value in content.items():
        check_value(key, value, DESCRIBED[key], str(path))
    texts, names, metrics = content["text_columns"], content.get("label_names", []), content["metrics"]
    span = content.get("label_range", [0.0, 5.0])
    if len(texts) not in (1, 2) or len(set(texts)) < len(texts) or "label" in texts:
        raise InputError(f"{path} needs one or two different text columns that are not called label.")
    if bool(names) == ("label_range" in content) or len(set(names)) < len(names) or len(names) == 1:
        raise InputError(f"{path} needs label_names, at least two different ones, or for scores a label_range.")
    if len(span) != 2 or not span[0] < span[1]:
        raise InputError(f"{path} needs label_range to be the smallest and the largest score.")
    known = [name for name in get_args(MetricName) if (name in OF_SCORES) != bool(names)]
    if not metrics or not set(metrics) <= set(known) or ("f1" in metrics and len(names) != 2):
        raise InputError(f"{path} needs metrics from {', '.join(known)}; f1 is for two classes.")
    n_splits = content.get("n_splits", 0)
    if n_splits < 0:
        raise InputError(f"{path} needs n_splits of 0 or more.")
    label_range = float(span[0]), float(span[1])
    return Task(
        path.parent.name,
        tuple(texts),
        tuple(names),
        tuple(metrics),
        folders=(path.parent.name,),
        label_range=label_range,
        n_splits=n_splits,
    )


def numbered_split(task: Task, source: str, number: int, n_rows: int) -> NumberedSplit:
    """Return a split of a task that has numbered ones, of the `n_rows` rows in its training file.

    Raises:
        InputError: there is no split of this number, or the file is damaged.
    """
    path = Path(os.path.expanduser(source)) / task.name / "splits.json"
    if number >= task.n_splits:
        raise InputError(f"{task.name} has the splits 0 to {task.n_splits - 1}: seed_subset cannot be {number}.")
    try:
        splits = _read_splits(path, path.stat().st_mtime_ns)
        split = NumberedSplit(**splits[number])
        whole = [*split.train, *split.test]
        is_right = len(set(whole)) == len(whole) and set(whole) <= set(range(n_rows)) and len(split.held_out) == FOLDS
        is_right = is_right and all(part and set(part) < set(split.train) for part in split.held_out)
    except (OSError, ValueError, TypeError, IndexError, KeyError):
        is_right = False
    if not is_right or not split.test:
        raise InputError(f"{path} does not hold split {number} of the {n_rows} rows of {task.name}: make it again.")
    return split


@lru_cache(maxsize=4)
def _read_splits(path: Path, _modified: int) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))
