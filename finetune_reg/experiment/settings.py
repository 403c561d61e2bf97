"""The settings of a run: everything that decides its outcome, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, get_type_hints

from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.typed_parameters import check_value
from finetune_reg.methods import build_method
from finetune_reg.tasks import get_task, label_map
from finetune_reg.tasks.loading import Split
from finetune_reg.training_loop import Precision

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
        seeds: dict[str, Any] = dict.fromkeys(SEEDS, seed)
        return replace(self, **seeds)

    @property
    def run_id(self) -> str:
        """Hash (SHA-256, 12 hex digits) of the settings that differ from their defaults."""
        chosen = {
            name: value for name, value in asdict(self).items() if value != SETTING_DEFAULTS[name] or name == "method"
        }
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]


SETTING_TYPES: dict[str, Any] = get_type_hints(RunSettings)
SETTING_DEFAULTS: dict[str, Any] = {
    setting.name: setting.default if setting.default_factory is MISSING else setting.default_factory()
    for setting in fields(RunSettings)
}
