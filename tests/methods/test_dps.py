"""DPS Dense and DPS Mix against worked numbers, a plain reference loop, and the properties of the equations."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_encoders import batches, tiny_encoder, without_dropout
from torch import nn
from torch.nn import functional as F
from training_hosts import context, largest_difference, method_trainer, train_in_loop, weights

from finetune_reg.building_blocks.parameter_selection import (
    add_squares,
    count_kept,
    select_largest,
    stage_length,
    stage_of,
)
from finetune_reg.errors import InputError
from finetune_reg.method import TrainingContext
from finetune_reg.methods import L2SP, Combination, DPSDense, DPSMix, Mixout, Vanilla
from finetune_reg.methods.dps_mix import SelectiveMixLinear, selection_scores

DOUBLE = {"dtype": torch.float64}


class Toy(nn.Module):
    """One linear layer as backbone, one as head."""

    def __init__(self, inside=3, out=2):
        super().__init__()
        self.base_model = nn.ModuleDict({"dense": nn.Linear(inside, out, **DOUBLE)})
        self.head = nn.Linear(out, 1, **DOUBLE)


def updates(n, seed=0) -> TrainingContext:
    return TrainingContext([], list, 1, 1e-3, 0.0, n, seed)


def masked(weight, mask):
    return torch.where(mask, weight, torch.zeros_like(weight))


def linears(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


# Counting


@pytest.mark.parametrize(
    ("n_updates", "length"), [(468, 23), (690, 34), (1080, 54), (1605, 80), (1500, 75), (32, 1), (63, 3)]
)
def test_lengths_of_the_published_stages(n_updates, length):
    assert stage_length(0.05, n_updates, True, "DPSDense") == length


def test_schedule_of_rte():
    stages = [stage_of(update, 23) for update in range(1, 469)]
    assert stages[:23] == [(1, place) for place in range(1, 24)]
    assert stages[23:46] == [(2, place) for place in range(1, 24)]
    assert {stage for stage, _ in stages[437:460]} == {2}
    assert stages[460:] == [(1, place) for place in range(1, 9)]
    assert stages.count((2, 1)) == 10


def test_decimal_and_binary_counts():
    for n in (10, 20, 40, 50, 100):
        assert count_kept(n, 0.3) == count_kept(n, 1 - 0.7) == round(0.3 * n)
        assert count_kept(n, 1 - 0.7, exact_counts=False) == round(0.3 * n) + 1
    assert [count_kept(n, 0.7) for n in (1, 3, 6, 10, 1_000_000)] == [1, 3, 5, 7, 700_000]
    assert stage_length(0.29, 100, True, "DPSDense") == 29
    assert stage_length(1 / 3, 6, True, "DPSDense") == 2
    assert stage_length(0.29, 100, False, "DPSDense") == 28


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
@pytest.mark.parametrize("n_updates", [3, 6, 19])
def test_a_stage_without_updates_is_refused_with_a_ratio_that_works(kind, n_updates, dataset):
    with pytest.raises(InputError, match=rf"update_ratio of at least (0\.\d+) for n_updates={n_updates}") as error:
        kind(0.7, 0.05).setup(Toy(), updates(n_updates))
    smallest = float(str(error.value).split("at least ")[1].split()[0])
    assert stage_length(smallest, n_updates, True, "DPSDense") == 1
    assert smallest - 1 / n_updates < 1e-4


def test_selection_keeps_the_largest_and_all_ties():
    torch.manual_seed(0)
    scores = torch.rand(7, 9, **DOUBLE)
    mask = select_largest(scores, 20)
    assert mask.sum() == 20
    assert scores[mask].min() > scores[~mask].max()
    assert mask.dtype == torch.bool
    assert torch.equal(select_largest(3.7 * scores, 20), mask)
    tied = torch.tensor([[5.0, 5.0, 9.0], [1.0, 0.5, 2.0]])
    assert select_largest(tied, 2).tolist() == [[True, True, True], [False, False, False]]
    assert select_largest(torch.zeros(2, 3), 1).all()
    for n_kept in (1, 6):
        assert select_largest(torch.arange(6.0), n_kept).sum() == n_kept


# DPS Dense


def dense_run(method, gradients, n_updates):
    """Pass gradients of the backbone's weight through the method; return what it makes of them."""
    model = Toy()
    method.setup(model, updates(n_updates))
    passed, sums = [], []
    for gradient in gradients:
        model.base_model["dense"].weight.grad = torch.tensor(gradient, **DOUBLE)
        method.after_backward(model)
        passed.append(model.base_model["dense"].weight.grad.clone())
        sums.append([1e3 * squares for squares in method._squares[:1]])
    return passed, sums


