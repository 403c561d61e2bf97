"""Which runs of a results table may be compared: those of equal task, settings and seeds that differ in the method."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment.records import FINISHED
from finetune_reg.experiment.settings import SEEDS, SETTING_TYPES, RunSettings
from finetune_reg.results.method_labels import MethodSpec, method_identity, method_words
from finetune_reg.results.run_tables import SETTING, counted_scores
from finetune_reg.results.table_checks import comparable
from finetune_reg.tasks import get_task

PAIRED_BY = [*SEEDS, "seed_subset"]
SCALE = ["source", "model_name", "n_train"]
# Evaluations do not change a run, and runs on held-out folds are not compared.
_APART = ("task", "evaluate_every", "evaluate_on", "seed_subset", "held_out_fold", *SCALE)
RECIPE = [name for name in SETTING if name not in _APART]
TOLERANCE = 1e-3


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the values of some settings in `RECIPE`.

    Raises:
        InputError: a setting that is unknown or the same in all runs of a scale, or a value that no run can have.
    """
    _check_names(settings)
    RunSettings(**settings)


def check_changes(changes: Mapping[str, Any]) -> None:
    """Check settings in `RECIPE` that change to a value, or by a factor, `{"times": 4}`.

    Raises:
        InputError: as `check_settings`, or a factor that is no number above 0, or is of a setting that is no number.
    """
    _check_names(changes)
    factors = {name: change for name, change in changes.items() if isinstance(change, dict)}
    check_settings({name: change for name, change in changes.items() if name not in factors})
    for name, factor in factors.items():
        times: Any = factor.get("times")
        is_number = isinstance(times, int | float) and not isinstance(times, bool)
        if set(factor) != {"times"} or not is_number or not 0 < times < np.inf:
            raise InputError(f"{name} needs a value, or a factor above 0 like {{times: 4}}, not {factor}.")
        if SETTING_TYPES[name] not in (int, float):
            raise InputError(f"{name} has no factor, because it is no number: give its value in place of {factor}.")


