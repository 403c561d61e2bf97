"""Exercises of notebook 04: the minimizer under mixout, mixout by interpolation, and how many seeds to plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from scipy import stats

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired

Minimizer = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
Mix = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def check_minimizer(minimizer: Minimizer) -> None:
    """Demand that the gradient of the expected loss, summed over all coins, is zero at `minimizer(c, u, p)`."""
    c, u = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 3.0], dtype=torch.float64)
    for p in (0.5, 0.2, 0.9):
        attempt = minimizer(c, u, p)
        assert getattr(attempt, "shape", None) == c.shape, "return a tensor of the shape of c"
        assert not torch.allclose(attempt.double(), c), "c minimizes the loss without mixout; the coins move it"
        w = attempt.detach().double().requires_grad_()
        expected = torch.zeros((), dtype=torch.float64)
        for coins in product((0.0, 1.0), repeat=2):
            b = torch.tensor(coins, dtype=torch.float64)
            chance = math.prod(1 - p if coin else p for coin in coins)
            expected = expected + chance * ((u + (w - u) * b / (1 - p) - c) ** 2).sum() / 2
        (gradient,) = torch.autograd.grad(expected, w)
        assert gradient.abs().max() < 1e-6, (
            f"at p = {p} the expected loss still has the gradient {gradient.tolist()} there; "
            "write it as a function of one coordinate and set its derivative to zero"
        )


def check_lerp(mix: Mix) -> None:
    """Compare values and gradients with the equation: `mix(W, U, b, p)`."""
    generator = torch.Generator().manual_seed(0)
    U, W = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    b = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    for p in (0.5, 0.9):
        current = W.clone().requires_grad_()
        attempt = mix(current, U, b, p)
        assert attempt.shape == W.shape, f"the result has the shape {tuple(attempt.shape)}, not that of W"
        assert not torch.allclose(attempt[:, 0], W[:, 0]), (
            "kept weights come out unchanged: their deviation from U has to grow, so that the mean is W"
        )
        assert torch.allclose(attempt[:, 1], U[:, 1]), "a unit whose coin is 0 must show its pretrained weights U"
        assert torch.allclose(attempt, U + (W - U) * b / (1 - p)), f"at p = {p} the kept weights are not the equation's"
        (gradient,) = torch.autograd.grad(attempt.sum(), current)
        assert torch.allclose(gradient, (b / (1 - p)).expand_as(W)), "the values are right, the gradient is not"


def check_seeds_needed(seeds_needed: Callable[[float, float], int]) -> None:
    """Compare with trying n = 2, 3, ...: `seeds_needed(std, effect)`."""
    for std, effect in ((3.0, 2.0), (3.0, 10.0), (1.0, 1.0), (4.8, 1.0)):
        attempt = seeds_needed(std, effect)
        assert attempt == int(attempt), "give a whole number of seeds"
        wrong = f"for a standard deviation of {std:g} and an effect of {effect:g} points you have {attempt}"
        assert attempt >= 2, f"{wrong}, but one seed has no interval"
        assert _margin(std, int(attempt)) < effect, f"{wrong}, but with them half the interval is not below the effect"
        assert attempt == 2 or _margin(std, int(attempt) - 1) >= effect, (
            f"{wrong}, and fewer are enough; note that the t quantile depends on n, too"
        )


def _margin(std: float, n: int) -> float:
    return stats.t.ppf(0.975, n - 1) * std / math.sqrt(n)


EXERCISES: dict[str, Checker] = {
    "minimizer-under-mixout": check_minimizer,
    "mixout-by-lerp": check_lerp,
    "seeds-needed": check_seeds_needed,
}

PREDICTIONS = {
    "mixout-kept-weight": Prediction(
        "A weight was 0.2 after pretraining and is 0.3 now. Mixout's p is 0.9. Which value does the layer use in the "
        "one step of ten in which the coin keeps the current weight?",
        (
            Choice("0.3, its current value", "Then the mean over ten steps would be 0.21, and not the current weight."),
            Choice(
                "1.2", right="The deviation of 0.1 is divided by 1 - p = 0.1, so that the mean over the coins is 0.3."
            ),
            Choice(
                "between 0.2 and 0.3", "That is a mixture of the two values; Mixout takes one of them, and rescales."
            ),
        ),
        right="b",
    ),
    "mixout-distance": Prediction(
        "Mixout pulls toward the pretrained weights. Do its runs end nearer to them than those of vanilla?",
        (
            Choice(
                "nearer",
                "The pull is there on average over the coins. But each coin also throws the weights about, and Adam "
                "makes a step of every gradient.",
                "The pull wins over the noise of the coins, at this learning rate.",
            ),
            Choice(
                "farther",
                "The coins add noise to each step, but the pull works against it.",
                "The noise of the coins makes the way longer than the pull makes it shorter.",
            ),
            Choice(
                "that cannot be told",
                "A distance differs less from seed to seed than a score: so few seeds can be enough for it.",
                "The interval has zero in it. Pull and noise of the coins work against each other.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c"),
    ),
}
