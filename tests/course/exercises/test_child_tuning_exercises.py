from __future__ import annotations

import math

import pytest
import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg.experiment.records import RunRecord
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods.child_tuning_f import mask_gradient
from finetune_reg.results.run_tables import results_table

NAMES = ["adam-step-under-masks", "random-child", "child-tuning-control"]


def rms_step(ratio, p, beta1):
    squared_mean = p * ratio**2 / (1 + ratio**2)
    return math.sqrt(squared_mean + (1 - beta1) / (1 + beta1) * (1 - squared_mean))


def random_child(masks, generator):
    child = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator)
        child[name] = mask.flatten()[order].view_as(mask)
    return child


def each_entry_by_itself(masks, generator):
    return {name: torch.rand(mask.shape, generator=generator) < mask.float().mean() for name, mask in masks.items()}


def without_the_generator(masks, generator):
    return {name: mask.flatten()[torch.randperm(mask.numel())].view_as(mask) for name, mask in masks.items()}


def runs(p=0.1, factor=None, seeds=(0, 1, 2), task="entailment"):
    factor = math.sqrt(p) if factor is None else factor
    variants = [
        RunSettings(task=task),
        RunSettings(learning_rate=3e-4 * factor),
        RunSettings(method="child_tuning_f", method_hyperparameters={"keep_probability": p}),
    ]
    records = [
        RunRecord(run_id=made.run_id, settings=vars(made), status="ok", metric="accuracy", score=0.5)
        for made in (one.with_seed(seed) for one in variants for seed in seeds)
    ]
    return results_table(records)


def test_the_formula_is_what_adam_does():
    torch.manual_seed(0)
    ratio, p = 0.7, 0.2
    weight = torch.nn.Parameter(torch.zeros(400))
    optimizer = torch.optim.Adam([weight], lr=1.0)
    steps = []
    for step in range(2500):
        before = weight.detach().clone()
        weight.grad = ratio + torch.randn(400)
        mask_gradient(weight.grad, p)
        optimizer.step()
        if step >= 1000:
            steps.append(weight.detach() - before)
    assert torch.stack(steps).square().mean().sqrt().item() == pytest.approx(rms_step(ratio, p, 0.9), rel=0.02)


test_the_right_attempt_passes = right_attempts(
    [(NAMES[0], rms_step), (NAMES[1], random_child), (NAMES[2], runs()), (NAMES[2], runs(0.5))]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        (NAMES[0], lambda ratio, p, beta1: math.sqrt(p) * rms_step(ratio, 1.0, beta1), "that is the mean"),
        (NAMES[0], lambda ratio, p, beta1: ratio / math.sqrt(1 + ratio**2), "without a mask already"),
        (NAMES[0], lambda ratio, p, beta1: rms_step(ratio, 1.0, beta1), "add squared mean and variance"),
        (NAMES[1], each_entry_by_itself, "draw exactly as many"),
        (NAMES[1], without_the_generator, "draw from the generator alone"),
        (NAMES[1], lambda masks, generator: dict(masks), "all should have the same chance"),
        (NAMES[1], lambda masks, generator: [*masks.values()], "return a dictionary"),
        (NAMES[2], 0.5, "give the table"),
        (NAMES[2], runs(0.3), "take another keep probability"),
        (NAMES[2], runs(0.1, factor=0.1), "there is no vanilla run at F's learning rate times root p, 9.49e-05"),
        (NAMES[2], runs(seeds=(0,)), "take three or more"),
        (NAMES[2], runs(task="paraphrase"), "the runs differ in task, too"),
    ]
)
test_stubs_are_not_attempted = unattempted(NAMES, answers=NAMES[2:])
