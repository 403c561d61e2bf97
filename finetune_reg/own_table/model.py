"""The model trained on all rows: a plain folder with a model card, and predictions for new rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from scipy import special

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment.atomic_writing import folder_in_one_step
from finetune_reg.experiment.encoders import load_encoder, quiet_transformers
from finetune_reg.hyperparameters.ranges import Interval, check_in_range
from finetune_reg.method import TrainingContext
from finetune_reg.methods import build_method
from finetune_reg.own_table.answer import words
from finetune_reg.own_table.candidates import tried_rate
from finetune_reg.own_table.comparison import Comparison, encoder_width
from finetune_reg.own_table.page import plan_facts
from finetune_reg.own_table.planning import BATCH_SIZE
from finetune_reg.own_table.reading import read_table
from finetune_reg.own_table.selection import CLASS_METRICS, SCORE_METRICS, TEXT_COLUMNS, check_values
from finetune_reg.results.method_labels import method_label
from finetune_reg.tasks import encode, training_loader
from finetune_reg.tasks.batching import evaluation_loader, evaluation_order
from finetune_reg.tasks.row_files import Row
from finetune_reg.tasks.task_table import Task
from finetune_reg.training_loop import predict, train

ABOUT = "finetune_reg.json"


def write_model(comparison: Comparison) -> Path:
    """Train the recommended method on all rows and save `model/`; one of the same rows and recipe that is there stays.

    Raises:
        TrainingDivergedError: as `train`.
    """
    prepared, folder = comparison.prepared, comparison.folder / "model"
    about = _about(comparison)
    if (folder / ABOUT).is_file() and json.loads((folder / ABOUT).read_text(encoding="utf-8")) == about:
        return folder
    table, recipe = prepared.table, about["recipe"]
    encoder = load_encoder(prepared.model_name, table.task, seed=0)
    examples = encode(table.task, table.records, encoder.tokenizer, prepared.max_length, encoder.n_positions)
    loader = training_loader(examples, encoder.tokenizer, BATCH_SIZE, seed=0)
    context = TrainingContext(
        train_dataset=examples,
        collate=loader.collate_fn,
        batch_size=BATCH_SIZE,
        learning_rate=recipe["learning_rate"],
        weight_decay=0.01,
        n_updates=recipe["epochs"] * len(loader),
    )
    candidate = comparison.best.candidate
    with torch.random.fork_rng(devices=[]):
        train(encoder.model, build_method(candidate.method, **candidate.hyperparameters), loader, context)
    encoder.tokenizer.model_max_length = prepared.max_length
    with folder_in_one_step(folder) as unfinished:
        with quiet_transformers():
            encoder.model.save_pretrained(unfinished)
            encoder.tokenizer.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(_card(comparison, about), encoding="utf-8")
        (unfinished / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder


def _about(comparison: Comparison) -> dict[str, Any]:
    prepared, best = comparison.prepared, comparison.best
    factor, epochs = best.setting
    scale = comparison.calibration.temperature if comparison.calibration else 1.0
    return {
        "columns": prepared.table.columns,
        "temperature": round(scale, 4),
        "max_length": prepared.max_length,
        "rows": len(prepared.table.rows),
        "rows_hash": prepared.asked["rows_hash"],
        "recipe": {
            "encoder": prepared.model_name,
            "method": method_label(best.candidate.method, best.candidate.hyperparameters),
            "learning_rate": tried_rate(best.candidate, factor, encoder_width(prepared.encoder)),
            "epochs": epochs,
            "batch_size": BATCH_SIZE,
            "seed": 0,
        },
    }


def _card(comparison: Comparison, about: dict[str, Any]) -> str:
    prepared, names = comparison.prepared, comparison.prepared.table.columns
    recipe = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in about["recipe"].items())
    facts = "\n".join(f"- {heading}: {sentence}" for heading, sentence in prepared.account.facts)
    plan = "\n".join(f"- {heading}: {sentence}" for heading, sentence in plan_facts(prepared))
    warnings = "".join(f"- {warning}\n" for warning in prepared.account.warnings)
    answer = "\n".join(f"- {line}" for line in comparison.lines)
    return f"""---
library_name: transformers
pipeline_tag: text-classification
base_model: {prepared.model_name}
---

# {names["label"]} from {" and ".join(names["text"])}

Trained by finetune_reg on {about["rows"]} labelled rows (SHA-256 of texts and labels {about["rows_hash"]}).
Open it with `from_pretrained` or `pipeline("text-classification")`, or predict with `finetune-reg predict`.
Probabilities are calibrated after division of the logits by the temperature {about["temperature"]}, which only
`finetune-reg predict` does by itself.

