"""One run: settings in, record out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch

from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters
from finetune_reg.encoders import load_encoder
from finetune_reg.environment import describe_environment, peak_memory_mb
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.typed_parameters import check_value
from finetune_reg.method import TrainingContext
from finetune_reg.methods import build_method
from finetune_reg.pass_counting import PassCounter
from finetune_reg.records import FINISHED, RunRecord, read_record, record_path, write_record
from finetune_reg.tasks import (
    encode,
    evaluate_predictions,
    evaluate_transfer,
    evaluation_loader,
    get_task,
    label_map,
    load_split,
    load_task,
    majority_score,
    training_loader,
)
from finetune_reg.tasks.loading import Split
from finetune_reg.training_loop import Precision, TrainingDivergedError, predict, train

SEEDS = ("seed_init", "seed_order", "seed_noise")


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the outcome of a run. Defaults suit pocket and never change their value.

    Args:
        task, source: see `load_task`.
        model_name, pretrained: see `load_encoder`.
        method, method_hyperparameters: see `build_method`.
        n_train: training rows; None takes all.
        stratified, split, held_out_fold: see `load_task`.
        epochs: passes over the training rows.
        batch_size: rows per update.
        learning_rate: peak of the linear schedule.
        warmup_fraction: share of the updates in which the learning rate rises, in [0, 1].
        weight_decay: decoupled decay of AdamW on weight matrices.
        max_grad_norm: global norm to which gradients are clipped.
        bias_correction: of Adam; without it as in BertAdam.
        precision: of the forward pass: `"bfloat16"` is mixed precision, the weights stay in float32.
        max_length: tokens at which inputs are cut.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        evaluate_on: other tasks of the same source to score the classifier on after the last epoch; see `label_map`.
        seed_init, seed_order, seed_noise: of the head's initial weights, the order of the data, and dropout and
            masks. `with_seed` sets the three.
        seed_subset: of the choice of training rows.

    Raises:
        InputError: an unknown name, a value of the wrong type or out of range.
    """

    task: str = "entailment"
    source: str = "pocket"
    model_name: str = "pocket"
    method: str = "vanilla"
    method_hyperparameters: dict[str, Any] = field(default_factory=dict)
    n_train: int | None = 200
    stratified: bool = False
    split: Split = "official"
    held_out_fold: int | None = None
    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 3e-4
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    bias_correction: bool = True
    precision: Precision = "float32"
    max_length: int = 128
    evaluate_every: int = 1
    evaluate_on: list[str] = field(default_factory=list)
    pretrained: bool = True
    seed_init: int = 0
    seed_order: int = 0
    seed_noise: int = 0
    seed_subset: int = 0

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = check_value(setting.name, getattr(self, setting.name), SETTING_TYPES[setting.name], "A run")
            object.__setattr__(self, setting.name, value)
        for target in self.evaluate_on:
            label_map(get_task(self.task), get_task(target))
        get_task(self.task)
        built = build_method(self.method, **self.method_hyperparameters)
        object.__setattr__(self, "method_hyperparameters", built.hyperparameters)
        for name in ("epochs", "batch_size", "max_length", "evaluate_every", "learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise InputError(f"A run needs {name} above 0, not {getattr(self, name)}.")
        if not 0.0 <= self.warmup_fraction <= 1.0:
            raise InputError(f"A run needs warmup_fraction between 0 and 1, not {self.warmup_fraction}.")

    def with_seed(self, seed: int) -> RunSettings:
        """Return the settings with this seed for initialization, order and noise; the subset stays."""
        return replace(self, **dict.fromkeys(SEEDS, seed))

    @property
    def run_id(self) -> str:
        """Hash (SHA-256, 12 hex digits) of the settings that differ from their defaults."""
        chosen = {
            name: value for name, value in asdict(self).items() if value != SETTING_DEFAULTS[name] or name == "method"
        }
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]


SETTING_TYPES: dict[str, Any] = get_type_hints(RunSettings)
SETTING_DEFAULTS = {
    setting.name: setting.default_factory() if setting.default is MISSING else setting.default
    for setting in fields(RunSettings)
}


