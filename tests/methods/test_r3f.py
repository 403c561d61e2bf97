"""R3F against its worked example and a criterion written out in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import ENCODERS, batches, tiny_encoder, without_dropout
from torch import nn
from torch.nn import functional as F
from training_hosts import added_loss, context, largest_difference
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune_reg.building_blocks.embedding_perturbation import input_embeddings
from finetune_reg.errors import InputError
from finetune_reg.methods import R3F
from finetune_reg.methods.r3f import draw_noise

DOUBLE = {"dtype": torch.float64}
NO_DROPOUT = {**without_dropout("bert"), **DOUBLE}


class Scripted(nn.Module):
    """Looks its tokens up and answers each pass with the next of the given logits."""

    device = torch.device("cpu")

    def __init__(self, *logits):
        super().__init__()
        self.config = SimpleNamespace(num_labels=2, problem_type=None)
        self.embedding = nn.Embedding(2, 3)
        self.answers = iter(torch.tensor([row], **DOUBLE) for row in logits)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, labels):
        self.embedding(input_ids)
        logits = next(self.answers)
        return SequenceClassifierOutput(loss=F.cross_entropy(logits, labels), logits=logits)


ONE_EXAMPLE = {"input_ids": torch.tensor([[0]]), "labels": torch.tensor([0])}


def started(method, model, dataset):
    method.setup(model, context(dataset))
    batch = batches(dataset, 8)[0]
    return batch, model(**batch)


@pytest.mark.parametrize("build", [R3F, R3F.official])
def test_worked_example(build):
    model = Scripted((2.0, 0.0), (1.0, 0.0))
    outputs = model(**ONE_EXAMPLE)
    extra = added_loss(build(), model, ONE_EXAMPLE, outputs)
    loss = build().training_loss(Scripted((1.0, 0.0)), ONE_EXAMPLE, outputs)
    assert outputs.loss.item() == pytest.approx(0.126928, abs=1e-6)
    assert extra.item() == pytest.approx(0.149739, abs=1e-6)
    assert loss.item() == pytest.approx(0.276667, abs=1e-6)


def test_the_term_is_symmetric_in_the_two_passes():
    swapped = [
        added_loss(R3F(), model, ONE_EXAMPLE, model(**ONE_EXAMPLE)).item()
        for model in (Scripted((2.0, 0.0), (1.0, 0.0)), Scripted((1.0, 0.0), (2.0, 0.0)))
    ]
    assert swapped[0] == pytest.approx(swapped[1], abs=1e-12)


def test_noise_has_the_asked_distribution():
    torch.manual_seed(0)
    like = torch.zeros(100, 20, 50)
    uniform, normal = draw_noise(like, 0.3, "uniform"), draw_noise(like, 0.3, "normal")
    assert uniform.abs().max() <= 0.3
    assert uniform.std().item() == pytest.approx(0.3 / 3**0.5, rel=0.01)
    assert normal.std().item() == pytest.approx(0.3, rel=0.01)
    assert normal.abs().max() > 0.9
    for noise in (uniform, normal):
        assert noise.mean().item() == pytest.approx(0.0, abs=3 * 0.3 / like.numel() ** 0.5)
    assert draw_noise(like.bfloat16(), 0.3, "uniform").dtype == torch.float32


@pytest.mark.parametrize("noise", ["uniform", "normal"])
@pytest.mark.parametrize("official", [False, True])
def test_loss_and_gradient_equal_the_criterion_written_out(noise, official, dataset):
    method = R3F.official(0.7, 0.1, noise) if official else R3F(0.7, 0.1, noise)
    results = []
    for by_hand in (False, True):
        model = tiny_encoder("bert", **NO_DROPOUT).train()
        batch, outputs = started(method, model, dataset)
        torch.manual_seed(1)
        if not by_hand:
            term = added_loss(method, model, batch, outputs)
        else:
            words = model.bert.embeddings.word_embeddings(batch["input_ids"])
            words = words.detach() if official else words
            drawn = 0.2 * torch.rand_like(words) - 0.1 if noise == "uniform" else 0.1 * torch.randn_like(words)
            noised = model(inputs_embeds=words + drawn, attention_mask=batch["attention_mask"]).logits
            p, q = outputs.logits.softmax(-1), noised.softmax(-1)
            term = 0.7 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 8
        (outputs.loss + term).backward()
        results.append((term.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-9, atol=1e-15)
    assert results[0][0] > 1e-7
    assert largest_difference(results[0][1], results[1][1]) < 1e-12


def test_gradients_reach_the_noised_pass_and_only_the_official_one_spares_the_embedding_matrix(dataset):
    gradients = []
    for method in (R3F(1.0, 0.1, dropout="shared"), R3F.official(1.0, 0.1)):
        model = tiny_encoder("bert", **NO_DROPOUT).train()
        batch, outputs = started(method, model, dataset)
        outputs.logits = outputs.logits.detach()
        added_loss(method, model, batch, outputs).backward()
        gradients.append(model.bert.embeddings.word_embeddings.weight.grad)
        assert model.classifier.weight.grad.abs().max() > 0
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


@pytest.mark.parametrize("name", ENCODERS)
def test_without_noise_only_independent_dropout_is_left(name, dataset):
    terms = {}
    for dropout in ("shared", "independent"):
        method = R3F(1.0, 0.0, dropout=dropout)
        terms[dropout] = added_loss(method, *with_outputs(tiny_encoder(name).train(), method, dataset)).item()
    assert terms["shared"] == 0.0
    assert terms["independent"] > 1e-6
    model = tiny_encoder(name, **without_dropout(name)).train()
    assert added_loss(R3F(1.0, 0.0), *with_outputs(model, R3F(1.0, 0.0), dataset)).item() == 0.0


def with_outputs(model, method, dataset):
    batch, outputs = started(method, model, dataset)
    return model, batch, outputs


def test_strength_scales_the_term_and_zero_draws_nothing(dataset):
    terms = []
    for strength in (1.0, 2.5):
        method = R3F(strength, 0.1)
        model, batch, outputs = with_outputs(tiny_encoder("bert", **NO_DROPOUT).train(), method, dataset)
        torch.manual_seed(0)
        terms.append(added_loss(method, model, batch, outputs).item())
    assert terms[1] == pytest.approx(2.5 * terms[0])
    state = torch.get_rng_state()
    assert added_loss(R3F(0.0), model, batch, outputs) == 0.0
    assert torch.equal(torch.get_rng_state(), state)


def test_regression_has_a_squared_error_and_officially_nothing(dataset):
    model = tiny_encoder("bert", num_labels=1, **NO_DROPOUT).train()
    for example in dataset:
        example["labels"] = example["labels"].double()
    method = R3F(2.0, 0.1)
    model, batch, outputs = with_outputs(model, method, dataset)
    torch.manual_seed(0)
    term = added_loss(method, model, batch, outputs)
    torch.manual_seed(0)
    drawn = draw_noise(input_embeddings(model, batch), 0.1, "uniform")
    words = model.bert.embeddings.word_embeddings(batch["input_ids"]) + drawn
    noised = model(inputs_embeds=words, attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(term, 2 * (noised - outputs.logits).square().mean())
    assert term > 0
    assert added_loss(R3F.official(), model, batch, outputs) == 0.0


def test_under_bfloat16_autocast_the_loss_stays_float32(dataset):
    method = R3F(1.0, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model, batch, outputs = with_outputs(tiny_encoder("bert").train(), method, dataset)
        term = added_loss(method, model, batch, outputs)
    assert outputs.logits.dtype == torch.bfloat16
    assert term.dtype == torch.float32
    assert term > 0


def test_what_it_cannot_use_is_refused(dataset):
    for arguments in ({"strength": -1.0}, {"noise_scale": -1.0}, {"noise": "cauchy"}, {"dropout": "off"}):
        with pytest.raises(InputError):
            R3F(**arguments)
    with pytest.raises(InputError, match="float32"):
        R3F().setup(tiny_encoder("bert", dtype=torch.bfloat16), context(dataset))
    with pytest.raises(InputError, match="returns tuples"):
        R3F().setup(tiny_encoder("bert", return_dict=False), context(dataset))
