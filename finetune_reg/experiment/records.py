"""Run records: one JSON file per run, written atomically and never overwritten once finished."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from finetune_reg.errors import InputError, shortened, unknown_name
from finetune_reg.experiment.atomic_writing import write_atomically
from finetune_reg.experiment.settings import SETTING_DEFAULTS, SETTING_SHAPES, settings_id
from finetune_reg.hyperparameters.nested_values import Shape
from finetune_reg.hyperparameters.ranges import Interval
from finetune_reg.paths import existing_folder

SCHEMA_VERSION = 1
Status = Literal["ok", "diverged", "failed", "killed", "timeout"]
FINISHED: tuple[Status, ...] = ("ok", "diverged")
Score = Annotated[float, Interval("[-1, 1]")]
Scores = dict[str, Score | bool]
Measured = Annotated[float, Interval("[0, 1e39]")]  # what numbers of 32 bits can be
Real = Annotated[float, Interval("[-1e39, 1e39]")]
Counted = Annotated[int, Interval("[0, 1e15]")]
OUTCOME = ("status", "score", "history", "transfer", "weights_hash")
HASH_OF_NOTHING = "e3b0c44298fc1c14"  # recorded by old versions where no weight of the checkpoint fitted the model


SHAPES: dict[str, Any] = {
    "settings": SETTING_SHAPES,
    "history": [{"epoch": Counted, "update": Counted, "train_loss": Real, ...: Score | bool}],
    "subset": {"row_ids": [Counted], "transfer_hashes": dict[str, str], ...: str},
    "environment": {
        **dict.fromkeys(("python", "platform", "device", "dtype", "finetune_reg", "torch", "transformers"), str),
        **{"threads": Counted, "uncommitted_changes": bool, "commit": str | None, ...: str | int | bool | None},
    },
}


@dataclass
class RunRecord:
    """What one run was, and what came out.

    Attributes:
        run_id: hash of the settings.
        settings: every setting, all seeds included.
        status: `ok`; `diverged`, a loss, logit or weight was not finite; `failed`, an error; `killed`, `timeout`, ended
            from outside.
        metric, score, best_score: primary metric, its value after the last epoch and its largest value at any
            evaluation. The development set chose nothing but `best_score`, so report `score`.
        below_majority: the last score is not above the best constant prediction, `majority_score`.
        history: per evaluation the epoch, update, mean training loss since the one before, and all metrics.
        transfer: per task of `evaluate_on` all its metrics after the last epoch.
        distance_from_pretrained: Euclidean norm of the change of all backbone weights.
        masked_token_loss_before, masked_token_loss_after: of the backbone, see `pocket.forgetting.masked_token_loss`;
            None in records of other encoders, and in those that are older than these entries.
        logits: after the last epoch, of the rows evaluated on, in their order, to four digits; kept only for tasks of
            the user's own that have numbered splits.
        subset: row ids and content hash of the training rows, and the hash of the rows evaluated on.
        weights_hash: of the weights that came from the checkpoint.
        head: whether the task head was `kept` from the checkpoint or, in whole or in part, `drawn` from `seed_init`;
            None in records that are older than this entry, as in those of runs that did not come so far.
        delivered_weights: `trained`, or `other` that the method makes of those, such as their average: scores, history
            and distance are of the weights delivered.
        forward_passes, backward_passes: of the model in training, counted; evaluation is left out.
        wall_seconds: of training and evaluation, loading left out.
        peak_memory_mb: of the device; on the CPU the largest resident size of the process.
        environment: versions, commit, device, dtype, threads.
    """

    run_id: str
    settings: dict[str, Any]
    status: Status
    metric: str
    score: Score | None = None
    best_score: Score | None = None
    below_majority: bool | None = None
    majority_score: Score | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    transfer: dict[str, Scores] = field(default_factory=dict)
    logits: list[list[Real]] = field(default_factory=list)
    distance_from_pretrained: Measured | None = None
    masked_token_loss_before: Measured | None = None
    masked_token_loss_after: Measured | None = None
    subset: dict[str, Any] = field(default_factory=dict)
    weights_hash: str | None = None
    head: Literal["kept", "drawn"] | None = None
    delivered_weights: Literal["trained", "other"] = "trained"
    n_parameters: Counted | None = None
    n_updates: Counted | None = None
    forward_passes: Counted | None = None
    backward_passes: Counted | None = None
    wall_seconds: Measured | None = None
    peak_memory_mb: Measured | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    finished_at: str | None = None
    schema_version: int = SCHEMA_VERSION


def record_path(output_dir: Path | str, run_id: str) -> Path:
    """Return the file of a run's record."""
    return Path(output_dir) / "records" / f"{run_id}.json"


