"""From a table back to the records it was made of."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import (
    FINISHED,
    RunRecord,
    checked_record,
    outcome_of,
    record_path,
    stored_record,
    write_record,
)
from finetune_reg.experiment.settings import SETTING_TYPES
from finetune_reg.results.table_checks import one_row_per_run

RECORD_TYPES = get_type_hints(RunRecord)


def restore(table: pd.DataFrame, output_dir: Path | str) -> list[RunRecord]:
    """Write the rows of a table back as records, so that a sweep in the folder makes only the runs that are missing.

    A finished record that the folder holds already is left alone. All rows are checked before the first is written.

    Args:
        table: as from `load_results`.

    Returns:
        The records, those left alone included.

    Raises:
        InputError: a row is no record (see `checked_record`), the folder holds another result of its run, or cannot be
            written.
    """
    records = [record_of(row) for row in one_row_per_run(table).to_dict("records")]
    missing = []
    for record in records:
        existing = stored_record(output_dir, record.run_id)
        if existing is None or existing.status not in FINISHED:
            missing.append(record)
        elif outcome_of(existing) != outcome_of(record):
            path = record_path(output_dir, record.run_id)
            raise InputError(f"{path} holds another result of this run than the table: use another output folder.")
    for record in missing:
        write_record(record, output_dir)
    return records


def record_of(row: Mapping[Hashable, Any]) -> RunRecord:
    """Return the record that a row of a table was made of.

    Raises:
        InputError: as `checked_record`; the sentence names the run.
    """
    try:
        settings = {name: _restored(row[name], kind) for name, kind in SETTING_TYPES.items() if name in row}
        values = {name: _restored(row[name], kind) for name, kind in RECORD_TYPES.items() if name in row}
        known = {name: value for name, value in values.items() if value is not None}  # the others have their default
        return checked_record(known | {"settings": settings})
    except (InputError, ValueError, TypeError, RecursionError) as error:
        cause = str(error) if isinstance(error, InputError) else f"a value cannot be read ({error})."
        raise InputError(f"The row of the run {row.get('run_id')!r} is no run record: {cause}") from None


def _restored(value: Any, kind: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    options = get_args(kind) or (kind,)
    if get_origin(kind) in (dict, list):
        return json.loads(value)
    return next((option(value) for option in (bool, int, float) if option in options), value)
