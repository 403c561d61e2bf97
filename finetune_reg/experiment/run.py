"""One run: settings in, record out."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from finetune_reg.building_blocks.parameter_groups import backbone, named_backbone_parameters
from finetune_reg.errors import InputError, TrainingDivergedError
from finetune_reg.experiment.encoders import Encoder, load_encoder, quiet_transformers
from finetune_reg.experiment.environment import describe_environment, peak_memory_mb
from finetune_reg.experiment.inputs import check_inputs, load_rows
from finetune_reg.experiment.kept_weights import refuse_lost_weights, write_weights
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.experiment.records import FINISHED, RunRecord, read_record, record_path, stored_record, write_record
from finetune_reg.experiment.settings import RunSettings, check_device
from finetune_reg.method import TrainingContext
from finetune_reg.methods import build_method
from finetune_reg.pocket.forgetting import masked_token_loss, pretrained_masked_token_loss
from finetune_reg.tasks import (
    encode,
    evaluate_predictions,
    evaluate_transfer,
    evaluation_loader,
    get_task,
    load_split,
    majority_score,
    training_loader,
)
from finetune_reg.tasks.batching import evaluation_order
from finetune_reg.tasks.loading import rows_hash
from finetune_reg.training_loop import Predictions, predict, train


def run(settings: RunSettings, output_dir: Path | str, device: str = "auto", keep_weights: bool = False) -> RunRecord:
    """Fine-tune and evaluate as the settings say; write a record to `output_dir/records`.

    A run that is finished already, or that another process finishes meanwhile, is read, not redone. A loss, logit or
    weight that is not finite ends the run as `diverged`.

    Args:
        device: `"auto"` takes a GPU if there is one; or `"cpu"`, `"cuda"`, `"cuda:1"`.
        keep_weights: of a run that ends as it should, in `output_dir/weights`; see `soup`.

    Raises:
        InputError: the device, task, data or model cannot be used, the rows or weights are no longer those that the
            finished run was made of, or its weights, which are wanted now, were not kept. Recorded as `failed`, like
            any other error, unless a record is there already.
    """
    resolved = _resolve_device(device)
    if (finished := _finished_record(output_dir, settings)) is not None:
        check_inputs([finished], output_dir)
        if keep_weights and finished.status == "ok":
            refuse_lost_weights(output_dir, finished.run_id)
        return finished
    record = RunRecord(
        run_id=settings.run_id,
        settings=asdict(settings),
        status="failed",
        metric=get_task(settings.task, settings.source).metrics[0],
    )
    try:
        model = _fill(record, settings, resolved)
        if keep_weights and record.status == "ok":
            write_weights(model, output_dir, record.run_id)
    except Exception as error:
        record.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        record.finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        if (record.error or record.status in FINISHED) and _finished_record(output_dir, settings) is None:
            write_record(record, output_dir)
    return read_record(record_path(output_dir, settings.run_id))


def _finished_record(output_dir: Path | str, settings: RunSettings) -> RunRecord | None:
    record = stored_record(output_dir, settings.run_id)
    return record if record is not None and record.status in FINISHED else None


def _fill(record: RunRecord, settings: RunSettings, device: torch.device) -> torch.nn.Module:
    """Train and evaluate, fill in the record, and return the model."""
    record.environment = describe_environment(device, settings.precision)
    torch.set_flush_denormal(True)
    data = load_rows(settings)
    record.subset = {
        "row_ids": data.row_ids,
        "content_hash": data.content_hash,
        "validation_hash": data.validation_hash,
    }
    encoder = load_encoder(settings.model_name, data.task, settings.seed_init, settings.pretrained)
    model, tokenizer = encoder.model, encoder.tokenizer
    model.to(device)  # type: ignore[arg-type]  # transformers hides the signature behind a decorator
    record.weights_hash, record.head = encoder.weights_hash, encoder.head
    record.n_parameters = sum(parameter.numel() for parameter in model.parameters())
    initial = {name: parameter.detach().clone() for name, parameter in named_backbone_parameters(model)}

    examples = encode(data.task, data.train, tokenizer, settings.max_length, encoder.n_positions)
    held_out = encode(data.task, data.validation, tokenizer, settings.max_length, encoder.n_positions)
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

    method = build_method(settings.method, **settings.method_hyperparameters)
    record.delivered_weights = "other" if method.delivers_other_weights else "trained"

    def evaluate(epoch: int, losses: list[float]) -> None:
        if epoch % settings.evaluate_every and epoch != settings.epochs:
            return
        predictions = _finite(predict(model, evaluation, settings.precision), len(losses))
        if data.task.n_splits:
            in_order = predictions.logits[np.argsort(evaluation_order(held_out))]
            record.logits = in_order.round(4).astype(float).tolist()
        seen = record.history[-1]["update"] if record.history else 0
        entry = {"epoch": epoch, "update": len(losses), "train_loss": float(np.mean(losses[seen:]))}
        record.history.append(entry | evaluate_predictions(data.task, predictions.logits, predictions.labels))

    start = time.perf_counter()
    try:
        with PassCounter(model) as passes:
            train(
                model,
                method,
                training,
                context,
                warmup_fraction=settings.warmup_fraction,
                max_grad_norm=settings.max_grad_norm,
                precision=settings.precision,
                after_epoch=evaluate,
            )
        record.wall_seconds = round(time.perf_counter() - start, 3)
        transfer, record.subset["transfer_hashes"] = _evaluate_elsewhere(settings, encoder, record.n_updates)
        moved = (p.detach() - initial[name] for name, p in named_backbone_parameters(model))
        distance = float(sum(change.square().sum() for change in moved) ** 0.5)
        _check_weights(model, distance, record.n_updates)
    except TrainingDivergedError as error:
        record.status, record.error = "diverged", str(error)
        record.wall_seconds = round(time.perf_counter() - start, 3)
    else:
        record.status, record.transfer, record.distance_from_pretrained = "ok", transfer, distance
        if settings.model_name == "pocket" and settings.pretrained:
            with quiet_transformers():
                record.masked_token_loss_before = pretrained_masked_token_loss()
                record.masked_token_loss_after = masked_token_loss(backbone(model))
        record.score = record.history[-1][record.metric]
        record.best_score = max(entry[record.metric] for entry in record.history)
    record.forward_passes, record.backward_passes = passes.forward, passes.backward
    record.peak_memory_mb = peak_memory_mb(device)
    record.below_majority = record.score is None or record.score <= record.majority_score
    return model


def _evaluate_elsewhere(
    settings: RunSettings, encoder: Encoder, n_updates: int
) -> tuple[dict[str, dict[str, float | bool]], dict[str, str]]:
    """Return the scores on each other task, and the hash of its rows."""
    scores, hashes = {}, {}
    trained = get_task(settings.task, settings.source)
    for name in settings.evaluate_on:
        target = get_task(name, settings.source)
        rows = load_split(target, target.validation_split, settings.source)
        hashes[name] = rows_hash(target, rows)
        examples = encode(target, rows, encoder.tokenizer, settings.max_length, encoder.n_positions)
        loader = evaluation_loader(examples, encoder.tokenizer)
        predictions = _finite(predict(encoder.model, loader, settings.precision), n_updates)
        scores[name] = evaluate_transfer(trained, target, predictions.logits, predictions.labels)
    return scores, hashes


def _finite(predictions: Predictions, update: int) -> Predictions:
    wrong = predictions.logits[~np.isfinite(predictions.logits)]
    if wrong.size:
        raise TrainingDivergedError(update, float(wrong[0]), "A logit")
    return predictions


def _check_weights(model: torch.nn.Module, distance: float, update: int) -> None:
    """Refuse weights, or a distance from their start, that are not finite."""
    for name, weight in model.state_dict().items():
        if not (finite := torch.isfinite(weight)).all():
            raise TrainingDivergedError(update, weight[~finite][0].item(), f"A weight of {name}")
    if not math.isfinite(distance):
        raise TrainingDivergedError(update, distance, "The distance from the pretrained weights")


def _resolve_device(device: str) -> torch.device:
    check_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    resolved = torch.device(device)
    if resolved.type == "cuda" and not (resolved.index or 0) < torch.cuda.device_count():
        raise InputError(f"Device {device!r} is not available here: use 'cpu' or 'auto'.")
    return resolved