## What to expect

{answer}

The scores are of models trained in the same way on a part of the rows and tested on the others; brackets are 95 %
intervals over splits. This model saw all rows and was not tested.

## Recipe

{recipe}

## Rows

{facts}
{warnings}
## How the methods were compared

{plan}

## Limits

- Scores hold for rows that come from where these came from: other customers, times or topics may be harder.
- {comparison.best.candidate.title} scored {words(comparison.best.score, sign=False)}: errors remain, see answer.html.
"""


def predict_table(model: Path | str, source: Path | str | pd.DataFrame, encoding: str | None = None) -> pd.DataFrame:
    """Predict the labels of new rows with a model of `write_model`.

    Args:
        model: its folder; source: as of `read_table`, with the text columns that the model was trained on.

    Returns:
        The table with the column `prediction` and, for classes, the calibrated `probability` of the answer and
        `probability NAME` of each class. Rows without text get no prediction.

    Raises:
        InputError: no such model or a damaged one (see `load_encoder`), a text column that is not there or holds other
            values, or a column that would be overwritten.
    """
    folder = Path(os.path.expanduser(model))
    about, task = _described(folder)
    frame, columns = read_table(source, encoding), about["columns"]["text"]
    for column in columns:
        if column not in frame:
            raise unknown_name("column", column, map(str, frame.columns))
        check_values(frame[column], column, are_texts=True)
    added = ["prediction", "probability", *(f"probability {name}" for name in task.label_names)]
    if taken := [name for name in added if name in frame]:
        raise InputError(f"The table has a column {taken[0]!r} already: rename it.")
    usable = frame[columns].map(lambda value: isinstance(value, str) and bool(value.strip())).all(axis=1)
    rows = [
        dict(zip((*task.text_columns, "label"), (*row, 0), strict=True)) for row in frame.loc[usable, columns].values
    ]
    logits = _logits(folder, task, rows, about["max_length"])
    result = frame.copy()
    if task.is_regression:
        result.loc[usable, "prediction"] = logits[:, 0]
        return result
    probabilities = special.softmax(logits / about["temperature"], axis=1)
    result["prediction"] = None
    result.loc[usable, "prediction"] = [task.label_names[number] for number in probabilities.argmax(axis=1)]
    result.loc[usable, "probability"] = probabilities.max(axis=1)
    for number, name in enumerate(task.label_names):
        result.loc[usable, f"probability {name}"] = probabilities[:, number]
    return result


def _described(folder: Path) -> tuple[dict[str, Any], Task]:
    """Return what `write_model` kept about a model, and the task that it answers."""
    if not (folder / ABOUT).is_file():
        raise InputError(f"{folder} is no model of `finetune-reg compare`: give its folder OUTPUT/model.")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        labels = [names[str(number)] for number in range(len(names))]
        for name, value, allowed in (
            ("the text columns", about["columns"]["text"], list[str]),
            ("the temperature", about["temperature"], Annotated[float, Interval("[1e-6, 1e6]")]),
            ("max_length", about["max_length"], Annotated[int, Interval("[1, 1000000]")]),
            ("id2label", labels, list[str]),
        ):
            check_in_range(name, value, allowed, "The model")
        texts = TEXT_COLUMNS[: len(about["columns"]["text"])]
        is_right = 0 < len(texts) == len(set(about["columns"]["text"])) and len(set(labels)) == len(labels) > 0
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause = str(error) if isinstance(error, InputError) else "a file is missing or damaged."
        raise InputError(f"{folder} is no whole model of `finetune-reg compare`: {cause} Train it again.") from None
    if not is_right:
        raise InputError(f"{folder} has no text columns, or labels that are not different: train it again.")
    if len(labels) == 1:
        return about, Task("own", texts, (), SCORE_METRICS, label_range=(0.0, 1.0))
    return about, Task("own", texts, tuple(labels), CLASS_METRICS)


@torch.inference_mode()
def _logits(folder: Path, task: Task, rows: list[Row], max_length: int) -> np.ndarray:
    """Return the logits of rows in their order, shape (rows, labels)."""
    encoder = load_encoder(str(folder), task, seed=0)
    if encoder.head != "kept":
        raise InputError(f"{folder} lacks weights of the head for its labels: train it again.")
    if not rows:
        return np.empty((0, task.n_outputs))
    examples = encode(task, rows, encoder.tokenizer, max_length, encoder.n_positions)
    logits = predict(encoder.model, evaluation_loader(examples, encoder.tokenizer)).logits
    if not np.isfinite(logits).all():
        raise InputError(f"The model in {folder} gives answers that are no numbers: train it again.")
    return logits[np.argsort(evaluation_order(examples))]
