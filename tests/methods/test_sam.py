"""SAM against its worked ascent, a quadratic, and the two steps written out in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import batches, tiny_encoder, without_dropout
from torch import nn
from training_hosts import context, largest_difference, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.methods import (
    L2SP,
    R3F,
    SAM,
    SMART,
    ChildTuningF,
    Combination,
    FreeLB,
    Mixout,
    RDrop,
    Vanilla,
)
from finetune_reg.methods.sam import ascent

DOUBLE = {"dtype": torch.float64}


def test_worked_ascent():
    gradients = [torch.tensor([3.0], **DOUBLE), torch.tensor([4.0], **DOUBLE)]
    assert [move.item() for move in ascent(gradients, 0.05)] == pytest.approx([0.03, 0.04], abs=1e-16)
    scales = [torch.tensor([1.0], **DOUBLE), torch.tensor([2.0], **DOUBLE)]
    expected = [0.5 * 3 / math.sqrt(73), 0.5 * 16 / math.sqrt(73)]  # T g = (3, 8)
    assert [move.item() for move in ascent(gradients, 0.5, scales)] == pytest.approx(expected, abs=1e-15)
    assert ascent(gradients, 0.5, [None, None]) == ascent(gradients, 0.5)


def test_a_zero_gradient_does_not_move():
    assert torch.equal(ascent([torch.zeros(3)], 0.05)[0], torch.zeros(3))


class Quadratic(nn.Module):
    """The loss `theta' H theta / 2`."""

    def __init__(self, curvature):
        super().__init__()
        self.weight, self.curvature = nn.Parameter(torch.tensor([1.0, -2.0], **DOUBLE)), curvature

    def forward(self):
        return SimpleNamespace(loss=self.weight @ self.curvature @ self.weight / 2)


@pytest.mark.parametrize("adaptive", [False, True])
def test_gradient_of_a_quadratic(adaptive):
    curvature = torch.tensor([[2.0, 1.0], [1.0, 3.0]], **DOUBLE)
    model = Quadratic(curvature)
    gradient_of(SAM(0.1, adaptive), model, [{}])
    start = model.weight.detach()
    gradient = curvature @ start  # (0, -5)
    scale = start.abs() + 0.01 if adaptive else torch.ones(2, **DOUBLE)
    moved = start + 0.1 * scale**2 * gradient / (scale * gradient).norm()
    if not adaptive:
        assert moved.tolist() == pytest.approx([1.0, -2.1], abs=1e-15)
    torch.testing.assert_close(model.weight.grad, curvature @ moved, rtol=0, atol=1e-14)


def accumulate(method, model, micro_batches, autocast: bool = False) -> None:
    """Let a method find the gradient of an update; the random stream begins at 1."""
    torch.manual_seed(1)
    for batch in micro_batches:
        with torch.autocast("cpu", torch.bfloat16, autocast):
            loss = method.training_loss(model, batch, model(**batch)) / len(micro_batches)
        loss.backward()
    method.after_backward(model)


def gradient_of(method, model, micro_batches, autocast: bool = False) -> dict[str, torch.Tensor]:
    method.setup(model.train(), context([]))
    accumulate(method, model, micro_batches, autocast)
    method.finalize(model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def two_steps(model, micro_batches, method=None, eta: float | None = None, autocast: bool = False):
    """Return what `gradient_of` must be for SAM of radius 0.5: the second step has the random numbers of the first."""
    method = method or Vanilla()
    method.setup(model.train(), context([]))
    accumulate(method, model, micro_batches, autocast)
    trained = {name: p for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        scales = {n: p.abs() + eta if eta is not None and "weight" in n else 1.0 for n, p in trained.items()}
        length = math.sqrt(sum((scales[n] * p.grad).double().pow(2).sum().item() for n, p in trained.items()))
        for name, parameter in trained.items():
            parameter += 0.5 * scales[name] ** 2 * parameter.grad / length
    model.zero_grad()
    accumulate(method, model, micro_batches, autocast)
    method.finalize(model)
    return {name: p.grad for name, p in trained.items()}


@pytest.mark.parametrize("n_micro_batches", [1, 4])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "gpt2"])
def test_gradient_is_that_of_the_two_steps_with_shared_masks(architecture, adaptive, n_micro_batches, dataset):
    micro_batches = batches(dataset[:8], 8 // n_micro_batches)
    ours, reference = (tiny_encoder(architecture, **DOUBLE) for _ in range(2))
    found = gradient_of(SAM(0.5, adaptive), ours, micro_batches)
    expected = two_steps(reference, micro_batches, eta=0.01 if adaptive else None)
    assert largest_difference(found, expected) < 1e-12
    assert largest_difference(weights(ours), weights(tiny_encoder(architecture, **DOUBLE))) == 0.0


def test_the_ascent_is_that_of_the_whole_batch_however_it_is_cut(dataset):
    config = {**without_dropout("bert"), **DOUBLE}
    found = [gradient_of(SAM(0.5), tiny_encoder("bert", **config), batches(dataset[:8], size)) for size in (8, 2)]
    assert largest_difference(*found) < 1e-12


def test_masks_are_shared_unless_they_are_independent(dataset):
    micro_batches = batches(dataset[:8], 4)
    plain = gradient_of(Vanilla(), tiny_encoder("bert"), micro_batches)
    shared, independent = (
        gradient_of(SAM(1e-7, dropout=dropout), tiny_encoder("bert"), micro_batches)
        for dropout in ("shared", "independent")
    )
    assert largest_difference(plain, shared) < 1e-5
    assert largest_difference(plain, independent) > 1e-3


@pytest.mark.parametrize(
    "members",
    [
        lambda: [L2SP(5.0, 2.0)],
        lambda: [RDrop(), L2SP(5.0, 2.0)],
        lambda: [Mixout(0.5), R3F(noise_scale=0.1, dropout="shared")],
        lambda: [FreeLB(2, 0.3)],
        lambda: [SMART(epsilon=0.1, noise_std=0.1, ascent_step_size=0.1, proximal_strength=0.0)],
    ],
)
def test_a_combination_climbs_its_whole_loss(members, dataset):
    micro_batches = batches(dataset[:8], 4)
    ours, reference = (tiny_encoder("bert", **DOUBLE) for _ in range(2))
    found = gradient_of(Combination([SAM(0.5), *members()]), ours, micro_batches)
    expected = two_steps(reference, micro_batches, Combination(members()))
    assert largest_difference(found, expected) < 1e-12


@pytest.mark.parametrize("members", [lambda: [RDrop()], lambda: [FreeLB(2), RDrop()], lambda: [L2SP(1.0)]])
def test_all_passes_of_a_combination_are_made_twice(members, dataset):
    model, once = tiny_encoder("bert"), Combination(members()).passes_per_update
    method = Combination([SAM(0.5), *members()])
    assert method.passes_per_update == (2 * once[0], 2 * once[1])
    with PassCounter(model) as passes:
        train_in_loop(model, method, dataset)
    assert (passes.forward, passes.backward) == tuple(6 * n for n in method.passes_per_update)


def test_masks_of_gradients_cover_the_gradient_of_the_update(dataset):
    gradients = gradient_of(Combination([ChildTuningF(0.5), SAM(0.5)]), tiny_encoder("bert"), batches(dataset[:8], 8))
    unmasked = gradient_of(SAM(0.5), tiny_encoder("bert"), batches(dataset[:8], 8))
    kept = {name: gradient != 0 for name, gradient in gradients.items()}
    assert 0.3 < sum(k.sum() for k in kept.values()) / sum((g != 0).sum() for g in unmasked.values()) < 0.7
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient[kept[name]], 2 * unmasked[name][kept[name]])


def test_the_second_passes_are_rounded_as_the_first_and_the_weights_come_back(dataset):
    micro_batches = batches(dataset[:8], 4)
    ours, reference = tiny_encoder("bert"), tiny_encoder("bert")
    found = gradient_of(SAM(0.5), ours, micro_batches, autocast=True)
    expected = two_steps(reference, micro_batches, autocast=True)
    assert largest_difference(found, expected) < 1e-6 * max(g.abs().max().item() for g in expected.values())
    assert largest_difference(weights(ours), weights(tiny_encoder("bert"))) == 0.0


def test_a_loop_inside_autocast_moves_the_weights_that_it_has_cast(dataset):
    """Autocast keeps the weights that it has rounded until its block ends."""
    micro_batches = batches(dataset[:8], 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_of(SAM(0.5), tiny_encoder("bert"), micro_batches, autocast=True)
    plain, expected = (
        gradient_of(method, tiny_encoder("bert"), micro_batches, autocast=True) for method in (Vanilla(), SAM(0.5))
    )
    assert largest_difference(found, expected) < 0.01 * largest_difference(plain, expected)


def test_weights_come_back_when_a_second_pass_fails(dataset):
    model, method, batch = tiny_encoder("bert").train(), SAM(0.5), batches(dataset[:8], 8)[0]
    before = weights(model)
    method.setup(model, context(dataset))
    method.training_loss(model, batch, model(**batch)).backward()
    batch["labels"] = batch["labels"][:3]
    with pytest.raises(ValueError):
        method.after_backward(model)
    assert largest_difference(before, weights(model)) == 0.0


def test_frozen_weights_stay_and_do_not_count(dataset):
    micro_batches = batches(dataset[:8], 8)
    ours, reference = (tiny_encoder("bert", **DOUBLE) for _ in range(2))
    for model in (ours, reference):
        model.bert.embeddings.requires_grad_(False)
    found = gradient_of(SAM(0.5), ours, micro_batches)
    assert not any("embeddings" in name for name in found)
    assert largest_difference(found, two_steps(reference, micro_batches)) < 1e-12


def test_released_forms():
    assert SAM.official() == SAM()
    assert SAM.official("asam") == SAM(0.5, adaptive=True, scale_offset=0.01, dropout="independent")


def test_what_it_cannot_use_is_refused(dataset):
    with pytest.raises(InputError, match="radius"):
        SAM(-0.1)
    with pytest.raises(InputError, match="There is no form 'jax'"):
        SAM.official("jax")
    with pytest.raises(InputError, match=r"SAM needs weights in float32, in which its small move survives"):
        SAM().setup(tiny_encoder("bert", dtype=torch.bfloat16), context(dataset))
    with pytest.raises(InputError, match="SAM and SAM cannot be combined: each makes the passes of all members again"):
        Combination([SAM(), SAM()])
