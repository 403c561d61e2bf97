"""A file of the user's -> one data frame, all columns, nothing guessed; what cannot be read is one sentence."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_reg.errors import InputError, MissingInputError, shortened
from finetune_reg.tasks.row_files import read_rows, refuse_lfs_pointer

SEPARATED = {".csv": ",", ".tsv": "\t"}
FORMATS = "a .csv, .tsv, .jsonl or .parquet file, or the folder of a Hugging Face data set"
LONGEST_CELL = 2**31 - 1
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_table(source: Path | str | pd.DataFrame, encoding: str | None = None) -> pd.DataFrame:
    """Read all rows and columns of a table.

    Cells of CSV and TSV files stay text, an empty one is None; a CSV file whose header has semicolons and no comma is
    separated by those. Of a data set with several splits, `train` is read.

    Args:
        source: a file or folder, or a data frame, which is copied.
        encoding: of a CSV or TSV file; None is UTF-8, or UTF-16 where a byte-order mark says so.

    Returns:
        Values as Python objects, rows counted from 0 in the index.

    Raises:
        InputError: nothing there, another format or encoding, a damaged file, a column twice, or no rows.
    """
    if isinstance(source, pd.DataFrame):
        if unnamed := [name for name in source if not isinstance(name, str)]:
            raise InputError(f"The data frame has a column {unnamed[0]!r} whose name is no text: rename it.")
        frame, where = source.reset_index(drop=True).astype(object), "The data frame"
        frame = frame.where(frame.notna(), None)
    elif not isinstance(source, str | Path):
        raise InputError(f"A {type(source).__name__} is no table: give {FORMATS}, or a data frame.")
    else:
        path = Path(os.path.expanduser(source))
        frame, where = _read_path(path, encoding), str(path)
    if twice := [
        name for name, is_repeated in zip(frame.columns, frame.columns.duplicated(), strict=True) if is_repeated
    ]:
        raise InputError(f"{where} has the column {twice[0]!r} twice: rename or remove one.")
    if frame.empty:
        raise InputError(f"{where} has no rows.")
    return frame


def _read_path(path: Path, encoding: str | None) -> pd.DataFrame:
    if path.is_dir():
        return _read_data_set(path)
    if not path.is_file():
        raise MissingInputError(f"There is no file {path}: give {FORMATS}.")
    if path.suffix.lower() in SEPARATED:
        return _read_separated(path, encoding)
    if encoding is not None:
        raise InputError(f"{path.name} needs no encoding: leave it out, it is for .csv and .tsv files.")
    if path.suffix.lower() not in (".jsonl", ".parquet"):
        raise InputError(f"{path.name} has no known ending: give {FORMATS}.")
    return pd.DataFrame(read_rows(path), dtype=object)


def _read_separated(path: Path, encoding: str | None) -> pd.DataFrame:
    refuse_lfs_pointer(path)
    with path.open("rb") as file:
        encoding = encoding or BYTE_ORDER_MARKS.get(file.read(2), "utf-8-sig")
    csv.field_size_limit(LONGEST_CELL)  # Python's own limit is that of a long document
    try:
        with path.open(encoding=encoding, newline="") as lines:
            first = lines.readline()
            separator = SEPARATED[path.suffix.lower()]
            if separator == "," and ";" in first and "," not in first:
                separator = ";"
            lines.seek(0)
            rows = csv.reader(lines, delimiter=separator, strict=True)
            header = next(rows, [])
            content = [row for row in rows if row]
            last = rows.line_num
    except UnicodeError as error:
        raise InputError(
            f"{path.name} is not text in {encoding.removesuffix('-sig')} ({error}): save it in UTF-8, or name its "
            "encoding, for example cp1252 for a file of Windows."
        ) from None
    except (LookupError, ValueError):  # of no name of a codec, such as one with a null character
        raise InputError(
            f"There is no encoding {shortened(encoding)}: utf-8, utf-16, cp1252 and latin-1 are some."
        ) from None
    except csv.Error as error:
        raise InputError(f"{path.name} cannot be read at line {rows.line_num}: {error}. Is a quote missing?") from None
    if any("\0" in cell for row in (header, *content) for cell in row):
        raise InputError(f"{path.name} holds null characters: if it is text, name its encoding, for example utf-16-le.")
    for number, row in enumerate(content, start=1):
        if len(row) != len(header):
            raise InputError(
                f"{path.name}, row {number} of {len(content)} (the last line is {last}): it has {len(row)} cells, the "
                f"header has {len(header)}. Put texts that hold the separator {separator!r} in double quotes."
            )
    return pd.DataFrame([[cell or None for cell in row] for row in content], columns=header, dtype=object)


def _read_data_set(path: Path) -> pd.DataFrame:
    import datasets

    try:
        found: Any = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{path} is not the folder of a data set, as `save_to_disk` writes it: give {FORMATS}."
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise InputError(f"{path} has the splits {', '.join(found)}: give the folder of one, {path}/NAME.")
        found = found["train"]
    frame = pd.DataFrame(found.to_list(), columns=found.column_names, dtype=object)
    for name, feature in found.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = [None if value in (None, -1) else feature.int2str(value) for value in frame[name]]
            frame[name] = pd.Series(names, dtype=object)
    return frame
