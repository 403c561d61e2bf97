"""The loop's own promises: divergence, accumulation over a short last group, counted passes."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from training_hosts import context, train_in_loop

from finetune_reg.methods import Vanilla
from finetune_reg.pass_counting import PassCounter
from finetune_reg.training_loop import TrainingDivergedError, predict


class SecondPass(Vanilla):
    """Runs the model once more per batch, differentiates, and runs it a third time without a gradient."""

    def extra_loss(self, model, batch, outputs):
        with torch.no_grad():
            model(**batch)
        return 0.1 * model(**batch).loss


def test_passes_are_counted_in_training_only(dataset):
    model = tiny_encoder("bert")
    with PassCounter(model) as passes:
        train_in_loop(model, Vanilla(), dataset)
        predict(model, batches(dataset, 8))
        assert (passes.forward, passes.backward) == (6, 6)
    with PassCounter(model) as passes:
        train_in_loop(model, SecondPass(), dataset)
    assert (passes.forward, passes.backward) == (18, 12)
    assert not model._forward_hooks


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(dataset):
    model = tiny_encoder("bert")
    with torch.no_grad():
        model.classifier.weight.fill_(float("inf"))
    with pytest.raises(TrainingDivergedError, match="update 1") as caught:
        train_in_loop(model, Vanilla(), dataset)
    assert caught.value.update == 1


def test_a_short_last_group_is_averaged_over_its_own_size(dataset):
    """20 examples in micro-batches of 4, two to an update: the third update has one micro-batch."""
    losses = train_in_loop(tiny_encoder("bert"), Vanilla(), dataset[:20], accumulation_steps=2)
    assert len(losses) == context(dataset[:20]).n_updates == 6
    assert max(losses) < 1.0
    assert min(losses) > 0.4


def test_the_callback_sees_the_losses_of_each_epoch(dataset):
    seen = []
    train_in_loop(
        tiny_encoder("bert"), Vanilla(), dataset, after_epoch=lambda epoch, losses: seen.append((epoch, len(losses)))
    )
    assert seen == [(1, 3), (2, 6)]


def test_predictions_keep_the_order_of_the_loader(dataset):
    model = tiny_encoder("bert")
    whole, parts = predict(model, batches(dataset, 24)), predict(model, batches(dataset, 5))
    torch.testing.assert_close(torch.tensor(whole.logits), torch.tensor(parts.logits))
    assert whole.labels.tolist() == [example["labels"].item() for example in dataset]
