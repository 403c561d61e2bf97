"""Exercises of notebook 03: a half-life, a minimizer under L2-SP, one update of RecAdam, and a paired report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired
from finetune_reg.results.statistics import compare_paired

DOUBLE = torch.float64
BETAS, EPSILON = (0.9, 0.999), 1e-8

Step = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def check_half_life(half_life: Callable[[float, float], float]) -> None:
    """Put the number of updates into the closed form of the distance: `half_life(learning_rate, strength)`."""
    for learning_rate, strength in ((0.1, 5.0), (0.02, 10.0), (2e-5, 0.01)):
        attempt = float(half_life(learning_rate, strength))
        wrong = f"for the learning rate {learning_rate:g} and the strength {strength:g} you have {attempt:g} updates"
        assert attempt > 0, f"{wrong}; it has to be a number above 0"
        share = (1 - learning_rate * strength) ** attempt
        assert math.isclose(share, 0.5, rel_tol=1e-6), (
            f"{wrong}, after which the share {share:.4f} of the distance is left, not 1/2; "
            "each update multiplies the distance by the same number"
        )


def check_minimizer(minimizer: Callable[..., torch.Tensor]) -> None:
    """Demand that the gradient is zero at `minimizer(H, c, w0, alpha)`."""
    H = torch.tensor([[2.0, 0.5], [0.5, 0.1875]], dtype=DOUBLE)
    c, w0 = torch.tensor([1.0, -2.0], dtype=DOUBLE), torch.tensor([0.5, 3.0], dtype=DOUBLE)
    for alpha in (0.1, 1.0, 0.0):
        attempt = minimizer(H, c, w0, alpha)
        assert torch.is_tensor(attempt), "return a tensor"
        assert attempt.shape == c.shape, "return a tensor of the shape of c"
        w = attempt.detach().double()
        if alpha:
            assert not torch.allclose(w, c), "c minimizes the loss without the penalty"
        slope = H @ (w - c) + alpha * (w - w0)
        assert slope.abs().max() < 1e-6, (
            f"at alpha = {alpha} the penalized loss still has the gradient {slope.tolist()} there; "
            "set its gradient to zero and solve the linear system for w; H is a matrix"
        )


def check_recalling_step(step: Step) -> None:
    """Compare three updates with the equations; the argument names are those of the exercise."""
    rate, gamma, weights = 0.01, 40.0, (0.1, 0.5, 0.9)
    anchor = torch.tensor([1.0, -1.0, 0.5], dtype=DOUBLE)
    gradients = torch.tensor([[2.0, -1.0, 0.1], [-1.0, -1.0, 0.3], [0.5, 2.0, -0.2]], dtype=DOUBLE)
    names = ("the equations", *_MISTAKES)
    states = {name: (anchor + 0.5, torch.zeros(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)) for name in names}
    for update, (gradient, weight) in enumerate(zip(gradients, weights, strict=True), start=1):
        before = states["the equations"]
        value, m, v = (tensor.clone() for tensor in before)
        attempt = step(value, anchor.clone(), gradient.clone(), m, v, update, rate, weight, gamma)
        returned = len(attempt) if isinstance(attempt, tuple) else 1
        assert returned == 3, "return weight, m and v"
        states = {name: _recalling_step(before, anchor, gradient, update, rate, weight, gamma, name) for name in names}
        exact = states["the equations"]
        for name, sentence in _MISTAKES.items():
            mistaken = _same(attempt, states[name]) and not _same(attempt, exact)
            assert not mistaken, f"at update {update} {sentence}"
        for name, ours, right in zip(("the weight", "m", "v"), attempt, exact, strict=True):
            assert torch.allclose(ours.double(), right, rtol=1e-9, atol=1e-9), (
                f"at update {update} {name} is {_numbers(ours)}; the equations give another value"
            )


def check_paired_report(report: Mapping[str, Any]) -> None:
    """Recompute what the report says about its own scores."""
    fields = ("scores", "baseline", "difference", "low", "high", "p_value", "smallest_p_value")
    missing = [name for name in fields if report.get(name) is None]
    assert not missing, f"the report lacks {', '.join(missing)}"
    scores, baseline = list(report["scores"]), list(report["baseline"])
    assert len(scores) == len(baseline), "a paired comparison needs a score of the baseline for each seed"
    assert len(scores) >= 3, "use at least three seeds: with two, an interval has one degree of freedom"
    assert all(0 <= score <= 1 for score in scores + baseline), "scores are accuracies between 0 and 1"
    expected = compare_paired(scores, baseline)
    assert math.isclose(report["difference"], expected.difference, abs_tol=1e-4), (
        "the difference is not the mean of scores minus baseline, seed by seed"
    )
    for name in ("low", "high"):
        assert math.isclose(report[name], getattr(expected, name), abs_tol=1e-3), (
            f"{name} is not the end of the 95 % t interval of the paired differences; it has n - 1 degrees of freedom"
        )
    smallest = 2 / 2 ** len(scores)
    assert math.isclose(report["smallest_p_value"], smallest), (
        f"with {len(scores)} seeds the smallest two-sided p-value of a sign-flip test is another number; "
        "count how many assignments of signs there are, and how many give the largest mean"
    )
    assert math.isclose(report["p_value"], expected.p_value, abs_tol=1e-3), (
        "the p-value is not that of the two-sided sign-flip test of these differences"
    )


_MISTAKES = {
    "pull first": "the pull uses the weight before its move; the weight has moved when it is pulled",
    "in the gradient": "the penalty goes through the moments; here it must stay outside of them",
    "annealed gradient": "the task weight enters the moments; it scales the move alone",
    "uncorrected": "the moments are not corrected for their start at zero",
}


def _recalling_step(state, anchor, gradient, update, rate, weight, gamma, name):
    """One update by the equations, or with one of the mistakes."""
    value, m, v = state
    if name == "in the gradient":
        gradient = weight * gradient + (1 - weight) * gamma * (value - anchor)
    if name == "annealed gradient":
        gradient = weight * gradient
    m = BETAS[0] * m + (1 - BETAS[0]) * gradient
    v = BETAS[1] * v + (1 - BETAS[1]) * gradient**2
    corrections = (1.0, 1.0) if name == "uncorrected" else tuple(1 - beta**update for beta in BETAS)
    move = rate * (m / corrections[0]) / ((v / corrections[1]).sqrt() + EPSILON)
    if name == "in the gradient":
        return value - move, m, v
    moved = value - (1.0 if name == "annealed gradient" else weight) * move
    return moved - rate * (1 - weight) * gamma * ((value if name == "pull first" else moved) - anchor), m, v


def _same(attempt, state) -> bool:
    pairs = zip(attempt, state, strict=True)
    return all(torch.is_tensor(a) and a.shape == b.shape and torch.allclose(a.double(), b) for a, b in pairs)


def _numbers(tensor: torch.Tensor) -> list[float]:
    return [round(number, 5) for number in tensor.tolist()]


EXERCISES: dict[str, Checker] = {
    "half-life-of-the-pull": check_half_life,
    "minimizer-under-l2-sp": check_minimizer,
    "recalling-step": check_recalling_step,
    "paired-report": check_paired_report,
}

PREDICTIONS = {
    "baselines-coupled-pull": Prediction(
        "One weight, no task: L2-SP's penalty alone, in Adam. How much faster does the weight come back with alpha = "
        "0.1 than with alpha = 0.001?",
        (
            Choice(
                "a hundred times faster",
                "In plain gradient descent it would. Adam divides a gradient by its own size.",
            ),
            Choice(
                "ten times faster",
                "Adam's second moment has a root, but so has the square of the gradient in it: the whole factor goes "
                "out.",
            ),
            Choice(
                "no faster",
                right="Adam divides the penalty's gradient by its own size, and alpha goes out: the step is the "
                "learning rate.",
            ),
        ),
        right="c",
    ),
    "baselines-against-gentle": Prediction(
        "Three methods hold back vanilla at a hot learning rate. The control is vanilla at a gentle rate, without any"
        " method. Where does the best of the three end?",
        (
            Choice(
                "below the control",
                "All three hold the weights back, and that helps at a hot rate. It can help as much as a lower rate "
                "does.",
                "To hold back a rate that is too high is not as good as a rate that is not.",
            ),
            Choice(
                "above the control",
                "What they repair is done by the hot rate. The gentle rate does not do it in the first place.",
                "It does more here than a gentle rate does.",
            ),
            Choice(
                "that cannot be told",
                "With few seeds it often cannot. Here the differences agree from seed to seed.",
                "The interval has zero in it: undecided, which is not equal.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", factor=100),
    ),
}
