"""What the runs of a plan will be able to decide, told before any is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from finetune_reg.experiment.settings import RunSettings
from finetune_reg.results.claims import Claim, comparison, with_scores
from finetune_reg.results.comparable_runs import SCALE, recipes_of, runs_beside
from finetune_reg.results.method_labels import method_identity
from finetune_reg.results.paired_differences import MIN_PAIRS
from finetune_reg.results.statistics import LEVEL, POWER, permutation_floor, smallest_decided_effect

LEGEND = (
    f"Smallest effect: what is found with probability {POWER:g} at p < {LEVEL:g}, corrected over the comparisons of "
    "the same paper, in standard deviations (sd) of the paired differences."
)


@dataclass(frozen=True)
class PlannedClaim:
    """A claim that a plan has runs for.

    Attributes:
        pairs: runs of the method and of its baseline with equal settings and seeds, on every task of the claim.
        tests: different comparisons of the same paper that have enough pairs, over which Holm's correction will be.
    """

    claim: Claim
    pairs: int
    tests: int

    @property
    def smallest_effect(self) -> float | None:
        """The smallest effect that will be found, in standard deviations of the paired differences.

        Exact for the t test of a mean, a lower bound for the permutation test of another statistic. None where no test
        can decide.
        """
        if self.pairs < MIN_PAIRS:
            return None
        if self.claim.statistic != "mean" and permutation_floor(self.pairs) * self.tests > LEVEL:
            return None
        return smallest_decided_effect(self.pairs, self.tests)

    @property
    def effect_words(self) -> str:
        """`smallest_effect` for people."""
        return "none: too few pairs" if self.smallest_effect is None else f"{self.smallest_effect:.1f} sd"


def planned_claims(claims: Sequence[Claim], planned: Sequence[RunSettings]) -> list[PlannedClaim]:
    """Return the claims that the runs of a plan have pairs for, in their order, once for each scale and setting."""
    found = []
    for _, of_scale in _frame(planned).groupby(SCALE, dropna=False, sort=False):
        pairs = [pair for claim, runs in with_scores(claims, of_scale) for pair in _with_pairs(claim, runs)]
        tested = {(claim.paper, comparison(claim)) for claim, n in pairs if claim.is_tested(n)}
        tests = Counter(paper for paper, _ in tested)
        found += [PlannedClaim(claim, n, max(tests[claim.paper], 1)) for claim, n in pairs]
    return found


def _frame(planned: Sequence[RunSettings]) -> pd.DataFrame:
    table = pd.DataFrame([asdict(settings) for settings in planned])
    identities = [method_identity({run.method: run.method_hyperparameters}) for run in planned]
    own = table.assign(identity=identities, trained_on=table.task)[table.held_out_fold.isna()]
    elsewhere = own.assign(task=own.evaluate_on).explode("task").dropna(subset="task")
    return pd.concat([own, elsewhere], ignore_index=True)


def _with_pairs(claim: Claim, runs: pd.DataFrame) -> list[tuple[Claim, int]]:
    """Return a claim that has pairs, at each of its settings, with their number."""
    made = set(zip(runs.task, runs.identity, strict=True))
    if not {(task, method_identity(spec)) for task in claim.tasks for spec in (claim.method, claim.against)} <= made:
        return []
    found = recipes_of(runs, claim.tasks, claim.method, claim.settings)
    return [(replace(claim, settings=settings), n) for settings in found if (n := _pairs(claim, runs, settings))]


def _pairs(claim: Claim, runs: pd.DataFrame, settings: dict[str, object]) -> int:
    seeds = [
        set(runs_beside(runs, task, claim.method, spec, settings, {}).index)
        for task in claim.tasks
        for spec in (claim.method, claim.against)
    ]
    return len(set.intersection(*seeds))
