"""RecAdam against its equations: worked numbers, closed forms, and the released optimizer's arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from torch import nn
from training_hosts import context, largest_difference, train_in_loop, weights
from transformers import get_linear_schedule_with_warmup

from finetune_reg.building_blocks.bias_correction import skip_bias_correction
from finetune_reg.building_blocks.parameter_groups import named_head_parameters
from finetune_reg.errors import InputError
from finetune_reg.methods import Combination, Mixout, NoisyTune, RecAdam, TopKLayers, Vanilla
from finetune_reg.methods.rec_adam import RecallingAdamW, task_weight

DOUBLE = {"dtype": torch.float64}


def scalar_optimizer(value=1.5, anchor=1.0, weight=0.5, gamma=10.0, learning_rate=0.01, recalls=True, **options):
    parameter = nn.Parameter(torch.tensor([value], **DOUBLE))
    optimizer = RecallingAdamW(
        [{"params": [parameter], "recalls": recalls, "weight_decay": options.pop("weight_decay", 0.0)}],
        anchors={id(parameter): torch.tensor([anchor], **DOUBLE)},
        annealing=weight if callable(weight) else lambda update: weight,
        strength=gamma,
        lr=learning_rate,
        fused=True,
        **options,
    )
    return parameter, optimizer


def step(parameter, optimizer, gradient: float) -> float:
    parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return parameter.item()


def released_steps(theta, anchor, gradients, rate, gamma, weights_, decay=0.0, betas=(0.9, 0.999), epsilon=1e-8):
    """The released optimizer in plain numbers: moments, annealed move, pull of the moved weight, decay."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        size = rate * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        theta -= weights_[t - 1] * size * m / (math.sqrt(v) + epsilon)
        theta -= rate * (1 - weights_[t - 1]) * gamma * (theta - anchor)
        theta -= rate * decay * theta
    return theta


def test_worked_example():
    method = RecAdam.official(10.0, annealing_midpoint=1.0)
    midway = task_weight(1, method.annealing, method.annealing_rate, method.annealing_midpoint)
    assert midway == 0.5
    for options in ({}, {"uncorrected_epsilon": True, "decay_last": True}):
        parameter, optimizer = scalar_optimizer(weight=midway, **options)
        assert step(parameter, optimizer, 2.0) == pytest.approx(1.47025, abs=1e-6)
    moved, optimizer = scalar_optimizer(weight=midway, gamma=0.0)
    assert step(moved, optimizer, 2.0) == pytest.approx(1.495, abs=1e-7)


def test_an_epsilon_without_bias_correction_is_added_as_it_is():
    parameter, optimizer = scalar_optimizer(weight=0.5, uncorrected_epsilon=True, eps=0.1)
    skip_bias_correction(optimizer)
    m = v = 0.0
    expected = 1.5
    for gradient in (2.0, -1.0, 0.5):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected -= 0.5 * 0.01 * m / (math.sqrt(v) + 0.1)
        expected -= 0.01 * 0.5 * 10.0 * (expected - 1.0)
        assert step(parameter, optimizer, gradient) == pytest.approx(expected, abs=1e-8)


def test_courses_of_the_task_weight():
    assert task_weight(250, "sigmoid", 0.5, 250) == 0.5
    assert task_weight(254, "sigmoid", 0.5, 250) == pytest.approx(1 / (1 + math.exp(-2.0)), rel=1e-15)
    assert task_weight(3, "linear", 0.5, 12) == 0.25
    assert task_weight(13, "linear", 0.5, 12) == 1.0
    assert task_weight(1, "linear", 0.5, 0.0) == 1.0
    assert task_weight(1, "constant", 0.5, 250) == 1.0
    assert 0.0 < task_weight(1, "sigmoid", 1.0, 1e6) < 1e-200


