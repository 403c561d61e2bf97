"""Differences of statistics on equal seeds: hand-computed cases, exact tests, false alarms on simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from finetune_reg.results.paired_differences import STATISTICS, difference_of

SCORES = np.array([[60.0, 70, 80, 90], [50, 50, 50, 70]])
REFERENCE = np.array([[50.0, 70, 70, 70], [50, 40, 40, 60]])


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("mean", ((75 - 65) + (55 - 47.5)) / 2),
        ("median", ((75 - 70) + (50 - 45)) / 2),
        ("max", ((90 - 70) + (70 - 60)) / 2),
        ("std", ((math.sqrt(500 / 3) - 10) + (10 - math.sqrt(275 / 3))) / 2),
        ("probability_of_improvement", (37.5 + 37.5) / 2),  # three of four pairs won, one tied, on each task
    ],
)
def test_differences_by_hand(statistic, expected):
    difference = difference_of(statistic, SCORES, REFERENCE)
    assert difference.n == 4
    assert difference.value == pytest.approx(expected)
    assert difference.low <= difference.value <= difference.high
    assert (-difference).value == -difference.value
    assert (-difference).low == -difference.high


def test_failed_runs_are_compared_by_mcnemars_exact_test():
    ours = 100.0 * np.array([[0, 0, 0, 0, 0, 0, 0, 1, 1, 0]])
    theirs = 100.0 * np.array([[1, 1, 1, 1, 1, 1, 1, 0, 1, 0]])
    difference = difference_of("failed_fraction", ours, theirs)
    assert difference.value == -60.0
    assert difference.p_value == pytest.approx(stats.binomtest(1, 8).pvalue)


def test_wins_are_compared_by_the_sign_test():
    reference = np.array([[50.0, 51, 52, 53, 54, 55, 56]])
    difference = difference_of("probability_of_improvement", reference + np.array([9, 8, 7, 6, 5, 4, -99]), reference)
    assert difference.p_value == pytest.approx(stats.binomtest(1, 7).pvalue)


@pytest.mark.parametrize("statistic", ["median", "max"])
def test_the_permutation_test_is_exact_for_few_seeds(statistic):
    reference = np.array([[50.0, 51, 52, 53, 54, 55]])
    assert difference_of(statistic, reference + 10, reference).p_value == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_equal_scores_and_single_pairs_are_defined(statistic):
    equal = np.full((2, 6), 70.0)
    difference = difference_of(statistic, equal, equal)
    assert (difference.value, difference.low, difference.high, difference.p_value) == (0.0, 0.0, 0.0, 1.0)
    single = difference_of(statistic, [[70.0]], [[60.0]])
    assert (single.n, single.p_value) == (1, 1.0)
    assert math.isnan(single.low)


def test_a_difference_in_spread_is_found():
    rng = np.random.default_rng(0)
    difference = difference_of("std", 70 + rng.normal(size=(1, 20)), 70 + 5 * rng.normal(size=(1, 20)))
    assert difference.value == pytest.approx(-4, abs=1.5)
    assert difference.high < -1
    assert difference.p_value < 0.01


def test_neither_rare_collapses_nor_a_shift_are_taken_for_a_difference_in_spread():
    rng = np.random.default_rng(1)

    def sample(center: float) -> np.ndarray:
        collapsed = rng.random((1, 8)) < 0.1
        return np.where(collapsed, 50, center) + rng.normal(size=(1, 8))

    p_values = [difference_of("std", sample(70), sample(73)).p_value for _ in range(150)]
    assert np.mean(np.array(p_values) < 0.05) < 0.12
