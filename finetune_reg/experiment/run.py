"""One run: settings in, record out."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters
from finetune_reg.errors import InputError
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.experiment.environment import describe_environment, peak_memory_mb
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.experiment.records import FINISHED, RunRecord, read_record, record_path, write_record
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.method import TrainingContext
from finetune_reg.methods import build_method
from finetune_reg.tasks import (
    encode,
    evaluate_predictions,
    evaluate_transfer,
    evaluation_loader,
    get_task,
    load_split,
    load_task,
    majority_score,
    training_loader,
)
from finetune_reg.training_loop import TrainingDivergedError, predict, train


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
    model, tokenizer, record.weights_hash = encoder.model, encoder.tokenizer, encoder.weights_hash
    model.to(device)  # type: ignore[arg-type]  # transformers hides the signature behind a decorator
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
