"""Run records: one JSON file per run, written atomically and never overwritten once finished."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune_reg.errors import InputError

SCHEMA_VERSION = 1
Status = Literal["ok", "diverged", "failed", "killed", "timeout"]
FINISHED: tuple[Status, ...] = ("ok", "diverged")


@dataclass
class RunRecord:
    """What one run was, and what came out.

    Attributes:
        run_id: hash of the settings.
        settings: every setting, all seeds included.
        status: `ok`; `diverged`, a loss was not finite; `failed`, an error; `killed`, `timeout`, ended from outside.
        metric, score, best_score: primary metric, its value after the last epoch and its largest value at any
            evaluation. The development set chose nothing but `best_score`, so report `score`.
        below_majority: the last score is not above the best constant prediction, `majority_score`.
        history: per evaluation the epoch, update, mean training loss since the one before, and all metrics.
        transfer: per task of `evaluate_on` all its metrics after the last epoch.
        distance_from_pretrained: Euclidean norm of the change of all backbone weights.
        subset: row ids and content hash of the training rows.
        forward_passes, backward_passes: of the model in training, counted; evaluation is left out.
        wall_seconds: of training and evaluation, loading left out.
        peak_memory_mb: of the device; on the CPU the largest resident size of the process.
        environment: versions, commit, device, dtype, threads.
    """

    run_id: str
    settings: dict[str, Any]
    status: Status
    metric: str
    score: float | None = None
    best_score: float | None = None
    below_majority: bool | None = None
    majority_score: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    transfer: dict[str, dict[str, Any]] = field(default_factory=dict)
    distance_from_pretrained: float | None = None
    subset: dict[str, Any] = field(default_factory=dict)
    weights_hash: str | None = None
    n_parameters: int | None = None
    n_updates: int | None = None
    forward_passes: int | None = None
    backward_passes: int | None = None
    wall_seconds: float | None = None
    peak_memory_mb: float | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    finished_at: str | None = None
    schema_version: int = SCHEMA_VERSION


def record_path(output_dir: Path | str, run_id: str) -> Path:
    """Return the file of a run's record."""
    return Path(output_dir) / "records" / f"{run_id}.json"


def read_record(path: Path) -> RunRecord:
    """Read one record.

    Raises:
        InputError: the file is not a record of this schema.
    """
    try:
        return RunRecord(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError):
        raise InputError(
            f"{path} is not a run record of schema {SCHEMA_VERSION}: move it away and run again."
        ) from None


def write_record(record: RunRecord, output_dir: Path | str) -> Path:
    """Write a record so that readers see all of it or nothing.

    Raises:
        InputError: a finished record of this run exists already, or the folder cannot be written.
    """
    path = record_path(output_dir, record.run_id)
    if path.exists() and read_record(path).status in FINISHED:
        raise InputError(f"{path} holds a finished run, which is never overwritten: use another output folder.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            json.dump(asdict(record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"Cannot write {path}: {error.strerror}. Free or choose another folder and run again."
        ) from error
    return path


def read_records(output_dir: Path | str) -> list[RunRecord]:
    """Read all records below a folder, sorted by run id.

    Raises:
        InputError: there is no record.
    """
    paths = sorted(Path(output_dir).glob("**/records/*.json"), key=lambda path: path.name)
    if not paths:
        raise InputError(
            f"{output_dir} holds no run records: run `finetune-reg run` or a sweep with this folder first."
        )
    return [read_record(path) for path in paths]
