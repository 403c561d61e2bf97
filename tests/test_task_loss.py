"""Whoever computes the task's loss, the method acts: subclasses, mixins, loss functions, counts of tokens, the log."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import DECODERS, ENCODERS, collate, tiny_dataset, tiny_encoder, without_dropout
from torch.nn import functional as F
from training_hosts import largest_difference, method_trainer, weights
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BatchEncoding,
    GPT2Config,
    Trainer,
    TrainerCallback,
)
from weighted_trainers import MethodFirst, WeightedFirst, WeightedMethodTrainer, WeightedTrainer, weighted_loss

from finetune_reg.building_blocks.output_divergence import symmetric_kl
from finetune_reg.errors import InputError
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import (
    L2SP,
    R3F,
    SAM,
    SMART,
    AttentionGuidedWeightMixup,
    Combination,
    FreeLB,
    Mixout,
    RDrop,
    Vanilla,
)
from finetune_reg.trainer import MethodTrainer

NO_DROPOUT = without_dropout("bert")


def loss_function(outputs, labels, num_items_in_batch=None):
    return weighted_loss(outputs.logits, labels)


KINDS = {
    "subclass": {"trainer_class": WeightedMethodTrainer},
    "method first": {"trainer_class": MethodFirst},
    "weighted first": {"trainer_class": WeightedFirst},
    "loss function": {"trainer_class": partial(MethodTrainer, compute_loss_func=loss_function)},
    "label smoothing": {"label_smoothing_factor": 0.3},
}
WITH_TERM = ("smart", "r3f", "r_drop", "freelb", "l2_sp")


def trained(method, dataset, folder, model=None, **arguments):
    trainer = method_trainer(tiny_encoder("bert") if model is None else model, method, dataset, folder, **arguments)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_with_class_weights_of_one_a_subclass_equals_the_plain_class_bit_for_bit(name, dataset, tmp_path):
    class Ones(WeightedMethodTrainer):
        class_weights = (1.0, 1.0)

    found = [
        weights(trained(METHOD_SETTINGS[name].active(), dataset, tmp_path, trainer_class=trainer_class).model)
        for trainer_class in (MethodTrainer, Ones)
    ]
    assert largest_difference(*found) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_methods_add_their_part_to_the_loss_of_each_kind(kind, dataset, tmp_path):
    plain = weights(trained(Vanilla(), dataset, tmp_path).model)
    vanilla = weights(trained(Vanilla(), dataset, tmp_path, **KINDS[kind]).model)
    assert largest_difference(plain, vanilla) > 1e-5
    for name in WITH_TERM:
        setting = METHOD_SETTINGS[name]
        active = weights(trained(setting.active(), dataset, tmp_path, **KINDS[kind]).model)
        assert largest_difference(active, vanilla) > 1e-5, name
        assert largest_difference(active, weights(trained(setting.active(), dataset, tmp_path).model)) > 1e-5, name


@pytest.mark.parametrize("method", [RDrop, FreeLB, SAM, lambda: Combination([FreeLB(2), RDrop(), L2SP()])])
def test_each_way_to_the_same_loss_gives_the_same_weights(method, dataset, tmp_path):
    first, *others = (
        weights(trained(method(), dataset, tmp_path, **KINDS[kind]).model)
        for kind in KINDS
        if kind != "label smoothing"
    )
    assert [largest_difference(first, other) for other in others] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_vanilla_equals_the_plain_trainer_with_the_same_loss(kind, dataset, tmp_path):
    plain = {
        "subclass": WeightedTrainer,
        "method first": WeightedTrainer,
        "weighted first": WeightedTrainer,
        "loss function": partial(Trainer, compute_loss_func=loss_function),
        "label smoothing": Trainer,
    }[kind]
    ours = trained(Vanilla(), dataset, tmp_path, **KINDS[kind])
    theirs = tiny_encoder("bert")
    plain(model=theirs, args=ours.args, train_dataset=dataset, data_collator=collate).train()
    assert largest_difference(weights(ours.model), weights(theirs)) == 0.0


class PassLog:
    """The logits of each pass in training mode, in order."""

    def __init__(self, model):
        self.logits = []
        model.register_forward_hook(self._write)

    def _write(self, model, arguments, outputs):
        if model.training:
            assert outputs.loss is None, "the labels are the user's"
            self.logits.append(outputs.logits.detach())


def first_loss(method, dataset, folder, **arguments):
    """The logits of the passes of one update with dropout, and the loss that is logged for it."""
    model = tiny_encoder("bert")
    passes = PassLog(model)
    trainer = trained(method, dataset, folder, model, logging_steps=1, max_steps=1, warmup_steps=0, **arguments)
    return passes.logits, trainer.state.log_history[0]


@pytest.mark.parametrize("kind", ["subclass", "method first", "weighted first", "loss function"])
def test_passes_of_r_drop_and_freelb_are_weighed_with_the_classes(kind, dataset, tmp_path):
    labels = collate(dataset[:8])["labels"]
    (first, second), log = first_loss(RDrop(0.7), dataset, tmp_path, **KINDS[kind])
    both = weighted_loss(first, labels) + weighted_loss(second, labels)
    expected = both + 0.7 * symmetric_kl(first, second) / 2
    assert log["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert log["task_loss"] == pytest.approx(weighted_loss(first, labels).item(), rel=1e-6)
    logits, log = first_loss(FreeLB(3, 0.3, 0.5, 0.5), dataset, tmp_path, **KINDS[kind])
    assert log["loss"] == pytest.approx(sum(weighted_loss(each, labels).item() for each in logits) / 3, rel=1e-6)


class Gradient(TrainerCallback):
    """The gradient of the first update."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        control.should_training_stop = True


