"""From records to one tidy table, and from the table to summaries per setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment import SEEDS, SETTING_TYPES
from finetune_reg.methods import METHODS
from finetune_reg.records import RunRecord, read_records
from finetune_reg.statistics import compare_paired, summarize

# What two runs must share to be compared: every setting but the method and the seeds of the run.
SETTING = [name for name in SETTING_TYPES if name not in ("method", "method_hyperparameters", *SEEDS)]


def collect(output_dir: Path | str, out: Path | str | None = None) -> pd.DataFrame:
    """Build the table of all records below a folder, one row per run; with `out`, write it as Parquet.

    Raises:
        InputError: there is no record.
    """
    table = results_table(read_records(output_dir))
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(out, index=False)
    return table


def load_results(path: Path | str) -> pd.DataFrame:
    """Load a table written by `collect`, or collect a folder of records.

    Raises:
        InputError: neither exists.
    """
    path = Path(path)
    if path.is_dir():
        return collect(path)
    if not path.is_file():
        raise InputError(f"There is neither a folder of records nor a Parquet file {path}.")
    return pd.read_parquet(path)


def results_table(records: list[RunRecord]) -> pd.DataFrame:
    """Return one row per record: settings and results in columns; nested values (history, subset) as JSON text."""
    rows = []
    for record in records:
        row: dict[str, Any] = {**record.settings, **vars(record)}
        row.pop("settings")
        row["method_label"] = method_label(row["method"], row["method_hyperparameters"])
        rows.append({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()})
    table = pd.DataFrame(rows)
    order = [*SETTING, "method", "method_label", "seed_init"]  # alphabetical, but vanilla comes first
    first = {"method": lambda names: names.where(names != "vanilla", "")}
    return table.sort_values(order, key=lambda column: first.get(column.name, lambda c: c)(column), ignore_index=True)


def method_label(name: str, hyperparameters: dict[str, Any]) -> str:
    """Write a method as one would construct it: the first hyperparameter and those that differ from the default."""
    if name == "combination":
        members = (
            method_label(m["method"], {k: v for k, v in m.items() if k != "method"}) for m in hyperparameters["members"]
        )
        return " + ".join(members)
    defaults = METHODS[name]().hyperparameters
    shown = [
        f"{key}={value}"
        for i, (key, value) in enumerate(hyperparameters.items())
        if value != defaults[key] or (i == 0 and value is not None)
    ]
    return f"{METHODS[name].__name__}({', '.join(shown)})"


def summary_table(table: pd.DataFrame, baseline: str = "Vanilla()") -> pd.DataFrame:
    """Summarize each setting and method over seeds, and compare it with the baseline on equal seeds.

    Returns:
        One row per setting and method: the fields of `Summary` and, where the baseline has the same seeds, the
        paired difference with its interval and p-value.
    """
    rows = []
    for setting, group in table.groupby(SETTING, dropna=False, sort=False):
        reference = group[group.method_label == baseline].set_index(list(SEEDS)).score
        for label, runs in group.groupby("method_label", sort=False):
            scores = runs.set_index(list(SEEDS)).score
            row = dict(zip(SETTING, setting, strict=True)) | {"method": label, "metric": runs.metric.iloc[0]}
            failed = int((runs.below_majority.fillna(True)).astype(bool).sum())
            row |= vars(summarize(scores.dropna(), failed))
            paired = pd.concat([scores, reference], axis=1, keys=["ours", "reference"]).dropna()
            if label != baseline and len(paired):
                row |= {
                    f"paired_{name}": value
                    for name, value in vars(compare_paired(paired.ours, paired.reference)).items()
                }
            rows.append(row)
    return pd.DataFrame(rows)
