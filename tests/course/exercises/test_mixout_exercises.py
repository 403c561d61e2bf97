from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from finetune_reg.course.exercises import check
from finetune_reg.methods.mixout import mixout


def seeds_needed(std, effect, quantile=stats.t.ppf):
    n = 2
    while quantile(0.975, n - 1) * std / math.sqrt(n) >= effect:
        n += 1
    return n


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("minimizer-under-mixout", lambda c, u, p: (1 - p) * c + p * u),
        ("mixout-by-lerp", lambda W, U, b, p: torch.lerp(U, W, b / (1 - p))),
        ("mixout-by-lerp", lambda W, U, b, p: mixout(W, U, b, p)),
        ("seeds-needed", seeds_needed),
    ],
)
def test_the_right_attempt_passes(name, attempt):
    assert check(name, attempt)


@pytest.mark.parametrize(
    ("name", "attempt", "help"),
    [
        ("minimizer-under-mixout", lambda c, u, p: c, "c minimizes the loss without mixout"),
        ("minimizer-under-mixout", lambda c, u, p: p * c + (1 - p) * u, "at p = 0.2 the expected loss still has"),
        ("minimizer-under-mixout", lambda c, u, p: 0.5, "return a tensor"),
        ("mixout-by-lerp", lambda W, U, b, p: torch.lerp(U, W, b), "kept weights come out unchanged"),
        ("mixout-by-lerp", lambda W, U, b, p: torch.lerp(W, U, b / (1 - p)), "must show its pretrained weights"),
        ("mixout-by-lerp", lambda W, U, b, p: mixout(W, U, b, p, rescale_gradient=False), "the gradient is not"),
        ("seeds-needed", lambda std, effect: seeds_needed(std, effect) - 1, "half the interval is not below"),
        ("seeds-needed", lambda std, effect: seeds_needed(std, effect) + 1, "fewer are enough"),
        (
            "seeds-needed",
            lambda std, effect: seeds_needed(std, effect, lambda q, n: stats.norm.ppf(q)),
            "half the interval is not below",
        ),
    ],
)
def test_wrong_attempts_are_helped(capsys, name, attempt, help):
    assert not check(name, attempt)
    assert help in capsys.readouterr().out


def unattempted(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("name", ["minimizer-under-mixout", "mixout-by-lerp", "seeds-needed"])
def test_unattempted_is_recognized(capsys, name):
    assert not check(name, unattempted)
    assert capsys.readouterr().out == f"{name}: not attempted yet.\n"