def run(settings: RunSettings, output_dir: Path | str, device: str = "auto") -> RunRecord:
    """Fine-tune and evaluate as the settings say; write a record to `output_dir/records`.

    A run that is finished already, or that another process finishes meanwhile, is read, not redone. A loss that is not
    finite ends the run as `diverged`.

    Args:
        device: `"auto"` takes a GPU if there is one; or `"cpu"`, `"cuda"`.

    Raises:
        InputError: the task, data or model cannot be used; recorded as `failed`, like any other error.
    """
    path = record_path(output_dir, settings.run_id)
    if _is_finished(path):
        return read_record(path)
    record = RunRecord(
        run_id=settings.run_id,
        settings=asdict(settings),
        status="failed",
        metric=get_task(settings.task).metrics[0],
    )
    try:
        _fill(record, settings, _resolve_device(device))
    except Exception as error:
        record.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        if (record.error or record.status in FINISHED) and not _is_finished(path):
            write_record(record, output_dir)
    return read_record(path)


def _is_finished(path: Path) -> bool:
    return path.exists() and read_record(path).status in FINISHED


def _fill(record: RunRecord, settings: RunSettings, device: torch.device) -> None:
    record.environment = describe_environment(device, settings.precision)
    torch.set_flush_denormal(True)
    data = load_task(
        settings.task,
        settings.source,
        settings.n_train,
        settings.seed_subset,
        stratified=settings.stratified,
        split=settings.split,
        held_out_fold=settings.held_out_fold,
    )
    record.subset = {"row_ids": data.row_ids, "content_hash": data.content_hash}
    encoder = load_encoder(settings.model_name, data.task, settings.seed_init, settings.pretrained)
    model, tokenizer, record.weights_hash = encoder.model.to(device), encoder.tokenizer, encoder.weights_hash
    record.n_parameters = sum(parameter.numel() for parameter in model.parameters())
    initial = {name: parameter.detach().clone() for name, parameter in named_backbone_parameters(model)}

    examples = encode(data.task, data.train, tokenizer, settings.max_length)
    held_out = encode(data.task, data.validation, tokenizer, settings.max_length)
    training = training_loader(examples, tokenizer, settings.batch_size, settings.seed_order)
    evaluation = evaluation_loader(held_out, tokenizer)
    record.majority_score = majority_score(data.task, np.array([example["labels"] for example in held_out]))
    record.n_updates = settings.epochs * len(training)
    context = TrainingContext(
        train_dataset=examples,
        collate=training.collate_fn,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        n_updates=record.n_updates,
        seed=settings.seed_noise,
        bias_correction=settings.bias_correction,
    )

    def evaluate(epoch: int, losses: list[float]) -> None:
        if epoch % settings.evaluate_every and epoch != settings.epochs:
            return
        predictions = predict(model, evaluation, settings.precision)
        seen = record.history[-1]["update"] if record.history else 0
        entry = {"epoch": epoch, "update": len(losses), "train_loss": float(np.mean(losses[seen:]))}
        record.history.append(entry | evaluate_predictions(data.task, predictions.logits, predictions.labels))

    start = time.perf_counter()
    with PassCounter(model) as passes:
        try:
            train(
                model,
                build_method(settings.method, **settings.method_hyperparameters),
                training,
                context,
                warmup_fraction=settings.warmup_fraction,
                max_grad_norm=settings.max_grad_norm,
                precision=settings.precision,
                after_epoch=evaluate,
            )
            record.status = "ok"
        except TrainingDivergedError as error:
            record.status, record.error = "diverged", str(error)
    record.wall_seconds = round(time.perf_counter() - start, 3)
    record.forward_passes, record.backward_passes = passes.forward, passes.backward
    record.peak_memory_mb = peak_memory_mb(device)
    if record.status == "ok":
        record.score = record.history[-1][record.metric]
        record.best_score = max(entry[record.metric] for entry in record.history)
        for name in settings.evaluate_on:
            target = get_task(name)
            rows = load_split(target, target.validation_split, settings.source)
            loader = evaluation_loader(encode(target, rows, tokenizer, settings.max_length), tokenizer)
            predictions = predict(model, loader, settings.precision)
            record.transfer[name] = evaluate_transfer(data.task, target, predictions.logits, predictions.labels)
        moved = (p.detach() - initial[name] for name, p in named_backbone_parameters(model))
        record.distance_from_pretrained = float(sum(change.square().sum() for change in moved) ** 0.5)
    record.below_majority = record.score is None or record.score <= record.majority_score


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"Device {device!r} is not available here: use 'cpu' or 'auto'.")
    return torch.device(device)
