"""Mixout against its equations: worked numbers, closed forms, finite differences in float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from torch import nn
from torch.nn import functional as F
from training_hosts import checkpoint_activations, context, largest_difference, train_in_loop, weights
from transformers import AutoModelForSequenceClassification, FNetConfig

from finetune_reg.errors import InputError
from finetune_reg.methods import Combination, Mixout, Vanilla
from finetune_reg.methods.mixout import MixLinear, draw_keep_mask, mixout

DOUBLE = {"dtype": torch.float64}


def mix_linear(out=3, inside=5, p=0.6, seed=0, **options) -> MixLinear:
    """A layer that has moved away from its pretrained weight."""
    torch.manual_seed(seed)
    linear = nn.Linear(inside, out, dtype=torch.float64)
    layer = MixLinear(linear, p, **options)
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))
    return layer


def test_worked_scalar_example():
    current, pretrained = torch.tensor([[0.3]], **DOUBLE), torch.tensor([[0.2]], **DOUBLE)
    replaced = mixout(current, pretrained, torch.zeros(1, 1, **DOUBLE), 0.9)
    kept = mixout(current, pretrained, torch.ones(1, 1, **DOUBLE), 0.9)
    assert replaced.item() == 0.2
    assert kept.item() == pytest.approx(1.2, abs=1e-12)
    assert 0.9 * replaced.item() + 0.1 * kept.item() == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize(
    ("pretrained", "expected"),
    [([[0.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [6.0, 0.0]]), ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [5.0, 1.0]])],
)
def test_worked_matrix_examples(pretrained, expected):
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mixed = mixout(weight, torch.tensor(pretrained), torch.tensor([[1.0, 0.0]]), 0.5)
    assert torch.equal(mixed, torch.tensor(expected))


def test_worked_quadratic_example_by_enumerating_masks():
    weight, pretrained = torch.tensor([1.0, 2.0], **DOUBLE), torch.tensor([0.0, 1.0], **DOUBLE)
    masks = [torch.tensor(bits, **DOUBLE) for bits in product((0.0, 1.0), repeat=2)]
    losses = [0.5 * mixout(weight, pretrained, mask, 0.5).square().sum().item() for mask in masks]
    assert losses == [0.5, 4.5, 2.5, 6.5]
    penalty = 1.0 * 0.5 / (2 * 0.5) * (weight - pretrained).square().sum().item()
    assert sum(losses) / 4 == 0.5 * weight.square().sum().item() + penalty


@pytest.mark.parametrize("p", [0.3, 0.7, 0.9])
def test_excess_over_a_quadratic_is_the_adaptive_l2_penalty(p):
    """For a loss w H w / 2 the excess is p / (2 (1 - p)) sum_i H_ii (w_i - u_i)^2, by enumerating all masks."""
    torch.manual_seed(0)
    root, weight, pretrained = torch.randn(4, 4, **DOUBLE), torch.randn(4, **DOUBLE), torch.randn(4, **DOUBLE)
    hessian = root @ root.T
    expected = 0.0
    for bits in product((0.0, 1.0), repeat=4):
        mixed = mixout(weight, pretrained, torch.tensor(bits, **DOUBLE), p)
        probability = (1 - p) ** sum(bits) * p ** (4 - sum(bits))
        expected += probability * 0.5 * mixed @ hessian @ mixed
    excess = expected - 0.5 * weight @ hessian @ weight
    penalty = p / (2 * (1 - p)) * (hessian.diagonal() * (weight - pretrained).square()).sum()
    torch.testing.assert_close(excess, penalty, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.7, 0.95])
def test_minimizer_of_the_expected_loss_moves_from_the_optimum_to_the_pretrained_weight(p):
    optimum, pretrained = torch.tensor(2.0, **DOUBLE), torch.tensor(0.0, **DOUBLE)
    weight = torch.tensor(1.0, requires_grad=True, **DOUBLE)
    optimizer = torch.optim.LBFGS([weight], max_iter=50, line_search_fn="strong_wolfe")

    def expected_loss():
        optimizer.zero_grad()
        mixed = [mixout(weight, pretrained, torch.tensor(b, **DOUBLE), p) for b in (0.0, 1.0)]
        loss = p * (mixed[0] - optimum).square() / 2 + (1 - p) * (mixed[1] - optimum).square() / 2
        loss.backward()
        return loss

    optimizer.step(expected_loss)
    assert weight.item() == pytest.approx((1 - p) * 2.0 + p * 0.0, abs=1e-6)
    if p == 0.7:
        assert weight.item() == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize(("p", "coefficient"), [(0.7, 2.33), (0.8, 4.0), (0.9, 9.0)])
def test_mean_and_variance_of_the_mixed_weight(p, coefficient):
    torch.manual_seed(0)
    weight, pretrained = torch.randn(3, 40, **DOUBLE), torch.randn(3, 40, **DOUBLE)
    draws = torch.stack([mixout(weight, pretrained, draw_keep_mask(weight, p), p) for _ in range(20_000)])
    variance = p / (1 - p) * (weight - pretrained).square()
    standard_error = (variance / 20_000).sqrt()
    assert ((draws.mean(0) - weight).abs() < 5 * standard_error).all()
    assert draws.var(0).sum() / (weight - pretrained).square().sum() == pytest.approx(coefficient, rel=0.02)


def test_replaced_columns_are_pretrained_and_kept_columns_are_rescaled_exactly():
    layer = mix_linear(p=0.75)
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]], **DOUBLE)
    mixed = mixout(layer.weight, layer.pretrained_weight, mask, 0.75)
    assert torch.equal(mixed[:, mask[0] == 0], layer.pretrained_weight[:, mask[0] == 0])
    rescaled = layer.pretrained_weight + 4.0 * (layer.weight - layer.pretrained_weight)
    assert torch.equal(mixed[:, mask[0] == 1], rescaled[:, mask[0] == 1])


def test_weights_leaving_a_unit_share_a_draw_in_mixout_and_not_in_mixconnect():
    torch.manual_seed(0)
    weight = torch.zeros(50, 40)
    shared, separate = draw_keep_mask(weight, 0.5, "neuron"), draw_keep_mask(weight, 0.5, "weight")
    assert shared.shape == (1, 40)
    assert separate.shape == (50, 40)
    assert ((separate.sum(0) > 0) & (separate.sum(0) < 50)).all()
    assert set(shared.unique().tolist()) == {0.0, 1.0}


def test_unmoved_weights_are_unchanged_by_any_mask():
    weight = torch.randn(6, 5)
    for p in (0.1, 0.5, 0.9):
        assert torch.equal(mixout(weight, weight.clone(), draw_keep_mask(weight, p), p), weight)


def test_probability_zero_and_evaluation_use_the_weight_bit_for_bit():
    layer, inputs = mix_linear(p=0.6), torch.randn(2, 5, **DOUBLE)
    plain = F.linear(inputs, layer.weight, layer.bias)
    assert torch.equal(layer.eval()(inputs), plain)
    layer.train().mix_probability = 0.0
    assert torch.equal(layer(inputs), plain)


def test_probability_one_gives_the_pretrained_weight_and_no_gradient():
    layer, inputs = mix_linear(p=1.0), torch.randn(2, 5, **DOUBLE)
    output = layer(inputs)
    torch.testing.assert_close(output, F.linear(inputs, layer.pretrained_weight, layer.bias))
    output.sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_pretrained_weight_zero_is_inverted_dropout_of_the_inputs():
    layer, inputs = mix_linear(p=0.6), torch.randn(2, 5, **DOUBLE)
    layer.pretrained_weight.zero_()
    torch.manual_seed(7)
    output = layer(inputs)
    torch.manual_seed(7)
    mask = draw_keep_mask(layer.weight, 0.6)
    torch.testing.assert_close(output, F.linear(inputs * mask / 0.4, layer.weight, layer.bias))


def test_gradient_agrees_with_finite_differences():
    layer, inputs = mix_linear(p=0.6), torch.randn(2, 5, requires_grad=True, **DOUBLE)

    def output(weight, inputs):
        mask = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]], **DOUBLE)
        return F.linear(inputs, mixout(weight, layer.pretrained_weight, mask, 0.6)).tanh()

    assert torch.autograd.gradcheck(output, (layer.weight, inputs))


@pytest.mark.parametrize("p", [0.25, 0.7, 0.9])
def test_official_gradient_is_smaller_by_exactly_one_minus_p(p):
    inputs, gradients = torch.randn(4, 50, **DOUBLE), {}
    for rescale_gradient in (True, False):
        layer = mix_linear(inside=50, p=p, rescale_gradient=rescale_gradient)
        torch.manual_seed(1)
        outputs = layer(inputs)
        outputs.square().sum().backward()
        gradients[rescale_gradient] = (outputs.detach(), layer.weight.grad, layer.bias.grad)
    exact, official = gradients[True], gradients[False]
    torch.testing.assert_close(official[0], exact[0], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(official[1], (1 - p) * exact[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(official[2], exact[2], rtol=1e-12, atol=1e-12)
    assert exact[1].abs().sum() > 0


def test_layer_equals_a_functional_call_with_mixed_weights():
    layer, inputs = mix_linear(p=0.6), torch.randn(2, 5, **DOUBLE)
    torch.manual_seed(3)
    output = layer(inputs)
    torch.manual_seed(3)
    mask = draw_keep_mask(layer.weight, 0.6)
    mixed = {"weight": mixout(layer.weight, layer.pretrained_weight, mask, 0.6), "bias": layer.bias}
    plain = nn.Linear(5, 3, dtype=torch.float64)
    assert torch.equal(output, torch.func.functional_call(plain, mixed, (inputs,)))


def test_half_precision_mixes_in_float32():
    pretrained = torch.ones(1, 4, dtype=torch.bfloat16)
    weight = pretrained + torch.tensor(2.0**-7, dtype=torch.bfloat16)
    mixed = mixout(weight, pretrained, torch.ones(1, 4, dtype=torch.bfloat16), 0.9)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed.float(), torch.full((1, 4), 1 + 10 * 2.0**-7).bfloat16().float())
    current, one = torch.tensor([[100.0]]).bfloat16(), torch.ones(1, 1).bfloat16()
    assert mixout(current, 0 * current, one, 0.7).item() == 334.0  # 333.3; a factor rounded to bfloat16 gives 332


def test_two_passes_differ_in_training_and_the_same_seed_repeats_them():
    layer, inputs = mix_linear(inside=50), torch.randn(1, 50, **DOUBLE)
    torch.manual_seed(0)
    first, second = layer(inputs), layer(inputs)
    torch.manual_seed(0)
    assert torch.equal(layer(inputs), first)
    assert not torch.equal(first, second)


def mixed_layers(model) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, MixLinear)}


BERT_DROPOUT_SITES = {
    f"bert.encoder.layer.{layer}.{name}"
    for layer in (0, 1)
    for name in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "output.dense",
    )
} | {"bert.pooler.dense"}
INTERMEDIATE = {f"bert.encoder.layer.{layer}.intermediate.dense" for layer in (0, 1)}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Mixout(0.7), BERT_DROPOUT_SITES),
        (Mixout(0.7, scope="all_linear"), BERT_DROPOUT_SITES | INTERMEDIATE),
        (Mixout(0.7, head_mix_probability=0.7), BERT_DROPOUT_SITES | {"classifier"}),
        (Mixout.official(0.7), BERT_DROPOUT_SITES | INTERMEDIATE | {"classifier"}),
    ],
)
def test_scope_on_bert(method, expected, dataset):
    model = tiny_encoder("bert")
    method.setup(model, context(dataset))
    assert mixed_layers(model) == expected


def test_paper_scope_spares_the_feed_forward_expansion_and_the_head_on_every_family(architecture, encoder, dataset):
    linears = {name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    Mixout(0.7).setup(encoder, context(dataset))
    spared = linears - mixed_layers(encoder)
    layers = {name: encoder.get_submodule(name) for name in spared if ".layer." in name}
    heads = {name for name in spared if name.split(".")[0] in ("classifier", "pre_classifier", "pooler")}
    assert [(linear.in_features, linear.out_features) for linear in layers.values()] == [(16, 32), (16, 32)]
    assert spared == layers.keys() | heads


def test_paper_scope_spares_the_expansion_of_an_encoder_without_attention(dataset):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    model = AutoModelForSequenceClassification.from_config(FNetConfig(vocab_size=50, **sizes))
    Mixout(0.7).setup(model, context(dataset))
    layer = "fnet.encoder.layer.0"
    projection = "fnet.embeddings.projection"
    assert mixed_layers(model) == {f"{layer}.output.dense", projection, "fnet.pooler.dense"}


def test_dropout_is_off_everywhere_and_comes_back(architecture, encoder, dataset):
    method = Mixout(1e-9)
    rates = [module.p for module in encoder.modules() if isinstance(module, nn.Dropout)]
    method.setup(encoder.train(), context(dataset))
    batch = batches(dataset, 8)[0]
    with torch.no_grad():
        assert torch.equal(encoder(**batch).logits, encoder(**batch).logits)
    method.finalize(encoder)
    assert [module.p for module in encoder.modules() if isinstance(module, nn.Dropout)] == rates
    assert max(rates) > 0
    with torch.no_grad():
        assert not torch.equal(encoder(**batch).logits, encoder(**batch).logits)


def test_without_mixing_mixout_is_vanilla_without_dropout(architecture, dataset):
    models = []
    for method in (Mixout(0.0), Vanilla(dropout=0.0)):
        models.append(tiny_encoder(architecture))
        train_in_loop(models[-1], method, dataset)
    assert largest_difference(*map(weights, models)) == 0.0


def test_snapshot_is_detached_from_training_and_absent_from_the_checkpoint(dataset):
    model = tiny_encoder("bert")
    before = model.bert.pooler.dense.weight.detach().clone()
    method = Mixout(0.5)
    method.setup(model, context(dataset))
    layer = model.bert.pooler.dense
    with torch.no_grad():
        layer.weight.add_(1.0)
    assert torch.equal(layer.pretrained_weight, before)
    assert not any("pretrained_weight" in name for name in model.state_dict())
    assert not any("pretrained_weight" in name for name, _ in model.named_parameters())


def test_activation_checkpointing_replays_the_same_masks(dataset):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_encoder("bert").train()
        if checkpointing:
            checkpoint_activations(model)
        Mixout(0.5).setup(model, context(dataset))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        torch.manual_seed(0)
        model(**batches(dataset, 8)[0]).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert largest_difference(*gradients) < 1e-6


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_outside_its_range_is_refused(p):
    with pytest.raises(InputError, match=r"mix_probability in \[0, 1\]"):
        Mixout(p)


def test_unknown_scope_is_refused():
    with pytest.raises(InputError, match="dropout_sites"):
        Mixout(0.5, scope="everything")


def test_a_setup_that_fails_half_way_is_undone(dataset):
    model = tiny_encoder("bert")
    model.classifier = torch.nn.Identity()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=r"no linear layer"):
        train_in_loop(model, Mixout.official(0.5), dataset)
    assert [type(module) for module in model.modules()] == kinds


def test_two_methods_that_replace_linears_are_refused(dataset):
    with pytest.raises(InputError, match="Mixout and Mixout cannot be combined: both replace the linear layers"):
        Combination([Mixout(0.5), Mixout(0.5, disable_dropout=False)])
    model = tiny_encoder("bert")
    Mixout(0.5).setup(model, context(dataset))
    with pytest.raises(InputError, match="already a MixLinear"):
        Mixout(0.5).setup(model, context(dataset))
