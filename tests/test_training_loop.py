"""The loop's own promises: divergence, accumulation over a short last group, counted passes, mixed precision."""

from __future__ import annotations

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import batches, tiny_encoder
from training_hosts import context, largest_difference, method_trainer, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.experiment.environment import describe_environment
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.methods import Vanilla
from finetune_reg.training_loop import TrainingDivergedError, predict, train, warmup_updates


class SecondPass(Vanilla):
    """Runs the model once more per batch, differentiates, and runs it a third time without a gradient."""

    def training_loss(self, model, batch, outputs):
        with torch.no_grad():
            model(**batch)
        return outputs.loss + 0.1 * model(**batch).loss


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


def test_an_epoch_without_batches_is_refused(dataset):
    for loader in ([], iter(batches(dataset, 8))):
        with pytest.raises(InputError, match="no batch in this epoch"):
            train(tiny_encoder("bert"), Vanilla(), loader, context(dataset))


def test_a_norm_of_zero_is_refused_because_it_would_clip_everything_away(dataset):
    with pytest.raises(InputError, match="max_grad_norm must be above 0"):
        train_in_loop(tiny_encoder("bert"), Vanilla(), dataset, max_grad_norm=0.0)
    assert train_in_loop(tiny_encoder("bert"), Vanilla(), dataset, max_grad_norm=float("inf"))


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


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_bfloat16_gives_nearly_the_float32_losses_and_keeps_float32_weights(name, dataset):
    losses, models = {}, {}
    for precision in ("float32", "bfloat16"):
        models[precision] = tiny_encoder("bert")
        method = METHOD_SETTINGS[name].active()
        losses[precision] = torch.tensor(train_in_loop(models[precision], method, dataset, precision=precision))
    assert not torch.equal(losses["bfloat16"], losses["float32"])
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0.05, atol=0.0)
    assert {parameter.dtype for parameter in models["bfloat16"].parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter).all() for parameter in models["bfloat16"].parameters())


def test_bfloat16_in_the_loop_is_bf16_in_the_trainer(dataset, tmp_path):
    in_loop, in_trainer = tiny_encoder("bert"), tiny_encoder("bert")
    train_in_loop(in_loop, Vanilla(), dataset, precision="bfloat16")
    method_trainer(in_trainer, Vanilla(), dataset, tmp_path, bf16=True).train()
    assert largest_difference(weights(in_loop), weights(in_trainer)) == 0.0


class SeesPrecision(Vanilla):
    """Notes the data type of a matrix product where the loop calls it."""

    def __post_init__(self):
        super().__post_init__()
        self.seen = {}

    def setup(self, model, context):
        self.note("setup")
        model.classifier.weight.register_hook(lambda _: self.note("backward"))

    def training_loss(self, model, batch, outputs):
        self.note("training_loss")
        return outputs.loss

    def after_backward(self, model):
        self.note("after_backward")

    def note(self, where):
        self.seen[where] = (torch.ones(1, 1) @ torch.ones(1, 1)).dtype


def test_autocast_covers_the_forward_pass_and_the_losses_only(dataset):
    method = SeesPrecision()
    train_in_loop(tiny_encoder("bert"), method, dataset, precision="bfloat16")
    assert method.seen.pop("training_loss") == torch.bfloat16
    assert method.seen == dict.fromkeys(("setup", "backward", "after_backward"), torch.float32)


def test_bfloat16_predictions_are_float32_arrays_near_the_exact_ones(dataset):
    model = tiny_encoder("bert")
    exact, rounded = (predict(model, batches(dataset, 8), p).logits for p in ("float32", "bfloat16"))
    assert exact.dtype == rounded.dtype == "float32"
    assert (exact != rounded).any()
    torch.testing.assert_close(torch.tensor(rounded), torch.tensor(exact), rtol=0.0, atol=0.01)


def test_the_environment_names_the_precision():
    for precision in ("float32", "bfloat16"):
        assert describe_environment(torch.device("cpu"), precision)["dtype"] == precision


@pytest.mark.parametrize(
    ("fraction", "n_updates", "expected"),
    [(0.1, 1, 0), (1.0, 1, 0), (0.0, 5, 0), (0.1, 45, 5), (0.1, 2, 1), (1.0, 5, 4)],
)
def test_warm_up_never_takes_all_updates(fraction, n_updates, expected):
    assert warmup_updates(fraction, n_updates) == expected
