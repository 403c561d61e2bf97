"""What every method must do, on five encoder families."""

from __future__ import annotations

import json

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import ENCODERS, batches, tiny_encoder, without_dropout
from torch import nn
from torch.nn.utils import clip_grad_norm_
from training_hosts import context, largest_difference, method_trainer, train_in_loop, weights
from transformers import AutoModelForSequenceClassification

from finetune_reg.errors import InputError
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.methods import METHODS, Vanilla, build_method, method_name

by_method = pytest.mark.parametrize("name", METHODS)


def trained(architecture, method, dataset, **options):
    model = tiny_encoder(architecture, **options.pop("config", {}))
    losses = train_in_loop(model, method, dataset, **options)
    return model, losses


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
def test_neutral_setting_equals_vanilla_bit_for_bit(name, architecture, dataset):
    setting = METHOD_SETTINGS[name]
    vanilla, _ = trained(architecture, Vanilla(), dataset, weight_decay=setting.weight_decay)
    neutral, _ = trained(architecture, setting.neutral(), dataset, weight_decay=setting.weight_decay)
    assert largest_difference(weights(vanilla), weights(neutral)) == 0.0


@by_method
def test_active_setting_differs_from_vanilla(name, architecture, dataset):
    setting = METHOD_SETTINGS[name]
    vanilla, _ = trained(architecture, Vanilla(), dataset, weight_decay=setting.weight_decay)
    active, _ = trained(architecture, setting.active(), dataset, weight_decay=setting.weight_decay)
    assert largest_difference(weights(vanilla), weights(active)) > 1e-5


@by_method
def test_same_seed_same_weights_and_other_seed_other_weights(name, dataset):
    runs = [trained("bert", METHOD_SETTINGS[name].active(), dataset, seed=seed)[0] for seed in (1, 1, 2)]
    first, again, other = (weights(model) for model in runs)
    assert largest_difference(first, again) == 0.0
    assert largest_difference(first, other) > 0.0


@by_method
def test_plain_loop_equals_trainer(name, architecture, dataset, tmp_path):
    in_loop, _ = trained(architecture, METHOD_SETTINGS[name].active(), dataset)
    in_trainer = tiny_encoder(architecture)
    method_trainer(in_trainer, METHOD_SETTINGS[name].active(), dataset, tmp_path).train()
    assert largest_difference(weights(in_loop), weights(in_trainer)) == 0.0


@by_method
def test_accumulation_is_the_same_in_both_hosts(name, dataset, tmp_path):
    in_loop, _ = trained("bert", METHOD_SETTINGS[name].active(), dataset, accumulation_steps=4)
    in_trainer = tiny_encoder("bert")
    method_trainer(in_trainer, METHOD_SETTINGS[name].active(), dataset, tmp_path, accumulation_steps=4).train()
    assert largest_difference(weights(in_loop), weights(in_trainer)) == 0.0


@pytest.mark.parametrize("name", [n for n, setting in METHOD_SETTINGS.items() if setting.deterministic])
def test_four_micro_batches_of_two_equal_one_batch_of_eight(name, architecture, dataset):
    config = {**without_dropout(architecture), "dtype": torch.float64}
    method = METHOD_SETTINGS[name].active if name != "vanilla" else Vanilla
    whole, _ = trained(architecture, method(), dataset, config=config)
    # The softmax of attention ignores a shift of its input, so a key bias has no gradient and Adam scales up rounding.
    shift = {n for n in whole.state_dict() if n.endswith(("key.bias", "k_lin.bias", "key_proj.bias"))}
    parts, _ = trained(architecture, method(), dataset, config=config, accumulation_steps=4)
    whole, parts = ({n: w for n, w in weights(model).items() if n not in shift} for model in (whole, parts))
    assert largest_difference(whole, parts) < 1e-9


@by_method
def test_finalize_restores_the_plain_architecture(name, architecture, encoder, dataset):
    def anatomy(model):
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

    encoder.train()
    before, keys = anatomy(encoder), list(encoder.state_dict())
    method = METHOD_SETTINGS[name].active()
    train_in_loop(encoder, method, dataset)
    assert anatomy(encoder) == before
    assert list(encoder.state_dict()) == keys
    assert method == METHOD_SETTINGS[name].active()


@by_method
def test_finalize_leaves_the_predictions_alone(name, architecture, encoder, dataset):
    method = METHOD_SETTINGS[name].active()
    method.setup(encoder, context(dataset))
    batch = batches(dataset, 8)[0]
    with torch.no_grad():
        during = encoder.eval()(**batch).logits
        method.finalize(encoder)
        after = encoder.eval()(**batch).logits
    assert torch.equal(during, after)


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


@by_method
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
        for batch in batches(dataset, 8):
            outputs = model(**batch)
            method.training_loss(model, batch, outputs).backward()
            method.after_backward(model)
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            method.after_step(model, optimizer)
            optimizer.zero_grad()
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


NEED_LINEAR_LAYERS = {"mixout", "dps_dense", "dps_mix", "attention_guided_weight_mixup", "combination"}


@pytest.mark.parametrize("name", [n for n in METHODS if n not in NEED_LINEAR_LAYERS])
def test_architecture_free_methods_run_on_gpt2(name, dataset, tmp_path):
    setting = METHOD_SETTINGS[name]
    vanilla, _ = trained("gpt2", Vanilla(), dataset, weight_decay=setting.weight_decay)
    neutral, _ = trained("gpt2", setting.neutral(), dataset, weight_decay=setting.weight_decay)
    assert largest_difference(weights(vanilla), weights(neutral)) == 0.0
    active, _ = trained("gpt2", setting.active(), dataset)
    assert largest_difference(weights(vanilla), weights(active)) > 1e-5
    in_trainer = tiny_encoder("gpt2")
    method_trainer(in_trainer, setting.active(), dataset, tmp_path).train()
    assert largest_difference(weights(active), weights(in_trainer)) == 0.0


@pytest.mark.parametrize("name", sorted(NEED_LINEAR_LAYERS & METHODS.keys()))
def test_methods_of_linear_layers_refuse_gpt2_which_has_none(name, dataset):
    model = tiny_encoder("gpt2")
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=r"no nn\.Linear"):
        METHOD_SETTINGS[name].active().setup(model, context(dataset))
    assert [type(module) for module in model.modules()] == kinds


def test_all_families_are_tested():
    assert {"bert", "roberta", "electra", "distilbert", "deberta-v2"} == set(ENCODERS)
