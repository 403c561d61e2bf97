"""Exercises of notebook 14: the rules of a verdict, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from finetune_reg.course.exercises import Checker
from finetune_reg.results.statistics import holm

# (pairs, low, high, corrected p-value, smallest effect) -> outcome, why
CASES = [
    ((10, 2.0, 4.0, 0.004, 1.0), "reproduced", "the whole interval reaches the smallest effect"),
    ((10, 1.0, 4.0, 0.004, 1.0), "reproduced", "an end that equals the smallest effect reaches it"),
    ((3, 2.0, 4.0, math.nan, 1.0), "undecided", "there are too few pairs for any test"),
    ((5, -4.0, -2.0, math.nan, 1.0), "undecided", "there are too few pairs for any test, in either direction"),
    ((0, math.nan, math.nan, math.nan, 1.0), "not run", "there is no pair at all"),
    ((10, -2.0, 0.5, 0.3, 1.0), "not reproduced", "the whole interval lies below the smallest effect"),
    ((10, 0.1, 0.9, 0.02, 1.0), "not reproduced", "an effect that is too small to count does not count"),
    ((10, 0.5, 4.0, 0.01, 1.0), "undecided", "the interval has values on both sides of the smallest effect"),
    ((10, 1.5, 4.0, 0.08, 1.0), "undecided", "the corrected p-value is not below 0.05"),
]
P_VALUES = ([0.01, 0.04], [0.04, 0.01, 0.03], [0.2, 0.6, 0.7], [0.03, 0.01, 0.012, 0.5])


def check_verdict(verdict: Callable[[int, float, float, float, float], str]) -> None:
    """Try each rule: `verdict(n, low, high, p_value, minimal_effect)`."""
    for arguments, outcome, why in CASES:
        attempt = verdict(*arguments)
        n, low, high, p_value, minimal_effect = arguments
        where = f"{n} pairs, interval [{low:g}, {high:g}], p = {p_value:g}, smallest effect {minimal_effect:g}"
        assert attempt == outcome, f"with {where}, {why}, but you have {attempt!r}"


def check_holm(correct: Callable[[Sequence[float]], Sequence[float]]) -> None:
    """Compare with the package: `correct(p_values)`, in the order given."""
    for p_values in P_VALUES:
        attempt, exact = np.asarray(correct(list(p_values)), dtype=float), holm(p_values)
        assert attempt.shape == exact.shape, f"for {p_values} return {len(p_values)} values, one for each"
        rounded = [round(value, 4) for value in attempt.tolist()]
        wrong = f"for {p_values} you have {rounded}"
        assert attempt.max() <= 1, f"{wrong}, but a p-value is at most 1"
        by_size = attempt[np.argsort(p_values)]
        assert (np.diff(by_size) >= 0).all(), f"{wrong}: a larger p-value may not get a smaller correction"
        bonferroni = np.minimum(np.multiply(p_values, len(p_values)), 1)
        is_bonferroni = np.allclose(attempt, bonferroni) and not np.allclose(attempt, exact)
        assert not is_bonferroni, f"{wrong}: this is Bonferroni's correction; only the smallest takes the full factor"
        assert np.allclose(attempt, exact), f"{wrong}: check factors and the order in which you return them"


EXERCISES: dict[str, Checker] = {"verdict": check_verdict, "holm": check_holm}
