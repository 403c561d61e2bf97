"""The settings of a run: everything that decides its outcome, and the hash that identifies it.

PyTorch is imported when settings are first built, not before: a sweep's workers read records without it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, get_type_hints

from finetune_reg.errors import InputError, shortened
from finetune_reg.hyperparameters.ranges import (
    Count,
    Interval,
    NonNegative,
    Positive,
    Precision,
    Probability,
    Seed,
    check_fields,
    check_in_range,
)
from finetune_reg.tasks.task_table import FOLDS, Split, get_task

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
        warmup_fraction: share of the updates in which the learning rate rises, in [0, 1]; see `warmup_updates`.
        weight_decay: decoupled decay of AdamW on weight matrices.
        max_grad_norm: global norm to which gradients are clipped, finite.
        bias_correction: of Adam; without it as in BertAdam.
        precision: of the forward pass: `"bfloat16"` is mixed precision, the weights stay in float32.
        max_length: tokens at which inputs are cut.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        evaluate_on: other tasks of the same source to score the classifier on after the last epoch; see `label_map`.
        seed_init, seed_order, seed_noise: of the head's initial weights, the order of the data, and dropout and
            masks. `with_seed` sets the three.
        seed_subset: of the choice of training rows.

    Raises:
        InputError: an unknown name, a value of the wrong type or out of range, a number that is not finite, a
            precision that the method cannot use, or a stratified subset of scores, of all rows, or in fewer rows than
            folds.
    """

    task: str = "entailment"
    source: str = "pocket"
    model_name: str = "pocket"
    method: str = "vanilla"
    method_hyperparameters: dict[str, Any] = field(default_factory=dict)
    n_train: Count | None = 200
    stratified: bool = False
    split: Split = "official"
    held_out_fold: Annotated[int, Interval(f"[0, {FOLDS - 1}]")] | None = None
    epochs: Count = 10
    batch_size: Count = 16
    learning_rate: Positive = 3e-4
    warmup_fraction: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0
    bias_correction: bool = True
    precision: Precision = "float32"
    max_length: Count = 128
    evaluate_every: Count = 1
    evaluate_on: list[str] = field(default_factory=list)
    pretrained: bool = True
    seed_init: Seed = 0
    seed_order: Seed = 0
    seed_noise: Seed = 0
    seed_subset: Seed = 0

    def __post_init__(self) -> None:
        from finetune_reg.methods import build_method
        from finetune_reg.tasks.metrics import label_map

        check_fields(self, "A run")
        task = get_task(self.task, self.source)
        for target in self.evaluate_on:
            label_map(task, get_task(target, self.source))
        if self.stratified and task.is_regression:
            raise InputError(f"{self.task} has scores, not classes: leave stratified out.")
        if self.split == "development" and task.validation_split != "test":
            raise InputError(f"{self.task} is scored on its development set anyway: leave split out.")
        if self.stratified and self.n_train is None:
            raise InputError("A stratified subset needs n_train, the rows to draw: give it, or leave stratified out.")
        if self.held_out_fold is not None and self.n_train is not None and self.n_train < FOLDS:
            raise InputError(f"{self.n_train} training rows cannot be cut into {FOLDS} folds: raise n_train.")
        built = build_method(self.method, **self.method_hyperparameters)
        built.check_precision(self.precision)
        object.__setattr__(self, "method_hyperparameters", built.hyperparameters)
        try:
            json.dumps(built.hyperparameters, allow_nan=False)
        except ValueError:
            raise InputError(
                f"A run needs finite numbers, which its record can hold, not {shortened(built.hyperparameters)}."
            ) from None

    def with_seed(self, seed: int, own_subset: bool = False, varied: Sequence[str] = SEEDS) -> RunSettings:
        """Return the settings with this seed for initialization, order and noise, and for the subset if it is its own.

        Args:
            varied: those of `SEEDS` that become this seed; the others stay.

        Raises:
            InputError: no seed.
        """
        check_in_range("seed_init", seed, Seed, "A run")
        seeded = copy(self)  # all else has been checked
        for name in (*varied, *(["seed_subset"] if own_subset else [])):
            object.__setattr__(seeded, name, seed)
        return seeded

    @property
    def run_id(self) -> str:
        """See `settings_id`."""
        return settings_id(vars(self))


def settings_id(settings: Mapping[str, Any]) -> str:
    """Hash (SHA-256, 12 hex digits) the settings that differ from their defaults, and the method.

    A setting that is younger than a record, and so missing in it, has its default: the hash is the same.
    """
    chosen = {name: value for name, value in settings.items() if value != SETTING_DEFAULTS[name] or name == "method"}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]


def check_device(device: str) -> None:
    """Check the name of a device, without asking whether it is there.

    Raises:
        InputError: neither `"auto"`, `"cpu"`, `"cuda"` nor a numbered GPU, `"cuda:1"`.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
        raise InputError(f"There is no device {shortened(device)}: use 'auto', 'cpu', 'cuda' or a GPU like 'cuda:1'.")


SETTING_TYPES: dict[str, Any] = get_type_hints(RunSettings)
SETTING_SHAPES: dict[str, Any] = get_type_hints(RunSettings, include_extras=True)
SETTING_DEFAULTS: dict[str, Any] = {
    setting.name: setting.default if setting.default_factory is MISSING else setting.default_factory()
    for setting in fields(RunSettings)
}
