"""The parameters of the papermill template, checked: by the command before a kernel starts, by the notebook itself
in its second cell, so that plain `papermill` is safe, too."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment.settings import SEEDS, SETTING_TYPES, RunSettings, check_device
from finetune_reg.hyperparameters.typed_parameters import check_value

TEMPLATE_PARAMETERS: dict[str, Any] = {
    **{name: kind for name, kind in SETTING_TYPES.items() if name not in SEEDS},
    "seeds": list[int],
    "seed_subset": int | None,
    "vary": list[Literal["init", "order", "noise"]],
    "device": str,
    "keep_weights": bool,
    "output_dir": str,
}


def settings_from(namespace: Mapping[str, Any]) -> list[RunSettings]:
    """Turn the template's parameters into one `RunSettings` per seed.

    The seed is that of what `vary` names, by default initialization, order and noise; the others have seed 0. With
    `seed_subset` None it is that of the subset, too.

    Args:
        namespace: parameter names and values; a notebook passes `globals()` right after its parameters, whose
            modules, functions and IPython names are passed over.

    Raises:
        InputError: a name that is no parameter (with the nearest one), a value of the wrong type or out of range,
            no seeds, a seed twice, or several that change nothing.
    """
    given = {name: value for name, value in namespace.items() if _is_parameter(name, value)}
    for name, value in given.items():
        if name not in TEMPLATE_PARAMETERS:
            raise unknown_name("notebook parameter", name, TEMPLATE_PARAMETERS)
        check_value(name, value, TEMPLATE_PARAMETERS[name], "The notebook")
    check_device(given.get("device", "auto"))
    seeds = given.get("seeds", [0])
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"The notebook needs seeds to be different integers, at least one, not {seeds}.")
    fresh_subsets = given.get("seed_subset", 0) is None
    varied = [f"seed_{name}" for name in given["vary"]] if "vary" in given else SEEDS
    if len(seeds) > 1 and not varied and not fresh_subsets:
        raise InputError("The notebook has several seeds that change nothing: name in vary what has them.")
    chosen = {name: value for name, value in given.items() if name in SETTING_TYPES}
    settings = RunSettings(**chosen | ({"seed_subset": 0} if fresh_subsets else {}))
    return [settings.with_seed(seed, own_subset=fresh_subsets, varied=varied) for seed in seeds]


def _is_parameter(name: str, value: Any) -> bool:
    if name.startswith("_") or name in ("In", "Out"):
        return False
    return not (isinstance(value, ModuleType) or callable(value) or type(value).__module__ == "__future__")
