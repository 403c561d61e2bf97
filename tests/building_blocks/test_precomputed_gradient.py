"""Losses that were differentiated early give the gradient of their sum, at any scale of the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finetune_reg.building_blocks.precomputed_gradient import GradientSum


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_value_and_gradient_are_those_of_the_sum(scale):
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(4)]
    weights[3].requires_grad_(False)
    shift = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def losses():
        yield (weights[0] * (weights[1] + shift)).square().sum()
        yield (weights[0].exp() * weights[3]).sum()
        yield (weights[1] * weights[3]).sin().sum()

    expected = sum(losses())
    wanted = torch.autograd.grad(scale * expected, weights[:2])
    first, second, last = losses()
    earlier = GradientSum(weights)
    (of_shift,) = earlier.add(first, shift)
    earlier.add(second)
    joined = earlier.joined_to(last)
    torch.testing.assert_close(joined, expected)
    assert all(weight.grad is None for weight in weights)
    (scale * joined).backward()
    torch.testing.assert_close((weights[0].grad, weights[1].grad), wanted)
    torch.testing.assert_close(of_shift, 2 * weights[0].detach().square() * (weights[1] + shift).detach())
    assert weights[2].grad is None
    assert weights[3].grad is None


def test_gradients_of_several_micro_batches_add_up():
    weight = nn.Parameter(torch.tensor(3.0))
    for _ in range(2):
        earlier = GradientSum([weight])
        earlier.add(weight.square())
        (earlier.joined_to(weight * 5) / 2).backward()
    assert weight.grad.item() == 2 * 3.0 + 5
