"""What every method must do, on five encoder families."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import ENCODERS, batches, tiny_dataset, tiny_encoder, without_dropout
from torch import nn
from training_hosts import SEED, context, largest_difference, method_trainer, train_in_loop, updates_by_hand, weights
from transformers import AutoModelForSequenceClassification

from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import METHODS, Vanilla, build_method, method_name


def one_worker(name: str) -> pytest.MarkDecorator:
    """Keep the tests of a method in one process, which trains once for all of them."""
    return pytest.mark.xdist_group(f"contract of {name}")


def crossed(names: Iterable[str]) -> list:
    """Each method on each encoder; all but vanilla on each and each on BERT is a campaign."""
    return [
        pytest.param(
            name,
            architecture,
            marks=[one_worker(name)] + [pytest.mark.campaign] * (name != "vanilla" and architecture != "bert"),
        )
        for name in names
        for architecture in ENCODERS
    ]


by_method = pytest.mark.parametrize("name", [pytest.param(name, marks=one_worker(name)) for name in METHODS])


@dataclass(frozen=True)
class Training:
    """A tiny encoder after training, and what it was before."""

    method: FineTuningMethod
    model: nn.Module
    anatomy_before: dict[str, tuple]
    keys_before: list[str]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return weights(self.model)


def train_anew(
    architecture: str, method: FineTuningMethod, config: dict[str, Any] | None = None, **options
) -> Training:
    model = tiny_encoder(architecture, **config or {}).train()
    anatomy_before, keys_before = anatomy(model), list(model.state_dict())
    train_in_loop(model, method, tiny_dataset(), **options)
    return Training(method, model, anatomy_before, keys_before)


def anatomy(model: nn.Module) -> dict[str, tuple]:
    return {
        module_name: (
            type(module),
            module.training,
            getattr(module, "p", None),
            tuple(parameter.requires_grad for parameter in module.parameters(recurse=False)),
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks),
        )
        for module_name, module in model.named_modules()
    }


@cache
def vanilla(architecture: str, weight_decay: float) -> Training:
    return train_anew(architecture, Vanilla(), weight_decay=weight_decay)


@cache
def active(name: str, architecture: str, weight_decay: float = 0.01) -> Training:
    return train_anew(architecture, METHOD_SETTINGS[name].active(), weight_decay=weight_decay)


def test_every_method_has_a_row_of_settings():
    assert METHODS.keys() == METHOD_SETTINGS.keys()


@by_method
def test_hyperparameters_survive_json(name):
    method = METHOD_SETTINGS[name].active()
    stored = json.loads(json.dumps(method.hyperparameters))
    again = build_method(method_name(method), **stored)
    assert again == method
    assert repr(again) == repr(method)


@by_method
def test_neutral_setting_equals_vanilla_bit_for_bit(name, architecture):
    setting = METHOD_SETTINGS[name]
    neutral = train_anew(architecture, setting.neutral(), weight_decay=setting.weight_decay)
    assert largest_difference(vanilla(architecture, setting.weight_decay).weights, neutral.weights) == 0.0


@by_method
def test_active_setting_gives_finite_weights_that_are_not_those_of_vanilla(name, architecture):
    weight_decay = METHOD_SETTINGS[name].weight_decay
    ours = active(name, architecture, weight_decay).weights
    assert all(torch.isfinite(weight).all() for weight in ours.values())
    assert largest_difference(vanilla(architecture, weight_decay).weights, ours) > 1e-5


@by_method
def test_same_seed_same_weights_and_other_seed_other_weights(name):
    again, other = (train_anew("bert", METHOD_SETTINGS[name].active(), seed=seed) for seed in (SEED, SEED + 1))
    first = active(name, "bert").weights
    assert largest_difference(first, again.weights) == 0.0
    assert largest_difference(first, other.weights) > 0.0


@by_method
def test_plain_loop_equals_trainer(name, architecture, dataset, tmp_path):
    in_trainer = tiny_encoder(architecture)
    method_trainer(in_trainer, METHOD_SETTINGS[name].active(), dataset, tmp_path).train()
    assert largest_difference(active(name, architecture).weights, weights(in_trainer)) == 0.0


@by_method
def test_accumulation_is_the_same_in_both_hosts(name, dataset, tmp_path):
    in_loop = train_anew("bert", METHOD_SETTINGS[name].active(), accumulation_steps=4)
    in_trainer = tiny_encoder("bert")
    method_trainer(in_trainer, METHOD_SETTINGS[name].active(), dataset, tmp_path, accumulation_steps=4).train()
    assert largest_difference(in_loop.weights, weights(in_trainer)) == 0.0


@pytest.mark.parametrize(
    ("name", "architecture"), crossed([n for n, setting in METHOD_SETTINGS.items() if setting.deterministic])
)
def test_four_micro_batches_of_two_equal_one_batch_of_eight(name, architecture):
    config = {**without_dropout(architecture), "dtype": torch.float64}
    method = METHOD_SETTINGS[name].active if name != "vanilla" else Vanilla
    whole = train_anew(architecture, method(), config)
    # The softmax of attention ignores a shift of its input, so a key bias has no gradient and Adam scales up rounding.
    shift = {n for n in whole.weights if n.endswith(("key.bias", "k_lin.bias", "key_proj.bias"))}
    parts = train_anew(architecture, method(), config, accumulation_steps=4)
    whole, parts = ({n: w for n, w in training.weights.items() if n not in shift} for training in (whole, parts))
    assert largest_difference(whole, parts) < 1e-9


@by_method
def test_finalize_restores_the_plain_architecture(name, architecture):
    training = active(name, architecture)
    assert anatomy(training.model) == training.anatomy_before
    assert list(training.model.state_dict()) == training.keys_before
    assert training.method == METHOD_SETTINGS[name].active()


@by_method
def test_finalize_leaves_the_predictions_alone(name, architecture, encoder, dataset):
    method = METHOD_SETTINGS[name].active()
    method.setup(encoder, context(dataset))
    batch = batches(dataset, 8)[0]
    with torch.no_grad():
        during = encoder.eval()(**batch).logits
        for _ in range(2):  # once more changes nothing
            method.finalize(encoder)
            assert torch.equal(during, encoder.eval()(**batch).logits)


@by_method
def test_a_checkpoint_written_in_training_opens_as_a_plain_model(name, architecture, encoder, dataset, tmp_path):
    method = METHOD_SETTINGS[name].active()
    method.setup(encoder, context(dataset))
    optimizer = method.create_optimizer(encoder, context(dataset))
    encoder(**batches(dataset, 8)[0]).loss.backward()
    optimizer.step()
    encoder.save_pretrained(tmp_path)
    plain, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert largest_difference(weights(encoder), weights(plain)) == 0.0


@pytest.mark.parametrize(("name", "architecture"), crossed(METHODS))
def test_training_lowers_the_loss_and_stays_finite(name, architecture, encoder, dataset):
    losses = []
    for _ in range(6):
        losses += train_in_loop(encoder, METHOD_SETTINGS[name].neutral(), dataset)
    assert sum(losses[-6:]) < sum(losses[:6])
    assert all(torch.isfinite(parameter).all() for parameter in encoder.parameters())


@by_method
def test_a_method_is_finalized_when_training_fails(name, encoder, dataset):
    kinds = [type(module) for module in encoder.modules()]
    nn.init.constant_(next(p for p in encoder.parameters() if p.ndim == 2), float("nan"))
    with pytest.raises(RuntimeError, match="lower the learning rate"):
        train_in_loop(encoder, METHOD_SETTINGS[name].active(), dataset)
    assert [type(module) for module in encoder.modules()] == kinds


@by_method
def test_passes_per_update_are_the_passes_that_are_made(name, dataset):
    model = tiny_encoder("bert").train()
    method = METHOD_SETTINGS[name].active()
    method.setup(model, context(dataset))
    optimizer = method.create_optimizer(model, context(dataset))
    with PassCounter(model) as passes:
        updates_by_hand(model, method, optimizer, dataset)
    method.finalize(model)
    forward, backward = method.passes_per_update
    assert (passes.forward, passes.backward) == (3 * forward, 3 * backward)


@by_method
def test_bfloat16_autocast_trains_float32_weights(name, dataset, tmp_path):
    model = tiny_encoder("bert")
    before = weights(model)
    output = method_trainer(model, METHOD_SETTINGS[name].active(), dataset, tmp_path, bf16=True).train()
    assert torch.isfinite(torch.tensor(output.training_loss))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert largest_difference(before, weights(model)) > 0.0


@by_method
def test_layers_whose_weights_lie_the_other_way_round_serve_as_well(name, dataset, tmp_path):
    setting = METHOD_SETTINGS[name]
    neutral = train_anew("gpt2", setting.neutral(), weight_decay=setting.weight_decay)
    assert largest_difference(vanilla("gpt2", setting.weight_decay).weights, neutral.weights) == 0.0
    ours = active(name, "gpt2")
    assert largest_difference(vanilla("gpt2", setting.weight_decay).weights, ours.weights) > 1e-5
    assert anatomy(ours.model).keys() == ours.anatomy_before.keys()
    assert list(ours.model.state_dict()) == ours.keys_before
    in_trainer = tiny_encoder("gpt2")
    method_trainer(in_trainer, setting.active(), dataset, tmp_path).train()
    assert largest_difference(ours.weights, weights(in_trainer)) == 0.0


def test_all_families_are_tested():
    assert {"bert", "roberta", "electra", "distilbert", "deberta-v2"} == set(ENCODERS)
