from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
from exercise_attempts import right_attempts, unattempted, wrong_attempts


def best_of_k(scores, k):
    n = len(scores)
    return sum(score * comb(i, k - 1) for i, score in enumerate(sorted(scores))) / comb(n, k)


def with_replacement(scores, k):
    n, ordered = len(scores), sorted(scores)
    return sum(score * (((i + 1) / n) ** k - (i / n) ** k) for i, score in enumerate(ordered))


def sign_flip(differences, two_sided=True):
    sums = np.array(list(product((-1, 1), repeat=len(differences)))) @ differences
    return float((np.abs(sums) >= abs(sum(differences))).mean() if two_sided else (sums >= sum(differences)).mean())


def sampled(differences):
    signs = np.random.default_rng(0).choice([-1, 1], size=(500, len(differences)))
    return float((np.abs(signs @ differences) >= abs(sum(differences))).mean())


test_the_right_attempt_passes = right_attempts(
    [("best-of-k-without-replacement", best_of_k), ("sign-flip-test", sign_flip), ("fewest-pairs", 6)]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("best-of-k-without-replacement", with_replacement, "draws with replacement"),
        ("best-of-k-without-replacement", lambda scores, k: max(scores), "the best of one run is the mean"),
        ("best-of-k-without-replacement", lambda scores, k: float(np.mean(scores)), "not the mean over all subsets"),
        ("sign-flip-test", lambda d: sign_flip(d, two_sided=False), "one-sided"),
        ("sign-flip-test", lambda d: sign_flip(d) - 2 / 2 ** len(d), "p is never 0"),
        ("sign-flip-test", sampled, "the share, of all assignments of signs"),
        ("fewest-pairs", 5, "with 5 pairs the smallest possible p-value is 0.0625"),
        ("fewest-pairs", 7, "fewer pairs can do"),
        ("fewest-pairs", 5.5, "one whole number"),
    ]
)
test_stubs_are_not_attempted = unattempted(
    ["best-of-k-without-replacement", "sign-flip-test", "fewest-pairs"], answers=["fewest-pairs"]
)
