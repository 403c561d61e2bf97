from __future__ import annotations

import math

import numpy as np
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg.results.statistics import holm


def verdict(n, low, high, p_value, minimal_effect):
    if n == 0:
        return "not run"
    if n < 6:
        return "undecided"
    if high < minimal_effect:
        return "not reproduced"
    return "reproduced" if low >= minimal_effect and p_value < 0.05 else "undecided"


def by_significance(n, low, high, p_value, minimal_effect):
    return "not run" if n == 0 else "reproduced" if p_value < 0.05 else "undecided"


def below_six_as_well(n, low, high, p_value, minimal_effect):
    return verdict(max(n, 6) if n else 0, low, high, 0.0 if math.isnan(p_value) else p_value, minimal_effect)


def without_limit(p_values):
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate(np.take(p_values, order) * np.arange(len(order), 0, -1))
    return stepped[np.argsort(order)]


test_the_right_attempt_passes = right_attempts([("verdict", verdict), ("holm", holm)])


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("verdict", below_six_as_well, "too few pairs for any test"),
        ("verdict", by_significance, "the whole interval lies below the smallest effect"),
        ("holm", lambda p: [min(value * len(p), 1) for value in p], "Bonferroni"),
        ("holm", lambda p: sorted(holm(p)), "may not get a smaller correction"),
        ("holm", without_limit, "at most 1"),
        ("holm", lambda p: [0.05], "return 2 values"),
    ]
)
test_stubs_are_not_attempted = unattempted(["verdict", "holm"])