def gradient_of_update(model, method, dataset, folder, **arguments):
    trainer = method_trainer(model, method, dataset, folder, max_grad_norm=0.0, **arguments)
    callback = Gradient()
    trainer.add_callback(callback)
    trainer.train()
    return callback.gradient


def test_gradient_of_freelb_is_the_mean_over_the_path_of_the_weighted_loss(dataset, tmp_path):
    def double():
        return tiny_encoder("bert", dtype=torch.float64, **NO_DROPOUT).train()

    model, batch = double(), collate(dataset[:8])
    labels, table = batch.pop("labels"), model.get_input_embeddings()
    delta = torch.zeros(8, batch["input_ids"].shape[1], table.embedding_dim, dtype=torch.float64, requires_grad=True)
    hook = table.register_forward_hook(lambda module, arguments, embeddings: embeddings + delta)
    (weighted_loss(model(**batch).logits, labels) / 2).backward()
    norm = delta.grad.flatten(1).norm(dim=1)[:, None, None]
    delta = (0.3 * delta.grad / norm).detach()
    (weighted_loss(model(**batch).logits, labels) / 2).backward()
    hook.remove()
    expected = {name: p.grad for name, p in model.named_parameters()}
    method = FreeLB(2, 0.3, None, 0.0)
    found = gradient_of_update(double(), method, dataset, tmp_path, trainer_class=WeightedMethodTrainer)
    assert largest_difference(found, expected) < 1e-12


def test_searches_in_setup_follow_the_loss_of_the_subclass(dataset, tmp_path):
    logs = []
    for trainer_class in (MethodTrainer, WeightedMethodTrainer):
        method = AttentionGuidedWeightMixup(n_searches=1, search_epochs=1.0)
        trained(method, dataset, tmp_path, trainer_class=trainer_class)
        logs.append(method.search_log)
    assert logs[0] != logs[1]


