"""From all columns to texts, labels and groups: what cannot be compared on is refused, what is left out is counted."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from finetune_reg.errors import InputError, shortened, unknown_name
from finetune_reg.tasks.row_files import Row
from finetune_reg.tasks.task_table import TASKS, MetricName, Task

FEWEST_ROWS, MOST_ROWS, FEWEST_OF_A_CLASS = 30, 20_000, 5
MOST_CLASSES = 1 / 3  # of the rows: beyond, labels are names of rows
LONGEST_CLASS_NAME = 200
LARGEST_SCORE = 1e6  # training moves weights by small steps, and squares what is missing
TEXT_COLUMNS = ("text", "second_text")
CLASS_METRICS: tuple[MetricName, ...] = ("macro_f1", "accuracy", "matthews")
SCORE_METRICS: tuple[MetricName, ...] = ("spearman", "pearson")


@dataclass(frozen=True)
class OwnTable:
    """The rows to compare methods on.

    Attributes:
        task: `text_columns` are `text` and, for pairs, `second_text`; label names, metrics and range are the table's.
        rows: those columns, `label` (class numbers, or scores), `group`, and `row`, the place in the file from 0.
        columns: what the texts, the label and the group are called in the file.
        n_read: rows of the file.
        without_text, without_label: rows that were left out.
        n_sampled: rows that were drawn, None if all were taken.
    """

    task: Task
    rows: pd.DataFrame
    columns: dict[str, Any]
    n_read: int
    without_text: int
    without_label: int
    n_sampled: int | None

    @cached_property
    def records(self) -> list[Row]:
        """The rows, one mapping each."""
        return [{str(name): value for name, value in row.items()} for row in self.rows.to_dict("records")]


def select_rows(
    frame: pd.DataFrame,
    text: Sequence[str],
    label: str,
    *,
    name: str = "table",
    group: str | None = None,
    scores: bool = False,
    metric: str | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> OwnTable:
    """Take texts, labels and groups out of a table, and check that methods can be compared on them.

    Rows without text or label are left out. Class names are sorted, as numbers where all are.

    Args:
        text: one column, or two for pairs of texts.
        group: a column; rows that share a value are kept on one side of each split.
        scores: labels are numbers to be predicted, not classes.
        metric: the one that tables report; by default macro F1 for classes and Spearman for scores.
        sample: draw so many rows at random; the class proportions are those of the draw.

    Raises:
        InputError: a column that is not there, texts that are no texts or all equal, labels or groups of mixed types or
            that are lists or mappings, labels of one class, almost all different or with names that differ in spelling
            only, a class of fewer than 5 rows, scores beyond a million, fewer than 30 or more than 20,000 rows, a
            metric of the other kind of label.
    """
    if len(text) not in (1, 2) or len(set(text)) < len(text):
        raise InputError(f"Give one or two different text columns, not {', '.join(text) or 'none'}.")
    for column in (*text, label, *([] if group is None else [group])):
        if column not in frame:
            raise unknown_name("column", column, map(str, frame.columns))
    if label in text:
        raise InputError(f"{label!r} is both the text and the label: name two columns.")
    named = {**dict(zip(TEXT_COLUMNS, text, strict=False)), "label": label}
    named |= {} if group is None else {"group": group}
    rows = pd.DataFrame({new: frame[old] for new, old in named.items()}).assign(row=range(len(frame)))
    if group is None:
        rows["group"] = None
    texts = [column for column in TEXT_COLUMNS if column in rows]
    for column, name_in_file in named.items():
        check_values(rows[column], name_in_file, are_texts=column in texts)
    if group is not None:
        _check_groups(rows.group, group)
    has_text = rows[texts].map(lambda value: isinstance(value, str) and bool(value.strip())).all(axis=1)
    has_label = rows.label.map(lambda value: not _is_missing(value))
    n_read, without_text, without_label = len(rows), int((~has_text).sum()), int((has_text & ~has_label).sum())
    rows = rows[has_text & has_label]
    if sample is not None and sample < len(rows):
        rows = rows.sample(sample, random_state=seed).sort_index()
    _check_size(len(rows), without_text + without_label)
    if len(rows[texts].drop_duplicates()) == 1:
        raise InputError(f"All texts in {' and '.join(text)} are equal: is it the right column?")
    task, rows = _scored(rows, label) if scores else _classified(rows, label)
    task = _with_metric(task, metric)
    sampled = sample if sample is not None and sample < n_read else None
    names = {"text": list(text), "label": label, "group": group}
    task = Task(**vars(task) | {"name": _safe(name), "text_columns": tuple(texts)})
    return OwnTable(task, rows.reset_index(drop=True), names, n_read, without_text, without_label, sampled)


def check_values(values: pd.Series, column: str, are_texts: bool) -> None:
    """Check that each cell is one value, and a text or missing where `are_texts`.

    Raises:
        InputError: the first cell that is not.
    """
    for number, value in values.items():
        where, shown = f"Row {number} of {column!r}", f"{shortened(value)} ({type(value).__name__})"
        if are_texts and not (_is_missing(value) or isinstance(value, str)):
            raise InputError(f"{where} is not text but {shown}: name a column of texts.")
        if isinstance(value, Collection) and not isinstance(value, str):
            raise InputError(f"{where} is not one value but {shown}: name a column of texts or numbers.")
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"{where} holds half of a character: repair the text.")


def _check_groups(groups: pd.Series, column: str) -> None:
    if groups.isna().all():
        raise InputError(f"No row has a group in {column!r}: name another column, or leave --group out.")
    _check_one_kind(groups.dropna(), f"groups in {column!r}")


def _check_one_kind(values: pd.Series, what: str) -> None:
    kinds = {type(value).__name__ for value in values}
    if len(kinds) > 1 and not kinds <= {"int", "float"}:
        raise InputError(f"The {what} are of mixed types ({', '.join(sorted(kinds))}): use one.")


def _check_size(n_rows: int, left_out: int) -> None:
    if n_rows < FEWEST_ROWS:
        rest = f" ({left_out} without text or label are left out)" if left_out else ""
        raise InputError(
            f"There are {n_rows} labelled rows{rest}; a comparison needs at least {FEWEST_ROWS}: label more."
        )
    if n_rows > MOST_ROWS:
        raise InputError(
            f"There are {n_rows:,} labelled rows, more than {MOST_ROWS:,}: draw some at random with --rows 2000."
        )


def _classified(rows: pd.DataFrame, column: str) -> tuple[Task, pd.DataFrame]:
    _check_one_kind(rows.label, f"labels in {column!r}")
    values = rows.label.map(_class_name)
    sizes = Counter(values)
    _check_names(sizes, column)
    if len(sizes) == 1:
        raise InputError(
            f"All labels in {column!r} are {shortened(next(iter(sizes)))}: a comparison needs two classes."
        )
    if len(sizes) > MOST_CLASSES * len(rows):
        numbers = all(map(_is_number, sizes))
        hint = "if they are scores, say so with --scores." if numbers else "is it the right column?"
        raise InputError(
            f"{column!r} has {len(sizes)} different values in {len(rows)} rows, too many for classes: {hint}"
        )
    rarest = min(sizes, key=sizes.__getitem__)
    if sizes[rarest] < FEWEST_OF_A_CLASS:
        raise InputError(
            f"The class {shortened(rarest)} has {sizes[rarest]} row{'s' * (sizes[rarest] > 1)}; training and testing "
            f"need at least {FEWEST_OF_A_CLASS}: add rows, merge it with another class or leave it out."
        )
    names = sorted(sizes, key=(lambda name: (float(name), name)) if all(map(_is_number, sizes)) else None)
    numbered = {name: number for number, name in enumerate(names)}
    return Task("", (), tuple(names), CLASS_METRICS), rows.assign(label=values.map(numbered).astype(int))


def _check_names(sizes: Counter[str], column: str) -> None:
    alike: dict[Any, str] = {}
    for name in sizes:
        if len(name) > LONGEST_CLASS_NAME:
            raise InputError(
                f"The label {shortened(name)} in {column!r} has {len(name)} characters, more than "
                f"{LONGEST_CLASS_NAME}: is it the right column?"
            )
        if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
            raise InputError(
                f"The label {shortened(name)} in {column!r} holds a line break or a control character: take it out."
            )
        key = float(name) if _is_number(name) else _spelling(name)
        if (other := alike.setdefault(key, name)) != name:
            pair = f"{shortened(other)} and {shortened(name)}"
            raise InputError(f"The labels {pair} in {column!r} differ in spelling only: make them one.")


def _scored(rows: pd.DataFrame, column: str) -> tuple[Task, pd.DataFrame]:
    wrong = [value for value in rows.label if isinstance(value, bool) or not _is_number(str(value))]
    if wrong:
        raise InputError(f"With --scores, labels are numbers, but {column!r} has {shortened(wrong[0])}.")
    values = rows.label.astype(str).astype(float)
    if (largest := values.abs().max()) > LARGEST_SCORE:
        raise InputError(
            f"The scores in {column!r} reach {largest:g}, more than {LARGEST_SCORE:g}: divide all by the same number."
        )
    if values.nunique() == 1:
        raise InputError(f"All scores in {column!r} are {values.iloc[0]:g}: there is nothing to predict.")
    label_range = (float(values.min()), float(values.max()))
    return Task("", (), (), SCORE_METRICS, label_range=label_range), rows.assign(label=values)


def _with_metric(task: Task, metric: str | None) -> Task:
    if metric is None:
        return task
    if metric == "f1" and len(task.label_names) == 2:
        return Task(**vars(task) | {"metrics": ("f1", *task.metrics)})
    if metric not in task.metrics:
        known = [*task.metrics, *(["f1"] if len(task.label_names) == 2 else [])]
        raise unknown_name(f"metric for {'scores' if task.is_regression else 'these classes'}", metric, known)
    return Task(**vars(task) | {"metrics": tuple(sorted(task.metrics, key=lambda name: name != metric))})


def _class_name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str) else str(value)


def _spelling(name: str) -> str:
    """Return what two spellings of one name share: no case, spaces, invisible characters or forms of one letter."""
    visible = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return " ".join("".join(visible).casefold().split())


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _safe(name: str) -> str:
    """Return a name for folders and records that no task of the package has."""
    safe = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40].lower() or "table"
    return f"{safe}_table" if safe in TASKS else safe