G1, G2, OTHER = [[1.0, -2, 3], [0, 0.5, -1]], [[2.0, 1, 0], [1, -0.5, 1]], [[1.0, 2, 3], [4, 5, 6]]
THREES, ONES = [[3.0] * 3] * 2, [[1.0] * 3] * 2


@pytest.mark.parametrize(
    "method", [DPSDense(0.5, 0.2), DPSDense.official(0.5, 0.2)], ids=["equation", "released arithmetic"]
)
def test_worked_dense_example(method):
    passed, sums = dense_run(method, [G1, G2, OTHER, OTHER, THREES, ONES], 10)
    torch.testing.assert_close(sums[0][0], torch.tensor([[1.0, 4, 9], [0, 0.25, 1]], **DOUBLE))
    torch.testing.assert_close(sums[1][0], torch.tensor([[5.0, 5, 9], [1, 0.5, 2]], **DOUBLE))
    torch.testing.assert_close(sums[4][0], torch.full((2, 3), 9.0, **DOUBLE))
    torch.testing.assert_close(sums[5][0], torch.full((2, 3), 10.0, **DOUBLE))
    assert [gradient.tolist() for gradient in passed[:2]] == [G1, G2]
    for gradient in passed[2:4]:
        assert gradient.tolist() == [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    assert passed[4].tolist() == THREES


def test_with_stages_of_one_update_the_sum_is_the_squared_gradient_over_a_thousand():
    method = DPSDense(0.5, 0.1)
    dense_run(method, [G1], 10)
    assert torch.equal(method._squares[0], torch.tensor(G1, **DOUBLE).square() / 1e3)


def test_official_counts_in_binary_and_names_the_dropped_fraction():
    assert DPSDense.official(0.3) == DPSDense(0.7, 0.05, disable_dropout=True, exact_counts=False)
    official = DPSMix.official(0.3)
    assert official == DPSMix(0.7, 0.05, rescale_gradient=False, frequency_penalty="auto", exact_counts=False)
    kept = {}
    for exact in (True, False):
        model, method = Toy(inside=5), DPSDense(1 - 0.7, 0.1, exact_counts=exact)
        method.setup(model, updates(10))
        model.base_model["dense"].weight.grad = torch.arange(1.0, 11.0, **DOUBLE).view(2, 5)
        method.after_backward(model)
        method.after_backward(model)
        kept[exact] = int(method._masks[0].sum())
    assert kept == {True: 3, False: 4}


def test_a_gradient_that_is_not_finite_does_not_enter_the_sums():
    bad = [[math.nan, 1, 1], [1, math.inf, 1]]
    clean, _ = dense_run(DPSDense(0.5, 0.2), [G1, ONES, OTHER], 10)
    spoiled, sums = dense_run(DPSDense(0.5, 0.2), [G1, bad, OTHER], 10)
    assert torch.equal(sums[1][0], sums[0][0])
    assert torch.equal(spoiled[2], clean[2])
    first, _ = dense_run(DPSDense(0.5, 0.2), [bad, G1, OTHER], 10)
    assert torch.equal(first[2], clean[2])
    huge = nn.Parameter(torch.zeros(2))
    huge.grad = torch.tensor([1e30, 1.0])
    totals = [torch.zeros(2)]
    assert not add_squares(totals, [huge], 1e3)
    assert torch.equal(totals[0], torch.zeros(2))


def reference_dense(model, dataset, n_updates, keep, length, optimizer):
    """The equations in plain loops with full sorts; returns the weights after each update."""
    sums, masks, history = {}, {}, []
    for t in range(1, n_updates + 1):
        model.train()
        optimizer.zero_grad()
        model(**batches(dataset, 8)[(t - 1) % 3]).loss.backward()
        for i, layer in enumerate(linears(model)):
            gradient = layer.weight.grad
            stage = math.ceil(t / length)
            if stage % 2 == 1:
                sums[i] = gradient**2 / 1e3 + (sums[i] if (t - 1) % length else 0.0)
            else:
                if (t - 1) % length == 0:
                    k = math.ceil(gradient.numel() * keep)
                    masks[i] = sums[i] >= sums[i].flatten().sort(descending=True).values[k - 1]
                gradient *= masks[i]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append(weights(model))
    return history


def test_dense_training_is_the_reference_loop(architecture, dataset):
    config = {**without_dropout(architecture), **DOUBLE}
    ours, theirs = tiny_encoder(architecture, **config), tiny_encoder(architecture, **config)
    run = updates(11)
    method = DPSDense.official(0.75, 0.2)
    method.setup(ours, run)
    optimizer = method.create_optimizer(ours, run)
    history = reference_dense(theirs, dataset, 11, 0.25, 2, method.create_optimizer(theirs, run))
    for t in range(11):
        ours(**batches(dataset, 8)[t % 3]).loss.backward()
        method.after_backward(ours)
        nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert largest_difference(weights(ours), history[t]) < 1e-12


def test_stage_one_of_dense_is_plain_training(architecture, dataset):
    models = [tiny_encoder(architecture) for _ in range(2)]
    for model, method in zip(models, (DPSDense(0.1, update_ratio=1.0), Vanilla(dropout=0.0)), strict=True):
        train_in_loop(model, method, dataset)
    assert largest_difference(*map(weights, models)) == 0.0


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
def test_keeping_everything_is_vanilla_without_dropout(kind, architecture, dataset):
    models = [tiny_encoder(architecture) for _ in range(2)]
    for model, method in zip(models, (kind(1.0, update_ratio=0.34), Vanilla(dropout=0.0)), strict=True):
        train_in_loop(model, method, dataset)
    assert largest_difference(*map(weights, models)) == 0.0


def test_held_weights_are_frozen_under_sgd_and_everything_else_trains(architecture, dataset):
    model = tiny_encoder(architecture).train()
    method = DPSDense(0.3, update_ratio=1 / 3)
    method.setup(model, context(dataset))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for t, batch in enumerate(batches(dataset, 8) * 2):
        before = {id(p): p.detach().clone() for p in model.parameters()}
        model(**batch).loss.backward()
        method.after_backward(model)
        moving = {id(p): p.grad is not None and bool(p.grad.any()) for p in model.parameters()}
        sgd.step()
        sgd.zero_grad()
        if t not in (2, 3):
            continue
        weight_ids = {id(weight) for weight in method._weights}
        for weight, mask in zip(method._weights, method._masks, strict=True):
            assert torch.equal(weight[~mask], before[id(weight)][~mask])
            assert mask.sum() >= math.ceil(0.3 * mask.numel())
            assert moving[id(weight)]
        others = [p for p in model.parameters() if id(p) not in weight_ids and moving[id(p)]]
        assert len(others) > 8
        assert all(not torch.equal(p, before[id(p)]) for p in others)
        fractions = {round(mask.float().mean().item(), 2) for mask in method._masks if mask.numel() > 100}
        assert fractions == {0.3}


def test_held_weights_move_by_momentum_and_weight_decay_under_adamw():
    moves = {}
    for decay in (0.0, 0.5):
        model, method = Toy(), DPSDense(0.5, 0.5)
        run = TrainingContext([], list, 1, 0.1, decay, 2)
        method.setup(model, run)
        optimizer = method.create_optimizer(model, run)
        weight = model.base_model["dense"].weight
        with torch.no_grad():
            weight.fill_(1.0)
        for gradient in (G1, OTHER):
            before = weight.detach().clone()
            weight.grad = torch.tensor(gradient, **DOUBLE)
            method.after_backward(model)
            optimizer.step()
        moves[decay] = (weight - before).detach()
        assert method._masks[0].tolist() == [[True, True, True], [False, False, True]]  # 1 is met by three entries
        never_moved, moved = moves[decay][1, 0].item(), moves[decay][1, 1].item()
        assert never_moved == pytest.approx(-0.1 * decay * before[1, 0].item(), abs=1e-12)
        assert abs(moved + 0.1 * decay * before[1, 1].item()) > 1e-2


def test_choice_ignores_the_scale_of_the_loss_and_the_cycles_before():
    torch.manual_seed(0)
    gradients = torch.randn(6, 2, 3, **DOUBLE)
    once, _ = dense_run(DPSDense(0.5, 0.1), gradients.tolist(), 20)
    scaled, _ = dense_run(DPSDense(0.5, 0.1), (7.0 * gradients).tolist(), 20)
    torch.testing.assert_close(torch.stack(scaled), 7.0 * torch.stack(once))
    changed = torch.cat([100.0 * torch.randn(4, 2, 3, **DOUBLE), gradients[:4]])
    later, _ = dense_run(DPSDense(0.5, 0.1), changed.tolist(), 20)
    assert torch.equal(torch.stack(later[4:]), torch.stack(once[:4]))


def test_each_matrix_is_judged_by_itself():
    model, method = Toy(), DPSDense(0.5, 0.5)
    method.setup(model, updates(2))
    for factor in (1.0, 1.0):
        model.base_model["dense"].weight.grad = factor * torch.tensor(OTHER, **DOUBLE)
        model.head.weight.grad = 1e-6 * torch.tensor([[1.0, 2.0]], **DOUBLE)
        method.after_backward(model)
    assert model.base_model["dense"].weight.grad.tolist() == [[0.0, 0.0, 0.0], [4.0, 5.0, 6.0]]
    assert model.head.weight.grad.tolist() == [[0.0, 2e-6]]


def test_stages_count_updates_and_not_passes(dataset):
    config = {**without_dropout("bert"), **DOUBLE}
    models = [tiny_encoder("bert", **config) for _ in range(2)]
    for model, steps in zip(models, (1, 4), strict=True):
        train_in_loop(model, DPSDense(0.3, 0.34), dataset, accumulation_steps=steps)
    key_bias = "key.bias"
    first, second = ({n: w for n, w in weights(model).items() if key_bias not in n} for model in models)
    assert largest_difference(first, second) < 1e-9


# DPS Mix

W0 = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]], **DOUBLE)
GRADIENT = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1]], **DOUBLE)


