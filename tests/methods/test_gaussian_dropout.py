"""Gaussian dropout: moments of the noise, every site of it, and the released baseline."""

from __future__ import annotations

import copy

import pytest
import torch
from dropout_models import MODELS, tiny_model
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from torch import nn
from training_hosts import checkpoint_activations, context, largest_difference, train_in_loop, weights
from transformers.models.bert.modeling_bert import eager_attention_forward

from finetune_reg.building_blocks.dropout_sites import dropout_sites
from finetune_reg.errors import InputError
from finetune_reg.methods import Combination, GaussianDropout, GuidedDropout, Vanilla
from finetune_reg.methods.gaussian_dropout import (
    attention_through_dropout_module,
    gaussian_dropout,
    noise_standard_deviation,
)
from finetune_reg.methods.guided_dropout import expected_dropout_penalty


def dropout_modules(model: nn.Module) -> dict[str, nn.Dropout]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


@pytest.mark.parametrize(("rate", "sigma", "official"), [(0.1, 0.33333, 0.11111), (0.5, 1.0, 1.0), (0.0, 0.0, 0.0)])
def test_worked_standard_deviations(rate, sigma, official):
    assert noise_standard_deviation(rate) == pytest.approx(sigma, abs=1e-5)
    assert noise_standard_deviation(rate, variance_as_standard_deviation=True) == pytest.approx(official, abs=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("variance_as_standard_deviation", [False, True])
def test_noise_has_mean_one_and_the_variance_of_its_setting(rate, variance_as_standard_deviation):
    torch.manual_seed(0)
    sigma = noise_standard_deviation(rate, variance_as_standard_deviation)
    factor = gaussian_dropout(torch.ones(400_000, dtype=torch.float64), sigma)
    assert factor.mean().item() == pytest.approx(1.0, abs=5 * sigma / 400_000**0.5)
    assert factor.var().item() == pytest.approx(sigma**2, rel=0.01)
    if not variance_as_standard_deviation:
        assert factor.var().item() == pytest.approx(rate / (1 - rate), rel=0.01)
    standardized = (factor - 1) / sigma
    assert standardized.pow(3).mean().item() == pytest.approx(0.0, abs=0.03)
    assert standardized.pow(4).mean().item() == pytest.approx(3.0, abs=0.06)


def test_noise_is_one_plus_sigma_times_a_standard_normal_draw():
    activations = torch.randn(3, 4, dtype=torch.float64)
    torch.manual_seed(1)
    noisy = gaussian_dropout(activations, 1 / 9)
    torch.manual_seed(1)
    torch.testing.assert_close(noisy, activations * (1 + torch.randn_like(activations) / 9), rtol=1e-14, atol=1e-14)


def test_gradient_is_the_factor():
    activations = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    noisy = gaussian_dropout(activations, 0.3)
    (gradient,) = torch.autograd.grad(noisy.sum(), activations)
    torch.testing.assert_close(gradient * activations, noisy)
    assert gradient.unique().numel() == 12


def test_on_the_inputs_of_a_regression_it_is_the_l2_penalty_of_dropout():
    inputs, targets = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([1.0, 2.0]).double()
    weight = torch.tensor([1.0]).double()
    torch.manual_seed(0)
    noisy = gaussian_dropout(inputs.expand(200_000, 2, 1).contiguous(), noise_standard_deviation(0.5))
    loss = (targets - noisy @ weight).square().sum(-1).mean().item()
    assert loss == pytest.approx(expected_dropout_penalty(inputs, weight, 0.5).item(), rel=0.02)


def test_half_precision_draws_and_multiplies_in_float32():
    activations = torch.randn(1_000).bfloat16()
    torch.manual_seed(0)
    noisy = gaussian_dropout(activations, 1 / 3)
    torch.manual_seed(0)
    exact = activations.float() * (1 + torch.randn(1_000) / 3)
    assert noisy.dtype == torch.bfloat16
    assert torch.equal(noisy, exact.bfloat16())


SITE_CASES = [(name, site) for name in MODELS for site in dropout_modules(tiny_model(name))]


@pytest.mark.parametrize(("name", "site"), SITE_CASES)
def test_the_noise_of_each_dropout_module_acts_alone(name, site):
    model, batch = tiny_model(name).train(), batches(tiny_dataset(), 8)[0]
    GaussianDropout(0.5).setup(model, context([]))
    for module_name, module in dropout_modules(model).items():
        if module_name != site:
            module._forward_hooks.clear()
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
        dropout_modules(model)[site]._forward_hooks.clear()
        assert torch.equal(model(**batch).logits, model(**batch).logits)


def test_attention_probabilities_get_one_draw_each(dataset):
    model = tiny_encoder("bert").train()
    GaussianDropout(0.5).setup(model, context(dataset))
    seen = []
    attention = model.bert.encoder.layer[0].attention.self
    attention.dropout.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    model(**batches(dataset, 8)[0])
    ((before, after),) = seen
    torch.testing.assert_close(before.sum(-1), torch.ones(8, 2, 7))
    factor = after / before
    assert factor.unique().numel() > 0.99 * factor.numel()
    assert factor.std().item() == pytest.approx(1.0, abs=0.15)


def test_attention_through_the_module_is_the_eager_attention_bit_for_bit():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 7, 8)
    mask = torch.zeros(2, 1, 1, 7)
    mask[1, ..., 5:] = torch.finfo(mask.dtype).min
    module = nn.Sequential(nn.Dropout(0.5)).eval()
    ours = attention_through_dropout_module(module, query, key, value, mask, scaling=0.3)
    stock = eager_attention_forward(module, query, key, value, mask, scaling=0.3)
    assert torch.equal(ours[0], stock[0])
    assert torch.equal(ours[1], stock[1])
    unscaled = attention_through_dropout_module(module, query, key, value, mask)
    torch.testing.assert_close(unscaled[0], eager_attention_forward(module, query, key, value, mask)[0])


