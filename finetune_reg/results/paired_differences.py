"""How far two methods differ on equal seeds: the difference of a statistic with its interval and p-value.

Scores have shape (tasks, seeds). A seed is one unit: it is resampled, and its two methods are exchanged, on all tasks
at once. The statistics of the tasks are averaged with equal weight.

- `mean`, `failed_fraction`, `distance` (of the weights from the pretrained ones: 100 times the natural logarithm, so
  that a point is about a percent) and `probability_of_improvement` (percentage of pairs that the method wins, ties
  counting half, minus 50) are means over seeds: `compare_paired` gives them a t interval and a sign-flip test, which
  for failures on one task is McNemar's exact test and for wins the sign test. Mean and distance have a t test beside
  it.
- `median`, `max` and `std` (ddof 1): percentile bootstrap over seeds, and a permutation test that exchanges the two
  methods within seeds. For `std` each sample is centred at its median first, so that a difference in location is not
  taken for one in spread; centred at its mean, a sample with one collapsed run in ten would be called more spread than
  its like in up to half of all tests. The bootstrap of a maximum is rough: no resample exceeds the largest score seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy import stats

from finetune_reg.results.statistics import LEVEL, RESAMPLES, SEED, compare_paired, holm, permutation_floor

Statistic = Literal["mean", "median", "max", "std", "failed_fraction", "probability_of_improvement", "distance"]
MIN_PAIRS = 6
STATISTICS: tuple[str, ...] = get_args(Statistic)


@dataclass(frozen=True)
class Difference:
    """A statistic of one method minus that of another.

    Attributes:
        n: pairs of runs per task; `value`: the difference; `low`, `high`: its 95 % interval, as above; the three have
            the unit of the scores, a probability of improvement percentage points.
        p_value: two-sided, for no difference, of the sign-flip or permutation test; 1 below two pairs.
        t_p_value: that of the t test of a mean or distance; NaN for any other statistic.
    """

    n: int
    value: float
    low: float
    high: float
    p_value: float
    t_p_value: float = math.nan

    def __neg__(self) -> Difference:
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def words(self, sign: Literal["+", ""] = "+") -> str:
        """Return value and interval for people, with a sign before a positive value or without."""
        interval = "" if math.isnan(self.low) else f" [{self.low:z.1f}, {self.high:z.1f}]"
        return f"{self.value:{sign}z.1f}{interval}"


def difference_of(statistic: Statistic, scores: np.ndarray, reference: np.ndarray) -> Difference:
    """Compare two methods on equal seeds.

    Args:
        statistic: what to compare; `"failed_fraction"` takes failures, 0 or 100, in place of scores, `"distance"` the
            logarithms.
        scores, reference: shape (tasks, n), n >= 1, the same task and seed in the same place.
    """
    scores, reference = np.atleast_2d(scores).astype(float), np.atleast_2d(reference).astype(float)
    if statistic in ("median", "max", "std"):
        return _resampled(statistic, scores, reference)
    if statistic == "probability_of_improvement":
        scores, reference = 50 * np.sign(scores - reference), np.zeros_like(reference)
    found = compare_paired(scores.mean(axis=0), reference.mean(axis=0))
    t_p_value = found.t_p_value if statistic in ("mean", "distance") else math.nan
    return Difference(found.n, found.difference, found.low, found.high, found.p_value, t_p_value)


def level_of(statistic: Statistic, scores: np.ndarray) -> float:
    """Return a statistic of one method's scores of shape (n,), `"failed_fraction"` of failures, 0 or 100.

    There is none of a probability of improvement, which needs two methods.
    """
    if statistic in ("mean", "failed_fraction"):
        return float(np.mean(scores))
    return float(_of_each_task(statistic, scores)) if len(scores) > 1 or statistic != "std" else math.nan


@dataclass(frozen=True)
class Corrected:
    """p-values of one effect after Holm's correction; those of a claim that was not tested are NaN.

    Attributes:
        t: of the t test, NaN where the statistic has none; `permutation`: of the sign-flip or permutation test.
        tests: how many comparisons the correction counts.
        floor: the smallest p-value that the permutation test can reach with these pairs, times `tests`.
    """

    t: float = math.nan
    permutation: float = math.nan
    tests: int = 0
    floor: float = math.nan

    @property
    def deciding(self) -> float:
        """The larger of the two; that of the t test alone where the permutation test can decide nothing."""
        if math.isnan(self.t):
            return self.permutation
        return self.t if self.floor > LEVEL else max(self.t, self.permutation)


def correct(effects: Sequence[Difference]) -> list[Corrected]:
    """Correct the p-values of effects that are tested together."""
    t, permutation = (holm([getattr(effect, name) for effect in effects]) for name in ("t_p_value", "p_value"))
    floors = [permutation_floor(effect.n) * len(effects) for effect in effects]
    return [
        Corrected(float(of_t), float(of_permutation), len(effects), floor)
        for of_t, of_permutation, floor in zip(t, permutation, floors, strict=True)
    ]


def tests_words(pairs: int, of_paper: Corrected, of_all: Corrected) -> str:
    """Return pairs and corrected p-values in words: those of the claims of one paper, and those of all claims."""
    if not of_paper.tests:
        return f"{pairs} pairs"
    words = [f"{pairs} pairs"]
    if not math.isnan(of_paper.t):
        words.append(f"t test p = {of_paper.t:.3f}, {of_all.t:.3f} over all")
    bound = f", at least {of_paper.floor:.3f} with so few pairs" if of_paper.floor > LEVEL else ""
    words.append(f"permutation p = {of_paper.permutation:.3f}, {of_all.permutation:.3f} over all{bound}")
    return "; ".join(words)


def _resampled(statistic: Statistic, scores: np.ndarray, reference: np.ndarray) -> Difference:
    n = scores.shape[1]
    if n < 2:
        value = float("nan") if statistic == "std" else float((scores - reference).mean())
        return Difference(n, value, float("nan"), float("nan"), 1.0)

    def of_seeds(seeds: np.ndarray, axis: int = -1) -> np.ndarray:
        chosen = seeds.astype(int)
        return (_of_each_task(statistic, scores[:, chosen]) - _of_each_task(statistic, reference[:, chosen])).mean(0)

    def of_exchanged(signs: np.ndarray, axis: int = -1) -> np.ndarray:
        ours, theirs = (np.expand_dims(sample, tuple(range(1, signs.ndim))) for sample in exchangeable)
        first, second = np.where(signs > 0, ours, theirs), np.where(signs > 0, theirs, ours)
        return (_of_each_task(statistic, first) - _of_each_task(statistic, second)).mean(0)

    exchangeable = [scores, reference]
    if statistic == "std":
        exchangeable = [sample - np.median(sample, axis=1, keepdims=True) for sample in exchangeable]
    seeds, options = np.arange(n), {"n_resamples": RESAMPLES, "vectorized": True}
    interval = stats.bootstrap(
        (seeds,), of_seeds, method="percentile", rng=np.random.default_rng(SEED), **options
    ).confidence_interval
    test = stats.permutation_test(
        (np.ones(n),), of_exchanged, permutation_type="samples", rng=np.random.default_rng(SEED), **options
    )
    return Difference(n, float(of_seeds(seeds)), float(interval.low), float(interval.high), float(test.pvalue))


def _of_each_task(statistic: Statistic, scores: np.ndarray) -> np.ndarray:
    if statistic == "median":
        return np.median(scores, axis=-1)
    return scores.max(axis=-1) if statistic == "max" else scores.std(axis=-1, ddof=1)
