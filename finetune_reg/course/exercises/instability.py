"""Exercises of notebook 02: the best of k seeds without replacement, and the sign-flip test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product
from statistics import fmean

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction

SCORES = (0.71, 0.55, 0.8, 0.62, 0.55)
DIFFERENCES = ((1.0, 2.0, 3.0), (1.0, 1.0, 1.0, 1.0, 1.0), (3.0, -1.0, 4.0, 1.0, -5.0, 9.0), (-2.0, -4.0, -1.0, -8.0))


def check_best_of_k(best_of_k: Callable[[Sequence[float], int], float]) -> None:
    """Compare with the mean over all subsets of k runs: `best_of_k(scores, k)`."""
    n = len(SCORES)
    for k in range(1, n + 1):
        attempt, exact = float(best_of_k(list(SCORES), k)), fmean(max(chosen) for chosen in combinations(SCORES, k))
        wrong = f"for the scores {list(SCORES)} and k = {k} you have {attempt:.4f}"
        assert k > 1 or math.isclose(attempt, exact), f"{wrong}, but the best of one run is the mean"
        assert k < n or math.isclose(attempt, exact), f"{wrong}, but the best of all runs is their maximum"
        repeated = fmean(max(chosen) for chosen in product(SCORES, repeat=k))
        assert math.isclose(attempt, exact) or not math.isclose(attempt, repeated), (
            f"{wrong}, which draws with replacement: no run may be drawn twice"
        )
        assert math.isclose(attempt, exact), f"{wrong}, which is not the mean over all subsets of {k} runs"


def check_sign_flip(p_value: Callable[[Sequence[float]], float]) -> None:
    """Compare with the flips written out: `p_value(differences)`, two-sided and exact."""
    for differences in DIFFERENCES:
        sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in _signs(len(differences))]
        seen = sum(differences)
        exact, one_sided = fmean(abs(s) >= abs(seen) for s in sums), fmean(s >= seen for s in sums)
        attempt = float(p_value(list(differences)))
        wrong = f"for the differences {list(differences)} you have {attempt:.4f}"
        assert attempt > 0, f"{wrong}; the differences as they are count among the flips, so p is never 0"
        is_one_sided = math.isclose(attempt, one_sided) and not math.isclose(attempt, exact)
        assert not is_one_sided, f"{wrong}; this is one-sided: a mean that far below zero counts as well"
        assert math.isclose(attempt, exact), (
            f"{wrong}; the share, of all assignments of signs, whose mean is at least as far from zero is another"
        )


def check_fewest_pairs(attempt: int) -> None:
    """Count the pairs below which no two-sided sign-flip test reaches 0.05."""
    assert type(attempt) is int, "give one whole number"
    assert attempt > 0, "one needs at least one pair"
    smallest = 2 / 2**attempt
    assert smallest < 0.05, f"with {attempt} pairs the smallest possible p-value is {smallest:g}, not below 0.05"
    assert 2 * smallest >= 0.05, "fewer pairs can do"


def _signs(n: int) -> product:
    return product((-1, 1), repeat=n)


EXERCISES: dict[str, Checker] = {
    "best-of-k-without-replacement": check_best_of_k,
    "sign-flip-test": check_sign_flip,
    "fewest-pairs": check_fewest_pairs,
}


def collapse(evidence: tuple[int, int, int]) -> tuple[str, str]:
    """Say how many runs fail without the correction: a no more than with it, b more, c all.

    Args:
        evidence: how many fail with it, how many without it, of how many.
    """
    corrected, uncorrected, n_runs = evidence
    letter = "a" if uncorrected <= corrected else "b" if uncorrected < n_runs else "c"
    return letter, f"Here {corrected} of {n_runs} fail with the correction, and {uncorrected} without it."


PREDICTIONS = {
    "instability-collapse": Prediction(
        "At the middle learning rate, Adam's bias correction is switched off, and nothing else. What happens to the "
        "runs?",
        (
            Choice(
                "no more of them fail than with it",
                "Without the correction the first steps are several times as long, and the weights leave the region "
                "in which they can learn.",
                "The steps were longer at first, and at this rate the runs survived that.",
            ),
            Choice(
                "more of them fail, but not all",
                "The first steps are longer in every run, whatever its seed.",
                "The first steps are several times as long, and the seed decides which runs survive them.",
            ),
            Choice(
                "all of them fail",
                "The first steps are several times as long, but some seeds survive that.",
                "The first steps are several times as long in every run, and no seed survives that.",
            ),
        ),
        right=collapse,
    ),
    "instability-best-of-ten": Prediction(
        "A method changes nothing. Its scores are normal, with a standard deviation of one point from seed to seed. "
        "How much does it seem to gain if you report the best of ten seeds?",
        (
            Choice(
                "0.3 points",
                "That is the standard error of the mean of ten. The best of ten is no mean: it gets larger with more "
                "seeds.",
            ),
            Choice(
                "1.5 points",
                right="The largest of ten normal draws lies 1.54 standard deviations above the mean on average.",
            ),
            Choice(
                "3 points",
                "Three standard deviations is what one draw of 740 exceeds; ten draws hardly ever hold one.",
            ),
        ),
        right="b",
    ),
}
