"""What our runs say to a claim, and how sure that is. `judge_all` holds claims against the runs of one scale.

- **Pairs.** Runs of equal task, settings and seeds; only a control may differ, in the settings that the claim names. A
  diverged run counts as the best constant prediction. Tasks are pooled over the seeds that they share, with equal
  weight; `paired_differences` says how each statistic is compared.
- **Not run.** A method, or a task, has no pair.
- **Not testable here.** A task on which neither the method nor its baseline beats the best constant answer (the 95 %
  interval of the mean score above it reaches 0) says nothing of either and leaves the mean over tasks. So does one on
  which the baseline leaves no room for the smallest effect, as where none of its runs fails. No task remains; else the
  claim is judged on those that remain, with the smallest effect that the figures of these tasks give. Distances of
  weights are compared wherever there are runs.
- **Not reproduced.** The whole 95 % interval of the effect lies below the smallest effect.
- **The claim holds** when the whole interval reaches the smallest effect and the test of no effect, corrected for the
  claims of the same paper, is below `LEVEL`. It is then **reproduced** if it has no control or if the method beats
  the control, the interval of their difference lying above 0; **explained by the control** if it does not and the
  control's own interval reaches the smallest effect.
- **Equal.** A claim of no difference is reproduced when the whole interval lies within the smallest effect either way
  (two one-sided tests at 2.5 %, not corrected), and not reproduced when the whole interval lies beyond it.
- **Undecided.** Everything else, and fewer than `MIN_PAIRS` pairs of the method or of its control.

Holm's correction counts claims that make the same comparison once. Means are tested by the t test; the sign-flip test
stands beside it and has to agree, unless its smallest p-value, 2 / 2^n with n pairs, is too large for the number of
claims. All other statistics have the permutation test alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd

from finetune_reg.results.claims import Claim, claim_on, comparison, is_reduced, where, with_scores
from finetune_reg.results.comparable_runs import finished_runs, recipes_of, runs_beside, settings_words
from finetune_reg.results.method_labels import MethodSpec, method_words
from finetune_reg.results.paired_differences import (
    MIN_PAIRS,
    Corrected,
    Difference,
    correct,
    difference_of,
    level_of,
    tests_words,
)
from finetune_reg.results.published_results import load_published_results
from finetune_reg.results.statistics import LEVEL, mean_interval

Outcome = Literal[
    "reproduced", "not reproduced", "undecided", "explained by the control", "not testable here", "not run"
]
Role = Literal["method", "against", "control"]


@dataclass(frozen=True)
class Verdict:
    """What the runs say to a claim. Differences are in points, a positive one being in the direction of the claim.

    Attributes:
        outcome: see the module; `sentence`: the same with its numbers, for people.
        reduced: whether model or training rows are not those of the claim's evidence; False for a study of ours.
        effect: of the method against the baseline, pooled over the tasks that are tested; None when not run, or where
            nothing is testable.
        of_paper, of_all: its p-values, corrected for the claims of the paper, and for all that are judged together.
        by_task: the effect on each task, on all seeds of that task.
        untested: tasks left out, with the reason.
        beyond_control: the method against the control; `control_effect`: the control against the baseline; None
            without a control or without its runs.
    """

    claim: Claim
    outcome: Outcome
    sentence: str
    reduced: bool = False
    effect: Difference | None = None
    of_paper: Corrected = field(default_factory=Corrected)
    of_all: Corrected = field(default_factory=Corrected)
    by_task: dict[str, Difference] = field(default_factory=dict)
    untested: dict[str, str] = field(default_factory=dict)
    beyond_control: Difference | None = None
    control_effect: Difference | None = None


def judge(claim: Claim, table: pd.DataFrame) -> Verdict:
    """Judge one claim as `judge_all` does.

    Raises:
        InputError: as `judge_all`, or the method was run at several settings on one task.
    """
    ((_, scores),) = with_scores([claim], finished_runs(table))
    return _judged([_Case(claim, scores, load_published_results())])[0]


def judge_all(claims: Sequence[Claim], table: pd.DataFrame) -> list[Verdict]:
    """Judge claims together on the runs of one scale; our own studies are corrected apart from the papers' claims.

    Args:
        table: as from `results_table`, filtered to one source, model and number of training rows. Runs on held-out
            folds are passed over: they choose settings, and report nothing.

    Returns:
        A verdict per claim, in their order. Where the table has the method at several settings on one task, there is
        one for each of them, whose claim has it in its `settings`.

    Raises:
        InputError: the table mixes scales, or holds one run twice.
    """
    runs, figures = finished_runs(table), load_published_results()
    return _judged(
        [
            _Case(replace(claim, settings=settings), scored, figures)
            for claim, scored in with_scores(claims, runs)
            for settings in recipes_of(scored, claim.tasks, claim.method, claim.settings)
        ]
    )


@dataclass(frozen=True)
class _Case:
    """A claim beside the runs that it is judged by; `figures`: from `load_published_results`."""

    claim: Claim
    runs: pd.DataFrame
    figures: pd.DataFrame

    @property
    def column(self) -> str:
        return {"failed_fraction": "failed", "distance": "distance"}.get(self.claim.statistic, "points")

    @cached_property
    def is_run(self) -> bool:
        made = set(self.claim.tasks) <= set(self.runs.task.unique())
        return made and self.compare("method", "against", self.claim.tasks) is not None

    @cached_property
    def untested(self) -> dict[str, str]:
        """Tasks that say nothing, with the reason."""
        tasks = self.claim.tasks if self.is_run and self.claim.statistic != "distance" else []
        return {task: reason for task in tasks if (reason := self._nothing_said(task))}

    @cached_property
    def tasks(self) -> list[str]:
        return [task for task in self.claim.tasks if task not in self.untested]

    @cached_property
    def tested(self) -> Claim:
        """The claim on the tasks that say something."""
        return claim_on(self.claim, self.tasks, self.figures)

    @cached_property
    def effect(self) -> Difference | None:
        return self.compare("method", "against", self.tasks) if self.is_run and self.tasks else None

    def compare(self, first: Role, second: Role, tasks: Sequence[str]) -> Difference | None:
        """Compare two of the claim's methods on the seeds common to the tasks; positive in the claim's direction."""
        samples = {
            (role, task): self.runs_of[role, task][self.column] for role, task in product((first, second), tasks)
        }
        scores = pd.concat(samples, axis=1, join="inner").dropna().to_numpy().T
        if not scores.size:
            return None
        difference = difference_of(self.claim.statistic, *scores.reshape(2, -1, scores.shape[1]))
        return -difference if self.claim.direction == "lower" else difference

    @cached_property
    def runs_of(self) -> dict[tuple[Role, str], pd.DataFrame]:
        """The runs of each method of the claim on each task, indexed by their seeds."""
        claim, unchanged = self.claim, dict[str, Any]()
        roles: dict[Role, tuple[MethodSpec, dict[str, Any]]]
        roles = {"method": (claim.method, unchanged), "against": (claim.against, unchanged)}
        if claim.control is not None:
            roles["control"] = (claim.control, claim.control_settings)
        return {
            (role, task): runs_beside(self.runs, task, claim.method, spec, claim.settings, changes)
            for role, (spec, changes) in roles.items()
            for task in claim.tasks
        }

    def _nothing_said(self, task: str) -> str:
        if not any(_learned(self.runs_of[role, task].above_constant.to_numpy()) for role in ("method", "against")):
            return "neither beats the best constant answer"
        if self.claim.statistic == "probability_of_improvement" or self.claim.direction == "equal":
            return ""
        level = level_of(self.claim.statistic, self.runs_of["against", task][self.column].to_numpy())
        room = level if self.claim.direction == "lower" else 100 - level
        if room < self.claim.minimal_effect:
            return f"the {self.claim.statistic_words} of {method_words(self.claim.against)} is {level:.1f}"
        return ""


def _learned(above_constant: np.ndarray) -> bool:
    """Tell whether scores of shape (n,), minus that of the best constant answer, lie above 0 with their interval."""
    low, _ = mean_interval(above_constant)
    return bool(np.mean(above_constant) > 0 if math.isnan(low) else low > 0)


def _judged(cases: Sequence[_Case]) -> list[Verdict]:
    of_paper = _corrected(cases, lambda claim: "ours" if claim.read == "ours" else claim.paper)
    of_all = _corrected(cases, lambda claim: "ours" if claim.read == "ours" else "papers")
    return [_verdict(case, *found) for case, *found in zip(cases, of_paper, of_all, strict=True)]


def _corrected(cases: Sequence[_Case], family: Callable[[Claim], str]) -> list[Corrected]:
    effects: dict[str, dict[Hashable, Difference]] = {}
    for case in cases:
        if case.effect is not None and case.claim.is_tested(case.effect.n):
            effects.setdefault(family(case.claim), {})[comparison(case.tested)] = case.effect
    corrected = {
        (name, tested): found
        for name, of_family in effects.items()
        for tested, found in zip(of_family, correct(list(of_family.values())), strict=True)
    }
    return [
        Corrected()
        if case.effect is None
        else corrected.get((family(case.claim), comparison(case.tested)), Corrected())
        for case in cases
    ]


def _verdict(case: _Case, of_paper: Corrected, of_all: Corrected) -> Verdict:
    claim, effect = case.claim, case.effect
    method, against = method_words(claim.method), method_words(claim.against)
    if not case.is_run:
        return Verdict(claim, "not run", f"Not run: {method} and {against} have no common seed on {where(claim)}.")
    reduced = is_reduced(claim, case.runs.model_name.iloc[0], case.runs.n_train.iloc[0], case.figures)
    scale = " at reduced scale" if reduced else ""
    if effect is None:
        sentence = f"Not testable here{scale}: {_reasons(case.untested)}."
        return Verdict(claim, "not testable here", sentence, reduced, untested=case.untested)
    by_task = {task: found for task in case.tasks if (found := case.compare("method", "against", [task])) is not None}
    beyond = control_effect = None
    if claim.control is not None:
        beyond = case.compare("method", "control", case.tasks)
        control_effect = case.compare("control", "against", case.tasks)
    outcome, reason = _decide(case.tested, effect, of_paper, beyond, control_effect)
    direction, opposite = ("lower", "higher") if claim.direction == "lower" else ("higher", "lower")
    size, told = (-effect, opposite) if effect.value < 0 else (effect, direction)
    counts = "either way" if claim.direction == "equal" else direction
    sentence = (
        f"{outcome.capitalize()}{scale}: the {claim.statistic_words} of {method} on {where(case.tested)} is "
        f"{size.words(sign='')} points {told} than that of {against} ({tests_words(effect.n, of_paper, of_all)}), "
        f"where {case.tested.minimal_effect:g} {counts} would count; {reason}."
    )
    if case.untested:
        sentence += f" Left out: {_reasons(case.untested)}."
    return Verdict(
        claim, outcome, sentence, reduced, effect, of_paper, of_all, by_task, case.untested, beyond, control_effect
    )


def _decide(
    claim: Claim,
    effect: Difference,
    corrected: Corrected,
    beyond: Difference | None,
    control_effect: Difference | None,
) -> tuple[Outcome, str]:
    if effect.n < MIN_PAIRS:
        return "undecided", f"no test decides with fewer than {MIN_PAIRS} pairs"
    if claim.direction == "equal":
        return _decide_equal(claim.minimal_effect, effect)
    if effect.high < claim.minimal_effect:
        return "not reproduced", "the whole interval falls short of that"
    if effect.low < claim.minimal_effect:
        return "undecided", "the interval has values on both sides"
    if corrected.deciding >= LEVEL:
        if corrected.floor > LEVEL and math.isnan(corrected.t):
            return "undecided", f"{effect.n} pairs are too few for a test among {corrected.tests} claims"
        return "undecided", f"the corrected p-value is not below {LEVEL}"
    if claim.control is None:
        return "reproduced", "no control is known"
    otherwise = f" with {settings_words(claim.control_settings)}" if claim.control_settings else ""
    control = f"{method_words(claim.control)}{otherwise}"
    if beyond is None or control_effect is None or min(beyond.n, control_effect.n) < MIN_PAIRS:
        return "undecided", f"it holds, but the control {control} has fewer than {MIN_PAIRS} pairs"
    reason = f"the control {control} gains {control_effect.words()}, the method {beyond.words()} beyond it"
    if beyond.low > 0:
        return "reproduced", reason
    return ("explained by the control" if control_effect.low >= claim.minimal_effect else "undecided"), reason


def _decide_equal(margin: float, effect: Difference) -> tuple[Outcome, str]:
    if -margin < effect.low and effect.high < margin:
        return "reproduced", "the whole interval lies below that"
    if effect.low >= margin or effect.high <= -margin:
        return "not reproduced", "the whole interval reaches that"
    return "undecided", "the interval has values on both sides"


def _reasons(untested: dict[str, str]) -> str:
    """Say why tasks are left out, those with one reason together."""
    by_reason = [(reason, [task for task in untested if untested[task] == reason]) for reason in untested.values()]
    return "; ".join(dict.fromkeys(f"on {', '.join(tasks)} {reason}" for reason, tasks in by_reason))