def mix_layer(weight=W0, keep_fraction=0.5, **options) -> SelectiveMixLinear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], **DOUBLE)
    linear.weight = nn.Parameter(weight.clone())
    return SelectiveMixLinear(linear, keep_fraction, **options)


def moved_layer(seed=0, **options) -> SelectiveMixLinear:
    torch.manual_seed(seed)
    layer = mix_layer(torch.randn(3, 5, **DOUBLE), **options)
    with torch.no_grad():
        layer.weight.add_(torch.randn(3, 5, **DOUBLE))
    return layer


@pytest.mark.parametrize("rescale", [True, False])
def test_worked_mix_example(rescale):
    model = Toy(inside=4)
    with torch.no_grad():
        model.base_model["dense"].weight.copy_(W0)
    method = DPSMix(0.5, update_ratio=0.5, rescale_gradient=rescale)
    method.setup(model, updates(4))
    layer = model.base_model["dense"]
    with torch.no_grad():
        layer.weight.mul_(1.1)
    mixed = []
    for columns in ([True, True, False, True], [False, False, True, True]):
        layer.keep_mask = torch.tensor([columns])
        mixed.append(layer.mixed_weight())
        model.zero_grad()
        (mixed[-1] * GRADIENT).sum().backward()
        scale = 2.0 if rescale else 1.0
        assert torch.equal(layer.weight.grad, scale * GRADIENT * torch.tensor(columns))
        method.after_backward(model)
        if columns[0]:
            method.after_step(model, None)
    torch.testing.assert_close(mixed[0], torch.tensor([[1.2, 2.4, 3, 4.8], [6, 7.2, 7, 9.6]], **DOUBLE))
    torch.testing.assert_close(mixed[1], torch.tensor([[1, 2, 3.6, 4.8], [5, 6, 8.4, 9.6]], **DOUBLE))
    assert layer.activity.tolist() == [[1.0, 1.0, 1.0, 2.0]]
    torch.testing.assert_close(1e3 * layer.squares, torch.tensor([[1.0, 4, 9, 32], [16, 9, 4, 2]], **DOUBLE))
    scores = selection_scores(1e3 * layer.squares, layer.activity, 2, penalize=False)
    torch.testing.assert_close(scores, torch.tensor([[1.0, 4, 9, 16], [16, 9, 4, 1]], **DOUBLE))
    method.after_step(model, None)
    mask = torch.tensor([[False, False, True, True], [True, True, False, False]])
    assert torch.equal(layer.keep_mask, mask)
    assert torch.equal(layer.mixed_weight(), layer.weight)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(0.1)
    torch.testing.assert_close(layer.mixed_weight() - start, 0.2 * mask.double())
    assert torch.equal(layer.mixed_weight()[~mask], start[~mask])
    assert layer.squares.numel() == 0


