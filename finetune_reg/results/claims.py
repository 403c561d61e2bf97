"""What papers claim, as data; `verdicts` says what our runs say to it.

A claim names two methods, tasks, a statistic, a direction and the smallest effect that counts, in points (scores times
100; of failed runs, percentage points), and, where there is one, the control that would explain the effect without the
method's idea. `data/claims.yaml` holds those of the papers, `data/mechanisms.yaml` our own hypotheses about why a
method works.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.hyperparameters.typed_parameters import check_arguments, load_yaml
from finetune_reg.paths import ROOT
from finetune_reg.results.comparable_runs import check_changes, check_settings, scores_for, settings_words
from finetune_reg.results.method_labels import MethodSpec, method_identity
from finetune_reg.results.paired_differences import MIN_PAIRS, Statistic
from finetune_reg.results.published_results import load_published_results
from finetune_reg.results.run_tables import short_name
from finetune_reg.tasks import get_task

CLAIMS = ROOT / "data" / "claims.yaml"
MECHANISMS = ROOT / "data" / "mechanisms.yaml"


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, or a hypothesis of ours about one.

    Attributes:
        id: unique name; `paper`: as in the published figures.
        statement: the claim in a sentence; `source`: the table or figure; `scale`: model, data and runs behind it.
        read: how well the source was read, as for the published figures; `"stated"` is said in words whose figures
            could not be read, and `"ours"` is no paper's claim: these have no evidence.
        method, against, control: a method's name, or a mapping of the name to hyperparameters.
        tasks, statistic: what is compared.
        direction: of the method's statistic relative to that of `against`; `"equal"` says that they do not differ.
        minimal_effect: smallest difference that counts, in points, in (0, 100].
        trained_on: the task of the runs whose scores on `tasks` are compared; None: each is trained on its own.
        n_train: the number of training rows that the claim is about; None: whatever the runs have.
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
    read: Literal["read", "second_hand", "digitized", "stated", "ours"]
    method: MethodSpec
    against: MethodSpec
    tasks: list[str]
    statistic: Statistic
    direction: Literal["higher", "lower", "equal"]
    minimal_effect: float
    evidence: list[str] = field(default_factory=list)
    evidence_against: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    control: MethodSpec | None = None
    control_settings: dict[str, Any] = field(default_factory=dict)
    trained_on: str | None = None
    n_train: int | None = None

    def __post_init__(self) -> None:
        for spec in (self.method, self.against, self.control):
            if spec is not None:
                method_identity(spec)
        for task in (*self.tasks, *([] if self.trained_on is None else [self.trained_on])):
            get_task(task)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InputError("A claim needs at least one task, and each once.")
        if not 0 < self.minimal_effect <= 100:
            raise InputError(f"A claim needs a minimal_effect above 0 and at most 100, not {self.minimal_effect:g}.")
        without = self.read in ("stated", "ours")
        if without == bool(self.evidence) or (self.evidence_against and not self.evidence):
            raise InputError(
                "A claim needs published figures as evidence, unless its read is stated or ours: then it has none."
            )
        if self.direction == "equal" and (self.control is not None or self.statistic != "mean"):
            raise InputError("A claim that two methods are equal is about their mean and has no control.")
        if self.n_train is not None and self.n_train < 1:
            raise InputError(f"A claim needs an n_train of at least 1, not {self.n_train}.")
        if self.control_settings and self.control is None:
            raise InputError("A claim with control_settings needs a control that has these settings.")
        check_settings(self.settings)
        check_changes(self.control_settings)

    @property
    def statistic_words(self) -> str:
        """What is compared, in words."""
        return self.statistic.replace("_", " ")

    def is_tested(self, pairs: int) -> bool:
        """Tell whether it counts in Holm's correction with so many pairs: equality is told by the interval alone."""
        return pairs >= MIN_PAIRS and self.direction != "equal"


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


def comparison(claim: Claim) -> Hashable:
    """Return what two claims share that make the same test, whatever effect would count and whatever the control."""
    methods = method_identity(claim.method), method_identity(claim.against)
    runs = json.dumps(claim.settings, sort_keys=True), claim.trained_on
    return *methods, frozenset(claim.tasks), claim.statistic, *runs


def with_scores(claims: Sequence[Claim], runs: pd.DataFrame) -> list[tuple[Claim, pd.DataFrame]]:
    """Return each claim with the rows of `finished_runs` that it is about; claims about the same ones share them."""
    kinds = {(claim.trained_on, claim.n_train) for claim in claims}
    about = {kind: scores_for(runs, *kind) for kind in kinds}
    return [(claim, about[claim.trained_on, claim.n_train]) for claim in claims]


def where(claim: Claim) -> str:
    """Return the tasks and settings of a claim in words."""
    trained_on = "" if claim.trained_on is None else f", trained on {claim.trained_on}"
    settings = f" with {settings_words(claim.settings)}" if claim.settings else ""
    return ", ".join(claim.tasks) + trained_on + settings


def claim_on(claim: Claim, tasks: Sequence[str], figures: pd.DataFrame) -> Claim:
    """Return what a claim says of some of its tasks: their evidence, and half of their published effect as the least.

    The smallest effect stays that of the claim where the evidence does not tell its tasks apart.
    """
    ours, theirs = (
        [key for key in keys if figures.task[key] in tasks] for keys in (claim.evidence, claim.evidence_against)
    )
    if set(tasks) == set(claim.tasks) or not ours or claim.direction == "equal":
        return replace(claim, tasks=list(tasks))
    part = replace(claim, tasks=list(tasks), evidence=ours, evidence_against=theirs)
    effect = published_effect(part, figures)
    return part if effect is None else replace(part, minimal_effect=max(round(effect / 2, 1), 0.1))


def published_effect(claim: Claim, figures: pd.DataFrame) -> float | None:
    """Return the effect that the evidence reports, averaged over its figures and positive in the claim's direction.

    Args:
        figures: from `load_published_results`.

    Returns:
        Points; None without evidence, where no figure of the baseline could be read, or where wins were not counted.
        Of methods that are said to be equal, the method's minus the baseline's.
    """
    if not claim.evidence:
        return None
    ours, theirs = figures.loc[claim.evidence], figures.loc[claim.evidence_against]
    is_difference = (ours.metric == "average_difference").all()
    if claim.statistic == "probability_of_improvement" or not (len(theirs) or is_difference):
        return None
    effect = float(ours.value.mean() - (0.0 if is_difference else theirs.value.mean()))
    return -effect if claim.direction == "lower" else effect


def is_reduced(claim: Claim, model_name: str, n_train: float | None, figures: pd.DataFrame) -> bool:
    """Tell whether a model, or a number of training rows, is not that of a claim's evidence; False for one of ours.

    Without figures nothing tells the model, so that a claim that was read in words alone is always at reduced scale.

    Args:
        n_train: None or NaN is the whole training set, which the evidence is taken to have used as well.
    """
    if claim.read == "ours":
        return False
    evidence = figures.loc[claim.evidence]
    return short_name(model_name) not in set(evidence.model) or not (
        pd.isna(n_train) or n_train in set(evidence.n_train)
    )
