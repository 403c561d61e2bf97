from __future__ import annotations

import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts


def gain(weights, curvatures):
    return (curvatures * weights.var(0, correction=0)).sum() / 2


def step(w, gradient, radius, rate):
    g = gradient(w)
    if not g.any():
        return w - rate * g
    return w - rate * gradient(w + radius * g / g.norm())


def step_from_above(w, gradient, radius, rate):
    above = w + radius * torch.nn.functional.normalize(gradient(w), dim=0)
    return above - rate * gradient(above)


def step_in_place(w, gradient, radius, rate):
    return w.sub_(rate * gradient(w + radius * torch.nn.functional.normalize(gradient(w), dim=0)))


def soup(models, score, best_first=True, keeps_equal=True):
    models = sorted(models, key=score, reverse=True) if best_first else models
    chosen, reached = models[:1], score(models[0])
    for model in models[1:]:
        new = score(torch.stack([*chosen, model]).mean(0))
        if new > reached or (keeps_equal and new == reached):
            chosen, reached = [*chosen, model], new
    return torch.stack(chosen).mean(0)


test_the_right_attempt_passes = right_attempts([("gain-of-average", gain), ("sam-step", step), ("greedy-soup", soup)])


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("gain-of-average", lambda weights, h: -gain(weights, h), "the sign is turned"),
        ("gain-of-average", lambda weights, h: 2 * gain(weights, h), "twice too much"),
        ("gain-of-average", lambda weights, h: (h * weights.var(0)).sum() / 2, "divide the squares by their number"),
        ("gain-of-average", lambda weights, h: (h * weights.mean(0) ** 2).sum() / 2, "write each weight as the mean"),
        ("sam-step", lambda w, gradient, radius, rate: w - rate * gradient(w), "climb before you descend"),
        ("sam-step", step_from_above, "descend from the point above"),
        ("sam-step", step_in_place, "have changed"),
        ("sam-step", lambda w, gradient, radius, rate: step(w, gradient, -radius, rate), "a point below"),
        ("sam-step", lambda w, g, radius, rate: w - rate * g(w + radius * g(w)), "as long as the radius"),
        ("sam-step", lambda w, g, radius, rate: w - rate * g(w + radius * g(w) / g(w).norm()), "divide by its length"),
        ("greedy-soup", lambda models, score: torch.stack(models).mean(0), "has to stay out"),
        ("greedy-soup", lambda models, score: max(models, key=score), "you return"),
        ("greedy-soup", lambda models, score: soup(models, score, best_first=False), "begin with the best model"),
        ("greedy-soup", lambda models, score: soup(models, score, keeps_equal=False), "belongs in it"),
        ("greedy-soup", lambda models, score: [0, 1], "return one tensor"),
    ]
)
test_stubs_are_not_attempted = unattempted(["gain-of-average", "sam-step", "greedy-soup"])
