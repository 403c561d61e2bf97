"""L2-SP and decoupled decay toward the pretrained weights, against closed forms."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from training_hosts import added_loss, context, largest_difference, train_in_loop, weights

from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters, named_head_parameters
from finetune_reg.errors import InputError
from finetune_reg.methods import L2SP, Combination, PretrainedWeightDecay, Vanilla
from finetune_reg.methods.l2_sp import squared_distance
from finetune_reg.methods.pretrained_weight_decay import pull_toward


def moved(model, by: float = 0.1):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


def test_worked_decoupled_example():
    weight, pretrained = torch.tensor([[1.2]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    assert pull_toward(weight, pretrained, 0.1, 0.01).item() == pytest.approx(1.1998, abs=1e-12)


def test_penalty_is_half_the_weighted_squared_distance(architecture, dataset):
    model = tiny_encoder(architecture, dtype=torch.float64)
    method = L2SP(0.4, 0.06)
    method.setup(model, context(dataset))
    head = squared_distance(dict(named_head_parameters(model)))
    torch.testing.assert_close(added_loss(method, model, {}, None), 0.03 * head)
    n_backbone = sum(p.numel() for p in model.base_model.parameters())
    moved(model)
    head = squared_distance(dict(named_head_parameters(model)))
    torch.testing.assert_close(added_loss(method, model, {}, None), 0.2 * n_backbone * 0.01 + 0.03 * head)


def test_gradient_of_the_penalty_pulls_the_backbone_to_its_start_and_the_head_to_zero(dataset):
    model = tiny_encoder("bert", dtype=torch.float64)
    method = L2SP(0.4, 0.06)
    method.setup(model, context(dataset))
    moved(model)
    assert not added_loss(method, model, {}, None).requires_grad
    method.after_backward(model)
    torch.testing.assert_close(
        model.bert.pooler.dense.weight.grad, torch.full_like(model.bert.pooler.dense.weight, 0.04)
    )
    torch.testing.assert_close(model.classifier.weight.grad, 0.06 * model.classifier.weight.detach())


def test_the_gradient_that_is_added_is_that_of_the_whole_loss(dataset):
    batch, gradients = batches(dataset, 8)[0], []
    for by_hand in (False, True):
        model = tiny_encoder("bert", dtype=torch.float64).eval()
        method = L2SP(0.4, 0.06)
        method.setup(model, context(dataset))
        moved(model)
        outputs = model(**batch)
        loss = method.training_loss(model, batch, outputs)
        if by_hand:
            pulled = squared_distance(dict(named_backbone_parameters(model)), method._pretrained)
            whole = outputs.loss + 0.2 * pulled + 0.03 * squared_distance(dict(named_head_parameters(model)))
            torch.testing.assert_close(loss, whole)
            loss = whole
        loss.backward()
        if not by_hand:
            method.after_backward(model)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert largest_difference(*gradients) < 1e-12


def test_with_zero_gradient_the_distance_shrinks_by_one_minus_rate_times_strength(dataset):
    model = tiny_encoder("bert", dtype=torch.float64)
    before = weights(model)
    method = PretrainedWeightDecay(strength=2.0)
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(moved(model), context(dataset))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    method.after_step(model, optimizer)
    pulled = weights(model)
    name = "bert.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(pulled[name] - before[name], torch.full_like(before[name], 0.1 * (1 - 0.1 * 2.0)))
    for untouched in ("classifier.weight", "bert.encoder.layer.0.output.dense.bias"):
        torch.testing.assert_close(pulled[untouched] - before[untouched], torch.full_like(before[untouched], 0.1))


def test_official_form_pulls_the_head_toward_its_random_start(dataset):
    model = tiny_encoder("bert", dtype=torch.float64)
    before = model.classifier.weight.detach().clone()
    method = PretrainedWeightDecay.official(strength=2.0)
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(moved(model), context(dataset))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    method.after_step(model, optimizer)
    torch.testing.assert_close(model.classifier.weight - before, torch.full_like(before, 0.08))


def test_decay_toward_zero_is_adamw(dataset):
    """With the snapshot at zero the pull is AdamW's decay, up to the order of the two: strength x rate x move."""
    models = [tiny_encoder("bert", dtype=torch.float64) for _ in range(2)]
    pull, rate = PretrainedWeightDecay(0.5, include_head=True), 1e-3
    pull.setup(models[0], context(dataset))
    for snapshot in pull._pretrained.values():
        snapshot.zero_()
    ours = pull.create_optimizer(models[0], context(dataset))
    adamw = Vanilla().create_optimizer(models[1], context(dataset, weight_decay=0.5))
    for model, optimizer in zip(models, (ours, adamw), strict=True):
        model.eval()(**batches(dataset, 8)[0]).loss.backward()
        optimizer.step()
    pull.after_step(models[0], ours)
    assert largest_difference(*map(weights, models)) < 1.01 * 0.5 * rate * rate


def test_strong_pull_stays_closer_to_the_pretrained_weights(dataset):
    start = weights(tiny_encoder("bert"))
    distances = []
    for method in (Vanilla(), PretrainedWeightDecay(200.0), L2SP(100.0)):
        model = tiny_encoder("bert")
        train_in_loop(model, method, dataset)
        name = "bert.encoder.layer.0.output.dense.weight"
        distances.append((model.state_dict()[name] - start[name]).norm().item())
    assert distances[1] < 0.9 * distances[0]
    assert distances[2] < 0.9 * distances[0]


def test_members_of_a_combination_switch_weight_decay_off_for_all(dataset):
    decays = [
        {
            group["weight_decay"]
            for group in method.create_optimizer(tiny_encoder("bert"), context(dataset)).param_groups
        }
        for method in (Vanilla(), L2SP(), Combination([Vanilla(), PretrainedWeightDecay()]))
    ]
    assert decays == [{0.01, 0.0}, {0.0}, {0.0}]


@pytest.mark.parametrize("build", [lambda: L2SP(-1.0), lambda: PretrainedWeightDecay(-1.0), lambda: Combination([])])
def test_values_out_of_range_are_refused(build):
    with pytest.raises(InputError):
        build()


class OwnOptimizer(Vanilla):
    def create_optimizer(self, model, context):
        return torch.optim.SGD(model.parameters(), lr=context.learning_rate)


def test_two_optimizers_are_refused_and_one_is_used(dataset):
    with pytest.raises(InputError, match="OwnOptimizer and OwnOptimizer"):
        Combination([OwnOptimizer(), OwnOptimizer()])
    combination = Combination([L2SP(), OwnOptimizer()])
    assert isinstance(combination.create_optimizer(tiny_encoder("bert"), context(dataset)), torch.optim.SGD)
