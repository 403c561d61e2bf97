"""All methods, by name."""

from __future__ import annotations

from typing import Any

from finetune_reg.errors import unknown_name
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods.combination import Combination
from finetune_reg.methods.l2_sp import L2SP
from finetune_reg.methods.mixout import Mixout
from finetune_reg.methods.pretrained_weight_decay import PretrainedWeightDecay
from finetune_reg.methods.vanilla import Vanilla
from finetune_reg.typed_parameters import check_arguments

METHODS: dict[str, type[FineTuningMethod]] = {
    "vanilla": Vanilla,
    "mixout": Mixout,
    "l2_sp": L2SP,
    "pretrained_weight_decay": PretrainedWeightDecay,
    "combination": Combination,
}


def build_method(name: str, **hyperparameters: Any) -> FineTuningMethod:
    """Build a method from its name and hyperparameters, as records and parameter files hold them.

    A combination takes `members`, a list of mappings with `method` and that method's hyperparameters.

    Raises:
        InputError: unknown method or hyperparameter, or a value of the wrong type or outside its range.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    if name == "combination" and isinstance(hyperparameters.get("members"), list):
        members = [
            build_method(**{"name" if key == "method" else key: value for key, value in member.items()})
            if isinstance(member, dict)
            else member
            for member in hyperparameters["members"]
        ]
        hyperparameters = {**hyperparameters, "members": members}
    return METHODS[name](**check_arguments(METHODS[name], hyperparameters, where=f"method {name!r}"))


def method_name(method: FineTuningMethod) -> str:
    """Return the registry name of a method object."""
    return next(name for name, cls in METHODS.items() if cls is type(method))
