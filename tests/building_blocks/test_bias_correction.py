"""Adam without bias correction against its recursion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_encoders import collate, tiny_encoder
from torch.utils.data import DataLoader
from training_hosts import BATCH_SIZE, context, largest_difference, weights

from finetune_reg.building_blocks.bias_correction import skip_bias_correction
from finetune_reg.methods import Vanilla
from finetune_reg.training_loop import train

LEARNING_RATE, BETAS, EPSILON, DECAY = 0.1, (0.9, 0.999), 1e-6, 0.01


@pytest.mark.parametrize("fused", [True, False])
def test_the_moves_follow_bert_adam(fused):
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - lr (m / (sqrt(v) + eps) + decay w)."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY, fused=fused)
    skip_bias_correction(optimizer)
    expected, m, v = weight.detach().clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for update in range(1, 6):
        gradient = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64) * update
        m, v = BETAS[0] * m + (1 - BETAS[0]) * gradient, BETAS[1] * v + (1 - BETAS[1]) * gradient**2
        expected = expected - LEARNING_RATE * (m / (v.sqrt() + EPSILON) + DECAY * expected)
        weight.grad = gradient
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-10, atol=1e-12)


def test_the_first_move_is_larger_by_the_quotient_of_the_corrections():
    moves = []
    for corrected in (True, False):
        weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.AdamW([weight], lr=1.0, eps=0.0, weight_decay=0.0, fused=True)
        if not corrected:
            skip_bias_correction(optimizer)
        weight.grad = torch.full((1,), 0.7, dtype=torch.float64)
        optimizer.step()
        moves.append(-weight.item())
    assert moves[0] == pytest.approx(1.0)
    assert moves[1] == pytest.approx(0.1 / 0.001**0.5)


def test_the_loop_trains_without_bias_correction_when_told_so(dataset):
    trained = []
    for bias_correction in (True, False):
        model = tiny_encoder("bert")
        loader = DataLoader(dataset, BATCH_SIZE, collate_fn=collate)
        train(model, Vanilla(dropout=0.0), loader, replace(context(dataset), bias_correction=bias_correction))
        trained.append(weights(model))
    assert largest_difference(*trained) > 1e-4