def test_zero_task_weight_shrinks_the_distance_geometrically():
    parameter, optimizer = scalar_optimizer(weight=1e-217, gamma=10.0)
    for _ in range(20):
        step(parameter, optimizer, 3.0)
    assert parameter.item() - 1.0 == pytest.approx(0.5 * (1 - 0.01 * 10.0) ** 20, rel=1e-12)


def test_full_task_weight_is_adamw():
    ours, optimizer = scalar_optimizer(weight=1.0, gamma=10.0, weight_decay=0.1)
    theirs = nn.Parameter(torch.tensor([1.5], **DOUBLE))
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, fused=True)
    for gradient in (2.0, -1.0, 0.5):
        assert step(ours, optimizer, gradient) == step(theirs, adamw, gradient)


def test_the_pull_acts_on_the_moved_weight_outside_the_moments():
    parameter, optimizer = scalar_optimizer(weight=0.25, gamma=40.0)
    gradients = [2.0, -1.0, 0.5]
    for gradient in gradients:
        step(parameter, optimizer, gradient)
    m = v = 0.0
    expected = 1.5
    for t, gradient in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected -= 0.25 * 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        expected -= 0.01 * 0.75 * 40.0 * (expected - 1.0)
    assert parameter.item() == pytest.approx(expected, abs=1e-14)
    assert optimizer.state[parameter]["exp_avg"].item() == pytest.approx(m, rel=1e-12)


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-9, 1e-217])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_decay_is_not_annealed(weight, dtype):
    parameter = nn.Parameter(torch.tensor([1.5, -2.0], dtype=dtype))
    groups = [{"params": [parameter], "recalls": True, "weight_decay": 0.1}]
    optimizer = RecallingAdamW(groups, {}, lambda update: weight, strength=0.0, lr=0.01, fused=True)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(parameter.data, torch.tensor([1.5, -2.0], dtype=dtype) * (1 - 0.01 * 0.1))


@pytest.mark.parametrize("recalls", [True, False])
def test_official_arithmetic_is_the_released_optimizer(recalls):
    gradients = [2e-5, -1e-5, 3e-5, 0.0, 1e-5]
    course = [task_weight(t, "sigmoid", 0.5, 3.0) for t in range(1, 6)]
    arguments = {"gamma": 20.0, "weight_decay": 0.2, "eps": 1e-5, "recalls": recalls}
    official, optimizer = scalar_optimizer(
        weight=lambda t: course[t - 1], decay_last=True, uncorrected_epsilon=True, **arguments
    )
    default, default_optimizer = scalar_optimizer(weight=lambda t: course[t - 1], **arguments)
    for gradient in gradients:
        step(official, optimizer, gradient)
        step(default, default_optimizer, gradient)
    expected = released_steps(
        1.5, 1.0, gradients, 0.01, 20.0, course if recalls else [1.0] * 5, decay=0.2, epsilon=1e-5
    )
    assert official.item() == pytest.approx(expected, abs=1e-14)
    assert abs(default.item() - expected) > 1e-5


@pytest.mark.parametrize("annealing", ["sigmoid", "linear", "constant"])
def test_official_method_trains_as_the_released_optimizer(annealing, dataset):
    """A whole classifier, element by element, with a schedule, against the plain numbers."""
    model = tiny_encoder("bert", dtype=torch.float64).eval()
    start = weights(model)
    method = RecAdam.official(100.0, annealing, annealing_rate=0.5, annealing_midpoint=2.0)
    run = context(dataset)
    method.setup(model, run)
    optimizer = method.create_optimizer(model, run)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 6)
    head = {name for name, _ in named_head_parameters(model)}
    expected = {name: tensor.clone() for name, tensor in start.items()}
    m = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    v = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for t in range(1, 5):
        model(**batches(dataset, 8)[0]).loss.backward()
        course = task_weight(t, annealing, 0.5, 2.0)
        for name, parameter in model.named_parameters():
            rate, weight = run.learning_rate * (7 - t) / 6, 1.0 if name in head else course
            m[name].mul_(0.9).add_(parameter.grad, alpha=0.1)
            v[name].mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            size = rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            expected[name] -= weight * size * m[name] / (v[name].sqrt() + 1e-8)
            expected[name] -= rate * (1 - weight) * 100.0 * (expected[name] - start[name])
            if parameter.ndim >= 2:
                expected[name] -= rate * 0.01 * expected[name]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert largest_difference(weights(model), expected) < 1e-12
    assert largest_difference(weights(model), start) > 1e-5


