"""NEFTune: the norm of its noise, which positions count, and the Trainer's own noise of that name."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder, without_dropout
from training_hosts import added_loss, context, largest_difference, method_trainer, updates_by_hand, weights
from transformers.integrations.neftune import activate_neftune

from finetune_reg.building_blocks.embedding_perturbation import input_embeddings, token_mask
from finetune_reg.errors import InputError
from finetune_reg.methods import R3F, Combination, FreeLB, NEFTune, RDrop, Vanilla
from finetune_reg.methods.neftune import embedding_noise


@pytest.fixture
def batch(dataset):
    batch = batches(dataset, 8)[0]
    batch["input_ids"][:3, 5:] = 0
    batch["attention_mask"][:3, 5:] = 0
    return batch


def test_the_noise_of_a_sequence_has_a_norm_of_alpha_over_the_root_of_three_whatever_its_length():
    torch.manual_seed(0)
    mask = torch.ones(2, 40, 1, dtype=torch.long)
    mask[1, 10:] = 0
    noise = embedding_noise(torch.zeros(2, 40, 500, dtype=torch.float64), mask, 5.0)
    assert torch.equal(noise * (1 - mask), torch.zeros_like(noise))
    for sequence, n_tokens in enumerate((40, 10)):
        bound = 5.0 / (n_tokens * 500) ** 0.5  # 0.0354 and 0.0707
        assert noise[sequence].abs().max().item() == pytest.approx(bound, rel=0.01)
        assert noise[sequence].norm().item() == pytest.approx(5.0 / 3**0.5, rel=0.02)


def test_a_sequence_without_tokens_has_no_noise():
    assert torch.equal(embedding_noise(torch.ones(1, 3, 4), torch.zeros(1, 3, 1), 5.0), torch.zeros(1, 3, 4))


@pytest.mark.parametrize("length", ["tokens", "padded"])
def test_which_positions_count_and_move(length, batch, dataset):
    model, method, seen = tiny_encoder("bert").train(), NEFTune(5.0, length), []
    model.bert.embeddings.word_embeddings.register_forward_hook(lambda *_: seen.append(_[-1].detach()), prepend=True)
    method.setup(model, context(dataset))
    model.bert.embeddings.word_embeddings.register_forward_hook(lambda *_: seen.append(_[-1].detach()))
    model(**batch)
    clean, noised = seen
    counts = token_mask(batch) if length == "tokens" else torch.ones_like(token_mask(batch))
    noise = noised - clean
    bound = 5.0 / (counts.sum(1, keepdim=True) * 16) ** 0.5
    assert torch.equal(noise * (1 - counts), torch.zeros_like(noise))
    assert (noise.abs() <= bound * 1.001).all()
    assert (noise.abs().amax((1, 2)) > 0.9 * bound.flatten()).all()


def test_official_noise_is_that_of_transformers(batch, dataset):
    logits = []
    for ours in (True, False):
        model = tiny_encoder("bert").train()
        if ours:
            NEFTune.official(7.0).setup(model, context(dataset))
        else:
            activate_neftune(model, 7.0)
        torch.manual_seed(3)
        logits.append(model(**batch).logits)
    torch.testing.assert_close(*logits, rtol=0, atol=1e-6)


def test_only_passes_in_training_are_noised(batch, dataset):
    model, method = tiny_encoder("bert", **without_dropout("bert")), NEFTune()
    plain, words = model.eval()(**batch).logits, input_embeddings(model, batch)
    method.setup(model, context(dataset))
    assert torch.equal(model(**batch).logits, plain)
    model.train()
    assert not torch.equal(model(**batch).logits, plain)
    assert torch.equal(input_embeddings(model, batch), words)
    method.finalize(model)
    assert torch.equal(model(**batch).logits, plain)


def test_noise_goes_with_the_masks(batch, dataset):
    """Shared masks bring the same noise: R3F without noise of its own then compares equal passes."""
    for members, largest in (([NEFTune(), R3F(1.0, 0.0, dropout="shared")], 1e-8), ([NEFTune(), RDrop()], None)):
        model, method = tiny_encoder("bert", **without_dropout("bert")).train(), Combination(members)
        method.setup(model, context(dataset))
        term = added_loss(method, model, batch, model(**batch)).item()
        assert term < largest if largest is not None else term > 1e-4


def test_the_passes_of_an_adversary_share_the_noise(batch, dataset):
    model, method = tiny_encoder("bert").train(), Combination([NEFTune(), FreeLB(3, 0.0, None, 0.0)])
    method.setup(model, context(dataset))
    outputs = model(**batch)
    assert abs((method.training_loss(model, batch, outputs) - outputs.loss).item()) < 1e-7


@pytest.mark.parametrize("method", [Vanilla, RDrop, lambda: FreeLB(2, 0.3)])
def test_the_noise_of_the_trainer_is_ours_under_any_method(method, dataset, tmp_path):
    """Without padding the two lengths are one."""
    theirs, ours = tiny_encoder("bert"), tiny_encoder("bert")
    method_trainer(theirs, method(), dataset, tmp_path, neftune_noise_alpha=5.0).train()
    method_trainer(ours, Combination([NEFTune(5.0), method()]), dataset, tmp_path).train()
    assert largest_difference(weights(theirs), weights(ours)) < 1e-4
    plain = tiny_encoder("bert")
    method_trainer(plain, method(), dataset, tmp_path).train()
    assert largest_difference(weights(theirs), weights(plain)) > 1e-3


def test_noise_on_weights_in_bfloat16_keeps_their_type(dataset):
    model, method = tiny_encoder("bert", dtype=torch.bfloat16).train(), NEFTune()
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset))
    updates_by_hand(model, method, optimizer, dataset)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_what_it_cannot_use_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="noise_alpha"):
        NEFTune(-1.0)
    with pytest.raises(InputError, match="NEFTune would add its noise to that of neftune_noise_alpha: leave one"):
        method_trainer(tiny_encoder("bert"), NEFTune(), dataset, tmp_path, neftune_noise_alpha=5.0).train()
