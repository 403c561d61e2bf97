"""Weight mixup against its equations, and its search against a plain re-computation on a toy."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from torch import nn
from torch.nn import functional as F
from training_hosts import context, largest_difference, train_in_loop, weights
from transformers import BertConfig, BertForSequenceClassification

from finetune_reg.building_blocks.module_surgery import backbone_module_names
from finetune_reg.errors import InputError, TrainingDivergedError
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.method import TrainingContext
from finetune_reg.methods import AttentionGuidedWeightMixup, Mixout
from finetune_reg.methods.attention_guided_weight_mixup import MixedLinear, attention_coefficients, mix_weights
from finetune_reg.methods.attention_guided_weight_mixup_search import (
    BilevelSearch,
    alpha_start,
    count_iterations,
    split_examples,
)

DOUBLE = {"dtype": torch.float64}
A1, A2 = torch.tensor([[1.0], [0.5]], **DOUBLE), torch.tensor([[1.0, 0.8]], **DOUBLE)
WEIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0]], **DOUBLE)
QUICK = {"n_searches": 1, "search_epochs": 1.0, "alpha_learning_rate": 0.1}
both_mixings = pytest.mark.parametrize("mixing", ["convex", "factored"])


def mixed_linear(mixing="convex", rank=1, out=3, inside=5, **options) -> MixedLinear:
    """A layer that has moved, with random coefficients."""
    torch.manual_seed(0)
    linear = nn.Linear(inside, out, **(DOUBLE | options))
    layer = MixedLinear(linear, linear.weight.detach().clone(), mixing, rank)
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))
        for factor in layer.factors:
            factor.uniform_(0.1, 1.0)
    return layer


def mixed_layers(model) -> dict[str, MixedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, MixedLinear)}


@pytest.mark.parametrize(
    ("mixing", "expected"), [("factored", [[1.0, 1.6], [1.5, 5.6]]), ("convex", [[1.0, 5.6], [16.5, 25.6]])]
)
def test_worked_example(mixing, expected):
    mixed = mix_weights(WEIGHT, 10 * WEIGHT, (A1, A2), mixing)
    torch.testing.assert_close(mixed, torch.tensor(expected, **DOUBLE), rtol=1e-14, atol=0)


@both_mixings
def test_factors_of_one_keep_the_weight_and_factors_of_zero_the_pretrained_weight(mixing):
    ones, zeros = ((torch.full_like(A1, value), torch.full_like(A2, value)) for value in (1.0, 0.0))
    assert torch.equal(mix_weights(WEIGHT, 10 * WEIGHT, ones, mixing), WEIGHT)
    assert torch.equal(mix_weights(WEIGHT, 10 * WEIGHT, zeros, mixing), 10 * WEIGHT)


def test_one_factor_at_one_and_the_other_at_zero_separates_the_equations():
    factors = torch.ones_like(A1), torch.zeros_like(A2)
    assert torch.equal(mix_weights(WEIGHT, 10 * WEIGHT, factors, "factored"), torch.zeros_like(WEIGHT))
    assert torch.equal(mix_weights(WEIGHT, 10 * WEIGHT, factors, "convex"), 10 * WEIGHT)


@pytest.mark.parametrize(("a", "mass"), [(0.9, 0.82), (0.5, 0.5)])
def test_the_factored_form_shrinks_an_unmoved_weight_and_the_convex_form_leaves_it(a, mass):
    factors = torch.full_like(A1, a), torch.full_like(A2, a)
    torch.testing.assert_close(mix_weights(WEIGHT, WEIGHT, factors, "factored"), mass * WEIGHT)
    assert torch.equal(mix_weights(WEIGHT, WEIGHT.clone(), factors, "convex"), WEIGHT)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_coefficients_of_any_rank_are_a_mean_of_outer_products_in_the_unit_interval(rank):
    torch.manual_seed(0)
    rows, columns = torch.rand(4, rank, **DOUBLE), torch.rand(rank, 3, **DOUBLE)
    alpha = attention_coefficients((rows, columns))
    expected = torch.stack([torch.outer(rows[:, i], columns[i]) for i in range(rank)]).mean(0)
    torch.testing.assert_close(alpha, expected)
    assert attention_coefficients((torch.ones(4, rank), torch.ones(rank, 3))).max() == 1.0


def gradients(mixing, rank=1):
    """Gradients of a loss that is linear in the mixed weight, whose gradient there is `upstream`."""
    layer = mixed_linear(mixing, rank)
    for factor in layer.factors:
        factor.requires_grad_()
    upstream = torch.randn(3, 5, **DOUBLE)
    (layer.mixed_weight() * upstream).sum().backward()
    return layer, upstream


def test_gradients_of_the_convex_form():
    layer, upstream = gradients("convex", rank=None)
    torch.testing.assert_close(layer.weight.grad, layer.alpha1.detach() * upstream)
    torch.testing.assert_close(layer.alpha1.grad, (layer.weight.detach() - layer.pretrained_weight) * upstream)


def test_gradients_of_the_factored_form():
    layer, upstream = gradients("factored")
    a, b, current, pretrained = (
        layer.alpha1.detach(),
        layer.alpha2.detach(),
        layer.weight.detach(),
        layer.pretrained_weight,
    )
    torch.testing.assert_close(layer.weight.grad, a * b * upstream)
    by_row = (upstream * (b * current - (1 - b) * pretrained)).sum(1, keepdim=True)
    by_column = (upstream * (a * current - (1 - a) * pretrained)).sum(0, keepdim=True)
    torch.testing.assert_close(layer.alpha1.grad, by_row)
    torch.testing.assert_close(layer.alpha2.grad, by_column)


def test_before_any_step_the_convex_coefficients_have_no_gradient_and_the_factored_ones_have():
    for mixing, vanishes in (("convex", True), ("factored", False)):
        factors = A1.clone().requires_grad_(), A2.clone().requires_grad_()
        (mix_weights(WEIGHT, WEIGHT.clone(), factors, mixing) * torch.randn(2, 2, **DOUBLE)).sum().backward()
        assert (factors[0].grad == 0).all() == vanishes


@both_mixings
@pytest.mark.parametrize("rank", [1, 3])
def test_gradients_agree_with_finite_differences(mixing, rank):
    layer = mixed_linear(mixing, rank)
    factors = [factor.requires_grad_() for factor in layer.factors]

    def mixed(weight, *factors):
        return mix_weights(weight, layer.pretrained_weight, factors, mixing).tanh()

    assert torch.autograd.gradcheck(mixed, (layer.weight, *factors))


@both_mixings
def test_the_layer_equals_two_products_and_its_folded_weight(mixing):
    layer, inputs = mixed_linear(mixing), torch.randn(4, 5, **DOUBLE)
    alpha = layer.alpha1 * layer.alpha2
    beta = 1 - alpha if mixing == "convex" else (1 - layer.alpha1) * (1 - layer.alpha2)
    two = F.linear(inputs, alpha * layer.weight) + F.linear(inputs, beta * layer.pretrained_weight, layer.bias)
    output = layer(inputs)
    torch.testing.assert_close(output, two)
    layer.fold()
    assert torch.equal(F.linear(inputs, layer.weight, layer.bias), output)


@both_mixings
@pytest.mark.parametrize("rank", [1, 3])
def test_half_precision_mixes_in_float32(mixing, rank):
    layer = mixed_linear(mixing, rank, out=30, inside=40, dtype=torch.bfloat16)
    assert all(factor.dtype == torch.float32 for factor in layer.factors)
    wide = mix_weights(layer.weight.float(), layer.pretrained_weight.float(), layer.factors, mixing)
    assert torch.equal(layer.mixed_weight(), wide.bfloat16())
    layer = mixed_linear(mixing, rank, out=30, inside=40, dtype=torch.float32)
    outside = layer.mixed_weight()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.mixed_weight(), outside)


@pytest.mark.parametrize(
    ("size", "n_coefficients", "n_mixed"),
    [
        ({}, 167_424, 85_524_480),
        (
            {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
            444_416,
            303_038_464,
        ),
    ],
    ids=["bert-base", "bert-large"],
)
def test_number_of_coefficients_on_bert(size, n_coefficients, n_mixed):
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(**size))
        inside = backbone_module_names(model)
        linears = [m for name, m in model.named_modules() if name in inside and isinstance(m, nn.Linear)]
        layers = [MixedLinear(linear, linear.weight) for linear in linears]
    assert sum(factor.numel() for layer in layers for factor in layer.factors) == n_coefficients
    assert sum(layer.weight.numel() for layer in layers) == n_mixed


@pytest.mark.parametrize(
    ("n", "parts", "iterations"),
    [
        (2490, (1992, 498), 375),
        (3668, (2934, 734), 552),
        (5749, (4599, 1150), 864),
        (8551, (6840, 1711), 1284),
        (300, (240, 60), 48),
        (500, (400, 100), 78),
        (1000, (800, 200), 153),
    ],
)
def test_splits_are_disjoint_and_complete_with_the_published_sizes_and_iterations(n, parts, iterations):
    generator = torch.Generator().manual_seed(0)
    (train, validation), (other, _) = (split_examples(n, 0.2, generator) for _ in range(2))
    assert (len(train), len(validation)) == parts
    assert sorted(train + validation) == list(range(n))
    assert set(train) != set(other)
    assert count_iterations(parts[0], 16, 3.0) == iterations


@pytest.mark.parametrize(("n", "fraction"), [(0, 0.2), (1, 0.2), (2, 0.6), (3, 1e-17)])
def test_too_few_examples_are_refused(n, fraction):
    with pytest.raises(InputError, match=f"{n} training examples cannot be split"):
        split_examples(n, fraction, torch.Generator())


class Toy(nn.Module):
    """`w~ = alpha w + (1 - alpha) w0` with a quadratic loss around a target that all examples share."""

    def __init__(self):
        super().__init__()
        self.w0, self.target = torch.tensor([1.0, -0.2], **DOUBLE), torch.tensor([2.0, 0.5], **DOUBLE)
        self.w = nn.Parameter(torch.tensor([1.5, 0.3], **DOUBLE))
        self.alpha = torch.tensor([0.8, 0.6], **DOUBLE, requires_grad=True)

    def forward(self, scale):
        return SimpleNamespace(loss=0.5 * (torch.lerp(self.w0, self.w, self.alpha) - self.target).square().sum())


class Adam:
    """Adam with or without bias correction, written out."""

    def __init__(self, corrected=True):
        self.step_count, self.mean, self.square, self.corrected = 0, 0.0, 0.0, corrected

    def step(self, value, gradient, rate):
        self.step_count += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / self.share(0.9), self.square / self.share(0.999)
        return value - rate * mean / (square.sqrt() + 1e-8)

    def share(self, beta):
        return 1 - beta**self.step_count if self.corrected else 1.0


def searched_by_hand(form, n_iterations, rate, alpha_rate, clip, corrected=True):
    """The search on `Toy`: exact derivatives, AdamW written out, in the order of the released code."""
    toy = Toy()
    w, alpha, w0, target = toy.w.detach().clone(), toy.alpha.detach().clone(), toy.w0, toy.target
    lower, upper = Adam(corrected), Adam()

    def residual():
        return alpha * w + (1 - alpha) * w0 - target

    def lower_step(w, rate):
        gradient = alpha * residual()
        return lower.step(w, gradient * min(1.0, clip / (gradient.norm().item() + 1e-6)), rate)

    for i in range(n_iterations):
        rates = (
            (0.0, 0.0)
            if i == 0
            else (rate * (1 - (i - 1) / 2), alpha_rate * (0.5 + 0.5 * math.cos(math.pi * (i - 1) / 2)))
        )
        before, moments = w, (lower.step_count, lower.mean, lower.square)
        if form == "one_step":
            mixed_derivative = residual() + alpha * (w - w0)
            w = w - rates[0] * alpha * residual()
            gradient = (w - w0) * residual() - rates[0] * mixed_derivative * alpha * residual()
            w = before
        else:
            w = lower_step(w, rates[0])
            v = alpha * residual()
            if form == "official":
                scale = ((0.999 * lower.square).mean().sqrt() + 1e-8) / lower.share(0.999) ** 0.5
                v = v / scale
            gradient = (w - w0) * residual() - (residual() + alpha * (w - w0)) * v
            if form == "official":
                w = w - 0.01 * v / (v.norm() + 1e-12)
                lower = Adam(corrected) if i == 0 else lower
            else:
                w, (lower.step_count, lower.mean, lower.square) = before, moments
        alpha = upper.step(alpha, gradient, rates[1]).clamp(0.0, 1.0)
        w = lower_step(w, rates[0])
    return w, alpha


OFFICIAL = {"precondition": True, "roll_back_look_ahead": False, "undo_perturbation": False}


def search_like(method: AttentionGuidedWeightMixup) -> BilevelSearch:
    return BilevelSearch(**{name: getattr(method, name) for name in BilevelSearch.__dataclass_fields__})


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("form", ["one_step", "identity", "official"])
def test_search_equals_a_computation_by_hand(form, corrected):
    options = {"hypergradient": "one_step" if form == "one_step" else "identity", "alpha_learning_rate": 0.05}
    options |= OFFICIAL if form == "official" else {}
    method = AttentionGuidedWeightMixup(search_epochs=1.0, search_max_grad_norm=0.2, **options)
    examples = [{"scale": torch.ones(())} for _ in range(25)]
    toy_context = TrainingContext(
        examples, lambda batch: {"scale": torch.ones(len(batch))}, 10, 0.3, 0.0, 1, bias_correction=corrected
    )
    toy = Toy()
    records = list(search_like(method).run(toy, [toy.alpha], toy_context, torch.Generator().manual_seed(0)))
    w, alpha = searched_by_hand(form, 3, rate=0.3, alpha_rate=0.05, clip=0.2, corrected=corrected)
    assert [record["iteration"] for record in records] == [1, 2, 3]
    torch.testing.assert_close(toy.w.detach(), w, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(toy.alpha.detach(), alpha, rtol=1e-6, atol=1e-7)
    assert (toy.alpha.detach() - torch.tensor([0.8, 0.6], **DOUBLE)).abs().max() > 0.01


def test_the_forms_of_the_search_differ():
    found = [searched_by_hand(form, 3, 0.3, 0.05, 0.2)[1] for form in ("one_step", "identity", "official")]
    assert min((a - b).norm() for a, b in zip(found, found[1:] + found[:1], strict=True)) > 1e-3


def test_official_preset_is_the_released_arithmetic():
    method = AttentionGuidedWeightMixup.official()
    changed = {k: v for k, v in method.hyperparameters.items() if v != AttentionGuidedWeightMixup().hyperparameters[k]}
    assert changed == OFFICIAL | {
        "mixing": "factored",
        "average": "all",
        "hypergradient": "identity",
        "shared_masks": False,
    }
    assert (method.n_searches, method.search_epochs, method.alpha_learning_rate) == (5, 3.0, 2e-3)


def test_the_linear_layers_of_the_backbone_are_mixed_and_no_others(architecture, encoder, dataset):
    inside = backbone_module_names(encoder)
    linears = {name for name, module in encoder.named_modules() if isinstance(module, nn.Linear) and name in inside}
    AttentionGuidedWeightMixup(**QUICK).setup(encoder, context(dataset))
    assert mixed_layers(encoder).keys() == linears
    assert not any("classifier" in name for name in linears)


def test_after_a_default_search_fine_tuning_starts_at_the_pretrained_model(architecture, encoder, dataset):
    batch, before = batches(dataset, 8)[0], weights(encoder)
    with torch.no_grad():
        pretrained = encoder.eval()(**batch).logits
    AttentionGuidedWeightMixup(**QUICK).setup(encoder, context(dataset))
    with torch.no_grad():
        assert torch.equal(encoder(**batch).logits, pretrained)
    assert largest_difference(before, weights(encoder)) == 0.0
    assert any((layer.alpha1 < 0.97).any() for layer in mixed_layers(encoder).values())
    assert not encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_coefficients_of_zero_give_the_pretrained_encoder_and_of_one_plain_gradients(architecture, dataset):
    plain, mixed = tiny_encoder(architecture).eval(), tiny_encoder(architecture).eval()
    batch = batches(dataset, 8)[0]
    AttentionGuidedWeightMixup(**QUICK).setup(mixed, context(dataset))
    layers = mixed_layers(mixed).values()
    for layer in layers:
        layer.alpha1.fill_(1.0), layer.alpha2.fill_(1.0)
    for model in (plain, mixed):
        model(**batch).loss.backward()
    assert (
        largest_difference(
            *({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (plain, mixed))
        )
        == 0.0
    )
    with torch.no_grad():
        for layer in layers:
            layer.weight.add_(1.0)
            layer.alpha1.fill_(0.0)
        assert torch.equal(plain(**batch).logits, mixed(**batch).logits)


@pytest.mark.parametrize("average", ["alpha", "all"])
def test_searches_start_alike_and_are_averaged(average, dataset, monkeypatch):
    model, starts = tiny_encoder("bert"), []
    pretrained = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def run(search, model, alphas, context, generator):
        starts.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        assert model.training
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(len(starts))
            for alpha in alphas:
                alpha.fill_(len(starts) / 10)
        return iter(())

    monkeypatch.setattr(BilevelSearch, "run", run)
    AttentionGuidedWeightMixup(n_searches=3, average=average).setup(model, context(dataset))
    assert [largest_difference(start, pretrained) for start in starts] == [0.0, 0.0, 0.0]
    shift = 2.0 if average == "all" else 0.0
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert largest_difference(found, {name: value + shift for name, value in pretrained.items()}) < 1e-6
    for layer in mixed_layers(model).values():
        torch.testing.assert_close(layer.alpha1, torch.full_like(layer.alpha1, 0.2))
        assert not any(factor.requires_grad for factor in layer.factors)


def test_initial_factors_are_drawn_around_one_and_clamped(dataset, monkeypatch):
    monkeypatch.setattr(BilevelSearch, "run", lambda *arguments: iter(()))
    model = tiny_encoder("bert", hidden_size=512, num_attention_heads=2)
    AttentionGuidedWeightMixup(n_searches=1).setup(model, context(dataset))
    drawn = torch.cat([factor.flatten() for layer in mixed_layers(model).values() for factor in layer.factors])
    assert drawn.max() == 1.0
    assert (drawn == 1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert drawn.mean().item() == pytest.approx(1 - 0.005 / math.sqrt(2 * math.pi), abs=1e-4)


def test_coefficients_stay_in_the_unit_interval_and_the_pretrained_weight_stays(dataset):
    model = tiny_encoder("bert")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    method = AttentionGuidedWeightMixup(n_searches=1, search_epochs=2.0, alpha_learning_rate=5.0)
    method.setup(model, context(dataset))
    for name, layer in mixed_layers(model).items():
        assert all(((factor >= 0) & (factor <= 1)).all() for factor in layer.factors)
        assert torch.equal(layer.pretrained_weight, before[f"{name}.weight"])
    assert min(record["mean_alpha"] for record in method.search_log) < 0.9


@pytest.mark.parametrize("rank", [None, 2])
def test_other_ranks_are_searched(rank, dataset):
    model = tiny_encoder("bert")
    AttentionGuidedWeightMixup(**QUICK, rank=rank).setup(model, context(dataset))
    shapes = [tuple(factor.shape) for factor in model.bert.pooler.dense.factors]
    assert shapes == ([(16, 16)] if rank is None else [(16, 2), (2, 16)])
    assert min(layer.factors[0].min() for layer in mixed_layers(model).values()) < 0.97


def test_coefficients_are_frozen_while_fine_tuning(dataset):
    model, method = tiny_encoder("bert"), AttentionGuidedWeightMixup(**QUICK)
    method.setup(model, context(dataset))
    before = {name: layer.alpha1.clone() for name, layer in mixed_layers(model).items()}
    optimizer = method.create_optimizer(model, context(dataset))
    for batch in batches(dataset, 8):
        model(**batch).loss.backward()
        optimizer.step()
    layers = mixed_layers(model)
    assert all(torch.equal(layers[name].alpha1, alpha) for name, alpha in before.items())
    assert all(layer.alpha1.grad is None for layer in layers.values())
    assert not torch.equal(layers["bert.pooler.dense"].weight, layers["bert.pooler.dense"].pretrained_weight)


def test_the_search_neither_reads_nor_moves_the_global_random_stream(dataset):
    found = []
    for seed in (1, 2):
        model = tiny_encoder("bert")
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        AttentionGuidedWeightMixup(**QUICK).setup(model, context(dataset))
        assert torch.equal(torch.get_rng_state(), before)
        found.append({name: layer.alpha1 for name, layer in mixed_layers(model).items()})
    assert largest_difference(*found) == 0.0


def test_one_object_searches_again_alike(dataset):
    method, logs = AttentionGuidedWeightMixup(**QUICK), []
    for _ in range(2):
        train_in_loop(tiny_encoder("bert"), method, dataset)
        logs.append(method.search_log)
    assert logs[0] == logs[1]
    assert logs[0] is not logs[1]


def test_the_search_logs_each_iteration_and_makes_five_passes_in_it(dataset):
    for method in (
        AttentionGuidedWeightMixup(n_searches=2, search_epochs=1.0),
        AttentionGuidedWeightMixup(n_searches=2, search_epochs=1.0, hypergradient="identity", **OFFICIAL),
    ):
        model = tiny_encoder("bert")
        with PassCounter(model) as passes:
            method.setup(model, context(dataset))
        assert [(record["search"], record["iteration"]) for record in method.search_log] == [
            (search, iteration) for search in (1, 2) for iteration in (1, 2, 3)
        ]
        assert method.search_passes(len(dataset), 8) == (30, 30)
        assert passes.forward == 30
        assert all(-1 <= record["cosine"] <= 1 and 0.9 < record["mean_alpha"] <= 1 for record in method.search_log)
        assert all(math.isfinite(value) for record in method.search_log for value in record.values())


def test_with_independent_masks_the_implicit_part_is_noise(dataset):
    norms = {}
    for shared in (True, False):
        method = AttentionGuidedWeightMixup(
            **QUICK, mixing="factored", hypergradient="identity", finite_difference_radius=1e-3, shared_masks=shared
        )
        method.setup(tiny_encoder("bert"), context(dataset))
        norms[shared] = method.search_log[-1]["implicit_norm"]
    assert norms[False] > 5 * norms[True]


@both_mixings
def test_a_state_dict_in_training_is_that_of_a_plain_model_with_the_same_predictions(mixing, architecture, dataset):
    model, plain, batch = tiny_encoder(architecture), tiny_encoder(architecture, seed=1), batches(dataset, 8)[0]
    keys = list(model.state_dict())
    AttentionGuidedWeightMixup(**QUICK, mixing=mixing, average="all").setup(model, context(dataset))
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(**batch).logits, model.eval()(**batch).logits)


@both_mixings
def test_finalize_writes_the_mixed_weights_of_a_trained_model(mixing, dataset):
    model, method, batch = (
        tiny_encoder("bert"),
        AttentionGuidedWeightMixup(**QUICK, mixing=mixing),
        batches(dataset, 8)[0],
    )
    method.setup(model, context(dataset))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
        during, checkpoint = model.eval()(**batch).logits, weights(model)
        method.finalize(model)
        assert torch.equal(model(**batch).logits, during)
    assert largest_difference(weights(model), checkpoint) == 0.0


@both_mixings
def test_a_checkpoint_of_the_run_can_be_loaded_in_training(mixing, dataset):
    model = tiny_encoder("bert")
    AttentionGuidedWeightMixup(**QUICK, mixing=mixing, average="all").setup(model, context(dataset))
    checkpoint, task_weights = weights(model), {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.load_state_dict(checkpoint)
    assert largest_difference(weights(model), checkpoint) < 1e-6
    assert largest_difference({n: p.detach() for n, p in model.named_parameters()}, task_weights) < 1e-4


def test_a_weight_that_frozen_coefficients_cannot_reach_is_refused(dataset):
    layer = mixed_linear()
    layer.alpha1[0] = 0.0
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(InputError, match="alpha is 0 where it differs"):
        layer.load_state_dict({"weight": torch.ones(3, 5), "bias": torch.ones(3)})


def test_a_search_that_diverges_leaves_the_model_as_it_was(dataset):
    model = tiny_encoder("bert")
    nn.init.constant_(model.classifier.weight, float("inf"))
    kinds, before = [type(module) for module in model.modules()], weights(model)
    method = AttentionGuidedWeightMixup(**QUICK)
    with pytest.raises(TrainingDivergedError, match="update 1: lower the learning rate"):
        method.setup(model, context(dataset))
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_bfloat16_model_is_searched_in_float32_and_comes_back(dataset):
    model, method = tiny_encoder("bert", dtype=torch.bfloat16), AttentionGuidedWeightMixup(**QUICK)
    before = weights(model)
    method.setup(model, context(dataset))
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    assert largest_difference(weights(model), before) == 0.0
    assert method.search_log[-1]["implicit_norm"] > 0
    assert model.bert.pooler.dense.alpha1.dtype == torch.float32
    model(**batches(dataset, 8)[0]).loss.backward()
    method.finalize(model)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())


def test_without_searches_the_model_is_left_alone():
    model = tiny_encoder("bert")
    method = AttentionGuidedWeightMixup(n_searches=0)
    method.setup(model, context([]))
    assert not mixed_layers(model)
    assert method.search_log == []


def test_too_small_a_training_set_is_refused_and_the_model_restored():
    model = tiny_encoder("bert")
    with pytest.raises(InputError, match="1 training examples cannot be split"):
        AttentionGuidedWeightMixup().setup(model, context(tiny_dataset(1)))
    assert not mixed_layers(model)


def test_layers_that_another_method_replaced_are_refused(dataset):
    model = tiny_encoder("bert")
    Mixout(0.5).setup(model, context(dataset))
    with pytest.raises(InputError, match="already a MixLinear"):
        AttentionGuidedWeightMixup(**QUICK).setup(model, context(dataset))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rank": None, "mixing": "factored"}, "rank for mixing='factored'"),
        ({"rank": 0}, r"rank in \[1, inf\)"),
        ({"validation_fraction": 0.0}, r"validation_fraction in \(0, 1\)"),
        ({"validation_fraction": 1.0}, r"validation_fraction in \(0, 1\)"),
        ({"alpha_learning_rate": 0.0}, r"alpha_learning_rate in \(0, inf\)"),
        ({"precondition": True}, "hypergradient='identity' for precondition"),
        ({"roll_back_look_ahead": False}, "hypergradient='identity'"),
        ({"undo_perturbation": False}, "hypergradient='identity'"),
        ({"mixing": "linear"}, "convex"),
    ],
)
def test_bad_settings_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        AttentionGuidedWeightMixup(**options)


def test_worked_start_of_alpha():
    draws = torch.tensor([-300.0, -2.0, 0.0, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.99, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(alpha_start(draws, 0.005), expected, rtol=0, atol=1e-15)