def test_the_scheduled_rate_and_all_settings_survive_a_step():
    parameter, optimizer = scalar_optimizer(weight=0.3, weight_decay=0.1, decay_last=True, uncorrected_epsilon=True)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "n_updates")}
    step(parameter, optimizer, 1.0)
    assert {
        key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "n_updates")
    } == before


def test_the_head_is_never_pulled_and_never_annealed(architecture, dataset):
    model = tiny_encoder(architecture, dtype=torch.float64)
    method = RecAdam(100.0, annealing_midpoint=1.0, annealing_rate=50.0)
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset, weight_decay=0.0))
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    head = {name for name, _ in named_head_parameters(model)}
    for name, parameter in model.named_parameters():
        moved = 1e-3 if name in head else 0.0
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, moved), rtol=1e-6, atol=1e-15)


def test_parameters_without_a_gradient_stay_where_they_are():
    parameter, optimizer = scalar_optimizer(weight=0.5, weight_decay=0.1)
    optimizer.step()
    assert parameter.item() == 1.5


def test_midpoint_is_a_share_of_the_run_or_a_number_of_updates(dataset):
    model = tiny_encoder("bert")
    run = context(dataset)
    assert run.n_updates == 6
    for method in (RecAdam(1.0, annealing_midpoint=0.5), RecAdam.official(1.0, annealing_midpoint=3.0)):
        optimizer = method.create_optimizer(model, run)
        assert [optimizer.annealing(t) for t in (1, 3, 6)] == pytest.approx(
            [1 / (1 + math.exp(-0.5 * (t - 3))) for t in (1, 3, 6)], rel=1e-15
        )
    assert RecAdam.official().annealing_midpoint == 250.0


def test_gradient_accumulation_does_not_hasten_the_annealing(dataset):
    class Counted(RecAdam):
        def create_optimizer(self, model, context):
            self.made = super().create_optimizer(model, context)
            return self.made

    for accumulation_steps in (1, 4):
        method = Counted(100.0)
        train_in_loop(tiny_encoder("bert"), method, dataset, accumulation_steps=accumulation_steps)
        assert method.made.n_updates == 6


def test_a_strong_pull_keeps_the_backbone_near_its_start(dataset):
    start = weights(tiny_encoder("bert"))
    distances = []
    for method in (Vanilla(), RecAdam(500.0, annealing="linear", annealing_midpoint=1.0)):
        model = tiny_encoder("bert")
        train_in_loop(model, method, dataset)
        name = "bert.encoder.layer.0.output.dense.weight"
        distances.append((model.state_dict()[name] - start[name]).norm().item())
    assert distances[1] < 0.5 * distances[0]


