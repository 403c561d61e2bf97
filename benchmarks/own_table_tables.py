"""The public tables of own_table_study.py, read from the folder in FINETUNE_REG_GLUE."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from finetune_reg.errors import InputError


@dataclass(frozen=True)
class StudyTable:
    """Files to draw rows from and to test on, and the text columns, one or two."""

    train: str
    test: str
    columns: list[str]


TABLES = {
    "sst2": StudyTable("sst2/train.jsonl", "sst2/validation.jsonl", ["sentence"]),
    "mr": StudyTable("mr/train.jsonl", "mr/test.jsonl", ["sentence"]),
    "cr": StudyTable("cr/train.jsonl", "cr/test.jsonl", ["sentence"]),
    "imdb": StudyTable("imdb_small/train.jsonl", "imdb_small/test.jsonl", ["sentence"]),
    "mrpc": StudyTable("mrpc/train.jsonl", "mrpc/test.jsonl", ["sentence1", "sentence2"]),
    "sick": StudyTable("sick/train.jsonl", "sick/test.jsonl", ["premise", "hypothesis"]),
}


def draw(table: StudyTable, number: int, n_rows: int, n_test: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw rows at random from the training file, and the same test rows for every draw.

    Raises:
        InputError: FINETUNE_REG_GLUE does not name the folder of the data.
    """
    folder = os.environ.get("FINETUNE_REG_GLUE")
    if not folder or not (Path(folder) / table.train).is_file():
        raise InputError(f"FINETUNE_REG_GLUE has to name the folder that holds {table.train}.")
    known, test = (_read(Path(folder) / name, table.columns) for name in (table.train, table.test))
    return known.sample(n_rows, random_state=number), test.sample(min(n_test, len(test)), random_state=0)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    with path.open(encoding="utf-8") as lines:
        frame = pd.DataFrame(map(json.loads, lines))[[*columns, "label"]]
    return frame[frame[columns].map(lambda text: bool(text.strip())).all(axis=1)].reset_index(drop=True)