def test_worked_penalty_example():
    squares, activity = torch.tensor([10.0, 9.0, 8.0], **DOUBLE), torch.tensor([40.0, 30.0, 20.0], **DOUBLE)
    plain = selection_scores(squares, activity, 50, penalize=False)
    torch.testing.assert_close(plain, torch.tensor([0.25, 0.30, 0.40], **DOUBLE))
    penalized = selection_scores(squares, activity, 50)
    torch.testing.assert_close(penalized, torch.tensor([0.1123, 0.1646, 0.2681], **DOUBLE), rtol=0, atol=5e-5)
    never_active = selection_scores(torch.zeros(1), torch.zeros(1), 50)
    assert never_active.item() == 0.0


@pytest.mark.parametrize(
    ("penalty", "length", "penalized"),
    [("auto", 49, False), ("auto", 50, True), ("always", 2, True), ("never", 60, False)],
)
def test_frequency_penalty_begins_at_fifty_updates_unless_told_otherwise(penalty, length, penalized):
    """The first column has the larger mean square, by 1 %, but was active ten times as often."""
    model, method = Toy(inside=2, out=4), DPSMix(0.5, 0.5, frequency_penalty=penalty)
    method.setup(model, updates(2 * length))
    layer = model.base_model["dense"]
    layer.activity = torch.tensor([[20.0, 2.0]], **DOUBLE)
    layer.squares = torch.tensor([[1.01 * 20.0, 2.0]] * 4, **DOUBLE)
    method._update = length
    method.after_step(model, None)
    assert layer.keep_mask.all(0).tolist() == ([False, True] if penalized else [True, False])


