"""What this machine has for a sweep: places to run at, data and models. Told before any kernel starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_reg.errors import unknown_name
from finetune_reg.pocket.tasks import SPLIT_SIZES
from finetune_reg.tasks import get_task, load_split
from finetune_reg.tasks.subsets import subset_row_ids

if TYPE_CHECKING:
    from finetune_reg.sweep.plan import NotebookRun


def check_sources(runs: Iterable[NotebookRun]) -> None:
    """Check, without reading rows, that the runs' sources can have their tasks, and pocket as many rows as asked for.

    Raises:
        InputError: as `load_task`.
    """
    checked = set()
    for first in (run.settings[0] for run in runs):
        for name in (first.task, *first.evaluate_on):
            task, source = get_task(name, first.source), first.source
            is_missing = source not in ("pocket", "local", "hub") and not os.path.isdir(os.path.expanduser(source))
            if (name, source) not in checked and (is_missing or task.embedded != (source == "pocket")):
                load_split(task, "train", source)  # refuses before it reads
            checked.add((name, source))
        if first.source == "pocket":  # pooled, too: a fifth of all rows is tested on, as many as are official
            subset_row_ids(SPLIT_SIZES["train"], first.n_train, 0, f"{first.task} (pocket)")


def check_available(runs: Iterable[NotebookRun]) -> None:
    """Load each model and each split that the runs need, once; what ships with the package is passed over.

    Raises:
        InputError: a task, split or model is missing, and how to get it.
    """
    from finetune_reg.experiment.encoders import load_encoder

    splits: set[tuple[str, str, str]] = set()
    models: set[str] = set()
    for first in (run.settings[0] for run in runs):
        for name in () if first.source == "pocket" else (first.task, *first.evaluate_on):
            task = get_task(name, first.source)
            own = ("train", task.scored_split(first.split))
            for split in own if name == first.task else (task.validation_split,):
                if (name, split, first.source) not in splits:
                    load_split(task, split, first.source)
                    splits.add((name, split, first.source))
        if first.model_name != "pocket" and first.model_name not in models:
            load_encoder(first.model_name, get_task(first.task, first.source), first.seed_init, first.pretrained)
            models.add(first.model_name)


def check_engine(engine: str) -> None:
    """Check that a name is `local`, `slurm`, an address or a file, without looking who answers there.

    Raises:
        InputError: it is none of them.
    """
    is_file = "\0" not in engine and Path(engine).is_file()
    if engine not in ("local", "slurm") and "://" not in engine and not is_file:
        raise unknown_name("engine or scheduler file", engine, ["local", "slurm", "tcp://HOST:PORT", "tls://HOST:PORT"])


def default_slots() -> int:
    """Return how many notebooks run at a time on this machine: one per GPU, else one per core."""
    return len(visible_gpus()) or os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine, as `CUDA_VISIBLE_DEVICES` names them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(","))))
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
