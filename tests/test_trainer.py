"""MethodTrainer: when the calls come, what it refuses, and the gradient-accumulation trap of transformers v5."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from tiny_encoders import collate, tiny_encoder, without_dropout
from training_hosts import largest_difference, method_trainer, train_in_loop, weights
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers import trainer as transformers_trainer
from transformers.trainer_utils import HPSearchBackend

from finetune_reg.errors import InputError
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import (
    L2SP,
    SMART,
    AttentionGuidedWeightMixup,
    ChildTuningD,
    Mixout,
    PretrainedWeightDecay,
    RecAdam,
    Vanilla,
)
from finetune_reg.trainer import MethodTrainer
from finetune_reg.trainer_parts.refusals import refuse_arguments


class Recorder(FineTuningMethod):
    """Write down each call and what holds at that moment."""

    def __init__(self):
        self.calls = []

    def setup(self, model, context):
        self.calls.append(("setup", context.n_updates))

    def create_optimizer(self, model, context):
        self.calls.append(("create_optimizer", context.batch_size))
        return super().create_optimizer(model, context)

    def training_loss(self, model, batch, outputs):
        assert model.training
        self.calls.append(("training_loss", len(batch["labels"])))
        return outputs.loss

    def after_backward(self, model):
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        self.calls.append(("after_backward", norm.item()))

    def after_step(self, model, optimizer):
        self.calls.append(("after_step", optimizer.param_groups[0]["lr"]))

    def finalize(self, model):
        self.calls.append(("finalize", None))


def calls_in_trainer(dataset, folder, **arguments):
    recorder = Recorder()
    method_trainer(tiny_encoder("bert"), recorder, dataset, folder, **arguments).train()
    return recorder.calls


def test_six_calls_come_in_the_order_of_the_loop(dataset, tmp_path):
    recorder = Recorder()
    train_in_loop(tiny_encoder("bert"), recorder, dataset, accumulation_steps=2)
    names = [name for name, _ in recorder.calls]
    update = ["training_loss", "training_loss", "after_backward", "after_step"]
    assert names == ["setup", "create_optimizer", *update * 6, "finalize"]
    assert calls_in_trainer(dataset, tmp_path, accumulation_steps=2) == recorder.calls


def test_gradients_in_after_backward_are_not_clipped(dataset, tmp_path):
    recorder = Recorder()
    train_in_loop(tiny_encoder("bert"), recorder, dataset, max_grad_norm=1e-3)
    for calls in (recorder.calls, calls_in_trainer(dataset, tmp_path, max_grad_norm=1e-3)):
        assert min(value for name, value in calls if name == "after_backward") > 1e-2


def test_after_step_sees_the_learning_rate_of_that_step(dataset, tmp_path):
    rates = [value for name, value in calls_in_trainer(dataset, tmp_path) if name == "after_step"]
    assert rates == pytest.approx([0.0, 1e-3, 8e-4, 6e-4, 4e-4, 2e-4])


class _GradientNorm(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        control.should_training_stop = True


@pytest.mark.parametrize("n_labels", [1, 2])
def test_accumulated_gradients_equal_those_of_the_whole_batch(architecture, dataset, tmp_path, n_labels):
    for example in dataset:
        example["labels"] = example["labels"].float() if n_labels == 1 else example["labels"]
    norms = []
    for accumulation_steps in (1, 4):
        model = tiny_encoder(architecture, **without_dropout(architecture), num_labels=n_labels)
        trainer = method_trainer(
            model, Vanilla(), dataset, tmp_path, accumulation_steps=accumulation_steps, max_grad_norm=0.0
        )
        norm = _GradientNorm()
        trainer.add_callback(norm)
        trainer.train()
        norms.append(norm.norm)
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("method", [ChildTuningD(0.3), AttentionGuidedWeightMixup(search_epochs=1.0)])
def test_columns_that_the_model_does_not_take_are_left_out_in_setup_too(method, dataset, tmp_path):
    found = []
    for extra in ({}, {"sentence": "a text", "idx": 7}):
        rows = Dataset.from_list([{name: column.tolist() for name, column in row.items()} | extra for row in dataset])
        trainer = method_trainer(tiny_encoder("bert"), method, rows.with_format("torch"), tmp_path)
        trainer.train()
        found.append(weights(trainer.model))
    assert largest_difference(*found) == 0.0


def test_a_second_training_searches_in_float32_like_the_first(dataset, tmp_path):
    logs = []
    for n_trainings in (1, 2):
        model, method = tiny_encoder("bert"), AttentionGuidedWeightMixup(n_searches=1, search_epochs=1.0)
        start = weights(model)
        trainer = method_trainer(model, method, dataset, tmp_path, bf16=True)
        for _ in range(n_trainings):
            model.load_state_dict(start)
            trainer.train()
        logs.append(method.search_log)
    assert logs[0] == logs[1]


def test_evaluation_asks_for_no_training_loss(dataset, tmp_path):
    recorder = Recorder()
    trainer = method_trainer(tiny_encoder("bert"), recorder, dataset, tmp_path)
    trainer.evaluate(dataset)
    assert recorder.calls == []


def test_vanilla_equals_the_plain_trainer(architecture, dataset, tmp_path):
    ours, theirs = tiny_encoder(architecture), tiny_encoder(architecture)
    trainer = method_trainer(ours, Vanilla(), dataset, tmp_path)
    trainer.train()
    Trainer(model=theirs, args=trainer.args, train_dataset=dataset, data_collator=collate).train()
    assert largest_difference(weights(ours), weights(theirs)) == 0.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"fp16": True}, "bf16"),
        ({"auto_find_batch_size": True}, "fix the batch size"),
        ({"torch_compile": True}, "set torch_compile=False"),
    ],
)
def test_arguments_that_a_method_cannot_serve_are_refused(dataset, tmp_path, arguments, sentence):
    with pytest.raises((InputError, ValueError), match=sentence):
        method_trainer(tiny_encoder("bert"), Mixout(0.5), dataset, tmp_path, **arguments)


def test_other_refusals_are_one_sentence_each(dataset, tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(InputError, match=r"Mixout\(0.9\)"):
        MethodTrainer(model=tiny_encoder("bert"), args=arguments, method="mixout")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(InputError, match="the method builds it"):
        MethodTrainer(model=tiny_encoder("bert"), args=arguments, method=Vanilla(), optimizers=(optimizer, None))


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "set torch_compile=False"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "use bf16=True"),
    ],
)
def test_what_a_launcher_asks_for_by_variables_is_refused(variable, value, sentence, dataset, tmp_path, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv(variable, value)
    try:
        with pytest.raises((InputError, ValueError), match=sentence):
            method_trainer(tiny_encoder("bert"), Mixout(0.5), dataset, tmp_path)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("enabled", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_sharded_weights_are_refused(enabled, dataset, tmp_path):
    trainer = method_trainer(tiny_encoder("bert"), Mixout(0.5), dataset, tmp_path)
    setattr(trainer, enabled, True)
    with pytest.raises(InputError, match="because methods compare and change whole weights"):
        refuse_arguments(trainer)


def trainer_that_makes_its_model(method, dataset, folder):
    makes = partial(MethodTrainer, model_init=lambda: tiny_encoder("bert"))
    return method_trainer(None, method, dataset, folder, trainer_class=makes)


@pytest.mark.parametrize("method", [Mixout(0.5), SMART(5.0, 5.0, epsilon=0.1, noise_std=0.1)])
def test_a_model_made_for_each_training_is_the_one_that_the_method_is_set_up_on(method, dataset, tmp_path):
    model, trainer = tiny_encoder("bert"), trainer_that_makes_its_model(method, dataset, tmp_path)
    method_trainer(model, method, dataset, tmp_path).train()
    for _ in range(2):
        trainer.train()
        assert largest_difference(weights(model), weights(trainer.model)) == 0.0


class Grid:
    """A backend of `hyperparameter_search` that tries two settings and keeps the weights."""

    found: dict[float, dict[str, torch.Tensor]]

    def ensure_available(self):
        Grid.found = {}

    def default_hp_space(self, trial):
        return {"learning_rate": trial.params["learning_rate"]}

    def run(self, trainer, n_trials, direction):
        for number, probability in enumerate((0.3, 0.6)):
            trainer.train(trial=SimpleNamespace(number=number, params={"learning_rate": 2e-3, "mix": probability}))
            Grid.found[probability] = weights(trainer.model)


def test_a_search_makes_a_method_for_each_trial(dataset, tmp_path, monkeypatch):
    backends = transformers_trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS
    monkeypatch.setitem(backends, HPSearchBackend.OPTUNA, Grid)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    trainer = trainer_that_makes_its_model(lambda trial: Mixout(trial.params["mix"]), dataset, tmp_path)
    trainer.hyperparameter_search(backend="optuna")
    for probability, found in Grid.found.items():
        model = tiny_encoder("bert")
        method_trainer(model, Mixout(probability), dataset, tmp_path, learning_rate=2e-3).train()
        assert largest_difference(weights(model), found) == 0.0


@pytest.mark.parametrize("arguments", [{"optim": "adafactor"}, {"optim": "sgd"}, {"optim_args": "eps=1e-3"}])
def test_another_optimizer_is_built_as_the_plain_trainer_does(arguments, dataset, tmp_path):
    ours, theirs = tiny_encoder("bert"), tiny_encoder("bert")
    trainer = method_trainer(ours, Vanilla(), dataset, tmp_path, **arguments)
    trainer.train()
    Trainer(model=theirs, args=trainer.args, train_dataset=dataset, data_collator=collate).train()
    assert largest_difference(weights(ours), weights(theirs)) == 0.0
    without_decay = method_trainer(ours, L2SP(), dataset, tmp_path, **arguments)
    assert {group["weight_decay"] for group in without_decay.create_optimizer().param_groups} == {0.0}


def test_an_optimizer_that_cannot_serve_is_refused(dataset, tmp_path):
    trainer = partial(method_trainer, tiny_encoder("bert"), dataset=dataset, folder=tmp_path)
    with pytest.raises(InputError, match="RecAdam brings its own optimizer"):
        trainer(method=RecAdam(), optim="adafactor")
    with pytest.raises(InputError, match="does not take whole gradients"):
        trainer(method=Vanilla(), optim="lomo")
    with pytest.raises(InputError, match="weights between"):
        trainer(method=PretrainedWeightDecay(), optim="schedule_free_adamw")
