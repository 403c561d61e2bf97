"""Child-Tuning F and D against worked numbers, exact moments and plain reference loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_encoders import batches, collate, tiny_encoder, without_dropout
from torch import nn
from training_hosts import context, largest_difference, method_trainer, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.method import TrainingContext
from finetune_reg.methods import L2SP, ChildTuningD, ChildTuningF, Combination, Mixout, RecAdam, Vanilla
from finetune_reg.methods.child_tuning_d import child_masks, child_threshold
from finetune_reg.methods.child_tuning_f import kept_entries, mask_gradient, mask_gradient_rows, rounded_probability

DOUBLE = {"dtype": torch.float64}


def one_update(model, method, optimizer, batch, max_norm=1.0):
    method.training_loss(model, batch, model(**batch)).backward()
    method.after_backward(model)
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    method.after_step(model, optimizer)


# Child-Tuning F


@pytest.mark.parametrize("p", [0.2, 0.25, 0.3, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_entries_are_dropped_or_divided_by_the_probability(p, dtype):
    torch.manual_seed(0)
    gradient = torch.randn(97, 103).to(dtype) + 4.0
    masked = gradient.clone()
    mask_gradient(masked, p)
    kept = masked != 0
    torch.testing.assert_close(masked[kept], gradient[kept] / p, rtol=2e-5 if dtype != torch.bfloat16 else 1e-2, atol=0)
    assert kept.double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 9991))


def test_expectation_and_variance_of_the_masked_gradient():
    """Var = s^2 + (1 - p) / p (mu^2 + s^2) for a gradient of mean mu and variance s^2."""
    torch.manual_seed(0)
    p, mean, spread, n = 0.3, 1.5, 2.0, 2_000_000
    gradient = mean + spread * torch.randn(n, **DOUBLE)
    mask_gradient(gradient, p)
    variance = spread**2 + (1 - p) / p * (mean**2 + spread**2)
    assert gradient.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
    assert gradient.var().item() == pytest.approx(variance, rel=0.02)


def test_draws_of_neighbours_are_independent():
    torch.manual_seed(0)
    masks = torch.ones(500_000, 4, **DOUBLE)
    mask_gradient(masks, 0.3)
    correlation = torch.corrcoef(masks.T) - torch.eye(4, **DOUBLE)
    assert correlation.abs().max() < 5 / math.sqrt(500_000)
    assert (masks.ne(0).double().mean(0) - 0.3).abs().max() < 5 * math.sqrt(0.21 / 500_000)
    successive = torch.corrcoef(torch.stack([masks[:-1, 3], masks[1:, 0]]))[0, 1]
    assert abs(successive) < 5 / math.sqrt(500_000)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (2, 3, 5)])
def test_any_shape_is_masked_and_the_expectation_is_exact(shape):
    torch.manual_seed(0)
    for p in (1e-9, 0.123456, 0.99999999):
        gradient = torch.ones(shape, **DOUBLE)
        mask_gradient(gradient, p)
        assert all(value in (0.0, 1.0 / rounded_probability(p)) for value in gradient.flatten().tolist())
        assert abs(rounded_probability(p) - p) <= 2**-16
        assert rounded_probability(p) > 0


def test_probability_one_draws_nothing():
    state = torch.get_rng_state()
    gradient = torch.randn(5, generator=torch.Generator().manual_seed(0))
    masked = gradient.clone()
    mask_gradient(masked, 1.0)
    assert torch.equal(masked, gradient)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_tokens_that_did_not_occur_stay_zero_and_the_others_are_masked():
    torch.manual_seed(0)
    gradient = torch.zeros(400, 50)
    gradient[::4] = 2.0
    mask_gradient_rows(gradient, 0.25)
    assert not gradient.view(100, 4, 50)[:, 1:].any()
    assert set(gradient[::4].unique().tolist()) == {0.0, 8.0}
    assert (gradient[::4] != 0).float().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / 5000))
    mask_gradient_rows(torch.zeros(3, 2), 0.25)


@pytest.mark.parametrize("method", [ChildTuningF(0.25), ChildTuningF.official(0.25)], ids=["before", "after clipping"])
def test_worked_adam_example(method, monkeypatch):
    """Gradient 2, kept with p = 0.25, is 8 and moves the weight by -lr; masked at the next step, it still moves."""
    kept = iter([1.0, 0.0])
    monkeypatch.setattr(
        "finetune_reg.methods.child_tuning_f.mask_gradient", lambda gradient, p: gradient.mul_(next(kept) / p)
    )
    model = nn.Linear(1, 1, bias=False, **DOUBLE)
    optimizer = method.create_optimizer(model, TrainingContext([], list, 1, 0.1, 0.0, 2))
    moves, first_moments = [], []
    for _ in range(2):
        before = model.weight.item()
        model.weight.grad = torch.full((1, 1), 2.0, **DOUBLE)
        method.after_backward(model)
        optimizer.step()
        moves.append((model.weight.item() - before) / 0.1)
        first_moments.append(optimizer.state[model.weight]["exp_avg"].item())
    assert first_moments[0] == pytest.approx(0.1 * 8.0, abs=1e-12)
    assert moves[0] == pytest.approx(-1.0, abs=1e-7)
    assert moves[1] == pytest.approx(-0.67006, abs=1e-5)


def test_under_adam_masks_shorten_the_steps_to_about_the_root_of_the_probability():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(1000))
    optimizer = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 0.99))
    for step in range(1500):
        weight.grad = torch.ones(1000)
        mask_gradient(weight.grad, 0.25)
        optimizer.step()
        if step == 499:
            start = weight.detach().clone()
    assert ((start - weight) / 1000).mean().item() == pytest.approx(0.5, abs=0.03)


def test_every_parameter_is_masked(architecture, dataset):
    model = tiny_encoder(architecture, **without_dropout(architecture)).train()
    model(**batches(dataset, 8)[0]).loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    ChildTuningF(0.5).after_backward(model)
    for name, parameter in model.named_parameters():
        if name in before:
            entries = torch.stack([parameter.grad.flatten(), before[name].flatten()])
            dropped, doubled = entries[0] == 0, entries[0] == 2 * entries[1]
            assert (dropped | doubled).all()
            if (before[name] != 0).sum() >= 32:
                assert 0.1 < (entries[0] != 0).sum() / (before[name] != 0).sum() < 0.9


def test_clipping_sees_masked_gradients_unless_masks_come_after_it(dataset):
    norms, moments = {}, {}
    for method in (ChildTuningF(0.25), ChildTuningF.official(0.25)):
        model = tiny_encoder("bert", **without_dropout("bert"), **DOUBLE).train()
        torch.manual_seed(0)
        optimizer = method.create_optimizer(model, context(dataset))
        model(**batches(dataset, 8)[0]).loss.backward()
        complete = torch.cat([p.grad.flatten() for p in model.parameters()])
        method.after_backward(model)
        norms[method.mask_after_clipping] = nn.utils.clip_grad_norm_(model.parameters(), 0.01).item()
        optimizer.step()
        moments[method.mask_after_clipping] = torch.cat(
            [optimizer.state[p]["exp_avg"].flatten() / 0.1 for p in model.parameters()]
        )
        method.finalize(model)
        assert not optimizer._optimizer_step_pre_hooks
    assert norms[True] == pytest.approx(complete.norm().item(), rel=1e-12)
    assert norms[False] != pytest.approx(norms[True], rel=1e-2)
    assert moments[False].norm().item() == pytest.approx(0.01, rel=1e-3)
    clipped = 0.01 * complete / complete.norm()
    kept = moments[True] != 0
    torch.testing.assert_close(moments[True][kept], 4 * clipped[kept], rtol=1e-3, atol=0)
    assert kept.sum() / (complete != 0).sum() == pytest.approx(0.25, abs=0.02)


def test_one_draw_serves_all_micro_batches_of_an_update(dataset):
    model = tiny_encoder("bert", **without_dropout("bert"), **DOUBLE)
    model(**batches(dataset, 8)[0]).loss.backward()
    whole = model.classifier.weight.grad.clone()
    model.zero_grad()
    for part in batches(dataset[:8], 2):
        (model(**part).loss / 4).backward()
    ChildTuningF(0.5).after_backward(model)
    kept = model.classifier.weight.grad != 0
    torch.testing.assert_close(model.classifier.weight.grad[kept], 2 * whole[kept])


@pytest.mark.parametrize("kind", [ChildTuningF, ChildTuningD])
def test_official_settings_agree_in_both_hosts_and_differ_from_the_default(kind, dataset, tmp_path):
    models = [tiny_encoder("bert") for _ in range(3)]
    train_in_loop(models[0], kind.official(0.3), dataset, max_grad_norm=0.1)
    method_trainer(models[1], kind.official(0.3), dataset, tmp_path, max_grad_norm=0.1).train()
    train_in_loop(models[2], kind(0.3), dataset, max_grad_norm=0.1)
    first, second, default = map(weights, models)
    assert largest_difference(first, second) == 0.0
    assert largest_difference(first, default) > 1e-5


# Child-Tuning D


def test_worked_percentile_example():
    fisher = {"w": torch.tensor([0.1, 0.4, 0.2, 0.8, 0.3], **DOUBLE)}
    assert np.percentile(fisher["w"].numpy(), 60) == pytest.approx(0.34, abs=1e-12)
    assert child_masks(fisher, 0.4)["w"].tolist() == [False, True, False, True, False]
    assert fisher["w"].tolist() == [0.1, 0.4, 0.2, 0.8, 0.3]


def test_one_threshold_serves_all_tensors():
    torch.manual_seed(0)
    fisher = {"large": 1.0 + torch.rand(30, 10), "small": torch.rand(700), "tied": torch.full((4,), 1.0)}
    masks = child_masks(fisher, 0.3)
    assert masks["large"].all()
    assert not masks["small"].any()
    assert masks["tied"].all()
    fractions = []
    for keep_fraction in (0.1, 0.3, 0.5):
        masks = child_masks({"a": torch.rand(50, 40), "b": torch.rand(8)}, keep_fraction)
        fractions.append(sum(int(mask.sum()) for mask in masks.values()) / 2008)
    assert fractions == pytest.approx([0.1, 0.3, 0.5], abs=1e-3)
    assert all(mask.all() for mask in child_masks({"a": torch.zeros(3, 2)}, 0.1).values())


def test_default_masks_are_those_of_the_information_per_example(architecture, dataset):
    model = tiny_encoder(architecture, **DOUBLE).train()
    method = ChildTuningD(0.3)
    method.setup(model, context(dataset))
    measured = {n: p for n, p in model.named_parameters() if ".layer." in n}
    fisher = {name: torch.zeros_like(p) for name, p in measured.items()}
    for example in batches(dataset, 1):
        model.zero_grad()
        model.eval()(**example).loss.backward()
        for name, parameter in measured.items():
            fisher[name] += parameter.grad.square() / len(dataset)
    expected = child_masks(fisher, 0.3)
    assert method._masks.keys() == expected.keys()
    different = sum(int((method._masks[name] != expected[name]).sum()) for name in expected)
    total = sum(mask.numel() for mask in expected.values())
    kept = sum(int(mask.sum()) for mask in method._masks.values())
    assert different <= 2
    assert kept / total == pytest.approx(0.3, abs=1e-3)
    shares = [mask.double().mean().item() for mask in method._masks.values() if mask.numel() >= 256]
    assert max(shares) - min(shares) > 0.2


def test_masked_are_the_parameters_of_the_blocks(architecture, encoder, dataset):
    method = ChildTuningD(0.3)
    method.setup(encoder, context(dataset))
    names = {name for name, _ in encoder.named_parameters() if "layer" in name}
    assert method._masks.keys() == names
    assert any(name.endswith("bias") for name in names)
    assert not any("embeddings" in name or "classifier" in name or "pooler" in name for name in names)
    assert sum(mask.element_size() * mask.numel() for mask in method._masks.values()) == sum(
        dict(encoder.named_parameters())[name].numel() for name in names
    )


def test_official_information_is_that_of_clipped_shuffled_batches(dataset):
    config = {**without_dropout("bert"), **DOUBLE}
    model, loop = tiny_encoder("bert", **config), tiny_encoder("bert", **config)
    for encoder in (model, loop):
        with torch.no_grad():
            encoder.classifier.weight.mul_(1e4)
    dataset = dataset[:21]
    run = context(dataset)
    method = ChildTuningD.official(0.3)
    method.setup(model, run)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(run.seed)).tolist()
    measured = {n: p for n, p in loop.named_parameters() if "layer" in n}
    fisher, clipped = {name: torch.zeros_like(p) for name, p in measured.items()}, 0
    for start in (0, 8, 16):
        loop.zero_grad()
        loop(**collate([dataset[i] for i in order[start : start + 8]])).loss.backward()
        for name, parameter in measured.items():
            clipped += nn.utils.clip_grad_norm_(parameter, 1.0).item() > 1.0
            fisher[name] += parameter.grad**2 / 3
    assert clipped > 3
    expected = child_masks(fisher, 0.3)
    different = sum(int((method._masks[name] != expected[name]).sum()) for name in expected)
    assert different <= 2
    default = ChildTuningD(0.3)
    default.setup(model, run)
    assert sum(int((method._masks[name] != default._masks[name]).sum()) for name in expected) > 50


def test_official_information_is_measured_with_dropout_and_the_equation_without(dataset):
    def masks(build, seed):
        method = build(0.3)
        method.setup(tiny_encoder("bert"), context(dataset[:8], seed=seed))
        return torch.cat([mask.flatten() for mask in method._masks.values()])

    assert torch.equal(masks(ChildTuningD, 0), masks(ChildTuningD, 1))
    assert not torch.equal(masks(ChildTuningD.official, 0), masks(ChildTuningD.official, 1))
    assert torch.equal(masks(ChildTuningD.official, 0), masks(ChildTuningD.official, 0))


@pytest.mark.parametrize("build", [ChildTuningD, ChildTuningD.official])
def test_measuring_leaves_no_trace(build, architecture, encoder, dataset):
    encoder.train()
    encoder.base_model.eval()
    modes, before = [module.training for module in encoder.modules()], weights(encoder)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    build(0.3).setup(encoder, context(dataset))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in encoder.modules()] == modes
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert largest_difference(weights(encoder), before) == 0.0


def test_held_weights_stay_the_pretrained_ones_bit_for_bit(architecture, encoder, dataset):
    before = weights(encoder)
    method, masks = ChildTuningD(0.3), {}
    method.setup(encoder, context(dataset, weight_decay=0.5))
    masks = dict(method._masks)
    optimizer = method.create_optimizer(encoder, context(dataset, weight_decay=0.5))
    for batch in batches(dataset, 8) * 2:
        optimizer.zero_grad()
        one_update(encoder.train(), method, optimizer, batch)
        assert all(method._masks[name] is mask for name, mask in masks.items())
    for name, weight in weights(encoder).items():
        if name in masks:
            assert torch.equal(weight[~masks[name]], before[name][~masks[name]])
            moved = (weight != before[name])[masks[name]]
            assert moved.numel() == 0 or moved.double().mean() > 0.9 or name.endswith("bias")
    embeddings = next(name for name in before if name.endswith("word_embeddings.weight"))
    assert not torch.equal(encoder.get_input_embeddings().weight, before[embeddings])


def test_trained_entries_decay_as_under_adamw(dataset):
    models = [tiny_encoder("bert", **without_dropout("bert"), **DOUBLE).train() for _ in range(2)]
    run = context(dataset, weight_decay=0.5)
    method = ChildTuningD(0.3)
    method.setup(models[0], run)
    optimizers = [method.create_optimizer(models[0], run), Vanilla().create_optimizer(models[1], run)]
    for batch in batches(dataset, 8):
        models[1].zero_grad()
        models[0].zero_grad()
        one_update(models[0], method, optimizers[0], batch, max_norm=1e9)
        for name, parameter in models[1].named_parameters():
            parameter.grad = dict(models[0].named_parameters())[name].grad
        optimizers[1].step()
        optimizers[1].zero_grad(set_to_none=True)
    rate = run.learning_rate
    for (name, ours), adamw in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        kept = method._masks.get(name, torch.ones_like(ours, dtype=torch.bool))
        assert ((ours - adamw)[kept].abs() < 3 * 1.2 * 0.5 * rate * rate).all()


def test_worked_decay_example():
    """Rate 0.1, decay 0.01: a held weight 1 becomes 0.999 in the released form and stays 1 by default."""
    for build, held in ((ChildTuningD.official, 0.999), (ChildTuningD, 1.0)):
        model = nn.ModuleDict({"block": nn.Linear(2, 1, bias=False, **DOUBLE)})
        weight = model["block"].weight
        with torch.no_grad():
            weight.fill_(1.0)
        method = build(0.5)
        method._masks = {"block.weight": torch.tensor([[True, False]])}
        run = TrainingContext([], list, 1, 0.1, 0.01, 1)
        optimizer = method.create_optimizer(model, run)
        weight.grad = torch.tensor([[0.0, 5.0]], **DOUBLE)
        method.after_backward(model)
        optimizer.step()
        method.after_step(model, optimizer)
        assert weight[0, 0].item() == pytest.approx(0.999, abs=1e-12)
        assert weight[0, 1].item() == pytest.approx(held, abs=1e-12)
        assert held != 1.0 or weight[0, 1].item() == 1.0


def test_without_weight_decay_the_official_form_holds_weights_bit_for_bit_too(dataset):
    model = tiny_encoder("bert")
    before, method = weights(model), ChildTuningD.official(0.3)
    method.setup(model, context(dataset))
    masks = dict(method._masks)
    method.finalize(model)
    train_in_loop(model, method, dataset, weight_decay=0.0)
    for name, mask in masks.items():
        assert torch.equal(weights(model)[name][~mask], before[name][~mask])


def test_masked_gradients_are_not_rescaled(dataset):
    model, method = tiny_encoder("bert"), ChildTuningD(0.3)
    method.setup(model, context(dataset))
    model(**batches(dataset, 8)[0]).loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    method.after_backward(model)
    for name, parameter in model.named_parameters():
        mask = method._masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter.grad, before[name] * mask)


@pytest.mark.parametrize("official", [False, True])
def test_clipping_of_the_official_form_sees_the_unmasked_gradients(official, dataset):
    model = tiny_encoder("bert", **without_dropout("bert"), **DOUBLE).train()
    method = ChildTuningD(0.1, mask_after_clipping=official)
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset))
    model(**batches(dataset, 8)[0]).loss.backward()
    complete = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    method.after_backward(model)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    assert (norm == pytest.approx(complete, rel=1e-12)) == official
    optimizer.step()
    for name, mask in method._masks.items():
        assert not optimizer.state[dict(model.named_parameters())[name]]["exp_avg"][~mask].any()
    method.finalize(model)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_models_keep_their_dtype_and_held_weights_under_autocast(dtype, dataset):
    model = tiny_encoder("bert", dtype=dtype).train()
    before, method = weights(model), ChildTuningD(0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        method.setup(model, context(dataset))
        optimizer = method.create_optimizer(model, context(dataset))
        one_update(model, method, optimizer, batches(dataset, 8)[0])
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    for name, mask in method._masks.items():
        assert torch.equal(weights(model)[name][~mask], before[name][~mask])
    kept = torch.cat([mask.flatten() for mask in method._masks.values()]).double().mean().item()
    assert kept == pytest.approx(0.3, abs=0.01)


def test_a_finalized_child_tuning_works_again(dataset):
    method, results = ChildTuningD(0.3), []
    for _ in range(2):
        results.append(tiny_encoder("bert"))
        train_in_loop(results[-1], method, dataset)
        assert not method._masks
    assert largest_difference(*map(weights, results)) == 0.0


def test_no_training_examples_are_refused():
    with pytest.raises(InputError, match="at least one batch"):
        ChildTuningD().setup(tiny_encoder("bert"), context([]))


def test_combinations_with_child_tuning(dataset):
    with pytest.raises(InputError, match="each brings its own optimizer"):
        Combination([ChildTuningD(), RecAdam()])
    Combination([RecAdam(), ChildTuningD(decay_held_weights=True)])
    with pytest.raises(InputError, match="Mixout must stand before ChildTuningD"):
        Combination([ChildTuningD(), Mixout()])
    model = tiny_encoder("bert")
    before, child = weights(model), ChildTuningD(0.3)
    both = Combination([L2SP(0.0, 0.0), child])
    both.setup(model, context(dataset))
    optimizer = both.create_optimizer(model, context(dataset))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}
    one_update(model.train(), both, optimizer, batches(dataset, 8)[0])
    for name, mask in child._masks.items():
        assert torch.equal(weights(model)[name][~mask], before[name][~mask])


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1])
def test_probabilities_outside_their_range_are_refused(value):
    with pytest.raises(InputError, match=r"keep_probability in \(0, 1\]"):
        ChildTuningF(value)
    with pytest.raises(InputError, match=r"keep_fraction in \(0, 1\]"):
        ChildTuningD(value)
    with pytest.raises(InputError, match="clipped_batches"):
        ChildTuningD(0.3, fisher="exact")


def test_worked_draws():
    """With p = 1/4 a quarter of the 2^16 values of a draw are kept, the largest."""
    draws = torch.tensor([-(2**15), 0, 2**14 - 1, 2**14, 2**15 - 1], dtype=torch.int16)
    assert kept_entries(draws, 0.25, torch.float64).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert kept_entries(draws, 1.0, torch.float64).tolist() == [1.0] * 5
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    assert kept_entries(every, 0.3, torch.float64).mean().item() == rounded_probability(0.3)


def test_worked_threshold():
    """Of 1, 2, 4, 8 the median is 3: it lies between the entries of both tensors together."""
    assert child_threshold([torch.tensor([8.0, 1.0]), torch.tensor([[2.0], [4.0]])], 0.5) == 3.0
