"""Averages of the visited weights, against their definitions and by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import tiny_encoder
from torch import nn
from training_hosts import context, largest_difference, train_in_loop, weights

from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import Combination, Mixout, PretrainedWeightDecay, TopKLayers, Vanilla, WeightAveraging
from finetune_reg.methods.weight_averaging import bema_coefficient, bias_corrected

KINDS = ("tail", "exponential", "bias_corrected")


class Watched(WeightAveraging):
    """Keep the trained weights of each update."""

    def setup(self, model, context):
        super().setup(model, context)
        self.visited = [weights(model)]

    def after_step(self, model, optimizer):
        super().after_step(model, optimizer)
        self.visited.append(weights(model))


def one_weight(method: WeightAveraging, path: list[float], dtype: torch.dtype = torch.float64) -> float:
    """Deliver after the single weight of a model has gone along a path, the first of which is its start."""
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(model.weight, path[0])
    method.setup(model, context(range(4 * (len(path) - 1))))
    for value in path[1:]:
        nn.init.constant_(model.weight, value)
        method.after_step(model, None)
    method.finalize(model)
    return model.weight.item()


def test_worked_numbers():
    path = [0.0, 1.0, 2.0, 4.0, 6.0]
    assert one_weight(WeightAveraging("tail", tail_fraction=0.5), path) == 5.0
    assert one_weight(WeightAveraging("tail", tail_fraction=0.6), path) == 4.0  # three of four updates, rounded up
    assert one_weight(WeightAveraging("exponential", decay=0.5), path) == 4.3125  # 0.5, 1.25, 2.625, 4.3125
    # shares 1/2 and 1/3 of an average that starts at 0: 0.5 and 2/3 * 0.5 + 2/3 = 1; then 2 / 3^0.5 are added.
    found = one_weight(WeightAveraging("bias_corrected", ema_power=1.0, bias_power=0.5, lag=1.0), [0.0, 1.0, 2.0])
    assert found == pytest.approx(1.0 + 2.0 / 3.0**0.5, abs=1e-12)
    assert bema_coefficient(6, 10.0, 0.5) == 0.25
    assert bias_corrected(torch.tensor(1.0), torch.tensor(3.0), torch.tensor(2.0), 0.25) == 1.25


def test_the_mean_of_a_straight_line_is_its_midpoint_and_what_is_constant_stays():
    assert one_weight(WeightAveraging("tail", tail_fraction=1.0), [-9.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == 3.0
    for kind in KINDS:
        assert one_weight(WeightAveraging(kind), [0.1] * 7, torch.float32) == torch.tensor(0.1).item()


def test_without_memory_the_average_is_the_last_weight():
    path = [0.3, 0.7, -0.2, 0.9]
    assert one_weight(WeightAveraging("exponential", decay=0.0), path) == 0.9
    assert one_weight(WeightAveraging("tail", tail_fraction=0.01), path) == 0.9
    assert one_weight(WeightAveraging("bias_corrected", ema_power=0.0, bias_power=60.0), path) == pytest.approx(0.9)


@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_the_delivered_weights_are_the_mean_of_those_visited_and_training_is_vanillas(dataset, accumulation_steps):
    method, model, plain = Watched(tail_fraction=0.5), tiny_encoder("bert", dtype=torch.float64), tiny_encoder("bert")
    train_in_loop(model, method, dataset, accumulation_steps)
    assert len(method.visited) == 7
    last = method.visited[-3:]
    mean = {name: torch.stack([each[name] for each in last]).mean(0) for name in last[0]}
    assert largest_difference(mean, weights(model)) < 1e-15
    again = Watched("exponential")
    train_in_loop(tiny_encoder("bert"), again, dataset, accumulation_steps)
    train_in_loop(plain, Vanilla(), dataset, accumulation_steps)
    assert largest_difference(again.visited[-1], weights(plain)) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_are_not_averaged_and_the_method_serves_again(kind, dataset):
    method, model = WeightAveraging(kind), tiny_encoder("bert")
    model.bert.embeddings.requires_grad_(False)
    before = weights(model)
    train_in_loop(model, method, dataset)
    after = weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("bert.embeddings") for name in moved)
    again = tiny_encoder("bert")
    again.bert.embeddings.requires_grad_(False)
    train_in_loop(again, method, dataset)
    assert largest_difference(after, weights(again)) == 0.0


def test_weights_of_16_bits_are_averaged_in_32():
    path = [1.0] + [1.0 + 2.0**-7] * 40  # the next number of bfloat16: an average that moves by a hundredth is rounded
    assert one_weight(WeightAveraging("exponential", decay=0.95), path, torch.bfloat16) == 1.0 + 2.0**-7


def test_the_released_schedule_is_one_update_ahead():
    assert WeightAveraging.official() == WeightAveraging("bias_corrected", lag=11.0)
    path = [0.0, 1.0]
    assert one_weight(WeightAveraging.official(), path) == pytest.approx(12**-0.5 + 12**-0.2)


def test_in_a_combination_what_is_averaged_has_been_pulled(dataset):
    """The average is of the weights after all members' steps, wherever it may stand."""

    class Late(FineTuningMethod):
        setup_stage = "reference"

        def after_step(self, model, optimizer):
            for parameter in model.parameters():
                parameter.data.mul_(0.5)

    model, halved = nn.Linear(1, 1, bias=False), Combination([WeightAveraging("tail", tail_fraction=1.0), Late()])
    nn.init.constant_(model.weight, 4.0)
    halved.setup(model, context(range(8)))
    halved.after_step(model, None)
    halved.after_step(model, None)
    halved.finalize(model)
    assert model.weight.item() == 1.5


@pytest.mark.parametrize("first", [lambda: Mixout(0.5), lambda: PretrainedWeightDecay(1.0), lambda: TopKLayers(1)])
def test_a_combination_delivers_the_average_of_what_its_members_train(first, dataset):
    averaging = Watched(tail_fraction=0.5)
    model, bare = tiny_encoder("bert"), tiny_encoder("bert")
    train_in_loop(model, Combination([first(), averaging]), dataset)
    train_in_loop(bare, first(), dataset)
    assert largest_difference(averaging.visited[-1], weights(bare)) == 0.0
    last = averaging.visited[-3:]
    mean = {name: torch.stack([each[name] for each in last]).mean(0) for name in last[0]}
    assert largest_difference(mean, weights(model)) < 1e-6