def test_official_form_is_the_released_expression():
    layer = moved_layer(keep_fraction=0.7, rescale_gradient=False)
    q = 1 - 0.7
    for mask in (torch.tensor([[True, False, True, True, False]]), torch.rand(3, 5) < 0.5):
        layer.keep_mask = mask
        m = mask.double()
        released = ((1 - m) * layer.reference + m * layer.weight - q * layer.reference) / (1 - q)
        torch.testing.assert_close(layer.mixed_weight(), released, rtol=1e-12, atol=1e-12)
        gradient = torch.randn(3, 5, **DOUBLE)
        (passed,) = torch.autograd.grad(layer.mixed_weight(), layer.weight, gradient)
        torch.testing.assert_close(passed, m * gradient, rtol=1e-14, atol=0)


def test_gradient_is_the_derivative_of_the_equation():
    layer = moved_layer(keep_fraction=0.7)
    layer.keep_mask = torch.rand(3, 5) < 0.5
    reference, mask = layer.reference, layer.keep_mask
    inputs = torch.randn(4, 5, **DOUBLE)

    def loss(weight):
        mixed = torch.where(mask, reference + (weight - reference) / 0.7, reference)
        return F.linear(inputs, mixed, layer.bias).square().sum()

    torch.testing.assert_close(layer.train()(inputs).square().sum(), loss(layer.weight))
    (ours,) = torch.autograd.grad(layer(inputs).square().sum(), layer.weight)
    step = 1e-6
    for index in ((0, 0), (1, 3), (2, 4)):
        shift = torch.zeros(3, 5, **DOUBLE)
        shift[index] = step
        slope = (loss(layer.weight + shift) - loss(layer.weight - shift)) / (2 * step)
        assert ours[index].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-6)


