from __future__ import annotations

import math

import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg.building_blocks.hypergradient import identity_hypergradient
from finetune_reg.course.exercises.weight_mixup import EXERCISES

RATIOS = {"equation": 6e-4, "own masks": 3e-3, "identity": 4.0, "preconditioned": 1500.0}


def unrolled(w, alpha, step_size, n_steps):
    left = (1 - step_size) ** n_steps
    return (alpha + left * (w - alpha) - 1) * (1 - left)


def one_step(w, alpha, step_size, n_steps):
    return unrolled(w, alpha, step_size, 1)


def without_the_direct_dependence(w, alpha, step_size, n_steps):
    return alpha + (1 - step_size) ** n_steps * (w - alpha) - 1


def without_warm_up(n_iterations, rate):
    n_cosine = n_iterations - math.ceil(0.1 * n_iterations)
    return rate * sum(1 + math.cos(math.pi * i / n_cosine) for i in range(n_cosine)) / 2


def twice(loss, weights, alphas, vector):
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)
    return torch.autograd.grad(gradients, alphas, grad_outputs=vector)


def other_way(loss, weights, alphas, vector):
    """The same product by differentiating the gradient of alpha along the vector."""
    dummies = [torch.zeros_like(alpha, requires_grad=True) for alpha in alphas]
    gradients = torch.autograd.grad(loss(), alphas, create_graph=True)
    by_weight = torch.autograd.grad(gradients, weights, grad_outputs=dummies, create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(by_weight, vector, strict=True))
    return list(torch.autograd.grad(inner, dummies))


def by_weights(loss, weights, alphas, vector):
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)
    return torch.autograd.grad(gradients, weights, grad_outputs=vector)


def with_ones(loss, weights, alphas, vector):
    return twice(loss, weights, alphas, [torch.ones_like(v) for v in vector])


def without_a_graph(loss, weights, alphas, vector):
    gradients = torch.autograd.grad(loss(), weights)
    return torch.autograd.grad(gradients, alphas, grad_outputs=vector)


def by_difference(loss, weights, alphas, vector):
    def along_the_vector():
        return sum((weight * v).sum() for weight, v in zip(weights, vector, strict=True))

    return [-part for part in identity_hypergradient(weights, alphas, loss, along_the_vector).implicit]


def and_moves(loss, weights, alphas, vector):
    product = twice(loss, weights, alphas, vector)
    with torch.no_grad():
        weights[0].add_(1.0)
    return product


test_the_right_attempt_passes = right_attempts(
    [
        ("unrolled-hypergradient", unrolled),
        ("reach-of-alpha", lambda n_iterations, rate: rate * n_iterations / 2),
        ("mixed-derivative-product", twice),
        ("mixed-derivative-product", other_way),
        ("what-lifts-the-implicit-part", RATIOS),
    ]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("unrolled-hypergradient", one_step, "one step only"),
        ("unrolled-hypergradient", lambda w, alpha, rate, n: alpha - 1, "after infinitely many steps"),
        ("unrolled-hypergradient", lambda *numbers: -unrolled(*numbers), "the sign is not"),
        ("unrolled-hypergradient", without_the_direct_dependence, "use the chain rule"),
        ("reach-of-alpha", lambda n, rate: n * rate, "rises first and falls then"),
        ("reach-of-alpha", without_warm_up, "the iterations of the warm-up are missing"),
        ("reach-of-alpha", lambda n, rate: rate * (n - 1) / 2, "which is close"),
        ("reach-of-alpha", lambda n, rate: rate, "add warm-up and cosine separately"),
        ("mixed-derivative-product", by_weights, "differentiate by alpha second"),
        ("mixed-derivative-product", lambda *a: [-part for part in twice(*a)], "only the sign is wrong"),
        ("mixed-derivative-product", lambda f, w, a, v: torch.autograd.grad(f(), a), "v is unused"),
        ("mixed-derivative-product", with_ones, "weight its parts with v"),
        ("mixed-derivative-product", by_difference, "no finite difference is needed"),
        ("mixed-derivative-product", and_moves, "the weights have moved"),
        ("mixed-derivative-product", lambda *a: twice(*a)[0], "one tensor per alpha, that is 2"),
        ("mixed-derivative-product", lambda *a: twice(*a)[:1], "have the shapes [(4, 1)]"),
        ("mixed-derivative-product", without_a_graph, "the attempt raises RuntimeError"),
        ("what-lifts-the-implicit-part", [1.0, 2.0], "give a dict"),
        ("what-lifts-the-implicit-part", {"equation": 6e-4}, "missing: own masks, identity"),
        ("what-lifts-the-implicit-part", RATIOS | {"equation": math.inf}, "leave them out"),
        ("what-lifts-the-implicit-part", {k: 1 / v for k, v in RATIOS.items()}, "divide implicit by direct"),
        ("what-lifts-the-implicit-part", RATIOS | {"own masks": 6e-4}, "shared_masks=False"),
        ("what-lifts-the-implicit-part", RATIOS | {"identity": 6e-4}, "hypergradient='identity'"),
        ("what-lifts-the-implicit-part", RATIOS | {"preconditioned": 4.0}, "precondition=True"),
    ]
)
test_stubs_are_not_attempted = unattempted(EXERCISES, answers=["what-lifts-the-implicit-part"])
test_none_is_not_attempted = unattempted(EXERCISES, answers=EXERCISES)
