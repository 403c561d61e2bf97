"""R-Drop and its three released losses against worked numbers."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import ENCODERS, batches, tiny_encoder, without_dropout
from torch import nn
from torch.nn import functional as F
from training_hosts import added_loss, context, largest_difference
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune_reg.building_blocks.random_replay import RandomReplay
from finetune_reg.errors import InputError
from finetune_reg.methods import RDrop

DOUBLE = {"dtype": torch.float64}


class Scripted(nn.Module):
    """Answers each pass with the next of the given logits, shape (batch, labels)."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = [torch.tensor(answer, requires_grad=True, **DOUBLE) for answer in logits]
        self.config = SimpleNamespace(num_labels=self.logits[0].shape[1], problem_type=None)
        self._answers = iter(self.logits)

    def forward(self, labels):
        logits = next(self._answers)
        loss = F.mse_loss(logits[:, 0], labels) if logits.shape[1] == 1 else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def total_loss(method, model, labels):
    outputs = model(labels=labels)
    return method.training_loss(model, {"labels": labels}, outputs)


WORKED = [
    (RDrop(), 0.515059),
    (RDrop.official("readme"), 0.294964),
    (RDrop.official("bert"), 0.477624),
    (RDrop.official("roberta"), 0.115872),
]


@pytest.mark.parametrize(("method", "expected"), WORKED)
def test_worked_losses_of_the_paper_and_of_each_released_form(method, expected):
    loss = total_loss(method, Scripted([[2.0, 0.0]], [[1.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("form", "strength", "weights"), [("bert", 0.5, (1, 1)), ("roberta", 0.7, (0.5, 0))])
def test_official_forms_sum_the_kl_over_the_batch_and_the_paper_averages_it(form, strength, weights):
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 3, **DOUBLE)
    labels = torch.randint(3, (5,))
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    kl = (F.kl_div(q, p, log_target=True, reduction="sum") + F.kl_div(p, q, log_target=True, reduction="sum")) / 2
    task = [F.cross_entropy(logits, labels) for logits in (first, second)]
    model = Scripted(first.tolist(), second.tolist())
    official = weights[0] * task[0] + weights[1] * task[1] + strength * kl
    torch.testing.assert_close(total_loss(RDrop.official(form), model, labels), official)
    model = Scripted(first.tolist(), second.tolist())
    torch.testing.assert_close(total_loss(RDrop(strength), model, labels), task[0] + task[1] + strength * kl / 5)


def test_regression_weighs_squared_differences():
    first, second, labels = [[1.0], [2.0]], [[0.5], [4.0]], torch.tensor([0.0, 3.0], **DOUBLE)
    between, task = (0.25 + 4) / 2, ((1 + 1) / 2, (0.25 + 1) / 2)
    for method, expected in (
        (RDrop(0.3), task[0] + task[1] + 0.3 * between),
        (RDrop.official("bert", regression=True), task[0] + task[1] + between),
        (RDrop.official("roberta", regression=True), 0.5 * task[0] + 0.8 * between),
    ):
        assert total_loss(method, Scripted(first, second), labels).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", [RDrop(), RDrop.official("readme"), RDrop.official("bert")])
def test_loss_is_symmetric_in_the_two_passes(method):
    logits, labels = ([[2.0, 0.0], [0.3, 1.0]], [[1.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 1])
    forward, backward = (total_loss(method, Scripted(*order), labels).item() for order in (logits, logits[::-1]))
    assert forward == pytest.approx(backward, abs=1e-12)


def test_gradients_reach_both_passes_and_agree_with_finite_differences():
    labels = torch.tensor([0, 1])

    def loss(first, second):
        model = Scripted([[0.0, 0.0]], [[0.0, 0.0]])
        model._answers = iter((first, second))
        return total_loss(RDrop(0.7), model, labels)

    torch.manual_seed(0)
    assert torch.autograd.gradcheck(loss, tuple(torch.randn(2, 2, requires_grad=True, **DOUBLE) for _ in range(2)))


def test_the_roberta_form_trains_the_second_pass_by_the_kl_alone():
    model = Scripted([[1.0, 0.0]], [[1.0, 0.0]])
    total_loss(RDrop.official("roberta"), model, torch.tensor([0])).backward()
    first, second = (logits.grad for logits in model.logits)
    p = torch.sigmoid(torch.tensor(1.0, **DOUBLE)).item()
    assert first.flatten().tolist() == pytest.approx([0.5 * (p - 1), 0.5 * (1 - p)], abs=1e-12)
    assert second.abs().max() == 0


@pytest.mark.parametrize("name", ENCODERS)
def test_without_dropout_the_loss_is_twice_the_task_loss_and_with_it_the_passes_differ(name, dataset):
    batch = batches(dataset, 8)[0]
    model = tiny_encoder(name, **without_dropout(name)).train()
    outputs = model(**batch)
    assert added_loss(RDrop(), model, batch, outputs).item() == outputs.loss.item()
    model = tiny_encoder(name).train()
    outputs = model(**batch)
    assert added_loss(RDrop(1.0, second_loss_weight=0.0), model, batch, outputs).item() > 1e-8


def test_gradient_of_an_encoder_equals_that_of_a_doubled_batch(dataset):
    """Without dropout; the paper runs `[x; x]` in one pass and sums its two task losses."""
    batch, gradients = batches(dataset, 4)[0], []
    for doubled in (False, True):
        model = tiny_encoder("bert", dtype=torch.float64, **without_dropout("bert")).train()
        if doubled:
            (2 * model(**{name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}).loss).backward()
        else:
            outputs = model(**batch)
            RDrop().training_loss(model, batch, outputs).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert largest_difference(*gradients) < 1e-12


def test_the_second_pass_is_an_extra_pass_and_draws_from_the_stream(dataset):
    model, batch = tiny_encoder("bert").train(), batches(dataset, 8)[0]
    with ExitStack() as undo:
        replay = RandomReplay(model, undo)
        torch.manual_seed(0)
        first, second = model(**batch), model(**batch)
        torch.manual_seed(0)
        outputs = model(**batch)
        extra = added_loss(RDrop(0.0), model, batch, outputs)
        assert torch.equal(extra, second.loss)
        with replay.again():
            assert torch.equal(model(**batch).logits, first.logits)


def test_the_second_pass_is_left_out_when_nothing_asks_for_it():
    labels = torch.tensor([0])
    loss = total_loss(RDrop(0.0, first_loss_weight=0.25, second_loss_weight=0.0), Scripted([[2.0, 0.0]]), labels)
    assert loss.item() == pytest.approx(0.25 * 0.126928, abs=1e-6)
    assert added_loss(RDrop(0.0, second_loss_weight=0.0), None, {}, None) == 0.0
    assert RDrop(0.0, second_loss_weight=0.0).passes_per_update == (1, 1)
    assert RDrop(0.1, second_loss_weight=0.0).passes_per_update == (2, 2)


def test_under_bfloat16_autocast_the_kl_is_float32(dataset):
    model, batch = tiny_encoder("bert").train(), batches(dataset, 8)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch)
        kl = added_loss(RDrop(1.0, second_loss_weight=0.0), model, batch, outputs)
    assert outputs.logits.dtype == torch.bfloat16
    assert kl.dtype == torch.float32
    assert kl > 0


def test_what_it_cannot_use_is_refused(dataset):
    for arguments in ({"strength": -1.0}, {"second_loss_weight": -1.0}, {"kl_reduction": "max"}):
        with pytest.raises(InputError):
            RDrop(**arguments)
    with pytest.raises(InputError, match="did you mean 'roberta'"):
        RDrop.official("robert")
    with pytest.raises(InputError, match="returns tuples"):
        RDrop().setup(tiny_encoder("bert", return_dict=False), context(dataset))
