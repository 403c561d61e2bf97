from __future__ import annotations

import math
from functools import partial

import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg.course.exercises.simple_baselines import EXERCISES
from finetune_reg.results.statistics import compare_paired

SCORES, BASELINE = [0.81, 0.79, 0.84], [0.78, 0.80, 0.79]


def half_life(learning_rate, strength):
    return math.log(0.5) / math.log(1 - learning_rate * strength)


def minimizer(H, c, w0, alpha):
    return torch.linalg.solve(H + alpha * torch.eye(len(c), dtype=H.dtype), H @ c + alpha * w0)


def recalling_step(weight, anchor, gradient, m, v, update, learning_rate, task_weight, strength, mistake=None):
    if mistake == "coupled":
        gradient = task_weight * gradient + (1 - task_weight) * strength * (weight - anchor)
    if mistake == "annealed gradient":
        gradient = task_weight * gradient
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    m_hat, v_hat = (m, v) if mistake == "uncorrected" else (m / (1 - 0.9**update), v / (1 - 0.999**update))
    move = learning_rate * m_hat / (v_hat.sqrt() + 1e-8)
    if mistake == "coupled":
        return weight - move, m, v
    moved = weight - (1 if mistake == "annealed gradient" else task_weight) * move
    pulled = weight if mistake == "pull first" else moved
    pull_weight = 1 if mistake == "no annealing of the pull" else 1 - task_weight
    return moved - learning_rate * pull_weight * strength * (pulled - anchor), m, v


def report(scores=SCORES, baseline=BASELINE, **changes):
    found = compare_paired(scores, baseline)
    facts = {name: getattr(found, name) for name in ("difference", "low", "high", "p_value")}
    return {"scores": scores, "baseline": baseline, **facts, "smallest_p_value": 2 / 2 ** len(scores)} | changes


def by_optimizer(weight, anchor, gradient, m, v, update, learning_rate, task_weight, strength):
    parameter = torch.nn.Parameter(weight.clone())
    adam = torch.optim.Adam([parameter], lr=learning_rate * task_weight)
    adam.state[parameter] = {"step": torch.tensor(update - 1.0), "exp_avg": m, "exp_avg_sq": v}
    parameter.grad = gradient
    adam.step()
    return torch.lerp(parameter.data, anchor, learning_rate * (1 - task_weight) * strength), m, v


test_the_right_attempt_passes = right_attempts(
    [
        ("half-life-of-the-pull", half_life),
        ("half-life-of-the-pull", lambda rate, strength: -1 / math.log2(1 - rate * strength)),
        ("minimizer-under-l2-sp", minimizer),
        ("minimizer-under-l2-sp", lambda H, c, w0, a: w0 + torch.inverse(H + a * torch.eye(2).double()) @ H @ (c - w0)),
        ("recalling-step", recalling_step),
        ("recalling-step", by_optimizer),
        ("paired-report", report()),
        ("paired-report", report([*SCORES, 0.7], [*BASELINE, 0.7])),
    ]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("half-life-of-the-pull", lambda rate, strength: 0.5 / (rate * strength), "the same number"),
        ("half-life-of-the-pull", lambda rate, strength: math.log(2) / (rate * strength), "of the distance is left"),
        ("half-life-of-the-pull", lambda rate, strength: -1.0, "a number above 0"),
        ("minimizer-under-l2-sp", lambda H, c, w0, a: (c + a * w0) / (1 + a), "H is a matrix"),
        ("minimizer-under-l2-sp", lambda H, c, w0, a: c, "without the penalty"),
        ("minimizer-under-l2-sp", lambda H, c, w0, a: minimizer(H, c, w0, a).sum(), "the shape of c"),
        ("recalling-step", partial(recalling_step, mistake="pull first"), "the weight has moved when it is pulled"),
        ("recalling-step", partial(recalling_step, mistake="coupled"), "must stay outside of them"),
        ("recalling-step", partial(recalling_step, mistake="annealed gradient"), "it scales the move alone"),
        ("recalling-step", partial(recalling_step, mistake="uncorrected"), "their start at zero"),
        ("recalling-step", partial(recalling_step, mistake="no annealing of the pull"), "give another value"),
        ("recalling-step", lambda weight, *rest: weight, "return weight, m and v"),
        ("paired-report", report(difference=0.05), "seed by seed"),
        ("paired-report", report(low=0.0), "95 % t interval"),
        ("paired-report", report(high=0.05), "95 % t interval"),
        ("paired-report", report(smallest_p_value=0.125), "assignments of signs"),
        ("paired-report", report(p_value=0.01), "two-sided sign-flip"),
        ("paired-report", report(SCORES[:2], BASELINE[:2]), "at least three seeds"),
        ("paired-report", report() | {"baseline": BASELINE[:2]}, "for each seed"),
        ("paired-report", {"scores": SCORES}, "the report lacks baseline"),
    ]
)
test_stubs_are_not_attempted = unattempted(EXERCISES, answers=["paired-report"])
