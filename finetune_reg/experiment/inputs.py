"""The rows that settings name, and whether finished runs were made of these rows, and weights, as they are today."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

import torch

from finetune_reg.errors import InputError, MissingInputError
from finetune_reg.experiment.records import FINISHED, RunRecord, record_path
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.tasks import get_task, load_task
from finetune_reg.tasks.loading import ReadSplit, TaskData, read_labelled_rows, rows_hash
from finetune_reg.tasks.task_table import Split

ROWS = ("task", "source", "n_train", "seed_subset", "stratified", "split", "held_out_fold")
HASHES = {"content_hash": "training rows", "validation_hash": "evaluation rows"}


def load_rows(settings: RunSettings) -> TaskData:
    """Load the training and evaluation rows of a run, see `load_task`."""
    return load_task(
        settings.task,
        settings.source,
        settings.n_train,
        settings.seed_subset,
        stratified=settings.stratified,
        split=settings.split,
        held_out_fold=settings.held_out_fold,
    )


def check_inputs(records: Iterable[RunRecord], output_dir: Path | str) -> None:
    """Compare the content hashes of finished runs with today's rows, their weights hash with today's weights.

    Each split is read, and each model loaded, once. Rows and models that are not there any more are passed over, and
    so is what a record does not hold.

    Args:
        records: those in `output_dir`; unfinished ones are passed over.

    Raises:
        InputError: a file or model folder changed since a run was made; the sentence names its record.
    """
    read_split = cache(read_labelled_rows)
    hashes, weights = cache(partial(_hashes, read_split)), cache(_weights)
    transfer = cache(partial(_transfer_hash, read_split))
    for record in records:
        if record.status not in FINISHED:
            continue
        chosen, path = record.settings, record_path(output_dir, record.run_id)
        for name, today in hashes(*(chosen[name] for name in ROWS)).items():
            if (known := record.subset.get(name)) not in (None, today):
                raise _changed(path, f"{HASHES[name]} of {chosen['task']}", chosen["source"], known, today)
        for name, known in record.subset.get("transfer_hashes", {}).items():
            if (found := transfer(name, chosen["source"])) not in (None, known):
                raise _changed(path, f"rows of {name}", chosen["source"], known, found)
        if record.weights_hash is not None:
            loaded = weights(chosen["model_name"], chosen["task"], chosen["source"])
            if loaded not in (None, record.weights_hash):
                raise _changed(path, "pretrained weights", chosen["model_name"], record.weights_hash, loaded)


def _hashes(
    read_split: ReadSplit,
    task: str,
    source: str,
    n_train: int | None,
    seed_subset: int,
    stratified: bool,
    split: Split,
    held_out_fold: int | None,
) -> dict[str, str]:
    try:
        data = load_task(
            task,
            source,
            n_train,
            seed_subset,
            stratified=stratified,
            split=split,
            held_out_fold=held_out_fold,
            read_split=read_split,
        )
    except MissingInputError:
        return {}
    return {name: getattr(data, name) for name in HASHES}


def _transfer_hash(read_split: ReadSplit, task: str, source: str) -> str | None:
    target = get_task(task, source)
    try:
        return rows_hash(target, read_split(target, target.validation_split, source).rows)
    except MissingInputError:
        return None


def _weights(model_name: str, task: str, source: str) -> str | None:
    from finetune_reg.experiment.encoders import load_encoder  # loads transformers, which tables do without

    try:
        with torch.random.fork_rng(devices=[]):
            return load_encoder(model_name, get_task(task, source), seed=0).weights_hash
    except MissingInputError:
        return None


def _changed(path: Path, what: str, where: str, known: str, today: str | None) -> InputError:
    return InputError(
        f"{path} was made with other {what}: their hash was {known} and is now {today} ({where}). Use another output "
        "folder, or move this record away to make the run again."
    )