def test_random_start_is_pulled_back_to_the_pretrained_weights(dataset):
    model = tiny_encoder("bert", dtype=torch.float64)
    pretrained = weights(model)
    method = RecAdam(500.0, annealing_midpoint=1.0, annealing_rate=50.0, random_start=True)
    method.setup(model, context(dataset))
    name = "bert.encoder.layer.0.output.dense.weight"
    distance = (model.state_dict()[name] - pretrained[name]).norm()
    assert distance > 0.0
    assert torch.equal(model.classifier.weight, pretrained["classifier.weight"])
    assert not model.bert.embeddings.word_embeddings.weight[0].any()
    optimizer = method.create_optimizer(model, context(dataset, weight_decay=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(3):
        optimizer.step()
    torch.testing.assert_close((model.state_dict()[name] - pretrained[name]).norm(), distance * 0.5**3)


def test_a_random_start_leaves_frozen_weights_pretrained(dataset):
    model = tiny_encoder("bert")
    pretrained = weights(model)
    Combination([TopKLayers(1), RecAdam(100.0, random_start=True)]).setup(model, context(dataset))
    moved = {name for name, weight in weights(model).items() if not torch.equal(weight, pretrained[name])}
    assert any(name.startswith("bert.encoder.layer.1.") for name in moved)
    assert not any(name.startswith(("bert.encoder.layer.0.", "bert.embeddings.")) for name in moved)


def test_random_start_comes_after_the_snapshots_of_others():
    Combination([NoisyTune(), RecAdam(), Mixout()])
    Combination([NoisyTune(), Mixout(), RecAdam(random_start=True)])
    with pytest.raises(InputError, match="Mixout must stand before RecAdam"):
        Combination([RecAdam(random_start=True), Mixout()])


def test_frozen_parameters_are_neither_trained_nor_remembered(dataset):
    model = tiny_encoder("bert")
    method = Combination([TopKLayers(1), RecAdam(100.0)])
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset))
    recalled = {id(p) for group in optimizer.param_groups if group["recalls"] for p in group["params"]}
    assert optimizer.anchors.keys() == recalled
    assert not recalled & {id(p) for p in model.bert.embeddings.parameters()}


def test_the_snapshot_is_dropped_in_the_end_and_taken_anew_for_the_next_run(dataset):
    method, models = RecAdam(100.0), [tiny_encoder("bert", seed) for seed in (0, 1)]
    for model in models:
        train_in_loop(model, method, dataset)
        assert not method._pretrained
    alone = tiny_encoder("bert", 1)
    train_in_loop(alone, RecAdam(100.0), dataset)
    assert largest_difference(weights(models[1]), weights(alone)) == 0.0


def test_bfloat16_weights_are_pulled_to_their_own_snapshot(dataset):
    model = tiny_encoder("bert", dtype=torch.bfloat16)
    before = weights(model)
    method = RecAdam(1000.0, annealing_midpoint=1.0, annealing_rate=50.0)
    method.setup(model, context(dataset))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    optimizer = method.create_optimizer(model, context(dataset, weight_decay=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(model.state_dict()[name], before[name])
    assert not torch.equal(model.state_dict()["classifier.weight"], before["classifier.weight"])


def test_a_pull_that_diverges_is_refused(dataset):
    model = tiny_encoder("bert")
    with pytest.raises(InputError, match=r"diverges at learning rate 0\.001 and pretrained_strength 5000: .* exceed 2"):
        RecAdam().create_optimizer(model, context(dataset))
    RecAdam(2000.0).create_optimizer(model, context(dataset))
    RecAdam(annealing="constant").create_optimizer(model, context(dataset))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pretrained_strength": -1.0}, r"pretrained_strength in \[0, inf\)"),
        ({"annealing": "cosine"}, "sigmoid"),
        ({"annealing_midpoint": 250.0}, r'annealing_midpoint in \[0, 1\], not 250.0: .* midpoint_unit="updates"'),
        ({"annealing_midpoint": -0.1, "midpoint_unit": "updates"}, r"annealing_midpoint in \[0, inf\)"),
    ],
)
def test_values_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        RecAdam(**arguments)


def test_hooks_on_a_step_are_called_once():
    weight = nn.Parameter(torch.ones(1))
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # patches the class that RecallingAdamW inherits from
    optimizer = RecallingAdamW(
        [{"params": [weight], "recalls": False}], {}, lambda update: 1.0, strength=0.0, lr=0.01, fused=True
    )
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    weight.grad = torch.ones(1)
    optimizer.step()
    assert called == ["before", "after"]