def checked_record(values: Mapping[str, Any]) -> RunRecord:
    """Build a record from its fields; settings that are younger than it get their defaults.

    Raises:
        InputError: a field or setting that is missing, unknown or of the wrong type, another schema, a run id that is
            not the hash of the settings, a score without a finished run or the reverse, a history without epochs or
            scores, or the hash of no weights.
    """
    shapes = record_shapes()
    for name in values:
        if name not in shapes:
            raise unknown_name("field of a run record", name, shapes)
    if missing := [name for name in _needed() if name not in values]:
        raise InputError(f"A run record needs {', '.join(missing)}.")
    if (version := values.get("schema_version", SCHEMA_VERSION)) != SCHEMA_VERSION:
        raise InputError(f"It has schema {shortened(version)}: read it with the version that wrote it.")
    checked = {name: shapes[name].check(name, value, "A run record") for name, value in values.items()}
    record = RunRecord(**checked)
    for name in record.settings:
        if name not in SETTING_DEFAULTS:
            raise unknown_name("setting", name, SETTING_DEFAULTS)
    record.settings = {
        name: record.settings[name] if name in record.settings else deepcopy(default)
        for name, default in SETTING_DEFAULTS.items()
    }
    if record.run_id != (expected := settings_id(record.settings)):
        raise InputError(f"Its run id {shortened(record.run_id)} is not that of its settings, {expected}.")
    if (record.status == "ok") != (record.score is not None):
        raise InputError(f"Its status is {record.status} and its score {record.score}.")
    epochs = [entry.get("epoch") for entry in record.history if _is_number(entry.get(record.metric))]
    if len(epochs) < len(record.history) or not all(map(_is_number, epochs)) or len(set(epochs)) < len(epochs):
        raise InputError(f"Its history needs {shortened(record.metric)} and an epoch in each entry, no epoch twice.")
    if record.weights_hash == HASH_OF_NOTHING:
        raise InputError("No weight of its checkpoint fitted its model, so that it began with random ones.")
    return record


def read_record(path: Path) -> RunRecord:
    """Read one record; see `checked_record`.

    Raises:
        InputError: the file cannot be read, is not a record of this schema, or bears the id of another run.
    """
    try:
        values = _DECODER.decode(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InputError(f"It is a {type(values).__name__}, not a JSON object.")
        record = checked_record(values)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Move it away and run again.") from error
    except (ValueError, RecursionError) as error:
        cause = str(error) if isinstance(error, InputError) else "It is not a complete JSON object."
        raise InputError(
            f"{path} is not a run record of schema {SCHEMA_VERSION}: {cause} Move it away and run again."
        ) from None
    if re.fullmatch("[0-9a-f]{12}", path.stem) and path.stem != record.run_id:
        raise InputError(f"{path} holds the run {record.run_id}, not that of its name: move it away and run again.")
    return record


def stored_record(output_dir: Path | str, run_id: str) -> RunRecord | None:
    """Return the record of a run, None if there is none.

    Raises:
        InputError: as `read_record`.
    """
    path = record_path(output_dir, run_id)
    try:
        return _record_if_there(path)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Choose another folder.") from error


def _record_if_there(path: Path) -> RunRecord | None:
    """Read a record that sweeps may remove, to make its run again, and write anew between any two looks at it."""
    while path.exists() or path.is_symlink():
        try:
            return read_record(path)
        except InputError as error:
            removed = isinstance(error.__cause__, FileNotFoundError) and not path.is_symlink()
            if not removed:
                raise
    return None


def write_record(record: RunRecord, output_dir: Path | str) -> Path:
    """Write a record so that readers see all of it or nothing.

    Raises:
        InputError: a finished record of this run exists already, the record is none (see `checked_record`) or holds a
            number that is not finite, or the folder cannot be written.
    """
    checked_record(vars(record))
    path = record_path(output_dir, record.run_id)
    existing = stored_record(output_dir, record.run_id)
    if existing is not None and existing.status in FINISHED:
        raise InputError(f"{path} holds a finished run, which is never overwritten: use another output folder.")
    try:
        text = json.dumps(asdict(record), indent=1, allow_nan=False)
    except ValueError:
        raise InputError(f"The record of run {record.run_id} holds a number that is not finite.") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror}. Free or choose another folder and run again."
        ) from error
    return path


def read_records(output_dir: Path | str) -> list[RunRecord]:
    """Read all records below a folder, sorted by run id. Copies of a record, and repetitions of a run, count once.

    Raises:
        InputError: there is no record, a file is none, or two files hold different results of one run.
    """
    found: dict[str, tuple[Path, RunRecord]] = {}
    folder = existing_folder(output_dir)
    paths = () if folder is None else folder.glob("**/records/*.json")
    for path in sorted(paths, key=lambda path: (len(path.parts), len(path.name), str(path))):  # originals before copies
        if (record := _record_if_there(path)) is None:
            continue
        other, known = found.setdefault(record.run_id, (path, record))
        if known is not record and outcome_of(known) != outcome_of(record):
            raise InputError(f"{other} and {path} hold different results of the run {record.run_id}: keep one of them.")
    if not found:
        raise InputError(
            f"{output_dir} holds no run records: run `finetune-reg run` or a sweep with this folder first."
        )
    return [record for _, (_, record) in sorted(found.items())]


def outcome_of(record: RunRecord) -> tuple[Any, ...]:
    """Return what two records of one run agree in: its result, not when and where it was made."""
    return (*(getattr(record, name) for name in OUTCOME), record.subset.get("content_hash"))


@cache
def record_shapes() -> dict[str, Shape]:
    """Return the shape of each field of a record, settings included."""
    declared = get_type_hints(RunRecord, include_extras=True) | SHAPES
    return {name: Shape(kind) for name, kind in declared.items()}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


@cache
def _needed() -> list[str]:
    return [entry.name for entry in fields(RunRecord) if entry.default is entry.default_factory is MISSING]


def _refuse_constant(name: str) -> None:
    raise InputError(f"It holds {name}, which is no number of JSON.")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