def test_official_mix_training_is_the_released_loop(dataset):
    """The released expressions in plain loops, given the column masks that the method draws."""
    config = {**without_dropout("bert"), **DOUBLE}
    ours, theirs = tiny_encoder("bert", **config), tiny_encoder("bert", **config)
    run, q, length = updates(9), 0.25, 2
    method = DPSMix.official(q, 0.25)
    method.setup(ours, run)
    optimizers = [method.create_optimizer(model, run) for model in (ours, theirs)]
    names = [f"{name}.weight" for name, module in theirs.named_modules() if isinstance(module, nn.Linear)]
    plain = dict(theirs.named_parameters())
    w0 = {name: plain[name].detach().clone() for name in names}
    references, masks, gam, fam = {}, {}, {}, {}
    for t in range(1, 10):
        batch, first_of_stage, stage_one = batches(dataset, 8)[t % 3], (t - 1) % length == 0, (t - 1) // length % 2 == 0
        for name, layer in zip(names, method._layers, strict=True):
            if stage_one:
                references[name], masks[name] = w0[name], layer.keep_mask.double().expand_as(plain[name])
            elif first_of_stage:
                references[name] = plain[name].detach().clone()
                scores = gam[name] / fam[name].clamp(min=1)
                k = math.ceil(scores.numel() * (1 - q))
                masks[name] = (scores >= scores.flatten().sort(descending=True).values[k - 1]).double()
        for layer, mask in zip(method._layers, masks.values(), strict=True):
            assert torch.equal(layer.keep_mask.expand_as(mask), mask.bool())
        mixed = {}
        for name in names:
            m, reference = masks[name], references[name]
            mixed[name] = (((1 - m) * reference + m * plain[name] - q * reference) / (1 - q)).detach().requires_grad_()
        theirs.train()
        torch.func.functional_call(theirs, mixed, kwargs=batch).loss.backward()
        for name in names:
            plain[name].grad = masks[name] * mixed[name].grad
            if stage_one:
                square = plain[name].grad ** 2 / 1e3
                gam[name] = square if first_of_stage else gam[name] + square
                fam[name] = masks[name] if first_of_stage else fam[name] + masks[name]
        ours.train()(**batch).loss.backward()
        method.after_backward(ours)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        method.after_step(ours, optimizers[0])
        assert largest_difference(weights(ours), weights(theirs)) < 1e-10


def test_mixed_weight_of_stage_one_is_unbiased():
    layer, generator = moved_layer(keep_fraction=0.7), torch.Generator().manual_seed(0)
    total, n = torch.zeros(3, 5, **DOUBLE), 20_000
    with torch.no_grad():
        for _ in range(n):
            layer.draw_mask(generator)
            total += layer.mixed_weight()
    deviation = (layer.weight - layer.pretrained_weight).abs() * math.sqrt(0.3 / 0.7 / n)
    assert ((total / n - layer.weight).abs() < 5 * deviation).all()


def test_all_rows_share_the_mask_of_stage_one_and_each_update_draws_anew(dataset):
    model, method = tiny_encoder("bert"), DPSMix(0.5, 0.5)
    method.setup(model, context(dataset))
    masks = []
    for _ in range(3):
        masks.append([layer.keep_mask for layer in method._layers])
        model.train()
        for batch in batches(dataset, 8)[:2]:
            model(**batch).loss.backward()
            assert all(layer.keep_mask is mask for layer, mask in zip(method._layers, masks[-1], strict=True))
        method.after_backward(model)
        method.after_step(model, None)
    assert all(mask.shape == (1, layer.in_features) for layer, mask in zip(method._layers, masks[0], strict=True))
    for one, other in ((masks[0], masks[1]), (masks[1], masks[2])):
        assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    same_width = [mask for mask in masks[0] if mask.shape == (1, 16)]
    assert len({tuple(mask.flatten().tolist()) for mask in same_width}) > len(same_width) // 2


