"""Methods that compare outputs, on heads over tokens, over spans and over choices."""

from __future__ import annotations

import pytest
import torch
from heads import HEADS, more_padding, text_batch, with_head
from sklearn.linear_model import LogisticRegression
from tiny_encoders import tiny_dataset
from training_hosts import added_loss, context, largest_difference, train_in_loop, weights

from finetune_reg.building_blocks.output_divergence import compared_logits, symmetric_kl
from finetune_reg.errors import InputError
from finetune_reg.methods import R3F, SMART, FreeLB, HeadFirst, RDrop

DATASET = tiny_dataset()
COMPARING = {
    "r3f": lambda: R3F(1.0, noise_scale=0.1),
    "smart": lambda: SMART(1.0, 1.0, epsilon=0.1, noise_std=0.1, ascent_step_size=0.1, dropout="off"),
    "smart official": SMART.official,
    "r_drop": lambda: RDrop(second_loss_weight=0.0),
}


def term(build, head: str, batch) -> float:
    """What a method adds; perturbations are drawn once for the tokens, so that padding does not shift them."""
    model, method = with_head(head, dropout=build is COMPARING["r_drop"], dtype=torch.float64), build()
    method.setup(model, context(DATASET))
    for parameter in model.parameters():  # away from the teacher
        parameter.data.mul_(1.01)
    torch.manual_seed(0)
    return added_loss(method, model, batch, model(**batch)).item()


@pytest.fixture
def noise_of_tokens(monkeypatch):
    """Let each token draw its own noise, from its place in the sequence."""

    def draw(like: torch.Tensor, **options) -> torch.Tensor:
        noise = torch.empty(like.shape, **options)
        for place in range(like.shape[1]):
            generator = torch.Generator().manual_seed(place)
            noise[:, place] = torch.rand(noise[:, place].shape, generator=generator, dtype=noise.dtype) - 0.5
        return noise

    monkeypatch.setattr("finetune_reg.methods.r3f.draw_noise", lambda like, scale, noise: draw(like, dtype=like.dtype))
    monkeypatch.setattr(torch, "randn_like", draw)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["r3f", "smart", "smart official"])
def test_columns_of_padding_change_nothing(name, head, noise_of_tokens):
    batch = HEADS[head].labelled(text_batch())
    plain, padded = (term(COMPARING[name], head, each) for each in (batch, more_padding(batch)))
    assert plain > 1e-7
    assert padded == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_columns_of_padding_leave_the_compared_outputs_alone(head):
    model = with_head(head, dtype=torch.float64)
    batch = HEADS[head].labelled(text_batch())
    compared = []
    for each in (batch, more_padding(batch)):
        compared.append(compared_logits(model, each, model(**each)).log_softmax(-1).exp())
    plain, padded = compared
    assert len(plain) == len(padded)
    torch.testing.assert_close(plain, padded[:, : plain.shape[1]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("build", [*COMPARING.values(), FreeLB], ids=[*COMPARING, "freelb"])
def test_a_run_trains(build, head):
    model = with_head(head, dropout=True)
    before = weights(model)
    batch = HEADS[head].labelled(text_batch(8))
    dataset = [{name: tensor[i] for name, tensor in batch.items()} for i in range(8)]
    if head == "question answering":  # the loop asks for labels
        dataset = [example | {"labels": example["start_positions"]} for example in dataset]
        forward = model.forward
        model.forward = lambda labels=None, **batch: forward(**batch)
    losses = train_in_loop(model, build(), dataset)
    assert torch.tensor(losses).isfinite().all()
    assert largest_difference(before, weights(model)) > 0.0


def test_tokens_without_labels_are_compared_by_the_attention_mask():
    model, batch = with_head("tokens"), text_batch()
    compared = compared_logits(model, batch, model(**batch))
    assert compared.shape == (batch["attention_mask"].sum(), 5)
    del batch["attention_mask"]
    assert len(compared_logits(model, batch, model(**batch))) == batch["input_ids"].numel()


def test_question_answering_averages_the_divergences_of_start_and_end():
    model, batch = with_head("question answering"), text_batch(padded_from=7)
    torch.manual_seed(0)
    first, second = model(**batch), model(**{**batch, "input_ids": batch["input_ids"].flip(0)})
    compared = symmetric_kl(*(compared_logits(model, batch, each) for each in (first, second)))
    apart = [symmetric_kl(getattr(first, name), getattr(second, name)) for name in ("start_logits", "end_logits")]
    torch.testing.assert_close(compared, (apart[0] + apart[1]) / 2)


def test_a_causal_model_decides_before_the_labelled_token():
    model, batch = with_head("next tokens"), HEADS["next tokens"].labelled(text_batch())
    outputs = model(**batch)
    compared = compared_logits(model, batch, outputs)
    answers = batch["labels"][:, 1:][batch["labels"][:, 1:] != -100]
    torch.testing.assert_close(torch.nn.functional.cross_entropy(compared, answers), outputs.loss)


def test_a_batch_without_a_labelled_token_has_no_divergence():
    model, batch = with_head("tokens"), HEADS["tokens"].labelled(text_batch())
    batch["labels"].fill_(-100)
    logits = compared_logits(model, batch, model(**batch))
    assert symmetric_kl(logits, logits) == 0.0


def test_the_head_is_fitted_to_the_labelled_tokens():
    model, batch = with_head("tokens"), HEADS["tokens"].labelled(text_batch(16))
    dataset = [{name: tensor[i] for name, tensor in batch.items()} for i in range(16)]
    HeadFirst(0.1).setup(model, context(dataset))
    labelled = batch["labels"] != -100
    with torch.no_grad():
        features = model.eval().bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state[labelled]
    expected = LogisticRegression(C=10.0, tol=1e-8, max_iter=1000)
    expected.fit(features.double().numpy(), batch["labels"][labelled].numpy())
    found = model.classifier.weight.detach().double()
    torch.testing.assert_close(found, torch.tensor(expected.coef_), rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", ["question answering", "multiple choice"])
def test_a_head_whose_logits_no_linear_layer_returns_is_not_fitted(head):
    model, batch = with_head(head), HEADS[head].labelled(text_batch(8))
    dataset = [{name: tensor[i] for name, tensor in batch.items()} for i in range(8)]
    with pytest.raises(InputError, match="no trainable linear layer whose outputs are the logits of Bert"):
        HeadFirst().setup(model, context(dataset))