def test_padding_is_masked_in_noisy_passes_too(architecture, encoder):
    batch = {"input_ids": torch.randint(5, 50, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    batch["attention_mask"][:, 5:] = 0
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 5:] = torch.randint(5, 50, (4, 2))
    GaussianDropout(0.3).setup(encoder.train(), context([]))
    with torch.no_grad():
        logits = []
        for inputs in (batch, other):
            torch.manual_seed(0)
            logits.append(encoder(**inputs).logits)
    assert torch.equal(*logits)


def test_evaluation_is_that_of_the_stock_model_bit_for_bit(architecture, encoder, dataset):
    batch = batches(dataset, 8)[0]
    batch["attention_mask"][0, 4:] = 0
    with torch.no_grad():
        stock = encoder.eval()(**batch).logits
        GaussianDropout(0.5).setup(encoder, context(dataset))
        encoder.train()(**batch)
        assert torch.equal(encoder.eval()(**batch).logits, stock)


def test_official_baseline_is_noisy_at_evaluation_until_finalize(architecture, encoder, dataset):
    batch, method = batches(dataset, 8)[0], GaussianDropout.official()
    assert method.hyperparameters == {
        "dropout_rate": 0.1,
        "disable_dropout": True,
        "variance_as_standard_deviation": True,
        "noise_at_evaluation": True,
    }
    with torch.no_grad():
        stock = encoder.eval()(**batch).logits
        method.setup(encoder, context(dataset))
        first, second = encoder(**batch).logits, encoder(**batch).logits
        assert not torch.equal(first, second)
        method.finalize(encoder)
        assert torch.equal(encoder(**batch).logits, stock)


def test_official_noise_is_a_third_of_the_right_one_at_a_tenth(dataset):
    for method, sigma in ((GaussianDropout.official(), 1 / 9), (GaussianDropout(0.1), 1 / 3)):
        model = tiny_encoder("bert").train()
        method.setup(model, context(dataset))
        torch.manual_seed(0)
        noisy = model.dropout(torch.ones(100_000))
        torch.manual_seed(0)
        torch.testing.assert_close(noisy, 1 + sigma * torch.randn(100_000), rtol=1e-6, atol=1e-6)


def test_dropout_itself_is_off_unless_it_is_kept(dataset):
    for disable_dropout, rates in ((True, {0.0}), (False, {0.1})):
        model = tiny_encoder("bert")
        method = GaussianDropout(0.3, disable_dropout=disable_dropout)
        method.setup(model, context(dataset))
        assert {site.rate for site in dropout_sites(model)} == rates
        assert method.sets_dropout == disable_dropout
        method.finalize(model)
        assert {module.p for module in dropout_modules(model).values()} == {0.1}


def test_rate_zero_is_vanilla_without_dropout(architecture):
    models = []
    for method in (GaussianDropout(0.0), Vanilla(dropout=0.0)):
        models.append(tiny_encoder(architecture))
        train_in_loop(models[-1], method, tiny_dataset())
    assert largest_difference(*map(weights, models)) == 0.0


def test_finalize_restores_attention_and_a_second_set_up_works(architecture, encoder, dataset):
    own = encoder.config._attn_implementation
    method = GaussianDropout(0.5)
    for _ in range(2):
        train_in_loop(encoder, method, dataset)
        assert encoder.config._attn_implementation == own
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())


def test_a_copied_model_chooses_its_own_attention(dataset):
    model = tiny_encoder("bert").train()
    GaussianDropout(0.5).setup(model, context(dataset))
    batch = batches(dataset, 8)[0]
    teacher = copy.deepcopy(model).eval()
    model(**batch)
    noisy = model.config._attn_implementation
    teacher(**batch)
    assert model.config._attn_implementation == noisy != teacher.config._attn_implementation


def test_activation_checkpointing_replays_the_same_noise(dataset):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_encoder("bert").train()
        if checkpointing:
            checkpoint_activations(model)
        GaussianDropout(0.3).setup(model, context(dataset))
        torch.manual_seed(0)
        model(**batches(dataset, 8)[0]).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert largest_difference(*gradients) < 1e-6


def test_training_under_bfloat16_autocast_is_finite(architecture, encoder, dataset):
    GaussianDropout(0.3).setup(encoder.train(), context(dataset))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = encoder(**batches(dataset, 8)[0]).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters() if parameter.grad is not None)


def test_a_model_that_keeps_its_attention_rate_as_a_number_only_is_refused(dataset):
    model = tiny_encoder("bert")
    attention = model.bert.encoder.layer[0].attention.self
    attention.dropout, attention.attention_dropout = nn.Identity(), 0.1
    with pytest.raises(InputError, match=r"dropout module at layer\.0\.attention_probabilities"):
        GaussianDropout().setup(model, context(dataset))


def test_it_cannot_stand_beside_another_method_that_sets_dropout():
    with pytest.raises(InputError, match="both set the dropout rates"):
        Combination([GuidedDropout(), GaussianDropout()])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(InputError, match=r"dropout_rate in \[0, 1\)"):
        GaussianDropout(rate)
