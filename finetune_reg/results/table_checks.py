"""What a table must be before its runs are compared: one row per run, and equal rows and weights under equal names."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment.inputs import HASHES, ROWS
from finetune_reg.experiment.records import OUTCOME

TRANSFER = ["task", "source", "evaluate_on"]
WEIGHTS = ["task", "model_name", "pretrained"]
OWN_SUBSET = "that of the run"  # in place of seed_subset, where each run drew other rows by its own seed


def one_row_per_run(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table without repetitions of a run: the first row of each, in their order.

    A table of scores on other tasks has a row for each of them.

    Raises:
        InputError: two rows of one run have different results.
    """
    run = ["run_id", "task"]
    repeated = table.duplicated(run)
    if not repeated.any():
        return table
    distinct = table[[*run, *OUTCOME]].assign(content=_named(_subsets(table), "content_hash")).drop_duplicates()
    if (contradicting := distinct.duplicated(run)).any():
        raise InputError(
            f"The table holds different results of the run {distinct.run_id[contradicting].iloc[0]}: keep one of them."
        )
    return table[~repeated].reset_index(drop=True)


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as `one_row_per_run` does, if its runs may be compared.

    Raises:
        InputError: as `one_row_per_run`, or two runs name the same rows or weights, but were made of different ones;
            the sentence names both.
    """
    table = one_row_per_run(table)
    drawn_by = table.seed_subset.where(table.seed_subset != OWN_SUBSET, table.seed_init)
    named = table.assign(seed_subset=drawn_by)
    subsets = _subsets(table)
    for name, found in HASHES.items():
        _check_same(named, list(ROWS), _named(subsets, name), found, "source")
    elsewhere = _named(subsets, "transfer_hashes").map(json.dumps, na_action="ignore")
    _check_same(table, TRANSFER, elsewhere, "rows of evaluate_on", "source")
    _check_same(table, WEIGHTS, table.weights_hash, "pretrained weights", "model_name")
    return table


def _named(subsets: pd.Series, name: str) -> pd.Series:
    return subsets.map(lambda subset: subset.get(name))


def _subsets(table: pd.DataFrame) -> pd.Series:
    """Return what a table's texts say of its runs' rows, nothing where it has none; many runs share a text."""
    places, texts = pd.factorize(table.subset, use_na_sentinel=False)
    read = np.array([_hashes(text) if isinstance(text, str) else {} for text in texts], dtype=object)
    return pd.Series(read[places], table.index, dtype=object)


@lru_cache(2**15)
def _hashes(subset: str) -> dict[str, Any]:
    """Return what a subset says but for its rows; each table of a report asks for it again."""
    return {name: value for name, value in json.loads(subset).items() if name != "row_ids"}


def _check_same(table: pd.DataFrame, names: list[str], hashes: pd.Series, what: str, where: str) -> None:
    known = table[list(dict.fromkeys([*names, "run_id", "task", where]))].assign(hash=hashes)[hashes.notna()]
    if (known.groupby(names, dropna=False).hash.nunique() <= 1).all():
        return
    group = next(g for _, g in known.groupby(names, dropna=False, sort=False) if g.hash.nunique() > 1)
    first, other = group.drop_duplicates("hash").iloc[:2].itertuples()
    raise InputError(
        f"The runs {first.run_id} and {other.run_id} of {first.task} were made with different {what} of the same name, "
        f"{getattr(first, where)}: compare runs that share them, and move the others away."
    )
