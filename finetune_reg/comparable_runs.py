"""Which runs of a results table may be compared: those of equal task, settings and seeds that differ in the method."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment import SEEDS
from finetune_reg.methods import build_method
from finetune_reg.records import FINISHED
from finetune_reg.results import SETTING, method_label

MethodSpec = str | dict[str, Any]  # a method's name, or a mapping of the name to hyperparameters

PAIRED_BY = [*SEEDS, "seed_subset"]
# Epochs are compared apart, because a control may train longer; evaluations do not change a run.
RECIPE = [name for name in SETTING if name not in ("task", "epochs", "evaluate_every", "evaluate_on", "seed_subset")]


def method_identity(spec: MethodSpec) -> str:
    """Return a method with all its hyperparameters, defaults included, as JSON text.

    Raises:
        InputError: not one method, or an unknown method or hyperparameter.
    """
    if isinstance(spec, dict) and len(spec) != 1:
        raise InputError(f"A method is a name, or one name with its hyperparameters, not {spec}.")
    name, hyperparameters = next(iter(spec.items())) if isinstance(spec, dict) else (spec, None)
    return json.dumps([name, build_method(name, **(hyperparameters or {})).hyperparameters])


def method_words(spec: MethodSpec) -> str:
    """Return a method as one would construct it."""
    return method_label(*json.loads(method_identity(spec)))


def finished_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs of one scale, with four columns more.

    These are `points`, the score times 100, for a diverged run that of the best constant prediction; `failed`, 100 for
    a run that is not above that and 0 for any other; and `identity` and `recipe`, method and settings as texts.

    Raises:
        InputError: the table mixes sources, models or numbers of training rows.
    """
    for name in ("source", "model_name", "n_train"):
        if len(found := table[name].unique()) > 1:
            raise InputError(f"Claims are judged at one scale, but the table has {name} {', '.join(map(str, found))}.")
    runs = table[table.status.isin(FINISHED)].reset_index(drop=True)
    methods = zip(runs.method, runs.method_hyperparameters, strict=True)
    return runs.assign(
        points=100 * runs.score.astype(float).fillna(runs.majority_score.astype(float)),
        failed=100.0 * runs.below_majority.astype(bool),
        identity=[method_identity({name: json.loads(hyperparameters)}) for name, hyperparameters in methods],
        recipe=[str(values) for values in runs[RECIPE].astype(str).itertuples(index=False, name=None)],
    )


def runs_beside(
    runs: pd.DataFrame, task: str, leading: MethodSpec, method: MethodSpec, epochs_factor: int = 1
) -> pd.DataFrame:
    """Return the runs of a method on a task whose settings are those of the leading method there.

    Args:
        runs: from `finished_runs`.
        epochs_factor: how many times as many epochs they have.

    Returns:
        Their rows, indexed by their seeds.

    Raises:
        InputError: the leading method has several settings, or a run is there twice.
    """
    on_task = runs[runs.task == task]
    leaders = on_task[on_task.identity == method_identity(leading)]
    if leaders.recipe.nunique() > 1 or leaders.epochs.nunique() > 1:
        what = f"{method_words(leading)} on {task}"
        raise InputError(f"The table holds {what} at several settings: keep one learning rate, batch size and so on.")
    is_beside = on_task.recipe.isin(leaders.recipe) & on_task.epochs.isin(leaders.epochs * epochs_factor)
    chosen = on_task[is_beside & (on_task.identity == method_identity(method))].set_index(PAIRED_BY)
    if chosen.index.has_duplicates:
        raise InputError(f"The table holds a run of {method_words(method)} on {task} twice: keep one row per seed.")
    return chosen