class TakesMore(MethodTrainer):
    """Reads a column that the model does not take, and labels that it would misread."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        certainty, labels = inputs.pop("certainty"), inputs.pop("labels")
        outputs = model(**inputs)
        loss = (certainty * F.cross_entropy(outputs.logits, labels, reduction="none")).mean()
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("name", [*WITH_TERM, "child_tuning_d", "combination"])
def test_columns_and_labels_may_be_other_than_those_of_the_model(name, dataset, tmp_path):
    rows = [row | {"certainty": torch.rand(()), "labels": F.one_hot(row["labels"], 2).float()} for row in dataset]
    arguments = {
        "trainer_class": TakesMore,
        "remove_unused_columns": False,
        "collator": lambda r: BatchEncoding(collate(r)),
    }
    trainer = trained(METHOD_SETTINGS[name].active(), rows, tmp_path, **arguments)
    assert trainer.model.config.problem_type is None


def test_in_evaluation_the_loss_is_the_subclass_s(dataset, tmp_path):
    for kind in ("subclass", "method first", "weighted first", "loss function"):
        trainer = trained(RDrop(), dataset, tmp_path, per_device_eval_batch_size=24, **KINDS[kind])
        batch = collate(dataset)
        with torch.no_grad():
            expected = weighted_loss(trainer.model.eval()(**batch).logits, batch["labels"]).item()
        assert trainer.evaluate(dataset)["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_a_subclass_that_leaves_the_method_out_stops_at_the_first_step(dataset, tmp_path):
    class WithoutOutputs(MethodTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs).loss

    class LogitsOnly(MethodTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            return (outputs.loss, outputs.logits) if return_outputs else outputs.loss

    class OwnStep(MethodTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model.train()(**inputs).loss
            loss.backward()
            return loss.detach()

    class StepWithLoss(MethodTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = self.compute_loss(model.train(), inputs)
            loss.backward()
            return loss.detach()

    for trainer_class, sentence in (
        (WithoutOutputs, "WithoutOutputs cannot hand the task's loss"),
        (OwnStep, r"without the training_loss .* self\.compute_loss"),
        (StepWithLoss, r"without the after_backward .* super\(\)\.training_step"),
    ):
        model = tiny_encoder("bert")
        with pytest.raises(InputError, match=sentence):
            trained(Mixout(0.5), dataset, tmp_path, model, trainer_class=trainer_class)
        assert not any("MixLinear" in type(module).__name__ for module in model.modules())
    with pytest.raises(InputError, match=r"no logits by that name: .* hand on all that it returns"):
        trained(RDrop(), dataset, tmp_path, tiny_encoder("bert"), trainer_class=LogitsOnly)
    trainer = method_trainer(tiny_encoder("bert"), RDrop(), dataset, tmp_path)
    trainer.compute_loss = partial(Trainer.compute_loss, trainer)
    with pytest.raises(InputError, match="nothing may replace"):
        trainer.train()


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_log_tells_the_task_s_loss_and_the_method_s_part_apart(accumulation_steps, dataset, tmp_path):
    for method in (Vanilla(), RDrop(), L2SP(10.0, 100.0), SMART(), R3F()):
        model = tiny_encoder("bert", **NO_DROPOUT)
        settings = {"accumulation_steps": accumulation_steps, "logging_steps": 2, "learning_rate": 0.0}
        trainer = trained(method, dataset, tmp_path, model, **settings)
        logs = [log for log in trainer.state.log_history if "loss" in log]
        assert [log["step"] for log in logs] == [2, 4, 6]
        for log in logs:
            assert log["task_loss"] + log["method_loss"] == pytest.approx(log["loss"], rel=1e-5)
        mean = sum(log["task_loss"] for log in logs) / 3
        with torch.no_grad():
            assert mean == pytest.approx(model(**collate(dataset)).loss.item(), rel=1e-5)
        if isinstance(method, Vanilla):
            assert {log["method_loss"] for log in logs} == {0.0}
        if isinstance(method, RDrop):
            assert [log["method_loss"] for log in logs] == pytest.approx([log["task_loss"] for log in logs], rel=1e-5)
        if isinstance(method, L2SP):
            penalty = 50 * model.classifier.weight.square().sum().item()
            assert [log["method_loss"] for log in logs] == pytest.approx([penalty] * 3, rel=1e-4)


LENGTHS = [7, 2, 5, 3, 7, 2, 2, 4]


def text_rows(same_count: bool = False):
    """Eight texts of unequal lengths; labels are the tokens, or with `same_count` two of them in each text."""
    rows = []
    for row, length in zip(tiny_dataset(8), LENGTHS, strict=True):
        is_token = torch.arange(len(row["input_ids"])) < length
        labelled = torch.arange(len(row["input_ids"])) < 2 if same_count else is_token
        tokens = torch.where(is_token, row["input_ids"], 0)
        rows.append(
            {
                "input_ids": tokens,
                "attention_mask": is_token.long(),
                "labels": torch.where(labelled, tokens, -100),
            }
        )
    return rows


def causal_model(seed=0):
    config = GPT2Config.from_dict(
        DECODERS["gpt2"].to_dict() | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).double()


def masked_model(seed=0):
    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(
        type(ENCODERS["bert"]).from_dict(ENCODERS["bert"].to_dict() | NO_DROPOUT)
    ).double()


class Penalized(FineTuningMethod):
    """A penalty of known gradient."""

    def training_loss(self, model, batch, outputs):
        return outputs.loss + 0.1 * sum(parameter.square().sum() for parameter in model.parameters())


class MeanOfTokens(MethodTrainer):
    """A loss that ignores the count, on a head whose own loss divides by it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return (loss, outputs) if return_outputs else loss


