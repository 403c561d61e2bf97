"""What papers claim, as data, and what our runs say to it.

A claim names two methods, tasks, a statistic, a direction and the smallest effect that counts, in points (scores times
100; of failed runs, percentage points), and, where there is one, the control that would explain the effect without the
method's idea. `data/claims.yaml` holds those of the papers, `data/mechanisms.yaml` our own hypotheses about why a
method works. `judge` holds a claim against runs of one scale, by these rules:

- **Pairs.** Runs of equal task, settings and seeds; only a control may differ, in the settings that the claim names. A
  diverged run counts as the best constant prediction. Tasks are pooled over the seeds that they share, with equal
  weight; `paired_differences` says how each statistic is compared.
- **Not run.** A method, or a task, has no pair.
- **Undecided.** Fewer than `MIN_PAIRS` pairs, with which no two-sided sign-flip test can reach 0.05; or the 95 %
  interval of the effect has values on both sides of the smallest effect; or the p-value, after Holm's correction over
  the claims that are judged together and have enough pairs, is not below 0.05.
- **Not reproduced.** The whole interval lies below the smallest effect.
- **The claim holds** when the whole interval reaches the smallest effect and the p-value is below 0.05. It is then
  **reproduced** if it has no control or if the method beats the control, the interval of their difference lying above
  0; **explained by the control** if it does not and the control's own interval reaches the smallest effect;
  **undecided** otherwise, and as long as the control has too few pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.hyperparameters.typed_parameters import check_arguments, load_yaml
from finetune_reg.paths import ROOT
from finetune_reg.results.comparable_runs import (
    both_fail,
    check_changes,
    check_settings,
    finished_runs,
    recipes_of,
    runs_beside,
    settings_words,
)
from finetune_reg.results.method_labels import MethodSpec, method_identity, method_words
from finetune_reg.results.paired_differences import Difference, Statistic, difference_of
from finetune_reg.results.published_results import load_published_results
from finetune_reg.results.statistics import holm
from finetune_reg.tasks import get_task

CLAIMS = ROOT / "data" / "claims.yaml"
MECHANISMS = ROOT / "data" / "mechanisms.yaml"
MIN_PAIRS = 6
LEVEL = 0.05
Outcome = Literal["reproduced", "not reproduced", "undecided", "explained by the control", "not run"]
Role = Literal["method", "against", "control"]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, or a hypothesis of ours about one.

    Attributes:
        id: unique name; `paper`: as in the published figures.
        statement: the claim in a sentence; `source`: the table or figure; `scale`: model, data and runs behind it.
        read: how well the source was read, as for the published figures; `"ours"` is no paper's claim and has no
            evidence.
        method, against, control: a method's name, or a mapping of the name to hyperparameters.
        tasks, statistic: what is compared.
        direction: of the method's statistic relative to that of `against`.
        minimal_effect: smallest difference that counts, in points, in (0, 100].
        settings: those of a run with which the method and its baseline are judged, for example `{epochs: 3}`.
        control_settings: those in which the control differs from them, a value or a factor: `{epochs: {times: 4}}`.
        evidence: keys of the published figures of the method (or of differences from the baseline).
        evidence_against: those of the baseline.

    Raises:
        InputError: an unknown method, hyperparameter, task or setting, or a value out of range.
    """

    id: str
    paper: str
    statement: str
    source: str
    scale: str
    read: Literal["read", "second_hand", "digitized", "ours"]
    method: MethodSpec
    against: MethodSpec
    tasks: list[str]
    statistic: Statistic
    direction: Literal["higher", "lower"]
    minimal_effect: float
    evidence: list[str] = field(default_factory=list)
    evidence_against: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    control: MethodSpec | None = None
    control_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for spec in (self.method, self.against, self.control):
            if spec is not None:
                method_identity(spec)
        for task in self.tasks:
            get_task(task)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InputError("A claim needs at least one task, and each once.")
        if not 0 < self.minimal_effect <= 100:
            raise InputError(f"A claim needs a minimal_effect above 0 and at most 100, not {self.minimal_effect:g}.")
        if (self.read == "ours") == bool(self.evidence) or (self.evidence_against and not self.evidence):
            raise InputError("A claim needs published figures as evidence, unless its read is ours: then it has none.")
        if self.control_settings and self.control is None:
            raise InputError("A claim with control_settings needs a control that has these settings.")
        check_settings(self.settings)
        check_changes(self.control_settings)


