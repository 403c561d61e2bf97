"""Weights between the pretrained and the fine-tuned ones: the ends bit for bit, the middle by hand, alpha by trial."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import tiny_dataset, tiny_encoder, without_dropout
from training_hosts import context, largest_difference, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.methods import (
    AttentionGuidedWeightMixup,
    Combination,
    Mixout,
    NoisyTune,
    PretrainedInterpolation,
    Vanilla,
    WeightAveraging,
)
from finetune_reg.methods.pretrained_interpolation import GRID, _mean_loss, interpolate


def in_head(name: str) -> bool:
    return name.startswith("classifier")


def trained(method, dataset, accumulation_steps=1) -> dict[str, torch.Tensor]:
    model = tiny_encoder("bert")
    train_in_loop(model, method, dataset, accumulation_steps)
    return weights(model)


def test_worked_numbers():
    pretrained, fine_tuned = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0])
    assert interpolate(pretrained, fine_tuned, 0.25).tolist() == [1.5, -1.0]
    tenth = torch.tensor([0.1, 1e30, -1e-40]), torch.tensor([0.7, -1e30, 3.0])
    assert torch.equal(interpolate(*tenth, 0.0), tenth[0])
    assert torch.equal(interpolate(*tenth, 1.0), tenth[1])
    assert torch.equal(interpolate(tenth[0], tenth[0], 0.3), tenth[0])


@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_the_ends_are_the_pretrained_and_the_fine_tuned_model_bit_for_bit(dataset, accumulation_steps):
    pretrained = weights(tiny_encoder("bert"))
    fine_tuned = trained(Vanilla(), dataset, accumulation_steps)
    start, end, half = (trained(PretrainedInterpolation(a), dataset, accumulation_steps) for a in (0.0, 1.0, 0.5))
    assert largest_difference(end, fine_tuned) == 0.0
    expected = {name: fine_tuned[name] if in_head(name) else pretrained[name] for name in pretrained}
    assert largest_difference(start, expected) == 0.0
    mean = {name: fine_tuned[name] if in_head(name) else (w + fine_tuned[name]) / 2 for name, w in pretrained.items()}
    assert largest_difference(half, mean) < 1e-7
    whole = trained(PretrainedInterpolation.official(0.0), dataset, accumulation_steps)
    assert largest_difference(whole, pretrained) == 0.0


def test_alpha_is_read_off_held_out_training_rows_and_the_model_left_alone(dataset, monkeypatch):
    model = tiny_encoder("bert").train()
    before, seen = weights(model), []

    def loss_at(model, run_context, indices):
        seen.append((weights(model), sorted(indices)))
        return {0: 0.7, 1: 0.6, 2: 0.5}.get(len(seen) - 1, 0.5)  # of 1, 0.9 and 0.8; then nothing better

    monkeypatch.setattr("finetune_reg.methods.pretrained_interpolation._mean_loss", loss_at)
    method = PretrainedInterpolation(None)
    random_state = torch.get_rng_state()
    method.setup(model, context(dataset))
    assert method.chosen_alpha == 0.8
    assert torch.equal(random_state, torch.get_rng_state())
    assert largest_difference(before, weights(model)) == 0.0
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    points, rows = zip(*seen, strict=True)
    assert len(points) == len(GRID) == 11
    assert all(each == rows[0] and len(each) == 5 for each in rows)  # a fifth of 24 rows, rounded up
    backbone = [name for name in before if not in_head(name)]
    assert all(torch.equal(points[-1][name], before[name]) for name in backbone)
    assert any(not torch.equal(points[0][name], before[name]) for name in backbone)
    method.finalize(model)


def test_the_trial_counts_its_passes_and_finds_the_smallest_loss(dataset):
    model, method = tiny_encoder("bert").train(), PretrainedInterpolation(None)
    with PassCounter(model) as passes:
        method.setup(model, context(dataset))
    assert (passes.forward, passes.backward) == method.search_passes(len(dataset), 8, 6) == (5 + 11, 5)
    assert PretrainedInterpolation().search_passes(len(dataset), 8, 6) == (0, 0)
    assert Combination([Mixout(), PretrainedInterpolation(None)]).search_passes(24, 8, 6) == (16, 5)
    assert method.chosen_alpha in GRID
    method.finalize(model)


def test_the_mean_loss_is_that_of_all_rows_at_once(dataset):
    model = tiny_encoder("bert", **without_dropout("bert"))
    whole, parts = (_mean_loss(model, context(dataset, batch_size=size), list(range(13))) for size in (13, 4))
    assert parts == pytest.approx(whole, rel=1e-6)


def test_too_few_rows_for_a_trial_are_refused():
    with pytest.raises(InputError, match="1 training examples cannot be split"):
        PretrainedInterpolation(None).setup(tiny_encoder("bert"), context(tiny_dataset(1)))


def test_combinations_are_right_or_refused(dataset):
    with pytest.raises(InputError, match="both deliver other weights than those trained"):
        Combination([PretrainedInterpolation(), WeightAveraging()])
    with pytest.raises(InputError, match="NoisyTune must stand before PretrainedInterpolation"):
        Combination([PretrainedInterpolation(), NoisyTune()])
    mixed = trained(Mixout(0.5), dataset)
    both = trained(Combination([Mixout(0.5), PretrainedInterpolation(1.0)]), dataset)
    assert largest_difference(mixed, both) == 0.0


def test_weight_mixup_mixes_the_interpolated_weights(dataset):
    """Its layers are affine in the weight, so that the way between the ends is straight in the mixed weights, too."""
    pretrained = weights(tiny_encoder("bert"))
    ends = {}
    for alpha in (1.0, 0.25):
        searching = AttentionGuidedWeightMixup(n_searches=1, search_epochs=1.0, alpha_learning_rate=0.1)
        ends[alpha] = trained(Combination([PretrainedInterpolation(alpha), searching]), dataset)
    for name, found in ends[0.25].items():
        expected = ends[1.0][name] if in_head(name) else torch.lerp(pretrained[name], ends[1.0][name], 0.25)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