class Declared(MeanOfTokens):
    loss_is_scaled_for_ga = False


class SumOfClasses(MethodTrainer):
    """A loss that divides by the count, on a head whose own loss ignores it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        n = len(labels) if num_items_in_batch is None else num_items_in_batch
        loss = F.cross_entropy(outputs.logits, labels, reduction="sum") / n
        return (loss, outputs) if return_outputs else loss


def classifier():
    return tiny_encoder("bert", dtype=torch.float64, **NO_DROPOUT)


@pytest.mark.parametrize("method", [Vanilla, Penalized, lambda: FreeLB(3, 0.3, None, 0.0), lambda: SAM(0.5)])
@pytest.mark.parametrize(
    ("build", "rows", "trainer_class"),
    [
        (causal_model, text_rows(), MethodTrainer),
        (causal_model, text_rows(same_count=True), MeanOfTokens),
        (causal_model, text_rows(same_count=True), Declared),
        (masked_model, text_rows(same_count=True), MethodTrainer),
        (classifier, tiny_dataset(8), MethodTrainer),
        (classifier, tiny_dataset(8), SumOfClasses),
        (
            classifier,
            tiny_dataset(8),
            partial(MethodTrainer, compute_loss_func=lambda o, y, **_: F.cross_entropy(o.logits, y)),
        ),
    ],
)
def test_accumulated_gradient_equals_that_of_the_whole_batch(build, rows, trainer_class, method, tmp_path):
    whole, accumulated = (
        gradient_of_update(build(), method(), rows, tmp_path, accumulation_steps=k, trainer_class=trainer_class)
        for k in (1, 4)
    )
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
    assert largest_difference(whole, accumulated) < 1e-6 * max(gradient.abs().max() for gradient in whole.values())


def test_causal_vanilla_with_accumulation_equals_the_plain_trainer(tmp_path):
    ours = trained(Vanilla(), text_rows(), tmp_path, causal_model(), accumulation_steps=4)
    theirs = causal_model()
    Trainer(model=theirs, args=ours.args, train_dataset=text_rows(), data_collator=collate).train()
    assert largest_difference(weights(ours.model), weights(theirs)) == 0.0
