"""The Fisher information against closed forms, a loop over examples, and its invariances."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.fisher_information import fisher_information
from finetune_reg.errors import InputError


class Logistic(nn.Module):
    """log(1 + exp(-(2 y - 1) w x)), averaged over the batch and multiplied by `factor`."""

    device = torch.device("cpu")

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.factor = factor

    def forward(self, x, y):
        return SimpleNamespace(loss=self.factor * F.softplus(-(2 * y - 1) * self.weight * x).mean())


def pairs(*values):
    return [{"x": torch.tensor([x]), "y": torch.tensor([y])} for x, y in values]


def together(examples):
    return [{name: torch.cat([example[name] for example in examples]) for name in examples[0]}]


EXAMPLES = pairs((1.0, 1.0), (2.0, 0.0))


def measure(model, examples, **options):
    return fisher_information(model, examples, dict(model.named_parameters()), **options)["weight"].item()


def test_squares_are_taken_per_example_and_not_of_the_batch_mean():
    assert measure(Logistic(), EXAMPLES) == pytest.approx(0.625, abs=1e-12)
    assert measure(Logistic(), together(EXAMPLES)) == pytest.approx(0.0625, abs=1e-12)


def test_scaling_the_loss_by_c_scales_the_information_by_c_squared():
    assert measure(Logistic(factor=3.0), EXAMPLES) == pytest.approx(9 * 0.625, abs=1e-12)


def test_duplicating_the_data_changes_nothing_and_parts_average():
    more = EXAMPLES + pairs((0.5, 1.0))
    assert measure(Logistic(), EXAMPLES * 2) == pytest.approx(measure(Logistic(), EXAMPLES), abs=1e-15)
    parts = (2 * measure(Logistic(), EXAMPLES) + measure(Logistic(), more[2:])) / 3
    assert measure(Logistic(), more) == pytest.approx(parts, abs=1e-15)


def test_parameters_without_a_gradient_have_no_information_and_grads_are_not_touched():
    model = Logistic()
    model.weight.grad = torch.ones(1, dtype=torch.float64)
    fisher = fisher_information(model, EXAMPLES, dict(model.named_parameters()))
    assert torch.equal(fisher["unused"], torch.zeros(3, dtype=torch.float64))
    assert model.weight.grad.item() == 1.0
    assert model.unused.grad is None


@pytest.mark.parametrize(("norm", "expected"), [(1.0, (0.25 + 1.0) / 2), (0.5, 0.25), (0.1, 0.01)])
def test_each_tensor_is_clipped_by_itself(norm, expected):
    assert measure(Logistic(), EXAMPLES, clip_each_tensor=norm) == pytest.approx(expected, rel=1e-5)


def test_clipping_follows_torch(dataset):
    model = tiny_encoder("bert", dtype=torch.float64).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(100.0)
    parameters = dict(model.named_parameters())
    fisher = fisher_information(model, batches(dataset, 8), parameters, clip_each_tensor=1.0)
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    longest = 0.0
    for batch in batches(dataset, 8):
        model.zero_grad()
        model(**batch).loss.backward()
        for name, parameter in parameters.items():
            longest = max(longest, nn.utils.clip_grad_norm_(parameter, 1.0).item())
            expected[name] += parameter.grad.square() / 3
    assert longest > 1.5
    for name in parameters:
        torch.testing.assert_close(fisher[name], expected[name], rtol=1e-9, atol=1e-20)


def test_information_of_an_encoder_is_the_mean_over_a_loop_of_examples(architecture, dataset):
    model = tiny_encoder(architecture, dtype=torch.float64).eval()
    parameters = dict(model.named_parameters())
    fisher = fisher_information(model, batches(dataset[:6], 1), parameters)
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for example in batches(dataset[:6], 1):
        model.zero_grad()
        model(**example).loss.backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                expected[name] += parameter.grad.square() / 6
    for name in parameters:
        torch.testing.assert_close(fisher[name], expected[name], rtol=1e-10, atol=1e-30)


def test_key_biases_have_no_information(dataset):
    model = tiny_encoder("bert", dtype=torch.float64).eval()
    parameters = {n: p for n, p in model.named_parameters() if n.endswith(("key.bias", "query.bias"))}
    fisher = fisher_information(model, batches(dataset, 1), parameters)
    for name in parameters:
        if name.endswith("key.bias"):
            assert fisher[name].max() < 1e-10 * fisher[name.replace("key", "query")].max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_in_float32_at_least(dtype, dataset):
    model = tiny_encoder("bert", dtype=dtype).eval()
    fisher = fisher_information(model, batches(dataset[:2], 1), dict(model.named_parameters()))
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {tensor.dtype for tensor in fisher.values()} == {wanted}
    assert all(torch.isfinite(tensor).all() for tensor in fisher.values())


def test_small_squares_survive_bfloat16_weights():
    """1 + 2^-10 is 1 in bfloat16: sums kept in the dtype of the weights would lose the second example."""
    model = Logistic().to(torch.bfloat16)
    fisher = measure(model, pairs((2.0, 1.0), (2.0**-4, 1.0)))
    assert fisher == (1.0 + 2.0**-10) / 2


def test_autocast_keeps_sums_in_float32_and_near_the_exact_ones(dataset):
    model = tiny_encoder("bert").eval()
    parameters = dict(model.named_parameters())
    exact = fisher_information(model, batches(dataset, 1), parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = fisher_information(model, batches(dataset, 1), parameters)
    assert {tensor.dtype for tensor in rounded.values()} == {torch.float32}
    name = "bert.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(rounded[name].sum(), exact[name].sum(), rtol=0.05, atol=0.0)
    assert not torch.equal(rounded[name], exact[name])


def test_frozen_parameters_and_none_at_all_are_refused(dataset):
    model = tiny_encoder("bert").requires_grad_(False)
    for parameters in ({}, dict(model.named_parameters())):
        with pytest.raises(InputError, match="unfreeze"):
            fisher_information(model, batches(dataset, 1), parameters)


def test_no_batches_are_refused():
    with pytest.raises(InputError, match="at least one batch"):
        measure(Logistic(), [])