def _check_names(settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name not in RECIPE:
            raise unknown_name("setting of a claim", name, RECIPE)


def settings_words(changes: Mapping[str, Any]) -> str:
    """Return settings, or changes of them, in words: "bias_correction=False and 4 times the epochs"."""
    return " and ".join(
        f"{change['times']:g} times the {name.replace('_', ' ')}" if isinstance(change, dict) else f"{name}={change}"
        for name, change in changes.items()
    )


def finished_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of the finished runs of one scale: tasks, seeds and settings, and six columns more.

    A run has a row for its own task and one for each other task that it was scored on; runs on held-out folds are left
    out. The columns are `trained_on`, the own task; `points`, the score times 100, for a diverged run that of the best
    constant prediction; `above_constant`, how far they are above the latter; `failed`, 100 for a run that is not above
    it and 0 for any other; `distance`, see `paired_differences`; and `identity`, see `method_identity`. Records tell
    nothing of a constant answer on another task: there `above_constant` and `failed` are those of the own task, and a
    diverged run has no row.

    Raises:
        InputError: the table mixes sources, models or numbers of training rows, or holds runs that may not be compared
            (see `comparable`).
    """
    table = comparable(table)
    for name in SCALE:
        if len(found := table[name].unique()) > 1:
            raise InputError(f"Claims are judged at one scale, but the table has {name} {', '.join(map(str, found))}.")
    runs = table[table.status.isin(FINISHED) & table.held_out_fold.isna()].reset_index(drop=True)
    methods = list(zip(runs.method, runs.method_hyperparameters, strict=True))
    identities = {(name, given): method_identity({name: json.loads(given)}) for name, given in set(methods)}
    points = 100 * counted_scores(runs)
    own = runs[["task", *PAIRED_BY, *RECIPE, *SCALE]].assign(
        points=points,
        above_constant=points - 100 * runs.majority_score.astype(float),
        failed=100.0 * runs.below_majority.astype(bool),
        distance=100 * np.log(runs.distance_from_pretrained.astype(float)),
        identity=[identities[method] for method in methods],
        trained_on=runs.task,
    )
    return pd.concat([own, *_elsewhere(own, runs.transfer)], ignore_index=True)


def _elsewhere(own: pd.DataFrame, transfer: pd.Series) -> Iterator[pd.DataFrame]:
    """Yield the rows of runs with their scores on each other task."""
    scores = transfer[transfer != "{}"].map(json.loads)
    for task in dict.fromkeys(name for of_run in scores for name in of_run):
        metric = get_task(task).metrics[0]
        points = 100 * scores.map(lambda of_run, task=task, metric=metric: of_run.get(task, {}).get(metric)).dropna()
        yield own.loc[points.index].assign(task=task, points=points)


def scores_for(runs: pd.DataFrame, trained_on: str | None, n_train: int | None) -> pd.DataFrame:
    """Return the rows of `finished_runs` that a claim is about.

    Args:
        trained_on: the task of the runs; None: scores of runs on their own tasks.
        n_train: the number of training rows; None: any.
    """
    scores = runs[runs.trained_on == (runs.task if trained_on is None else trained_on)]
    return scores if n_train is None else scores[scores.n_train == n_train]


def recipes_of(
    runs: pd.DataFrame, tasks: Sequence[str], method: MethodSpec, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return settings with which a method has at most one recipe on each task.

    Args:
        runs: from `finished_runs`.
        settings: values of the settings of the runs that count.

    Returns:
        `settings` alone, if that does. Otherwise a mapping for each combination of the values of the settings that
        differ within a task, which are added to `settings`.
    """
    own = _having(runs[runs.task.isin(tasks) & (runs.identity == method_identity(method))], settings)
    if own.empty:
        return [dict(settings)]
    varies = (own.groupby("task")[RECIPE].nunique() > 1).any()
    differing = [name for name in RECIPE if varies[name]]
    if not differing:
        return [dict(settings)]
    found = own[differing].drop_duplicates().astype(object)
    values = found.itertuples(index=False, name=None)
    return [{**settings, **dict(zip(differing, row, strict=True))} for row in values]


def runs_beside(
    runs: pd.DataFrame,
    task: str,
    leading: MethodSpec,
    method: MethodSpec,
    settings: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> pd.DataFrame:
    """Return the runs of a method on a task whose settings are those of the leading method there, or changes of them.

    Numbers are equal up to a relative difference of 1e-3, because plans round them.

    Args:
        runs: from `finished_runs`.
        settings: values of the settings of the leading method's runs that count; see `check_settings`.
        changes: settings in which the runs differ from them; see `check_changes`.

    Returns:
        Their rows, indexed by their seeds.

    Raises:
        InputError: the leading method has several settings, or a run is there twice.
    """
    on_task = runs[runs.task == task]
    recipes = _having(on_task[on_task.identity == method_identity(leading)], settings)[RECIPE].drop_duplicates()
    if len(recipes) > 1:
        what = f"{method_words(leading)} on {task}"
        raise InputError(f"The table holds {what} at several settings: keep one learning rate, batch size and so on.")
    if recipes.empty:
        return runs.iloc[:0].set_index(PAIRED_BY)
    recipe = {name: recipes[name].iloc[0] for name in RECIPE}
    wanted = recipe | {name: _changed(recipe[name], change) for name, change in changes.items()}
    chosen = _having(on_task[on_task.identity == method_identity(method)], wanted)
    chosen = chosen.set_index(PAIRED_BY)
    if chosen.index.has_duplicates:
        raise InputError(f"The table holds a run of {method_words(method)} on {task} twice: keep one row per seed.")
    return chosen


def _changed(value: Any, change: Any) -> Any:
    return value * change["times"] if isinstance(change, dict) else change


def _having(runs: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    keep = np.full(len(runs), True)
    for name, value in settings.items():
        is_number = SETTING_TYPES[name] in (int, float)
        found = runs[name].to_numpy()
        keep &= np.isclose(found.astype(float), value, rtol=TOLERANCE, atol=0.0) if is_number else found == value
    return runs[keep]
