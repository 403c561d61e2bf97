"""NoisyTune against its equation: worked numbers, moments of the noise, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_encoders import tiny_encoder
from training_hosts import context, largest_difference, weights

from finetune_reg.building_blocks.parameter_groups import named_head_parameters
from finetune_reg.errors import InputError
from finetune_reg.methods import L2SP, Combination, Mixout, NoisyTune, RecAdam
from finetune_reg.methods.noisy_tune import draw, joint_spread, noise, spread

DOUBLE = {"dtype": torch.float64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noised(method, architecture="bert", seed=3, dtype=torch.float32, **config):
    """Return the weights before and after."""
    model = tiny_encoder(architecture, dtype=dtype, **config)
    before = weights(model)
    method.setup(model, context([], seed=seed))
    return before, weights(model)


def test_worked_example_with_given_draws():
    weight, draws = torch.tensor([0.0, 2.0], **DOUBLE), torch.tensor([0.75, 0.25], **DOUBLE)
    expected = torch.tensor([0.0707106781, 1.9292893219], **DOUBLE)
    torch.testing.assert_close(weight + noise(weight, draws, 0.2), expected, rtol=0, atol=1e-10)


def test_worked_bound():
    weight = torch.tensor([-1.0, 0.0, 1.0, 2.0], **DOUBLE)
    assert spread(weight).item() == pytest.approx(1.290994, abs=1e-6)
    edge = noise(weight, torch.ones_like(weight), 0.15)
    torch.testing.assert_close(edge, torch.full_like(weight, 0.096825), rtol=0, atol=1e-6)


def test_noise_scales_with_the_tensor_and_ignores_its_mean():
    weight, draws = (
        torch.randn(5, 3, **DOUBLE, generator=generator()),
        torch.rand(5, 3, **DOUBLE, generator=generator(1)),
    )
    reference = noise(weight, draws, 0.15)
    torch.testing.assert_close(noise(-3.0 * weight, draws, 0.15), 3.0 * reference)
    torch.testing.assert_close(noise(weight + 7.0, draws, 0.15), reference)


@pytest.mark.parametrize(
    ("intensity", "relative"),
    [(0.05, 0.01443), (0.10, 0.02887), (0.15, 0.04330), (0.20, 0.05774), (0.25, 0.07217), (0.30, 0.08660)],
)
@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_moments_of_the_noise(intensity, relative, distribution):
    weight = 0.04 * torch.randn(400, 500, generator=generator())
    added = noise(weight, draw(weight.shape, distribution, generator(1)), intensity)
    assert added.std().item() / weight.std().item() == pytest.approx(relative, rel=0.01)
    assert abs(added.mean().item()) < 5 * added.std().item() / math.sqrt(added.numel())
    bound = intensity / 2 * weight.std().item() * (1 + 1e-6)
    assert (added.abs().max().item() <= bound) == (distribution == "uniform")


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_tensors_and_single_entries_have_no_noise(value, dtype):
    for shape in ((1,), (1, 1), (), (7,), (129, 257)):
        weight = torch.full(shape, value, dtype=dtype)
        assert not noise(weight, torch.rand(shape), 0.5).any()


def test_the_backbone_is_noised_within_the_bound_and_the_head_is_not(architecture):
    before, after = noised(NoisyTune(0.3), architecture)
    head = {name for name, _ in named_head_parameters(tiny_encoder(architecture))}
    for name, start in before.items():
        difference = (after[name] - start).abs()
        if name in head or start.numel() == 1 or not start.is_floating_point() or start.std() == 0:
            assert not difference.any(), name
        else:
            assert difference.any(), name
            assert difference.max() <= 0.15 * start.std() * (1 + 1e-4), name


def test_official_form_is_the_printed_recipe_after_the_same_seed(architecture):
    before, after = noised(NoisyTune.official(0.15), architecture, seed=11)
    torch.manual_seed(11)
    for name, parameter in tiny_encoder_with(architecture, before).named_parameters():
        expected = parameter + (torch.rand(parameter.size()) - 0.5) * 0.15 * torch.std(parameter)
        assert torch.equal(after[name], expected), name


def tiny_encoder_with(architecture, state):
    state_of_random = torch.get_rng_state()
    model = tiny_encoder(architecture)
    torch.set_rng_state(state_of_random)
    model.load_state_dict(state)
    return model.requires_grad_(False)


def test_token_embeddings_can_be_spared():
    before, after = noised(NoisyTune(0.1, include_token_embeddings=False))
    assert torch.equal(
        before["bert.embeddings.word_embeddings.weight"], after["bert.embeddings.word_embeddings.weight"]
    )
    name = "bert.embeddings.position_embeddings.weight"
    assert not torch.equal(before[name], after[name])


def test_padding_row_is_noised_like_the_rest():
    _, after = noised(NoisyTune())
    assert after["bert.embeddings.word_embeddings.weight"][0].all()


def test_global_scale_is_the_spread_of_all_entries_together():
    tensors = [torch.randn(3, 4, generator=generator(i)) + i for i in range(3)] + [torch.ones(1)]
    together = torch.cat([t.flatten() for t in tensors]).double()
    assert joint_spread(tensors).item() == pytest.approx(together.std().item(), rel=1e-12)
    before, after = noised(NoisyTune(0.2, scale="global"), dtype=torch.float64, hidden_size=64)
    scale = joint_spread(w for n, w in before.items() if n.startswith("bert.")).item()
    for name in ("bert.encoder.layer.0.output.dense.weight", "bert.encoder.layer.0.output.dense.bias"):
        added = after[name] - before[name]
        assert added.abs().max().item() == pytest.approx(0.1 * scale, rel=0.05)


def test_noise_follows_the_seed_and_leaves_the_global_stream_alone():
    model = tiny_encoder("bert")
    state = torch.get_rng_state()
    NoisyTune().setup(model, context([], seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    (_, first), (_, again), (_, other) = noised(NoisyTune()), noised(NoisyTune()), noised(NoisyTune(), seed=4)
    assert largest_difference(first, again) == 0.0
    assert largest_difference(first, other) > 0.0
    assert largest_difference(first, weights(model)) == 0.0


def test_frozen_weights_are_noised_and_stay_frozen():
    model = tiny_encoder("bert").requires_grad_(False)
    before = weights(model)
    NoisyTune().setup(model, context([]))
    assert largest_difference(before, weights(model)) > 0.0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_bfloat16_weights_are_rounded_once_from_float32():
    model = tiny_encoder("bert", dtype=torch.bfloat16)
    start = model.bert.embeddings.word_embeddings.weight.detach().clone()
    NoisyTune(0.3).setup(model, context([]))
    wide = start.float()
    expected = wide + (torch.rand(wide.shape, generator=generator(3)) - 0.5) * 0.3 * wide.std()
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, expected.bfloat16())


def test_later_members_are_anchored_at_the_noised_weights():
    model = tiny_encoder("bert")
    before = weights(model)
    method = Combination([NoisyTune(), Mixout(0.5), L2SP()])
    method.setup(model, context([]))
    noised_weight = model.bert.pooler.dense.weight
    assert not torch.equal(noised_weight, before["bert.pooler.dense.weight"])
    assert torch.equal(model.bert.pooler.dense.pretrained_weight, noised_weight)
    assert torch.equal(method.members[2]._pretrained["bert.pooler.dense.weight"], noised_weight)
    for anchored in (L2SP(), Mixout(), RecAdam()):
        with pytest.raises(InputError, match="NoisyTune must stand before"):
            Combination([anchored, NoisyTune()])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"noise_intensity": -0.1}, r"noise_intensity in \[0, inf\)"),
        ({"distribution": "normal"}, "gaussian"),
        ({"scale": "tensor"}, "matrix"),
    ],
)
def test_values_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        NoisyTune(**arguments)
