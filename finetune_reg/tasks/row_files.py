"""Rows from JSONL and Parquet files; whatever is damaged or foreign about a file is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_reg.errors import InputError

Row = dict[str, Any]
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_rows(path: Path) -> list[Row]:
    """Read a file of rows: Parquet, or one JSON object a line (UTF-8, with or without a byte-order mark).

    Blank lines are passed over.

    Raises:
        InputError: the file cannot be read, is cut short, a Git LFS pointer or in another encoding, a line is no JSON
            object, or a column is there twice.
    """
    refuse_lfs_pointer(path)
    return _rows_of_parquet(path) if path.suffix.lower() == ".parquet" else _rows_of_jsonl(path)


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse a file that only says where Git LFS keeps its content.

    Raises:
        InputError: it is one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    if is_pointer:
        raise InputError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` where it came from.")


def _rows_of_parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        columns = file.schema_arrow.names
        rows = [] if len(set(columns)) < len(columns) else file.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a complete Parquet file: {cause.rstrip('.')}. Fetch it again.") from error
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InputError(f"{path} has the column {twice[0]!r} twice: keep one.")
    return rows


def _rows_of_jsonl(path: Path) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{path} line {number}"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it in this encoding.") from None
    return rows


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except (json.JSONDecodeError, RecursionError):
        raise InputError(f"{where} is not a JSON object: is the file complete?") from None
    except ValueError as error:  # from `_object`, and integers of more digits than Python reads
        raise InputError(f"{where} cannot be read: {str(error).split(';')[0]}.") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object but a {type(row).__name__}: write one object a line.")
    return row


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if broken := next((name for name in row if any("\ud800" <= c <= "\udfff" for c in name)), None):
        raise ValueError(f"its column {broken!r} holds half of a character")
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return row
