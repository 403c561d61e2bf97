from __future__ import annotations

import math

import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts
from scipy import stats

from finetune_reg.methods.mixout import mixout


def seeds_needed(std, effect, quantile=stats.t.ppf):
    n = 2
    while quantile(0.975, n - 1) * std / math.sqrt(n) >= effect:
        n += 1
    return n


test_the_right_attempt_passes = right_attempts(
    [
        ("minimizer-under-mixout", lambda c, u, p: (1 - p) * c + p * u),
        ("mixout-by-lerp", lambda W, U, b, p: torch.lerp(U, W, b / (1 - p))),
        ("mixout-by-lerp", lambda W, U, b, p: mixout(W, U, b, p)),
        ("seeds-needed", seeds_needed),
    ]
)


test_wrong_attempts_are_helped = wrong_attempts(
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
    ]
)
test_stubs_are_not_attempted = unattempted(["minimizer-under-mixout", "mixout-by-lerp", "seeds-needed"])
