"""Moved embeddings and repeated dropout masks: what the adversarial and the consistency methods stand on."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from tiny_encoders import DECODERS, ENCODERS, batches, tiny_encoder
from torch import nn

from finetune_reg.building_blocks.embedding_perturbation import (
    input_embeddings,
    perturbed_embeddings,
    refuse_half_precision,
    token_mask,
)
from finetune_reg.building_blocks.random_replay import RandomReplay, extra_pass, random_state_kept
from finetune_reg.errors import InputError

every_architecture = pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])


@pytest.fixture
def batch(dataset):
    return batches(dataset, 4)[0]


@pytest.fixture
def padded_batch(batch):
    batch["input_ids"][:2, 5:] = 0
    batch["attention_mask"][:2, 5:] = 0
    return batch


def noise_like(model, batch, scale=0.1):
    return scale * torch.randn_like(input_embeddings(model, batch))


@every_architecture
def test_zero_perturbation_equals_the_plain_forward(name, padded_batch):
    model = tiny_encoder(name).eval()
    plain = model(**padded_batch).logits
    with perturbed_embeddings(model, torch.zeros_like(input_embeddings(model, padded_batch))):
        moved = model(**padded_batch).logits
    assert torch.equal(plain, moved)


@every_architecture
def test_a_perturbation_moves_tokens_and_padding_does_not_matter(name, padded_batch):
    model = tiny_encoder(name).eval()
    noise, mask = noise_like(model, padded_batch), token_mask(padded_batch)
    outputs = []
    for perturbation in (noise, noise * mask, noise * (1 - mask), 0 * noise):
        with perturbed_embeddings(model, perturbation):
            outputs.append(model(**padded_batch).logits)
    everywhere, tokens, padding, nowhere = outputs
    torch.testing.assert_close(everywhere, tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(padding, nowhere, rtol=0, atol=1e-6)
    assert (tokens - nowhere).abs().max() > 1e-5


def test_the_word_embedding_is_what_is_moved(batch):
    model = tiny_encoder("bert").eval()
    noise = noise_like(model, batch)
    with perturbed_embeddings(model, noise):
        moved = model(**batch).logits
    embeddings = model.bert.embeddings.word_embeddings(batch["input_ids"]) + noise
    direct = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(moved, direct)


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_reach_the_perturbation_and_the_matrix_unless_detached(detach, batch):
    model = tiny_encoder("bert", dtype=torch.float64).eval()
    noise = noise_like(model, batch).requires_grad_()
    matrix = model.bert.embeddings.word_embeddings.weight

    def loss(noise):
        with perturbed_embeddings(model, noise, detach=detach):
            return model(**batch).loss

    gradient, to_matrix = torch.autograd.grad(loss(noise), (noise, matrix), allow_unused=True)
    assert (to_matrix is None) == detach
    direction = torch.randn_like(noise)
    with torch.no_grad():
        slope = (loss(noise + 1e-5 * direction) - loss(noise - 1e-5 * direction)) / 2e-5
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)
    assert slope.abs() > 1e-4


def test_the_hook_goes_also_when_a_pass_fails(batch):
    model = tiny_encoder("bert")
    with pytest.raises(RuntimeError), perturbed_embeddings(model, torch.zeros(2, 3, 5)):
        model(**batch)
    assert not model.get_input_embeddings()._forward_hooks


def test_a_batch_without_attention_mask_has_no_padding(batch):
    assert torch.equal(token_mask({"input_ids": batch["input_ids"]}), token_mask(batch))
    assert token_mask(batch).shape == (4, 7, 1)


def test_under_bfloat16_autocast_the_sum_is_float32(batch):
    model = tiny_encoder("bert").eval()
    seen = []
    model.bert.embeddings.LayerNorm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), perturbed_embeddings(model, noise_like(model, batch)):
        model(**batch)
    assert seen == [torch.float32]


def test_weights_in_half_precision_are_refused():
    refuse_half_precision(tiny_encoder("bert"), "Method")
    refuse_half_precision(tiny_encoder("bert", dtype=torch.float64), "Method")
    with pytest.raises(InputError, match="Method needs weights in float32"):
        refuse_half_precision(tiny_encoder("bert", dtype=torch.bfloat16), "Method")


@every_architecture
def test_replay_draws_the_same_masks_and_leaves_the_stream_where_it_was(name, batch):
    model = tiny_encoder(name).train()
    with ExitStack() as undo:
        replay = RandomReplay(model, undo)
        torch.manual_seed(5)
        first = model(**batch).logits
        following = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(model(**batch).logits, first)
        for _ in range(2):
            with replay.again():
                again = model(**batch).logits
            assert torch.equal(again, first)
        assert torch.equal(torch.rand(3), following)
        assert not torch.equal(model(**batch).logits, first)
    assert not model._forward_pre_hooks


def test_replay_remembers_the_latest_main_pass_and_no_other(batch):
    model = tiny_encoder("bert").train()
    with ExitStack() as undo:
        replay, other = RandomReplay(model, undo), RandomReplay(model, undo)
        torch.manual_seed(5)
        model(**batch)
        latest = model(**batch).logits
        model.eval()(**batch)
        model.train()
        with extra_pass():
            assert not torch.equal(model(**batch).logits, latest)
        with other.again():
            model(**batch)
            model(**batch)
        with replay.again():
            assert torch.equal(model(**batch).logits, latest)


def test_a_replay_that_fails_restores_the_stream_and_goes_on_watching(batch):
    model = tiny_encoder("bert").train()
    with ExitStack() as undo:
        replay = RandomReplay(model, undo)
        model(**batch)
        torch.manual_seed(5)
        with pytest.raises(ZeroDivisionError), replay.again():
            raise ZeroDivisionError
        state = torch.get_rng_state()
        latest = model(**batch).logits
        with replay.again():
            assert torch.equal(model(**batch).logits, latest)
        torch.manual_seed(5)
        assert torch.equal(torch.get_rng_state(), state)


def test_random_state_is_kept():
    torch.manual_seed(1)
    with random_state_kept(torch.device("cpu")):
        nn.functional.dropout(torch.ones(10), 0.5)
    kept = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), kept)
