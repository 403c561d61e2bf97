"""Summaries over seeds: hand-computed cases, degenerate samples, coverage and uniformity on simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from finetune_reg.statistics import compare_paired, mean_interval, summarize


def test_summary_by_hand():
    summary = summarize([0.5, 0.7, 0.9, 0.7], failed=1)
    assert (summary.n, summary.failed) == (4, 1)
    assert summary.mean == pytest.approx(0.7)
    assert summary.std == pytest.approx(math.sqrt(0.08 / 3))
    assert (summary.median, summary.max) == (0.7, 0.9)
    assert 0.5 <= summary.low < 0.7 < summary.high <= 0.9


def test_degenerate_samples_are_defined():
    assert summarize([]).n == 0
    assert math.isnan(summarize([]).mean)
    one = summarize([0.4])
    assert (one.mean, one.median, one.max) == (0.4, 0.4, 0.4)
    assert math.isnan(one.std)
    assert math.isnan(one.low)
    equal = summarize([0.4, 0.4, 0.4])
    assert (equal.low, equal.high) == (0.4, 0.4)
    assert equal.std == pytest.approx(0.0, abs=1e-12)


def test_intervals_do_not_depend_on_when_they_are_computed():
    values = np.array([0.1, 0.5, 0.4, 0.9, 0.3])
    assert mean_interval(values) == mean_interval(values)


def test_the_interval_of_twenty_seeds_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = sum(low <= 0.0 <= high for low, high in (mean_interval(rng.normal(size=20)) for _ in range(300)))
    assert 0.89 <= covered / 300 <= 0.98


def test_paired_comparison_by_hand():
    comparison = compare_paired([0.6, 0.8, 0.7], [0.5, 0.5, 0.5])
    assert comparison.n == 3
    assert comparison.difference == pytest.approx(0.2)
    assert comparison.p_value == pytest.approx(2 / 8)  # all signs equal: 2 of the 2**3 sign patterns


def test_equal_samples_have_p_value_one():
    assert compare_paired([0.5, 0.6], [0.5, 0.6]).p_value == 1.0
    assert compare_paired([0.5], [0.4]).p_value == 1.0


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(1)
    p_values = [compare_paired(rng.normal(size=8), rng.normal(size=8)).p_value for _ in range(150)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
