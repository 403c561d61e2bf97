"""The figures that papers report, one row per figure, from `data/published_results.csv`.

`data/README.md` describes the columns and how the file was made.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.paths import ROOT

PUBLISHED_RESULTS = ROOT / "data" / "published_results.csv"
COLUMNS = {
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


def load_published_results(path: Path | str = PUBLISHED_RESULTS) -> pd.DataFrame:
    """Read the published figures.

    Returns:
        One row per figure, indexed by `key`. Scores, their spreads and differences are in points (the score times
        100); a text that does not apply is empty, a number that does not apply is `<NA>`.

    Raises:
        InputError: no such file, or one with other columns.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no table of published figures {path}.")
    found = list(pd.read_csv(path, nrows=0).columns)
    if found != list(COLUMNS):
        raise InputError(f"{path} is not a table of published figures: it needs the columns {', '.join(COLUMNS)}.")
    table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values={"n_train": "", "n_runs": ""})
    return table.set_index("key")
