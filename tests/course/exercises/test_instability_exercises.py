from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from finetune_reg.course.exercises import check


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


@pytest.mark.parametrize(
    ("name", "attempt"),
    [("best-of-k-without-replacement", best_of_k), ("sign-flip-test", sign_flip), ("fewest-pairs", 6)],
)
def test_the_right_attempt_passes(name, attempt):
    assert check(name, attempt)


@pytest.mark.parametrize(
    ("name", "attempt", "help"),
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
    ],
)
def test_wrong_attempts_are_helped(capsys, name, attempt, help):
    assert not check(name, attempt)
    assert help in capsys.readouterr().out


def unattempted(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "attempt"),
    [("best-of-k-without-replacement", unattempted), ("sign-flip-test", unattempted), ("fewest-pairs", None)],
)
def test_unattempted_is_recognized(capsys, name, attempt):
    assert not check(name, attempt)
    assert capsys.readouterr().out == f"{name}: not attempted yet.\n"
