"""Divergences of outputs against worked numbers, closed forms and finite differences."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from finetune_reg.building_blocks.output_divergence import (
    compared_logits,
    is_regression,
    output_divergence,
    squared_error,
    stable_kl,
    symmetric_kl,
)

DOUBLE = {"dtype": torch.float64}


def logits(*probabilities: float, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=dtype).log()


def model(num_labels=2, problem_type=None):
    module = torch.nn.Module()
    module.config = SimpleNamespace(num_labels=num_labels, problem_type=problem_type)
    return module


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [((0.7, 0.3), (0.6, 0.4), 0.0216009 + 0.0225824), ((0.5, 0.3, 0.2), (0.4, 0.4, 0.2), 0.0510826)],
)
def test_worked_symmetric_divergences(first, second, expected):
    assert symmetric_kl(logits(*first), logits(*second)).item() == pytest.approx(expected, abs=1e-7)
    assert symmetric_kl(logits(*second), logits(*first)).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("detach_targets", [False, True])
def test_symmetric_divergence_is_the_sum_of_both_directions_and_never_negative(detach_targets):
    torch.manual_seed(0)
    first, second = torch.randn(2, 50, 4, **DOUBLE) * 3
    p, q = first.softmax(-1), second.softmax(-1)
    both = (p * (p / q).log() + q * (q / p).log()).sum(-1)
    torch.testing.assert_close(symmetric_kl(first, second, "sum", detach_targets), both.sum())
    torch.testing.assert_close(symmetric_kl(first, second, "mean", detach_targets), both.mean())
    assert all(symmetric_kl(first[i : i + 1], second[i : i + 1]) >= 0 for i in range(50))


def test_equal_outputs_have_divergence_and_gradient_exactly_zero():
    first = torch.randn(5, 3, requires_grad=True)
    divergence = symmetric_kl(first, first.detach() + 0.0)
    assert divergence.item() == 0.0
    (gradient,) = torch.autograd.grad(divergence, first)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("detach_targets", "expected"), [(False, 0.192785), (True, 0.1)])
def test_worked_gradients_with_and_without_constant_targets(detach_targets, expected):
    first = logits(0.7, 0.3).requires_grad_()
    symmetric_kl(first, logits(0.6, 0.4), detach_targets=detach_targets).backward()
    torch.testing.assert_close(first.grad, torch.tensor([[expected, -expected]], **DOUBLE), atol=1e-6, rtol=0)


def test_gradients_reach_both_outputs_and_agree_with_finite_differences():
    torch.manual_seed(0)
    first, second = (torch.randn(3, 4, requires_grad=True, **DOUBLE) for _ in range(2))
    assert torch.autograd.gradcheck(symmetric_kl, (first, second))
    assert torch.autograd.gradcheck(squared_error, (first, second))


def test_near_equal_outputs_constant_targets_halve_the_gradient():
    torch.manual_seed(0)
    first = torch.randn(3, 4, requires_grad=True, **DOUBLE)
    second = first.detach() + 1e-6 * torch.randn(3, 4, **DOUBLE)
    true, official = (
        torch.autograd.grad(symmetric_kl(first, second, detach_targets=detach), first)[0] for detach in (False, True)
    )
    torch.testing.assert_close(official, true / 2, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize(
    ("first", "second", "single", "double"),
    [
        ((0.7, 0.3), (0.6, 0.4), 0.353466, 0.3534663685),
        ((0.5, 0.5), (0.6, 0.4), -3.9e-7, -1.67e-7),
        ((0.4, 0.6), (0.3, 0.7), -0.176733, -0.1767334819),
    ],
)
def test_stable_kl_has_the_released_values_zero_and_negative_ones_included(first, second, single, double):
    in_single = stable_kl(logits(*first, dtype=torch.float32), logits(*second, dtype=torch.float32))
    assert in_single.item() == pytest.approx(single, abs=1e-6)
    assert stable_kl(logits(*first), logits(*second)).item() == pytest.approx(double, abs=1e-9)


def test_stable_kl_is_summed_and_its_gradient_holds_the_log_odds_constant():
    torch.manual_seed(0)
    first, second = torch.randn(3, 4, requires_grad=True, **DOUBLE), torch.randn(3, 4, **DOUBLE)
    total = stable_kl(first, second)
    torch.testing.assert_close(total, sum(stable_kl(first[i : i + 1], second[i : i + 1]) for i in range(3)))
    p = first.detach().softmax(-1)
    log_odds = p.logit() - second.softmax(-1).logit()
    (gradient,) = torch.autograd.grad(total, first)
    expected = 2 * p * (log_odds - (p * log_odds).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_regression_outputs_of_shape_b_and_b_by_1_are_the_same():
    torch.manual_seed(0)
    first, second = torch.randn(6, **DOUBLE), torch.randn(6, **DOUBLE)
    expected = (first - second).square().mean()
    for shapes in ((6,), (6, 1)), ((6, 1), (6,)), ((6, 1), (6, 1)), ((6,), (6,)):
        torch.testing.assert_close(squared_error(first.view(shapes[0]), second.view(shapes[1])), expected)
    torch.testing.assert_close(squared_error(first[:, None], second, "sum"), 6 * expected)


def test_the_model_decides_between_squared_error_and_kl():
    first, second = torch.randn(5, 2), torch.randn(5, 2)
    assert output_divergence(model(), first, second) == symmetric_kl(first, second)
    assert output_divergence(model(), first, second, "sum") == symmetric_kl(first, second, "sum")
    assert output_divergence(model(problem_type="regression"), first, second) == squared_error(first, second)
    assert output_divergence(model(1), first[:, :1], second[:, 0]) == squared_error(first[:, 0], second[:, 0])
    models = (model(1), model(2), model(1, "single_label_classification"))
    assert [is_regression(each, first) for each in models] == [1, 0, 0]


def test_without_a_config_one_output_is_a_number():
    assert [is_regression(torch.nn.Module(), torch.zeros(shape)) for shape in ((5,), (5, 1), (5, 2))] == [1, 1, 0]


def test_several_labels_at_once_are_decisions_between_yes_and_no():
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 3, **DOUBLE)
    several = model(3, "multi_label_classification")
    compared = [compared_logits(several, {}, SimpleNamespace(logits=each)) for each in (first, second)]
    p, q = first.sigmoid(), second.sigmoid()
    expected = ((p - q) * (first - second)).mean()
    torch.testing.assert_close(output_divergence(several, *compared), expected)


@pytest.mark.parametrize("divergence", [symmetric_kl, squared_error, stable_kl])
def test_half_precision_is_compared_in_float32(divergence):
    torch.manual_seed(0)
    first, second = torch.randn(2, 8, 3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = divergence(first, second)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(divergence(first.double(), second.double()).item(), rel=1e-5)


def test_extreme_logits_stay_finite():
    first = torch.tensor([[300.0, -300.0]], requires_grad=True)
    for divergence in (symmetric_kl, stable_kl):
        value = divergence(first, -first.detach())
        (gradient,) = torch.autograd.grad(value, first)
        assert value.isfinite()
        assert gradient.isfinite().all()
