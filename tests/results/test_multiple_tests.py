"""Holm's correction, and what a number of pairs can decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from finetune_reg.errors import InputError
from finetune_reg.results.paired_differences import correct, difference_of
from finetune_reg.results.statistics import LEVEL, holm, permutation_floor, smallest_decided_effect


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.04, math.nan, 0.02]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)
    assert len(holm([])) == 0
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.5, 1.5])


def test_holm_rejects_a_true_hypothesis_at_most_as_often_as_its_level():
    rng = np.random.default_rng(3)
    families = rng.uniform(size=(2_000, 10))
    assert np.mean([holm(family).min() <= 0.05 for family in families]) == pytest.approx(0.05, abs=0.02)


def test_the_floor_is_the_p_value_of_pairs_that_all_agree():
    for pairs in (6, 10):
        gains = 1 + np.arange(pairs)[None] / 10
        assert difference_of("mean", gains, np.zeros_like(gains)).p_value == pytest.approx(permutation_floor(pairs))


def test_both_tests_are_corrected_for_their_number():
    gains = np.random.default_rng(0).normal(1.0, size=(3, 1, 8))
    effects = [difference_of("mean", sample, np.zeros_like(sample)) for sample in gains]
    found = correct(effects)
    assert [one.t for one in found] == pytest.approx(holm([effect.t_p_value for effect in effects]))
    assert [one.permutation for one in found] == pytest.approx(holm([effect.p_value for effect in effects]))
    assert {(one.tests, one.floor) for one in found} == {(3, 3 * 2 / 2**8)}
    wins = correct([difference_of("probability_of_improvement", gains[0], np.zeros_like(gains[0]))])[0]
    assert math.isnan(wins.t)
    assert wins.deciding == wins.permutation


@pytest.mark.parametrize(("pairs", "tests"), [(6, 1), (10, 1), (10, 25), (20, 51)])
def test_the_smallest_effect_is_found_in_four_of_five_samples(pairs, tests):
    noise = np.random.default_rng(0).normal(size=(20_000, pairs))
    p_values = stats.ttest_1samp(noise + smallest_decided_effect(pairs, tests), 0.0, axis=1).pvalue
    assert np.mean(tests * p_values < LEVEL) == pytest.approx(0.8, abs=0.01)
