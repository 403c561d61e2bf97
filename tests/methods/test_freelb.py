"""FreeLB against its worked ascent and the accumulation loop written out in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import DECODERS, ENCODERS, batches, tiny_encoder, without_dropout
from training_hosts import added_loss, context, largest_difference, train_in_loop, weights

from finetune_reg.building_blocks.embedding_perturbation import token_mask
from finetune_reg.building_blocks.random_replay import extra_pass
from finetune_reg.errors import InputError
from finetune_reg.methods import R3F, Combination, FreeLB, RDrop
from finetune_reg.methods.freelb import ascend, initial_perturbation

DOUBLE = {"dtype": torch.float64}
NO_DROPOUT = {**without_dropout("bert"), **DOUBLE}


@pytest.fixture
def batch(dataset):
    batch = batches(dataset, 8)[0]
    batch["input_ids"][:3, 5:] = 0
    batch["attention_mask"][:3, 5:] = 0
    return batch


def test_worked_ascent():
    gradient = torch.tensor([[[3.0, 4.0, 0.0, 0.0]]], **DOUBLE)
    first = ascend(torch.zeros_like(gradient), gradient, 0.1, 0.15)
    second = ascend(first, gradient, 0.1, 0.15)
    assert first.flatten().tolist() == pytest.approx([0.06, 0.08, 0, 0], abs=1e-15)
    assert second.flatten().tolist() == pytest.approx([0.09, 0.12, 0, 0], abs=1e-15)
    unprojected = ascend(first, gradient, 0.1, None)
    assert unprojected.flatten().tolist() == pytest.approx([0.12, 0.16, 0, 0], abs=1e-15)


def test_norms_are_per_example_and_the_projection_shortens_only_what_is_too_long():
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 3, 4, **DOUBLE) * torch.logspace(-3, 1, 6)[:, None, None], torch.randn(6, 3, 4)
    free, bounded = (ascend(start, gradient.double(), 0.1, max_norm) for max_norm in (None, 0.5))
    lengths, bounded_lengths = free.flatten(1).norm(dim=1), bounded.flatten(1).norm(dim=1)
    torch.testing.assert_close((free - start).flatten(1).norm(dim=1), torch.full((6,), 0.1, **DOUBLE))
    torch.testing.assert_close(bounded_lengths, lengths.clamp(max=0.5))
    assert torch.equal(bounded[lengths < 0.5], free[lengths < 0.5])
    assert 0 < (lengths < 0.5).sum() < 6


def test_a_zero_gradient_and_a_zero_perturbation_stay_finite():
    zero = torch.zeros(2, 3, 4)
    assert torch.equal(ascend(zero, zero, 0.1, 0.5), zero)
    tiny = torch.full((1, 1, 4), 1e-10, **DOUBLE)
    torch.testing.assert_close(ascend(0 * tiny, tiny, 0.1, None), 0.1 * tiny / 1e-8)


def test_the_start_is_uniform_scaled_by_the_number_of_real_coordinates():
    torch.manual_seed(0)
    mask = torch.ones(2, 40, 1, dtype=torch.long)
    mask[1, 10:] = 0
    start = initial_perturbation(torch.zeros(2, 40, 500), mask, 0.6)
    assert torch.equal(start * (1 - mask), torch.zeros_like(start))
    for example, n_tokens in enumerate((40, 10)):
        drawn, bound = start[example, :n_tokens], 0.6 / (n_tokens * 500) ** 0.5
        assert drawn.abs().max() <= bound
        assert drawn.abs().max() > 0.99 * bound
        assert drawn.norm().item() == pytest.approx(0.6 / 3**0.5, rel=0.02)
    state = torch.get_rng_state()
    assert torch.equal(initial_perturbation(torch.ones(2, 40, 5), mask, 0.0), torch.zeros(2, 40, 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_start_in_float64_is_scaled_by_a_float64_root():
    embeddings = torch.zeros(1, 1, 3, dtype=torch.float64)
    torch.manual_seed(0)
    start = initial_perturbation(embeddings, torch.ones(1, 1, 1), 0.6)
    torch.manual_seed(0)
    expected = torch.zeros_like(embeddings).uniform_(-1, 1) * 0.6 / math.sqrt(3)
    torch.testing.assert_close(start, expected, rtol=1e-15, atol=0)


def by_hand(model, batch, method):
    """Accumulate the gradients of the passes as the released loop does; return the deltas and the mean loss."""
    mask = token_mask(batch)
    words = model.bert.embeddings.word_embeddings
    n_coordinates = mask.sum((1, 2)) * words.embedding_dim
    delta = torch.zeros_like(words(batch["input_ids"])).detach()
    if method.initial_magnitude > 0:
        delta = delta.uniform_(-1, 1) * mask * (method.initial_magnitude / n_coordinates.double().sqrt())[:, None, None]
    deltas, total = [], 0.0
    for _ in range(method.n_passes):
        delta.requires_grad_()
        inputs = {"attention_mask": batch["attention_mask"], "labels": batch["labels"]}
        loss = model(inputs_embeds=words(batch["input_ids"]) + delta, **inputs).loss / method.n_passes
        loss.backward()
        total += loss.item()
        deltas.append(delta.detach())
        length = delta.grad.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None]
        delta = delta.detach() + method.step_size * delta.grad / length
        if method.max_norm is not None:
            lengths = delta.flatten(1).norm(dim=1)
            scale = torch.where(lengths > method.max_norm, method.max_norm / lengths, 1.0)
            delta = delta * scale[:, None, None]
    return deltas, total


@pytest.mark.parametrize(
    "method",
    [
        FreeLB(3, 0.3, 0.5, 0.5),
        FreeLB(2, 0.3, 0.2, 0.0),
        FreeLB(1, 0.3, 0.5, 0.5),
        FreeLB.official(4, 0.5),
        FreeLB.official(3, 0.4, 0.6, 0.3),
    ],
)
def test_loss_and_gradient_are_the_mean_over_the_passes(method, batch, dataset):
    gradients = []
    model = tiny_encoder("bert", **NO_DROPOUT).train()
    torch.manual_seed(1)
    deltas, expected = by_hand(model, batch, method)
    gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    model = tiny_encoder("bert", **NO_DROPOUT).train()
    method.setup(model, context(dataset))
    torch.manual_seed(1)
    outputs = model(**batch)
    torch.testing.assert_close(method._perturbation.detach(), deltas[0], rtol=0, atol=1e-15)
    loss = method.training_loss(model, batch, outputs)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    method.finalize(model)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert largest_difference(*gradients) < 1e-12
    assert method.n_passes == 1 or deltas[-1].abs().max() > 0


def test_perturbations_stay_in_the_ball_and_off_the_padding(batch, dataset, monkeypatch):
    seen = []

    def watched(*arguments):
        seen.append(ascend(*arguments))
        return seen[-1]

    monkeypatch.setattr("finetune_reg.methods.freelb.ascend", watched)
    for name in [*ENCODERS, *DECODERS]:
        model = tiny_encoder(name).train()
        method = FreeLB(5, 0.3, 0.5, 0.5)
        method.setup(model, context(dataset))
        method.training_loss(model, batch, model(**batch))
        for perturbation in (method._perturbation, *seen):
            assert (perturbation.flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-6)).all()
            assert torch.equal(perturbation * (1 - token_mask(batch)), torch.zeros_like(perturbation))
        assert len(seen) == 4
        assert max(perturbation.flatten(1).norm(dim=1).max() for perturbation in seen) > 0.49
        seen.clear()


def test_padding_stays_put_in_a_model_that_reads_it(batch, dataset, monkeypatch):
    model = tiny_encoder("bert").train()
    forward, seen = model.forward, []
    monkeypatch.setattr(model, "forward", lambda attention_mask, **batch: forward(**batch))
    model.bert.embeddings.LayerNorm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method = FreeLB(2, 0.3, dropout="independent")
    method.setup(model, context(dataset))
    outputs = model(**batch)
    method.training_loss(model, batch, outputs)
    method.finalize(model)
    model(**batch)
    first, second, plain = seen
    padding = batch["attention_mask"] == 0
    assert torch.equal(first[padding], plain[padding])
    assert torch.equal(second[padding], plain[padding])
    assert not torch.equal(second[~padding], first[~padding])


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_all_passes_share_their_masks_unless_they_are_independent(name, batch, dataset):
    further = {}
    for dropout in ("shared", "independent"):
        model = tiny_encoder(name).train()
        method = FreeLB(3, 0.0, None, 0.0, dropout)
        method.setup(model, context(dataset))
        outputs = model(**batch)
        further[dropout] = (method.training_loss(model, batch, outputs) - outputs.loss).item()
    assert abs(further["shared"]) < 1e-7
    assert abs(further["independent"]) > 1e-5


def test_the_start_is_drawn_before_the_masks_that_are_shared(batch, dataset):
    model = tiny_encoder("bert").train()
    method = FreeLB(2, 0.0, None, 0.5)
    method.setup(model, context(dataset))
    outputs = model(**batch)
    assert abs((method.training_loss(model, batch, outputs) - outputs.loss).item()) < 1e-7
    assert method._perturbation.abs().max() > 0


def test_main_passes_in_training_are_perturbed_and_no_others(batch, dataset):
    model = tiny_encoder("bert", **NO_DROPOUT)
    plain = model.eval()(**batch).logits
    method = FreeLB(initial_magnitude=0.5)
    method.setup(model, context(dataset))
    assert torch.equal(model(**batch).logits, plain)
    model.train()
    assert not torch.equal(model(**batch).logits, plain)
    with extra_pass():
        assert torch.equal(model(**batch).logits, plain)
    method.finalize(model)
    assert torch.equal(model(**batch).logits, plain)


def test_a_main_pass_that_fails_leaves_no_hook_on_the_embeddings(batch, dataset):
    model = tiny_encoder("bert").train()
    method = FreeLB()
    method.setup(model, context(dataset))
    with pytest.raises(ValueError):
        model(**{**batch, "labels": batch["labels"][:3]})
    assert not model.get_input_embeddings()._forward_hooks


def test_one_pass_from_zero_watches_nothing(dataset):
    model = tiny_encoder("bert")
    method = FreeLB(1, initial_magnitude=0.0)
    method.setup(model, context(dataset))
    assert not model._forward_pre_hooks
    assert method.passes_per_update == (1, 1)
    outputs = SimpleNamespace(loss=torch.ones(()))
    assert method.training_loss(model, {}, outputs) is outputs.loss


def test_four_micro_batches_of_two_equal_one_batch_of_eight(dataset):
    models = []
    for accumulation_steps in (1, 4):
        models.append(tiny_encoder("bert", **NO_DROPOUT))
        train_in_loop(
            models[-1], FreeLB(3, 0.3, 0.5, initial_magnitude=0.0), dataset, accumulation_steps=accumulation_steps
        )
    first, second = ({n: w for n, w in weights(model).items() if "key.bias" not in n} for model in models)
    assert largest_difference(first, second) < 1e-9


def test_other_methods_repeat_the_masks_of_a_perturbed_main_pass(batch, dataset):
    model = tiny_encoder("bert").train()
    noised = R3F(1.0, 0.0, dropout="shared")
    method = Combination([noised, RDrop(), FreeLB(2, 0.3, initial_magnitude=1e-4)])
    method.setup(model, context(dataset))
    outputs = model(**batch)
    assert added_loss(noised, model, batch, outputs).item() < 1e-8
    assert method.training_loss(model, batch, outputs).isfinite()


def test_under_bfloat16_autocast_the_perturbation_stays_float32(batch, dataset):
    model = tiny_encoder("bert").train()
    method = FreeLB()
    method.setup(model, context(dataset))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch)
        loss = method.training_loss(model, batch, outputs)
    assert outputs.logits.dtype == torch.bfloat16
    assert method._perturbation.dtype == loss.dtype == torch.float32
    assert loss.isfinite()
    assert initial_perturbation(torch.zeros(1, 2, 3).bfloat16(), torch.ones(1, 2, 1), 0.1).dtype == torch.float32


def test_official_preset_is_the_rte_script():
    method = FreeLB.official()
    assert (method.n_passes, method.step_size, method.max_norm, method.initial_magnitude) == (3, 0.1, None, 0.0)
    assert method.dropout == "shared"


def test_what_it_cannot_use_is_refused(dataset):
    for arguments in ({"n_passes": 0}, {"step_size": -1.0}, {"max_norm": 0.0}, {"initial_magnitude": -1.0}):
        with pytest.raises(InputError):
            FreeLB(**arguments)
    with pytest.raises(InputError, match="float32"):
        FreeLB().setup(tiny_encoder("bert", dtype=torch.bfloat16), context(dataset))
