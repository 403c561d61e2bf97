"""One row per method: how the contract tests build it, and the setting in which it is vanilla."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import L2SP, Combination, Mixout, PretrainedWeightDecay, Vanilla


@dataclass(frozen=True)
class MethodSetting:
    active: Callable[[], FineTuningMethod]
    neutral: Callable[[], FineTuningMethod]
    deterministic: bool  # draws no randomness of its own and leaves dropout alone
    weight_decay: float = 0.01  # what vanilla is compared at: 0 for methods that replace weight decay


METHOD_SETTINGS = {
    "vanilla": MethodSetting(lambda: Vanilla(dropout=0.5), Vanilla, deterministic=True),
    "mixout": MethodSetting(lambda: Mixout(0.5), lambda: Mixout(0.0, disable_dropout=False), deterministic=False),
    "l2_sp": MethodSetting(lambda: L2SP(10.0, 1.0), lambda: L2SP(0.0, 0.0), deterministic=True, weight_decay=0.0),
    "pretrained_weight_decay": MethodSetting(
        lambda: PretrainedWeightDecay(5.0), lambda: PretrainedWeightDecay(0.0), deterministic=True, weight_decay=0.0
    ),
    "combination": MethodSetting(
        lambda: Combination([Mixout(0.5), L2SP(10.0)]),
        lambda: Combination([Mixout(0.0, disable_dropout=False), PretrainedWeightDecay(0.0)]),
        deterministic=False,
        weight_decay=0.0,
    ),
}
