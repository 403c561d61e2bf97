"""Exercises of notebook 08: longer look-ahead, the reach of alpha, an exact mixed derivative, and what lifts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch

from finetune_reg.building_blocks.hypergradient import Loss
from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction

MixedDerivative = Callable[[Loss, Sequence[torch.Tensor], Sequence[torch.Tensor], Sequence[torch.Tensor]], list]

SEARCHES = ("equation", "own masks", "identity", "preconditioned")
DOUBLE = torch.float64


def check_unrolled(unrolled_hypergradient: Callable[[float, float, float, int], float]) -> None:
    """Compare with differentiation through the steps: `unrolled_hypergradient(w, alpha, step_size, n_steps)`."""
    for (w, alpha), step_size, n_steps in product(((0.0, 0.5), (2.0, -0.3)), (0.1, 0.5), (1, 2, 10)):
        attempt = float(unrolled_hypergradient(w, alpha, step_size, n_steps))
        exact, one = (_through_the_steps(w, alpha, step_size, n) for n in (n_steps, 1))
        wrong = f"at w = {w}, alpha = {alpha}, step size {step_size} and {n_steps} steps you have {attempt:.6f}"
        if math.isclose(attempt, exact, rel_tol=1e-9, abs_tol=1e-12):
            continue
        assert not math.isclose(attempt, -exact), f"{wrong}; the size is right, the sign is not"
        assert not math.isclose(attempt, alpha - 1), f"{wrong}, which is right only after infinitely many steps"
        assert n_steps == 1 or not math.isclose(attempt, one), f"{wrong}, which looks ahead by one step only"
        raise AssertionError(
            f"{wrong}, which is not the derivative; write w after the steps as a function of alpha, then use the chain "
            "rule"
        )


def check_reach(how_far: Callable[[int, float], float]) -> None:
    """Compare with the sum of the rates, written out: `how_far(n_iterations, alpha_learning_rate)`."""
    for n_iterations, rate in ((48, 2e-3), (12, 2e-3), (375, 2e-3), (48, 0.1)):
        rates = _rates(n_iterations, rate)
        attempt, exact = float(how_far(n_iterations, rate)), math.fsum(rates)
        wrong = f"for {n_iterations} iterations and the rate {rate:g} you have {attempt:.6g}"
        if math.isclose(attempt, exact, rel_tol=1e-9):
            continue
        assert not math.isclose(attempt, n_iterations * rate), (
            f"{wrong}; that is the peak rate all the way, but it rises first and falls then"
        )
        assert not math.isclose(attempt, math.fsum(rates[math.ceil(0.1 * n_iterations) :])), (
            f"{wrong}; the iterations of the warm-up are missing"
        )
        assert not math.isclose(attempt, exact, rel_tol=0.1), (
            f"{wrong}, which is close; count the first and the last iteration of both parts of the schedule"
        )
        raise AssertionError(f"{wrong}, which is not the sum of the rates; add warm-up and cosine separately")


def check_mixed_derivative(mixed_derivative_product: MixedDerivative) -> None:
    """Compare with second derivatives: `mixed_derivative_product(loss, weights, alphas, vector)`."""
    loss, weights, alphas = _problem()
    vector = [torch.full_like(weight, 0.5 + i).detach() for i, weight in enumerate(weights)]
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)
    exact = torch.autograd.grad(gradients, alphas, grad_outputs=vector, retain_graph=True)
    hessian = torch.autograd.grad(gradients, weights, grad_outputs=vector)
    first = torch.autograd.grad(loss(), alphas)
    before = [weight.detach().clone() for weight in weights]
    attempt = mixed_derivative_product(loss, weights, alphas, vector)
    assert isinstance(attempt, list | tuple), f"return one tensor per alpha, that is {len(alphas)}, in a list"
    assert not _equal(attempt, hessian), "this is the Hessian of the weights times v: differentiate by alpha second"
    shapes = [tuple(getattr(part, "shape", ())) for part in attempt]
    wanted = [tuple(alpha.shape) for alpha in alphas]
    assert shapes == wanted, f"the parts have the shapes {shapes}, those of alpha have {wanted}"
    assert not _equal(attempt, [-part for part in exact]), "only the sign is wrong: M v itself is wanted"
    assert not _equal(attempt, first), "this is the first derivative by alpha; v is unused"
    error = max((a - e).abs().max().item() for a, e in zip(attempt, exact, strict=True))
    assert error > 1e-9 or all(torch.equal(w, b) for w, b in zip(weights, before, strict=True)), (
        "the product is right, but the weights have moved: put them back, or do not move them"
    )
    assert error < 1e-9, (
        "close, but not exact: no finite difference is needed"
        if error < 1e-2
        else "the product is another: keep the graph of the first gradient, and weight its parts with v"
    )


def check_what_lifts(ratios: Mapping[str, float]) -> None:
    """Demand the order that the equations explain; the sizes depend on the settings."""
    assert isinstance(ratios, Mapping), "give a dict: the name of each search, and its ratio"
    missing = [name for name in SEARCHES if name not in ratios]
    assert not missing, f"these searches are missing: {', '.join(missing)}"
    equation, own_masks, identity, preconditioned = (float(ratios[name]) for name in SEARCHES)
    for name, ratio in zip(SEARCHES, (equation, own_masks, identity, preconditioned), strict=True):
        assert 0 < ratio < math.inf, (
            f"the ratio of {name!r} is {ratio}; the first two iterations have no gradient yet, leave them out"
        )
    assert equation < 1, "with the equation the implicit part is the smaller one: divide implicit by direct"
    assert own_masks > 1.5 * equation, "'own masks' is like 'equation' here; did you pass shared_masks=False?"
    assert identity > 50 * equation, (
        "the factor xi is the learning rate, and 'identity' leaves it out; did you pass hypergradient='identity'?"
    )
    assert preconditioned > 5 * identity, "'preconditioned' is like 'identity' here; did you pass precondition=True?"


def _through_the_steps(w: float, alpha: float, step_size: float, n_steps: int) -> float:
    weight, coefficient = torch.tensor(w, dtype=DOUBLE), torch.tensor(alpha, dtype=DOUBLE, requires_grad=True)
    for _ in range(n_steps):
        weight = weight - step_size * (weight - coefficient)
    return torch.autograd.grad(0.5 * (weight - 1) ** 2, coefficient)[0].item()


def _rates(n_iterations: int, rate: float) -> list[float]:
    """Return the rates of a linear warm-up over a tenth of the iterations and a cosine to zero."""
    n_warmup = math.ceil(0.1 * n_iterations)
    n_cosine = n_iterations - n_warmup
    rising = [rate * i / n_warmup for i in range(n_warmup)]
    return rising + [rate * (1 + math.cos(math.pi * i / n_cosine)) / 2 for i in range(n_cosine)]


def _problem() -> tuple[Loss, list[torch.Tensor], list[torch.Tensor]]:
    """Return a loss of two weights and two coefficients; the second weight meets the coefficients only indirectly."""
    generator = torch.Generator().manual_seed(0)
    inputs, start, first, second = (
        torch.randn(*shape, generator=generator, dtype=DOUBLE) for shape in ((6, 5), (4, 5), (4, 5), (3, 4))
    )
    rows, columns = (torch.rand(*shape, generator=generator, dtype=DOUBLE) for shape in ((4, 1), (1, 5)))
    weights = [first.requires_grad_(), second.requires_grad_()]
    alphas = [rows.requires_grad_(), columns.requires_grad_()]

    def loss() -> torch.Tensor:
        mixed = torch.lerp(start, first, rows * columns)
        return (torch.tanh(inputs @ mixed.T) @ second.T).square().mean()

    return loss, weights, alphas


def _equal(attempt: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return len(attempt) == len(other) and all(
        torch.is_tensor(a) and a.shape == b.shape and torch.allclose(a, b) for a, b in zip(attempt, other, strict=True)
    )


EXERCISES: dict[str, Checker] = {
    "unrolled-hypergradient": check_unrolled,
    "reach-of-alpha": check_reach,
    "mixed-derivative-product": check_mixed_derivative,
    "what-lifts-the-implicit-part": check_what_lifts,
}


def smallest_loss(evidence: Mapping[str, float]) -> tuple[str, str]:
    """Say who asks for less of fine-tuning: a nobody, b the held-out rows, c the training rows."""
    held_out, training = evidence["held-out rows"], evidence["training rows"]
    letter = "a" if held_out == training else "b" if held_out < training else "c"
    return letter, f"Here the smallest loss is at {held_out:.1f} on held-out rows, at {training:.1f} on training rows."


PREDICTIONS = {
    "mixup-coefficient": Prediction(
        "One coefficient mixes the pretrained encoder (0) with the one fine-tuned too hot (1). Training rows and "
        "held-out rows are asked for the coefficient with the smallest loss. Which of them ask for less of fine-"
        "tuning?",
        (
            Choice(
                "both ask for the same",
                "The training rows have shaped the fine-tuned weights; the held-out rows have not.",
                "Here both find their smallest loss at one coefficient, on the grid that was tried.",
            ),
            Choice(
                "the held-out rows",
                "The weights have fitted the training rows, and not these. But the grid shows another order here.",
                "The weights have fitted the training rows, so these want all of it. Others pay for the overfitting.",
            ),
            Choice(
                "the training rows",
                "Fine-tuning has made the loss of the training rows small: they have no reason to go back.",
                "Here the last steps of training have gone too far even for the training rows.",
            ),
        ),
        right=smallest_loss,
    ),
    "mixup-factored": Prediction(
        "The released mixture is a b W + (1 - a)(1 - b) W0, with W the current and W0 the pretrained weight. Which "
        "weight does the layer use for a = 1 and b = 0?",
        (
            Choice(
                "W0, the pretrained one",
                "Its coefficient is (1 - a)(1 - b), and 1 - a is 0.",
            ),
            Choice(
                "the mean of both",
                "Then the two coefficients would have to add up to 1. They do only where a and b are both 0 or both 1.",
            ),
            Choice(
                "0",
                right="Both products have a factor of 0. The mixture is not convex: the weight is neither of the two.",
            ),
        ),
        right="c",
    ),
}
