"""Many comparisons at once: corrected p-values, and the smallest effect that so many pairs can decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from finetune_reg.errors import InputError
from finetune_reg.results.paired_differences import Difference

MIN_PAIRS = 6
LEVEL = 0.05
POWER = 0.8


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


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return Holm's adjusted p-values in the order given: rejecting those below a level errs at most that often at all.

    Args:
        p_values: shape (n,), in [0, 1]; NaN is a comparison that was not tested, stays NaN and does not count.

    Raises:
        InputError: a value outside [0, 1].
    """
    values = np.asarray(p_values, dtype=float)
    if np.any((values < 0) | (values > 1)):
        raise InputError(f"p-values lie between 0 and 1, not {values.min()} to {values.max()}.")
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN sorts last
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full_like(values, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def permutation_floor(pairs: int) -> float:
    """Return the smallest p-value of a two-sided test that exchanges the methods within pairs: 2 / 2^pairs."""
    return 2.0 ** (1 - pairs)


def smallest_decided_effect(pairs: int, tests: int) -> float:
    """Return the smallest effect that a t test finds with probability `POWER`, in standard deviations of differences.

    The test has to be below `LEVEL` after the strictest step of Holm's correction, over `tests` comparisons, and the
    differences are taken as normal.

    Args:
        pairs: >= 2; tests: >= 1.
    """
    freedom = pairs - 1
    critical = stats.t.isf(LEVEL / tests / 2, freedom)

    def shortfall(effect: float) -> float:
        return float(stats.nct.sf(critical, freedom, effect * math.sqrt(pairs))) - POWER

    return float(optimize.brentq(shortfall, 0.0, 2 * critical + 10))