def test_masks_depend_on_the_seed_alone(dataset):
    def first_masks(seed):
        torch.manual_seed(torch.seed() % 1000)
        method = DPSMix(0.5, 0.5)
        method.setup(tiny_encoder("bert"), context(dataset, seed=seed))
        return torch.cat([layer.keep_mask.flatten() for layer in method._layers])

    assert torch.equal(first_masks(1), first_masks(1))
    assert not torch.equal(first_masks(1), first_masks(2))
    assert first_masks(1).float().mean().item() == pytest.approx(0.5, abs=0.15)


def test_held_weights_show_the_pretrained_ones_in_stage_one_and_the_snapshot_in_stage_two(dataset):
    model = tiny_encoder("bert").train()
    start = {id(p): p.detach().clone() for p in model.parameters()}
    method = DPSMix(0.6, update_ratio=1 / 3)
    method.setup(model, context(dataset))
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    snapshots = []
    for t, batch in enumerate((batches(dataset, 8) * 2)[:5]):
        stage = 1 if t in (0, 1, 4) else 2
        if t == 2:
            snapshots = [layer.weight.detach().clone() for layer in method._layers]
        for i, layer in enumerate(method._layers):
            held = (~layer.keep_mask).expand_as(layer.weight)
            reference = start[id(layer.weight)] if stage == 1 else snapshots[i]
            assert torch.equal(layer.mixed_weight()[held], reference[held])
            if t == 2:
                assert torch.equal(layer.mixed_weight(), layer.weight)
        model(**batch).loss.backward()
        method.after_backward(model)
        gradients_of_held = [
            layer.weight.grad[(~layer.keep_mask).expand_as(layer.weight)].abs().max().item()
            for layer in method._layers
            if not layer.keep_mask.all()
        ]
        assert max(gradients_of_held) == 0.0
        sgd.step()
        sgd.zero_grad()
        method.after_step(model, sgd)


def test_statistics_begin_anew_with_each_cycle(dataset):
    model, method = tiny_encoder("bert").train(), DPSMix(0.5, update_ratio=1 / 6)
    method.setup(model, context(dataset))
    for t, batch in enumerate(batches(dataset, 8)):
        model.zero_grad()
        model(**batch).loss.backward()
        method.after_backward(model)
        if t != 1:
            for layer in method._layers:
                expected = (layer.weight.grad * 0.5).square() / 1e3
                torch.testing.assert_close(layer.squares, expected, rtol=1e-5, atol=1e-20)
                assert torch.equal(layer.activity, layer.keep_mask.float())
        method.after_step(model, None)


def test_mix_skips_gradients_that_are_not_finite_everywhere_at_once():
    model, method = Toy(), DPSMix(0.5, 0.5)
    method.setup(model, updates(4))
    for layer in method._layers:
        layer.weight.grad = torch.ones_like(layer.weight)
    model.head.weight.grad[0, 0] = math.inf
    method.after_backward(model)
    for layer in method._layers:
        assert not layer.squares.any()
        assert not layer.activity.any()


def test_evaluation_uses_the_plain_weights_at_every_stage(architecture, dataset):
    model, method = tiny_encoder(architecture), DPSMix(0.5, update_ratio=1 / 3)
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset))
    batch = batches(dataset, 8)[0]
    for _ in range(4):
        model.train()
        model(**batch).loss.backward()
        method.after_backward(model)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, optimizer)
        plain = tiny_encoder(architecture).eval()
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(model.eval()(**batch).logits, plain(**batch).logits)
            assert not torch.equal(model.train()(**batch).logits, plain(**batch).logits) or method._update == 2


# Both


def held_bytes(method) -> int:
    tensors = [*getattr(method, "_squares", []), *getattr(method, "_masks", [])]
    for layer in getattr(method, "_layers", []):
        tensors += [layer.squares, layer.keep_mask, layer.activity, layer.pretrained_weight]
        tensors += [] if layer.reference is layer.pretrained_weight else [layer.reference]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(("kind", "stage_one", "stage_two"), [(DPSDense, 4, 1), (DPSMix, 8, 9)])
