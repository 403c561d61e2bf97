"""The checkers of notebook 05: right attempts pass, typical wrong ones are helped, stubs count as not attempted."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts
from torch.nn import functional as F

from finetune_reg.course.exercises.smart import EXERCISES


def fisher(weight, x):
    p = (weight @ x).softmax(0)
    return weight.T @ (p.diag() - torch.outer(p, p)) @ weight


def memory(n_updates):
    early = math.floor(0.1 * n_updates)
    return 0.99**early * 0.999 ** (n_updates - early)


def kl(target, logits):
    return F.kl_div(logits.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="batchmean")


def r_drop(first, second, labels, strength, tasks=1.0, share=0.5, detach=False):
    targets = (first.detach(), second.detach()) if detach else (first, second)
    divergence = share * (kl(targets[0], second) + kl(targets[1], first))
    return tasks * (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)) + strength * divergence


def one_direction(first, second, labels, strength):
    return r_drop(first, second, labels, 0.0) + strength * kl(first, second)


def runs(momentum=0.9, smoothness=0.0, seeds=(0, 1, 2), vanilla_seeds=(0, 1, 2)):
    smart = {"smoothness_strength": smoothness, "proximal_strength": 1.0}
    smart |= {"teacher_momentum": momentum, "late_teacher_momentum": momentum}
    common = {"task": "entailment", "model_name": "pocket", "n_train": 100, "epochs": 6, "batch_size": 16}
    common |= {"learning_rate": 3e-4}
    rows = [("vanilla", {}, seed) for seed in vanilla_seeds] + [("smart", smart, seed) for seed in seeds]
    return pd.DataFrame(
        common
        | {"method": name, "method_hyperparameters": json.dumps(chosen), "score": 0.8}
        | dict.fromkeys(["seed_init", "seed_order", "seed_noise"], seed)
        for name, chosen, seed in rows
    )


RIGHT = {
    "smart-fisher": fisher,
    "smart-teacher-memory": memory,
    "smart-r-drop-loss": r_drop,
    "smart-fast-teacher": runs(),
}
WRONG = [
    ("smart-fisher", lambda weight, x: fisher(weight, x) / 2, "0.5 times"),
    ("smart-fisher", lambda weight, x: weight.T @ (weight @ x).softmax(0).diag() @ weight, "same number to all logits"),
    ("smart-fisher", lambda weight, x: fisher(torch.eye(3).double(), weight @ x), "shape (4, 4)"),
    ("smart-fisher", lambda weight, x: fisher(weight, 2 * x), "how do the logits depend"),
    ("smart-teacher-memory", lambda n: 0.99**n, "first tenth"),
    ("smart-teacher-memory", lambda n: 1 - memory(n), "start keeps"),
    ("smart-teacher-memory", lambda n: memory(n) / 0.999, "factor is missing"),
    ("smart-teacher-memory", lambda n: 0.99 ** math.ceil(0.1 * n) * 0.999 ** (n - math.ceil(0.1 * n)), "whole number"),
    ("smart-r-drop-loss", lambda *a: r_drop(*a, tasks=0.5), "does not average"),
    ("smart-r-drop-loss", lambda *a: r_drop(*a, share=1.0), "mean of the two KL directions"),
    ("smart-r-drop-loss", lambda *a: r_drop(*a, share=2.5), "mean over the batch"),
    ("smart-r-drop-loss", one_direction, "Swapping"),
    ("smart-r-drop-loss", lambda *a: r_drop(*a, detach=True), "held constant"),
    ("smart-fast-teacher", [0.8, 0.8, 0.8], "results_table"),
    ("smart-fast-teacher", runs(momentum=0.99), "0.9 or less"),
    ("smart-fast-teacher", runs(smoothness=1.0), "Switch the smoothness term off"),
    ("smart-fast-teacher", runs(seeds=(0, 1, 3)), "same seeds"),
    ("smart-fast-teacher", runs(seeds=(0,), vanilla_seeds=(0,)), "at least 3"),
]


def test_every_exercise_has_a_right_attempt():
    assert set(RIGHT) == set(EXERCISES)


test_the_right_attempt_passes = right_attempts(RIGHT.items())
test_wrong_attempts_are_helped = wrong_attempts(WRONG)
test_stubs_are_not_attempted = unattempted(EXERCISES, answers=["smart-fast-teacher"])


def test_the_worked_numbers_of_the_papers_are_those_of_the_right_attempts():
    logits = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    assert r_drop(*logits, torch.tensor([0]), 1.0).item() == pytest.approx(0.515059, abs=1e-6)
    assert (memory(936), memory(468)) == pytest.approx((0.169, 0.413), abs=5e-4)
