"""Summaries over seeds: hand-computed cases, degenerate samples, coverage and uniformity on simulated data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from finetune_reg.errors import InputError
from finetune_reg.results.statistics import (
    RESAMPLES,
    SEED,
    compare_paired,
    expected_validation_performance,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    summarize,
)


def _collapsing(probability):
    def draw(rng, n):
        return np.where(rng.random(n) < probability, 0.527, rng.normal(0.7, 0.02, n))

    return draw, 0.7 - probability * (0.7 - 0.527)


# How to draw n scores, their true mean, and the coverage in percent that the module states for n = 5, 10, 20.
SCORES = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0, (95, 95, 95)),
    "gumbel": (lambda rng, n: -rng.gumbel(size=n), -np.euler_gamma, (93, 94, 94)),
    "exponential": (lambda rng, n: -rng.exponential(size=n), -1.0, (89, 90, 92)),
    "one in ten collapses": (*_collapsing(0.1), (81, 76, 88)),
    "three in ten collapse": (*_collapsing(0.3), (82, 95, 95)),
}


def test_summary_by_hand():
    summary = summarize([0.5, 0.7, 0.9, 0.7], failed=1)
    assert (summary.n, summary.failed) == (4, 1)
    assert summary.mean == pytest.approx(0.7)
    assert summary.std == pytest.approx(math.sqrt(0.08 / 3))
    assert (summary.median, summary.max) == (0.7, 0.9)
    margin = 3.182446 * math.sqrt(0.08 / 3) / 2  # the 97.5 % quantile of t with 3 degrees of freedom
    assert (summary.low, summary.high) == pytest.approx((0.7 - margin, 0.7 + margin), abs=1e-6)


def test_degenerate_samples_are_defined():
    assert summarize([]).n == 0
    assert math.isnan(summarize([]).mean)
    one = summarize([0.4])
    assert (one.mean, one.median, one.max) == (0.4, 0.4, 0.4)
    assert math.isnan(one.std)
    assert math.isnan(one.low)
    equal = summarize([0.527] * 5, failed=5)
    assert (equal.low, equal.high, equal.failed) == (0.527, 0.527, 5)
    assert equal.std == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_the_interval_covers_the_mean_as_often_as_the_module_says(name):
    draw, mean, stated = SCORES[name]
    rng = np.random.default_rng(0)
    for n, percent in zip((5, 10, 20), stated, strict=True):
        intervals = np.array([mean_interval(draw(rng, n)) for _ in range(2_500)])
        covered = np.mean((intervals[:, 0] <= mean) & (mean <= intervals[:, 1]))
        assert 100 * covered == pytest.approx(percent, abs=2), n


def test_paired_comparison_by_hand():
    comparison = compare_paired([0.6, 0.8, 0.7], [0.5, 0.5, 0.5])
    assert comparison.n == 3
    assert comparison.difference == pytest.approx(0.2)
    assert comparison.p_value == pytest.approx(2 / 8)  # all signs equal: 2 of the 2**3 sign patterns
    assert comparison.low == pytest.approx(0.2 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-6)


def test_equal_samples_have_p_value_one():
    assert compare_paired([0.5, 0.6], [0.5, 0.6]).p_value == 1.0
    assert compare_paired([0.5], [0.4]).p_value == 1.0
    assert math.isnan(compare_paired([], []).difference)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(1)
    p_values = np.array([compare_paired(rng.normal(size=8), rng.normal(size=8)).p_value for _ in range(1_000)])
    for level in (0.05, 0.1, 0.25, 0.5):
        expected = math.floor(level * 2**7 + 1e-9) / 2**7  # of 2**8 sign patterns, in pairs
        assert np.mean(p_values <= level + 1e-9) == pytest.approx(expected, abs=4 * math.sqrt(expected / 1_000))
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_p_values_of_collapsing_runs_do_not_promise_too_much():
    draw, _ = _collapsing(0.3)
    rng = np.random.default_rng(2)
    p_values = np.array([compare_paired(draw(rng, 7), draw(rng, 7)).p_value for _ in range(500)])
    for level in (0.05, 0.1, 0.25):
        assert np.mean(p_values <= level) <= level + 3 * math.sqrt(level / 500)


def test_interquartile_mean_by_hand():
    scores = np.array([[0.1, 0.5], [0.2, 0.6], [0.3, 0.7], [0.4, 9.0]])
    assert interquartile_mean(scores).value == pytest.approx((0.3 + 0.4 + 0.5 + 0.6) / 4)
    squares = np.arange(20.0)[:, None] ** 2  # five of twenty are trimmed at either end
    assert interquartile_mean(squares).value == pytest.approx(sum(i**2 for i in range(5, 15)) / 10)
    rows = interquartile_mean([[1.0], [2.0], [6.0]])  # nothing to trim from three, hence the plain t interval
    assert (rows.low, rows.high) == pytest.approx(mean_interval(np.array([1.0, 2.0, 6.0])))
    assert math.isnan(interquartile_mean([[0.1, 0.5]]).low)
    equal = interquartile_mean(np.full((3, 2), 0.5))
    assert (equal.value, equal.low, equal.high) == pytest.approx((0.5, 0.5, 0.5))


def test_interquartile_mean_is_the_trimmed_mean_of_scipy():
    for runs in range(1, 9):
        scores = np.random.default_rng(runs).normal(size=(runs, 3))
        assert interquartile_mean(scores).value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_probability_of_improvement_by_hand():
    scores, baseline = np.array([[0.6, 0.1], [0.8, 0.3]]), np.array([[0.5, 0.2], [0.6, 0.4]])
    by_task = (3.5 / 4, 1 / 4)  # wins of 0.6, 0.8 over 0.5, 0.6 with a tie; of 0.1, 0.3 over 0.2, 0.4
    estimate = probability_of_improvement(scores, baseline)
    assert estimate.value == pytest.approx(sum(by_task) / 2)
    assert 0.0 <= estimate.low < estimate.value < estimate.high <= 1.0
    assert probability_of_improvement(baseline, scores).value == pytest.approx(1 - estimate.value)


def test_probability_of_improvement_of_degenerate_samples():
    ahead = probability_of_improvement([[0.9], [0.8]], [[0.1], [0.2]])
    assert ahead.value == 1.0
    assert math.isnan(ahead.low)
    collapsed = np.full((3, 2), 0.5)
    assert probability_of_improvement(collapsed, collapsed).value == 0.5
    assert math.isnan(probability_of_improvement(collapsed[:1], collapsed).low)


def _covered(estimates, truth):
    return np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])


@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_over_tasks_cover_as_often_as_they_say(n):
    rng = np.random.default_rng(n)
    shift = 0.5  # of both methods' spread
    draws = [(rng.normal(size=(n, 4)) + shift, rng.normal(size=(n, 4))) for _ in range(1_000)]
    improvements = [probability_of_improvement(*draw) for draw in draws]
    assert _covered(improvements, stats.norm.cdf(shift / math.sqrt(2))) == pytest.approx(0.95, abs=0.02)
    means = [interquartile_mean(scores) for scores, _ in draws[:400]]
    assert _covered(means, shift) == pytest.approx(0.95, abs=0.03)


def test_expected_validation_performance_by_hand():
    with_replacement = expected_validation_performance([0.9, 0.5, 0.7])
    assert with_replacement == pytest.approx([0.7, (0.5 + 3 * 0.7 + 5 * 0.9) / 9, (0.5 + 7 * 0.7 + 19 * 0.9) / 27])
    without = expected_validation_performance([0.9, 0.5, 0.7], replacement=False)
    assert without == pytest.approx([0.7, (0.7 + 2 * 0.9) / 3, 0.9])
    assert expected_validation_performance([0.4]) == pytest.approx([0.4])
    assert expected_validation_performance([0.4] * 4) == pytest.approx([0.4] * 4)


def test_expected_validation_performance_averages_the_best_of_every_draw():
    scores = [0.2, 0.9, 0.4, 0.7]
    for k in (1, 2, 3, 4):
        best = np.mean([max(draw) for draw in product(scores, repeat=k)])
        assert expected_validation_performance(scores)[k - 1] == pytest.approx(best)


def test_sums_that_differ_by_rounding_are_ties():
    right = np.array([9, -3, 0, 4, -1, -5, 9, -4, -12, 5])  # right answers more or less, of 872
    sums = np.array(list(product((1, -1), repeat=len(right)))) @ right
    p_value = 2 * min((sums >= right.sum()).mean(), (sums <= right.sum()).mean())
    assert p_value == 972 / 1024
    assert compare_paired((600 + right) / 872, np.full(10, 600 / 872)).p_value == p_value


@pytest.mark.parametrize("scores", [np.zeros((0, 2)), np.zeros(3), np.array([[0.1, math.nan]])])
def test_a_matrix_with_holes_is_refused(scores):
    with pytest.raises(InputError, match=r"\(runs, tasks\)"):
        interquartile_mean(scores)
    with pytest.raises(InputError, match="same tasks"):
        probability_of_improvement(np.zeros((2, 1)), np.zeros((2, 3)))


@pytest.mark.parametrize("pairs", [2, 6, 13, 14, 50])
def test_the_sign_flip_test_is_that_of_scipy(pairs):
    rng = np.random.default_rng(5)
    for differences in (rng.normal(0.3, size=pairs), np.where(rng.normal(size=pairs) > 0, 100.0, 0.0), np.ones(pairs)):
        expected = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(SEED)
        )
        assert compare_paired(differences, np.zeros(pairs)).p_value == pytest.approx(expected.pvalue, rel=1e-12)