def test_bytes_held_per_masked_weight(kind, stage_one, stage_two, dataset):
    model = tiny_encoder("bert", hidden_size=64, intermediate_size=128).train()
    method = kind(0.5, update_ratio=1 / 3)
    method.setup(model, context(dataset))
    n_masked = sum(layer.weight.numel() for layer in linears(model))
    for t, batch in enumerate(batches(dataset, 8) * 2):
        model.zero_grad()
        model(**batch).loss.backward()
        method.after_backward(model)
        expected = stage_one if t in (0, 1, 4, 5) else stage_two
        assert expected <= held_bytes(method) / n_masked < expected + 0.5
        method.after_step(model, None)


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_stay_in_float32_at_least(kind, dtype, dataset):
    model, method = tiny_encoder("bert", dtype=dtype).train(), kind(0.5, update_ratio=0.5)
    method.setup(model, context(dataset))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        model(**batches(dataset, 8)[0]).loss.backward()
    method.after_backward(model)
    squares = method._squares if kind is DPSDense else [layer.squares for layer in method._layers]
    assert {tensor.dtype for tensor in squares} == {torch.float64 if dtype == torch.float64 else torch.float32}
    linear = model.bert.encoder.layer[0].output.dense.weight
    mine = squares[next(i for i, layer in enumerate(linears(model)) if layer.weight is linear)]
    factor = 1.0 if kind is DPSDense else 0.25
    torch.testing.assert_close(mine, factor * linear.grad.to(mine.dtype).square() / 1e3, rtol=1e-6, atol=0)
    if kind is DPSMix:
        layer = method._layers[0]
        assert layer.mixed_weight().dtype == dtype
    method.finalize(model)


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
def test_official_settings_agree_in_both_hosts(kind, dataset, tmp_path):
    models = [tiny_encoder("bert") for _ in range(2)]
    train_in_loop(models[0], kind.official(0.5, 0.34), dataset)
    method_trainer(models[1], kind.official(0.5, 0.34), dataset, tmp_path).train()
    assert largest_difference(*map(weights, models)) == 0.0


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
def test_a_finalized_method_works_again(kind, dataset):
    method, results = kind(0.5, update_ratio=0.34), []
    for _ in range(2):
        results.append(tiny_encoder("bert"))
        train_in_loop(results[-1], method, dataset)
        assert held_bytes(method) == 0
    assert largest_difference(*map(weights, results)) == 0.0


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
def test_all_linear_layers_are_masked_and_nothing_else(kind, architecture, encoder, dataset):
    method = kind(0.5, update_ratio=0.5)
    expected = {id(layer.weight) for layer in linears(encoder)}
    head = expected & {id(p) for name, p in encoder.named_parameters() if name.startswith("classifier")}
    method.setup(encoder, context(dataset))
    chosen = method._weights if kind is DPSDense else [layer.weight for layer in method._layers]
    assert {id(weight) for weight in chosen} == expected
    assert head
    assert len(chosen) == len(expected) >= 13


@pytest.mark.parametrize("kind", [DPSDense, DPSMix])
@pytest.mark.parametrize("value", [0.0, 1.1, -0.1])
def test_fractions_outside_their_range_are_refused(kind, value):
    with pytest.raises(InputError, match=r"keep_fraction in \(0, 1\]"):
        kind(value)
    with pytest.raises(InputError, match=r"update_ratio in \(0, 1\]"):
        kind(0.5, value)


def test_combinations_with_dps(dataset):
    with pytest.raises(InputError, match="both replace the linear layers"):
        Combination([Mixout(0.5, disable_dropout=False), DPSMix()])
    with pytest.raises(InputError, match="both set the dropout rates"):
        Combination([Mixout(0.5), DPSDense()])
    model = tiny_encoder("bert")
    losses = train_in_loop(model, Combination([DPSDense(0.5, 0.34), L2SP(0.1)]), dataset)
    assert all(math.isfinite(loss) for loss in losses)


def test_a_model_without_a_linear_layer_outside_the_backbone_is_mixed():
    model = Toy()
    model.head = nn.Identity()
    DPSMix(0.5).setup(model, updates(40))
    assert isinstance(model.base_model["dense"], SelectiveMixLinear)
