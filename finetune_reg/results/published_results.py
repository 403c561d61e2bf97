"""The figures that papers report, one row per figure, from `data/published_results.csv`.

`data/README.md` describes the columns and how the file was made.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.paths import ROOT
from finetune_reg.results.method_labels import MethodSpec, method_words

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED_RESULTS = ROOT / "data" / "published_results.csv"
COLUMNS: dict[str, str | type[str] | type[float]] = {
    "key": str,
    "paper": str,
    "table": str,
    "split": str,
    "model": str,
    "method": str,
    "method_name": str,
    "task": str,
    "setting": str,
    "metric": str,
    "unit": str,
    "n_train": "Int64",
    "n_runs": "Int64",
    "statistic": str,
    "value": float,
    "source": str,
    "read": str,
    "note": str,
}


@dataclass(frozen=True)
class PublishedRows:
    """Published figures that the runs of a method reproduce.

    Attributes:
        method: a method's name, with its default hyperparameters, or a mapping of the name to hyperparameters.
        rows: what the keys of the figures begin with, up to a slash.
        at: further settings of the runs, by name.

    Raises:
        InputError: an unknown method or hyperparameter.
    """

    method: MethodSpec
    rows: str
    at: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.label

    @property
    def label(self) -> str:
        """The method as one would construct it, as in the column `method_label` of results."""
        return method_words(self.method)


def load_published_results(path: Path | str = PUBLISHED_RESULTS) -> pd.DataFrame:
    """Read the published figures.

    Returns:
        One row per figure, indexed by `key`. Scores, their spreads and differences are in points (the score times
        100); a text that does not apply is empty, a number that does not apply is `<NA>`.

    Raises:
        InputError: no such file, or one with other columns.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no table of published figures {path}.")
    found = list(pd.read_csv(path, nrows=0).columns)
    if found != list(COLUMNS):
        raise InputError(f"{path} is not a table of published figures: it needs the columns {', '.join(COLUMNS)}.")
    table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values={"n_train": "", "n_runs": ""})
    return table.set_index("key")


def check_published_rows(published: Sequence[PublishedRows], where: str) -> None:
    """Check that there are figures for each.

    Raises:
        InputError: no key begins so.
    """
    if not published:
        return
    with PUBLISHED_RESULTS.open(newline="", encoding="utf-8") as file:
        prefixes = {prefix for row in csv.DictReader(file) for prefix in _prefixes(row["key"])}
    for rows in published:
        if rows.rows not in prefixes:
            raise unknown_name(f"published figure ({where}) with a key that begins with", rows.rows, prefixes)


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split("/")
    yield from ("/".join(parts[:length]) for length in range(1, len(parts) + 1))
