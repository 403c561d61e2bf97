"""Rows that are nearly one another: they must not stand on both sides of a split, nor differ in their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_reg.own_table.selection import OwnTable

NEAR = 0.9  # cosine of the counts of three to five letters in a row within words
COMPARED_CHARACTERS = 5_000  # of each text: more than encoders read
LARGEST_CLUSTER = 0.1  # of all rows: longer chains of near-duplicates are filled-in templates


@dataclass(frozen=True)
class Duplicates:
    """What repeats in a table.

    Attributes:
        n_repeated: rows whose text, case and spaces apart, is that of an earlier row.
        n_near: rows that nearly repeat another one, without being the same.
        contradictions: positions of rows with the same text and another label than the first of them.
        units: for each row the number of its unit, rows that belong on one side of a split, shape (rows,).
        templates: rows of the largest chain of near-duplicates, where it is so long that only equal texts were
            joined; else 0.
    """

    n_repeated: int
    n_near: int
    contradictions: list[int]
    units: np.ndarray
    templates: int


def find_duplicates(table: OwnTable) -> Duplicates:
    """Find equal and nearly equal texts, and join them with the groups of the table to units."""
    rows = table.rows
    texts = normalized_texts(table)
    first = texts.map({text: i for i, text in reversed(list(enumerate(texts)))}).to_numpy()
    labels = rows.label.to_numpy()
    contradictions = np.flatnonzero(labels != labels[first])
    distinct = np.flatnonzero(first == np.arange(len(rows)))  # the pairs of equal texts can be too many to hold
    near = distinct[_near_pairs(texts.iloc[distinct].str[:COMPARED_CHARACTERS])]
    is_near = np.isin(first, near)
    equal = np.stack([np.arange(len(rows)), first])
    grouped = rows.group.notna().to_numpy()
    leaders = rows.group.map({value: i for i, value in reversed(list(rows.group.items()))})
    by_group = np.stack([np.flatnonzero(grouped), leaders[grouped].to_numpy(dtype=int)])
    sizes = np.bincount(_components(len(rows), near, equal))
    is_chain = sizes.max() > max(LARGEST_CLUSTER * len(rows), 2)
    joined = (equal, by_group) if is_chain else (equal, by_group, near)
    return Duplicates(
        n_repeated=len(rows) - len(distinct),
        n_near=int(is_near.sum()),
        contradictions=contradictions.tolist(),
        units=_components(len(rows), *joined),
        templates=int(sizes.max()) if is_chain else 0,
    )


def normalized_texts(table: OwnTable) -> pd.Series:
    """Return the text of each row, pairs joined, without case and repeated spaces."""
    columns = [table.rows[column] for column in table.task.text_columns]
    parts = [column.str.casefold().str.split().str.join(" ") for column in columns]
    return parts[0] if len(parts) == 1 else parts[0].str.cat(parts[1], sep=" \t ")


def _near_pairs(texts: pd.Series) -> np.ndarray:
    """Return the positions of near-duplicates, shape (2, pairs)."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.neighbors import NearestNeighbors

    counts = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False).transform(texts)
    graph = NearestNeighbors(radius=1 - NEAR, metric="cosine").fit(counts).radius_neighbors_graph(mode="connectivity")
    first, second = graph.nonzero()
    return np.stack([first, second])[:, first < second]


def _components(n_rows: int, *pairs: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n_rows, n_rows))
    return connected_components(graph, directed=False)[1]
