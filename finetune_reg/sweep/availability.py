"""Whether the data and models of a sweep are there, told before any kernel starts."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.sweep.plan import NotebookRun
from finetune_reg.tasks import get_task, load_split


def check_available(runs: Iterable[NotebookRun]) -> None:
    """Load each model and each split that the runs need, once; what ships with the package is passed over.

    Raises:
        InputError: a task, split or model is missing, and how to get it.
    """
    splits: set[tuple[str, str, str]] = set()
    models: set[str] = set()
    for first in (run.settings[0] for run in runs):
        for name in () if first.source == "pocket" else (first.task, *first.evaluate_on):
            task = get_task(name)
            for split in ("train", task.validation_split) if name == first.task else (task.validation_split,):
                if (name, split, first.source) not in splits:
                    load_split(task, split, first.source)
                    splits.add((name, split, first.source))
        if first.model_name != "pocket" and first.model_name not in models:
            load_encoder(first.model_name, get_task(first.task), first.seed_init, first.pretrained)
            models.add(first.model_name)
