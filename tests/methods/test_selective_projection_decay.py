"""Selective projection decay: its worked share, where it acts, and the optimizer step written out in float64."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from training_hosts import context, largest_difference, weights

from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters, named_head_parameters
from finetune_reg.errors import InputError
from finetune_reg.methods import ChildTuningF, Combination, SelectiveProjectionDecay
from finetune_reg.methods.selective_projection_decay import distance_and_product, removed_share

DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize(
    ("before", "after", "strength", "share"),
    [
        (3.0, 4.0, 1.0, 0.25),
        (3.0, 4.0, 0.5, 0.125),
        (4.0, 3.0, 1.0, 0.0),
        (3.0, 3.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 0.0),
    ],
)
def test_worked_share(before, after, strength, share):
    assert removed_share(torch.tensor(before), torch.tensor(after), strength).item() == share


@pytest.mark.parametrize("shape", [(3,), (700, 400)])
def test_distance_and_product_over_pieces(shape):
    torch.manual_seed(0)
    weight, pretrained, gradient = (torch.randn(shape, **DOUBLE) for _ in range(3))
    distance, product = distance_and_product(weight, pretrained, gradient)
    torch.testing.assert_close(distance, (weight - pretrained).norm())
    torch.testing.assert_close(product, (gradient * (weight - pretrained)).sum())
    assert torch.equal(distance_and_product(weight, pretrained)[0], distance)


def updates(method, dataset, n=6, watch=None, **config):
    """Make updates on batches of four; `watch` sees weights before, gradients, weights after the move and after all."""
    model = tiny_encoder("bert", **DOUBLE, **config).train()
    run_context = context(dataset, weight_decay=0.0)
    method.setup(model, run_context)
    optimizer = method.create_optimizer(model, run_context)
    torch.manual_seed(0)
    for batch in (batches(dataset, 4) * n)[:n]:
        method.training_loss(model, batch, model(**batch)).backward()
        method.after_backward(model)
        before = weights(model)
        optimizer.step()
        moved = weights(model)
        method.after_step(model, optimizer)
        if watch is not None:
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            watch(before, gradients, moved, weights(model))
        optimizer.zero_grad()
    method.finalize(model)
    return model


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("include_head", [True, False])
def test_the_step_is_that_of_the_equation(strength, include_head, dataset):
    start = weights(tiny_encoder("bert", **DOUBLE))
    model = tiny_encoder("bert")
    held = {name for name, _ in named_backbone_parameters(model)}
    if include_head:
        held |= {name for name, _ in named_head_parameters(model)}
    n_acted = n_free = 0

    def watch(before, gradients, moved, after):
        nonlocal n_acted, n_free
        for name, gradient in gradients.items():
            c = -(gradient * (before[name] - start[name])).sum()
            expected = moved[name]
            if name in held and c < 0:
                old, new = (before[name] - start[name]).norm(), (moved[name] - start[name]).norm()
                share = strength * max(0.0, (new - old).item()) / new
                expected = moved[name] - share * (moved[name] - start[name])
                n_acted += int(new > old)
                if strength == 1.0:
                    assert (after[name] - start[name]).norm() <= old * (1 + 1e-12) or new <= old
            else:
                n_free += 1
                assert torch.equal(after[name], moved[name])
            torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-14)

    updates(SelectiveProjectionDecay(strength, include_head), dataset, watch=watch)
    assert n_acted > 10
    assert n_free > 50


def test_it_keeps_the_backbone_nearer_to_its_start(dataset):
    start = weights(tiny_encoder("bert", **DOUBLE))
    distances = []
    for strength in (0.0, 1.0):
        after = weights(updates(SelectiveProjectionDecay(strength), dataset, n=12))
        distances.append(sum((after[n] - start[n]).pow(2).sum().item() for n in start if n.startswith("bert.")))
    assert distances[1] < distances[0]


def test_at_the_first_update_all_weights_are_free(dataset):
    found = [weights(updates(SelectiveProjectionDecay(strength), dataset, n=1)) for strength in (0.0, 1.0)]
    assert largest_difference(*found) == 0.0


def test_it_judges_the_gradient_that_a_mask_before_it_leaves(dataset):
    """Both draw the same masks; the order decides what the condition sees."""
    found = [
        weights(updates(Combination(members), dataset))
        for members in (
            [ChildTuningF(0.3), SelectiveProjectionDecay()],
            [SelectiveProjectionDecay(), ChildTuningF(0.3)],
        )
    ]
    assert largest_difference(*found) > 0.0


def test_weights_in_bfloat16_and_frozen_ones(dataset):
    model = tiny_encoder("bert", dtype=torch.bfloat16).train()
    model.bert.embeddings.requires_grad_(False)
    method = SelectiveProjectionDecay()
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset))
    before = weights(model)
    for batch in batches(dataset, 8):
        method.training_loss(model, batch, model(**batch)).backward()
        method.after_backward(model)
        optimizer.step()
        method.after_step(model, optimizer)
        optimizer.zero_grad()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert torch.equal(before["bert.embeddings.LayerNorm.weight"], model.bert.embeddings.LayerNorm.weight)


def test_official_holds_the_head_too_and_a_negative_strength_is_refused():
    assert SelectiveProjectionDecay.official() == SelectiveProjectionDecay(1.0, include_head=True)
    with pytest.raises(InputError, match="strength"):
        SelectiveProjectionDecay(-1.0)