@dataclass(frozen=True)
class Verdict:
    """What the runs say to a claim. Differences are in points, a positive one being in the direction of the claim.

    Attributes:
        outcome: see the module; `sentence`: the same with its numbers, for people.
        effect: of the method against the baseline, pooled over the tasks; None when not run.
        p_value: that of `effect` after Holm's correction; NaN below `MIN_PAIRS` pairs.
        by_task: the effect on each task, on all seeds of that task.
        beyond_control: the method against the control; `control_effect`: the control against the baseline; None
            without a control or without its runs.
    """

    claim: Claim
    outcome: Outcome
    sentence: str
    effect: Difference | None = None
    p_value: float = math.nan
    by_task: dict[str, Difference] = field(default_factory=dict)
    beyond_control: Difference | None = None
    control_effect: Difference | None = None


def load_claims(path: Path | str = CLAIMS) -> list[Claim]:
    """Read a file of claims: a list of mappings with the fields of `Claim`.

    Raises:
        InputError: not such a list, an unknown or missing field, method, task, statistic or published figure, or an
            id that occurs twice.
    """
    entries = load_yaml(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise InputError(f"{path} is not a file of claims: it needs a list of mappings that have an id.")
    figures = load_published_results().index
    claims: dict[str, Claim] = {}
    for entry in entries:
        where = f"claim {entry['id']!r}"
        if entry["id"] in claims:
            raise InputError(f"{path} has {where} twice: give each its own id.")
        try:
            claims[entry["id"]] = claim = Claim(**check_arguments(Claim, entry, "a claim"))
        except InputError as error:
            raise InputError(f"{path}, {where}: {error}") from None
        for key in claim.evidence + claim.evidence_against:
            if key not in figures:
                raise unknown_name(f"published figure (evidence of {where})", key, figures)
    return list(claims.values())


def published_effect(claim: Claim, figures: pd.DataFrame) -> float | None:
    """Return the effect that the evidence reports, averaged over its figures and positive in the claim's direction.

    Args:
        figures: from `load_published_results`.

    Returns:
        Points; None without evidence, where no figure of the baseline could be read, or where wins were not counted.
    """
    if not claim.evidence:
        return None
    ours, theirs = figures.loc[claim.evidence], figures.loc[claim.evidence_against]
    is_difference = (ours.metric == "average_difference").all()
    if claim.statistic == "probability_of_improvement" or not (len(theirs) or is_difference):
        return None
    effect = float(ours.value.mean() - (0.0 if is_difference else theirs.value.mean()))
    return effect if claim.direction == "higher" else -effect


def judge(claim: Claim, table: pd.DataFrame) -> Verdict:
    """Judge one claim as `judge_all` does.

    Raises:
        InputError: as `judge_all`, or the method was run at several settings on one task.
    """
    return _judged([claim], finished_runs(table))[0]


def judge_all(claims: Sequence[Claim], table: pd.DataFrame) -> list[Verdict]:
    """Judge claims together on the runs of one scale.

    Args:
        table: as from `results_table`, filtered to one source, model and number of training rows. Runs on held-out
            folds are passed over: they choose settings, and report nothing.

    Returns:
        A verdict per claim, in their order. Where the table has the method at several settings on one task, there is
        one for each of them, whose claim has it in its `settings`.

    Raises:
        InputError: the table mixes scales, or holds one run twice.
    """
    runs = finished_runs(table)
    at_settings = [
        replace(claim, settings=settings)
        for claim in claims
        for settings in recipes_of(runs, claim.tasks, claim.method, claim.settings)
    ]
    return _judged(at_settings, runs)


def _judged(claims: Sequence[Claim], runs: pd.DataFrame) -> list[Verdict]:
    effects = [_effect(claim, runs, "method", "against") for claim in claims]
    p_values = holm([math.nan if effect is None or effect.n < MIN_PAIRS else effect.p_value for effect in effects])
    return [_verdict(claim, runs, *found) for claim, *found in zip(claims, effects, p_values.tolist(), strict=True)]


def _verdict(claim: Claim, runs: pd.DataFrame, effect: Difference | None, p_value: float) -> Verdict:
    method, against, where = method_words(claim.method), method_words(claim.against), ", ".join(claim.tasks)
    if claim.settings:
        where += f" with {settings_words(claim.settings)}"
    if effect is None:
        return Verdict(claim, "not run", f"Not run: {method} and {against} have no common seed on {where}.")
    on_task = {task: _effect(claim, runs, "method", "against", [task]) for task in claim.tasks}
    by_task = {task: found for task, found in on_task.items() if found is not None}
    beyond = control_effect = None
    if claim.control is not None:
        beyond = _effect(claim, runs, "method", "control")
        control_effect = _effect(claim, runs, "control", "against")
    outcome, reason = _decide(claim, effect, p_value, beyond, control_effect)
    what = f"{claim.statistic.replace('_', ' ')} of {method} on {where}"
    numbers = f"{effect.n} pairs" + ("" if math.isnan(p_value) else f", p = {p_value:.3f}")
    opposite = "lower" if claim.direction == "higher" else "higher"
    size, direction = (-effect, opposite) if effect.value < 0 else (effect, claim.direction)
    sentence = (
        f"{outcome.capitalize()}: the {what} is {_words(size, sign='')} points {direction} than that of {against} "
        f"({numbers}), where {claim.minimal_effect:g} {claim.direction} would count; {reason}."
    )
    if failing := [task for task in claim.tasks if both_fail(runs, task, claim.method, claim.against, claim.settings)]:
        sentence += f" No run of either beats the best constant answer on {', '.join(failing)}."
    return Verdict(claim, outcome, sentence, effect, p_value, by_task, beyond, control_effect)


def _decide(
    claim: Claim,
    effect: Difference,
    p_value: float,
    beyond: Difference | None,
    control_effect: Difference | None,
) -> tuple[Outcome, str]:
    if math.isnan(p_value):
        return "undecided", f"no test decides with fewer than {MIN_PAIRS} pairs"
    if effect.high < claim.minimal_effect:
        return "not reproduced", "the whole interval falls short of that"
    if effect.low < claim.minimal_effect:
        return "undecided", "the interval has values on both sides"
    if p_value >= LEVEL:
        return "undecided", f"the corrected p-value is not below {LEVEL}"
    if claim.control is None:
        return "reproduced", "no control is known"
    otherwise = f" with {settings_words(claim.control_settings)}" if claim.control_settings else ""
    control = f"{method_words(claim.control)}{otherwise}"
    if beyond is None or control_effect is None or min(beyond.n, control_effect.n) < MIN_PAIRS:
        return "undecided", f"it holds, but the control {control} has fewer than {MIN_PAIRS} pairs"
    reason = f"the control {control} gains {_words(control_effect)}, the method {_words(beyond)} beyond it"
    if beyond.low > 0:
        return "reproduced", reason
    return ("explained by the control" if control_effect.low >= claim.minimal_effect else "undecided"), reason


def _effect(
    claim: Claim, runs: pd.DataFrame, first: Role, second: Role, tasks: Sequence[str] | None = None
) -> Difference | None:
    """Compare two of the claim's methods on the seeds common to the tasks; positive in the claim's direction."""
    column = "failed" if claim.statistic == "failed_fraction" else "points"
    changes = {"control": claim.control_settings}
    samples = {}
    for role, task in product((first, second), tasks or claim.tasks):
        beside = runs_beside(runs, task, claim.method, getattr(claim, role), claim.settings, changes.get(role, {}))
        if beside.empty:
            return None
        samples[role, task] = beside[column]
    scores = pd.concat(samples, axis=1, join="inner").to_numpy().T
    if not scores.size:
        return None
    difference = difference_of(claim.statistic, *scores.reshape(2, -1, scores.shape[1]))
    return difference if claim.direction == "higher" else -difference


def _words(difference: Difference, sign: Literal["+", ""] = "+") -> str:
    interval = "" if math.isnan(difference.low) else f" [{difference.low:z.1f}, {difference.high:z.1f}]"
    return f"{difference.value:{sign}z.1f}{interval}"
