from __future__ import annotations

import pytest
import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg.building_blocks.parameter_selection import count_kept, select_largest, stage_of
from finetune_reg.experiment.records import RunRecord
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.results.run_tables import results_table

NAMES = ["coasting-of-held-weights", "dps-dense-by-hand", "dps-control"]


def coasting_share(length, beta1):
    return beta1 * (1 - beta1**length) / (1 - beta1) / length


def masked_gradients(gradients, keep_fraction, stage_length, forget=True, scale=1.0, invert=False):
    passed, squares, mask = [], torch.zeros_like(gradients[0]), None
    for t, gradient in enumerate(gradients, start=1):
        stage, place = stage_of(t, stage_length)
        if stage == 1:
            squares = (torch.zeros_like(squares) if place == 1 and forget else squares) + gradient**2
        elif place == 1:
            n_kept = count_kept(squares.numel(), keep_fraction)
            mask = select_largest(-squares if invert else squares, n_kept)
        passed.append(gradient if stage == 1 else gradient * mask * scale)
    return passed


def runs(ratios=(0.05, 0.25), dropout=0.0, seeds=(0, 1, 2), other_seeds=None, epochs=10):
    variants = [
        RunSettings(method="dps_dense", method_hyperparameters={"update_ratio": ratio}).with_seed(seed)
        for ratio in ratios
        for seed in other_seeds or seeds
    ]
    control = {"method_hyperparameters": {"dropout": dropout}, "epochs": epochs}
    variants += [RunSettings(**control).with_seed(seed) for seed in seeds]
    return results_table(
        [
            RunRecord(run_id=one.run_id, settings=vars(one), status="ok", metric="accuracy", score=0.5)
            for one in variants
        ]
    )


def test_the_share_is_what_adam_does():
    """A steady gradient, then none: the steps decay by beta1, and hardly for the second moment's sake."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=1.0)
    for update in range(200 + 23):
        if update == 200:
            start = weight.item()
        weight.grad = torch.full_like(weight, 1.0 if update < 200 else 0.0)
        optimizer.step()
    assert (start - weight.item()) / 23 == pytest.approx(coasting_share(23, 0.9), rel=0.03)


test_the_right_attempt_passes = right_attempts(
    [(NAMES[0], coasting_share), (NAMES[1], masked_gradients), (NAMES[2], runs())]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        (NAMES[0], lambda length, beta1: coasting_share(length, beta1) / beta1, "its step has decayed once"),
        (NAMES[0], lambda length, beta1: length * coasting_share(length, beta1), "divide by the distance"),
        (NAMES[0], lambda length, beta1: 0.0, "sum the series"),
        (NAMES[1], lambda g, k, u: masked_gradients(g, k, u, forget=False), "are the sums of earlier cycles forgotten"),
        (NAMES[1], lambda g, k, u: masked_gradients(g, k, u, scale=1 / k), "not rescaled"),
        (NAMES[1], lambda g, k, u: masked_gradients(g, k, u, invert=True), "largest sums of squares"),
        (NAMES[1], lambda g, k, u: masked_gradients(g, 1 - k + 0.1, u), "of 20 entries train"),
        (NAMES[1], lambda g, k, u: g, "20 of 20 entries train, not 10"),
        (NAMES[2], "done", "give the table"),
        (NAMES[2], runs(ratios=(0.05,)), "two or more values of update_ratio"),
        (NAMES[2], runs(dropout=0.1), "the table lacks vanilla with dropout 0"),
        (NAMES[2], runs(other_seeds=(3, 4, 5)), "needs the same seeds as the control"),
        (NAMES[2], runs(epochs=3), "the runs differ in epochs, too"),
    ]
)
test_stubs_are_not_attempted = unattempted(NAMES, answers=NAMES[2:])
