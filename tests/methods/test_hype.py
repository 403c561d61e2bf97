"""HyPe: what is drawn, where it is added, and in which passes."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import DECODERS, ENCODERS, batches, tiny_encoder, without_dropout
from training_hosts import added_loss, checkpoint_activations, context, largest_difference, train_in_loop, weights

from finetune_reg.building_blocks.parameter_groups import transformer_blocks
from finetune_reg.errors import InputError
from finetune_reg.methods import R3F, Combination, HyPe, RDrop
from finetune_reg.methods.hype import hidden_noise


@pytest.mark.parametrize(
    ("noise", "mean", "std", "low", "high"),
    [
        ("normal", 0.0, 0.3, -9, 9),
        ("uniform", 0.0, 0.3 / 3**0.5, -0.3, 0.3),
        ("one_sided_uniform", 0.15, 0.3 / 12**0.5, 0.0, 0.3),
    ],
)
def test_noise_has_the_asked_distribution(noise, mean, std, low, high):
    torch.manual_seed(0)
    drawn = hidden_noise(torch.zeros(100, 20, 50), 0.3, noise)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.005)
    assert drawn.std().item() == pytest.approx(std, rel=0.01)
    assert low <= drawn.min() < drawn.max() <= high
    assert hidden_noise(torch.zeros(2, dtype=torch.bfloat16), 0.3, noise).dtype == torch.float32


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_each_block_reads_noised_states_and_nothing_else_changes(name, dataset):
    model, batch = tiny_encoder(name, **(without_dropout(name) if name in ENCODERS else {})), batches(dataset, 8)[0]
    read, written = [], []
    for block in transformer_blocks(model):
        block.register_forward_hook(lambda block, inputs, output: written.append(_states(output)))
    method = HyPe(0.1, "uniform")
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    method.setup(model, context(dataset))
    for block in transformer_blocks(model):
        block.register_forward_pre_hook(
            lambda block, arguments, named: read.append(arguments[0] if arguments else named["hidden_states"]),
            with_kwargs=True,
        )
    noised = model(**batch).logits
    moved = (read[1] - written[0]).abs()
    assert 0.09 < moved.max() <= 0.1001
    assert len(read) == 2
    method.finalize(model)
    read.clear()
    assert not torch.equal(noised, model(**batch).logits)
    assert torch.equal(read[1], written[2])


def _states(output):
    return output[0] if isinstance(output, tuple) else output


def test_only_passes_in_training_are_noised(dataset):
    model, method, batch = tiny_encoder("bert", **without_dropout("bert")), HyPe(0.1), batches(dataset, 8)[0]
    plain = model.eval()(**batch).logits
    method.setup(model, context(dataset))
    assert torch.equal(model(**batch).logits, plain)
    model.train()
    assert not torch.equal(model(**batch).logits, plain)


def test_noise_goes_with_the_masks(dataset):
    batch = batches(dataset, 8)[0]
    terms = []
    for member in (R3F(1.0, 0.0, dropout="shared"), RDrop(second_loss_weight=0.0)):
        model = tiny_encoder("bert", **without_dropout("bert")).train()
        method = Combination([HyPe(1.0), member])
        method.setup(model, context(dataset))
        terms.append(added_loss(method, model, batch, model(**batch)).item())
    assert terms[0] < 1e-10
    assert terms[1] > 1e-6


def test_checkpointing_draws_the_same_noise_again(dataset):
    plain, checkpointed = tiny_encoder("bert"), tiny_encoder("bert")
    checkpoint_activations(checkpointed)
    for model in (plain, checkpointed):
        train_in_loop(model, HyPe(0.1), dataset)
    assert largest_difference(weights(plain), weights(checkpointed)) < 1e-6


def test_official_uniform_noise_is_one_sided():
    assert HyPe.official() == HyPe(1e-5, "one_sided_uniform")
    assert HyPe.official(1e-4, "normal") == HyPe(1e-4, "normal")


def test_noise_that_is_rounded_away_is_refused(dataset):
    sentence = "HyPe moves hidden states by noise_scale=1e-05, which activations in bfloat16 round away"
    with pytest.raises(InputError, match=sentence):
        train_in_loop(tiny_encoder("bert"), HyPe(), dataset, precision="bfloat16")
    with pytest.raises(InputError, match=sentence):
        HyPe().setup(tiny_encoder("bert", dtype=torch.bfloat16), context(dataset))
    model, method = tiny_encoder("bert").train(), HyPe()
    method.setup(model, context(dataset))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=sentence):
        model(**batches(dataset, 8)[0])
    model(**batches(dataset, 8)[0])


def test_what_it_cannot_use_is_refused():
    with pytest.raises(InputError, match="noise_scale"):
        HyPe(-1.0)
    with pytest.raises(InputError, match="noise"):
        HyPe(noise="cauchy")
