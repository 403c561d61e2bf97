"""Honest summaries over seeds: counts, spread, intervals and paired comparisons. SciPy does the mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9_999
SEED = 0


@dataclass(frozen=True)
class Summary:
    """A sample of scores, one per finished seed.

    Attributes:
        n: finished runs with a score; `failed`: runs without one, or not above the constant prediction.
        mean, std (ddof 1), median, max: of the scores; std is NaN for one.
        low, high: 95 % bootstrap interval of the mean (BCa; percentile where BCa is undefined); NaN below 2 scores.
    """

    n: int
    failed: int
    mean: float
    std: float
    median: float
    max: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Scores of one method minus those of another on equal seeds.

    Attributes:
        n: pairs; `difference`: mean difference; `low`, `high`: its 95 % bootstrap interval.
        p_value: of the two-sided sign-flip permutation test of zero mean difference (exact for few pairs); 1 when
            all differences are 0.
    """

    n: int
    difference: float
    low: float
    high: float
    p_value: float


def summarize(scores: Sequence[float], failed: int = 0) -> Summary:
    """Summarize the scores of one setting over seeds."""
    values = np.asarray(scores, dtype=float)
    if not len(values):
        return Summary(0, failed, *[float("nan")] * 6)
    low, high = mean_interval(values)
    return Summary(
        n=len(values),
        failed=failed,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        median=float(np.median(values)),
        max=float(values.max()),
        low=low,
        high=high,
    )


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of values of shape (n,); the value itself if all are equal."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    options = {"n_resamples": RESAMPLES, "rng": np.random.default_rng(SEED), "vectorized": True}
    with np.errstate(invalid="ignore", divide="ignore"):
        interval = stats.bootstrap((values,), np.mean, method="BCa", **options).confidence_interval
    if not np.isfinite(interval.low + interval.high):
        interval = stats.bootstrap((values,), np.mean, method="percentile", **options).confidence_interval
    return float(interval.low), float(interval.high)


def compare_paired(scores: Sequence[float], baseline: Sequence[float]) -> PairedComparison:
    """Compare two methods on equal seeds; both of shape (n,), in the same order of seeds."""
    differences = np.asarray(scores, dtype=float) - np.asarray(baseline, dtype=float)
    low, high = mean_interval(differences)
    if len(differences) < 2 or not differences.any():
        p_value = 1.0
    else:
        test = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(SEED),
        )
        p_value = float(test.pvalue)
    mean = float(differences.mean()) if len(differences) else float("nan")
    return PairedComparison(len(differences), mean, low, high, p_value)
