"""Layerwise learning rate decay, top-layer re-initialization and top-K tuning against their definitions."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from torch import nn
from training_hosts import LEARNING_RATE, context, largest_difference, train_in_loop, weights
from transformers import AlbertConfig, AutoModelForSequenceClassification, get_linear_schedule_with_warmup

from finetune_reg.building_blocks.parameter_groups import parameters_by_depth, transformer_blocks, weight_decay_groups
from finetune_reg.errors import InputError
from finetune_reg.methods import (
    L2SP,
    Combination,
    LayerwiseLearningRateDecay,
    Mixout,
    RecAdam,
    TopKLayers,
    TopLayerReinitialization,
    Vanilla,
)
from finetune_reg.methods.layerwise_learning_rate_decay import learning_rates_by_depth
from finetune_reg.methods.top_layer_reinitialization import pooler_layers, reinitialize

DEEP_AND_TINY = {"num_hidden_layers": 24, "hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}


def rate_of(optimizer, parameter) -> float:
    return next(g["lr"] for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def unchanged_and_changed(before, after):
    same = {name for name in before if torch.equal(before[name], after[name])}
    return same, before.keys() - same


def test_rates_of_bert_large():
    rates = learning_rates_by_depth(2e-5, 0.95, n_blocks=24)
    assert len(rates) == 26
    assert rates[-1] == 2e-5
    assert rates[-2] == pytest.approx(1.90e-5, abs=0.005e-5)
    assert rates[1] == pytest.approx(5.84e-6, abs=0.005e-6)
    assert rates[0] == pytest.approx(5.55e-6, abs=0.005e-6)


def test_a_model_of_24_blocks_gets_the_rates_of_bert_large(dataset):
    model = tiny_encoder("bert", **DEEP_AND_TINY)
    run = context(dataset)
    optimizer = LayerwiseLearningRateDecay().create_optimizer(model, run)
    scale = 2e-5 / run.learning_rate
    layers = model.bert.encoder.layer
    for parameter, expected in [
        (model.classifier.weight, 2e-5),
        (model.bert.pooler.dense.bias, 2e-5),
        (layers[23].output.dense.weight, 1.90e-5),
        (layers[22].output.LayerNorm.weight, 1.805e-5),
        (layers[0].output.dense.bias, 5.84e-6),
        (model.bert.embeddings.word_embeddings.weight, 5.55e-6),
    ]:
        assert scale * rate_of(optimizer, parameter) == pytest.approx(expected, rel=1e-3)
    assert len(optimizer.param_groups) == 2 + 2 * 25
    assert optimizer.param_groups[0]["lr"] == run.learning_rate


def test_official_form_exempts_head_and_pooler_from_weight_decay(dataset):
    model = tiny_encoder("bert", **DEEP_AND_TINY)
    optimizer = LayerwiseLearningRateDecay.official().create_optimizer(model, context(dataset))
    head, *others = optimizer.param_groups
    assert len(optimizer.param_groups) == 1 + 2 * 25
    assert {id(p) for p in head["params"]} == {
        id(p) for m in (model.bert.pooler, model.classifier) for p in m.parameters()
    }
    assert (head["lr"], head["weight_decay"]) == (LEARNING_RATE, 0.0)
    assert {group["weight_decay"] for group in others} == {0.01, 0.0}


def test_official_form_without_decay_of_the_rate_decays_the_head_like_the_rest(dataset):
    model = tiny_encoder("bert")
    groups = LayerwiseLearningRateDecay.official(1.0).create_optimizer(model, context(dataset)).param_groups
    assert any(p is model.classifier.weight for p in groups[0]["params"])
    assert groups[0]["weight_decay"] == 0.01


def test_splitting_the_parameters_into_more_groups_changes_no_bit(dataset):
    class OneGroupPerDepth(LayerwiseLearningRateDecay):
        def create_optimizer(self, model, context):
            optimizer = super().create_optimizer(model, context)
            for group in optimizer.param_groups:
                group["lr"] = context.learning_rate
            return optimizer

    models = []
    for method in (Vanilla(), OneGroupPerDepth(0.5)):
        models.append(tiny_encoder("bert"))
        train_in_loop(models[-1], method, dataset)
    assert largest_difference(*map(weights, models)) == 0.0


def test_first_adam_step_moves_each_depth_by_its_rate(architecture, dataset):
    model = tiny_encoder(architecture, dtype=torch.float64)
    before = [[p.detach().clone() for p in level] for level in parameters_by_depth(model)]
    optimizer = LayerwiseLearningRateDecay(0.5).create_optimizer(model, context(dataset, weight_decay=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for level, start, rate in zip(parameters_by_depth(model), before, (1 / 8, 1 / 4, 1 / 2, 1.0), strict=True):
        for parameter, value in zip(level, start, strict=True):
            torch.testing.assert_close(
                value - parameter, torch.full_like(value, LEARNING_RATE * rate), rtol=1e-6, atol=0
            )


def test_the_schedule_multiplies_all_rates_alike(dataset):
    model = tiny_encoder("bert")
    optimizer = LayerwiseLearningRateDecay(0.5).create_optimizer(model, context(dataset))
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 4)
    peak = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.75 * rate for rate in peak]


def test_layerwise_decay_brings_its_own_optimizer_and_respects_a_replaced_weight_decay(dataset):
    with pytest.raises(InputError, match="each brings its own optimizer"):
        Combination([LayerwiseLearningRateDecay(), RecAdam()])
    method = Combination([L2SP(), LayerwiseLearningRateDecay(0.5)])
    optimizer = method.create_optimizer(tiny_encoder("bert"), context(dataset))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}
    assert {group["lr"] / LEARNING_RATE for group in optimizer.param_groups} == {1.0, 0.5, 0.25, 0.125}


def test_frozen_depths_have_no_group(dataset):
    model = tiny_encoder("bert")
    method = Combination([TopKLayers(1), LayerwiseLearningRateDecay(0.5)])
    method.setup(model, context(dataset))
    groups = method.create_optimizer(model, context(dataset)).param_groups
    assert [group["lr"] / LEARNING_RATE for group in groups] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("factor", [0.0, 1.1, -0.5])
def test_a_decay_factor_outside_its_range_is_refused(factor):
    with pytest.raises(InputError, match=r"decay_factor in \(0, 1\]"):
        LayerwiseLearningRateDecay(factor)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "distilbert", "deberta-v2", "gpt2"])
def test_only_the_top_block_and_the_pooler_start_anew(architecture, dataset):
    model = tiny_encoder(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    before = weights(model)
    TopLayerReinitialization(1).setup(model, context(dataset))
    same, changed = unchanged_and_changed(before, weights(model))
    top = transformer_blocks(model)[1]
    drawn = {id(p) for p in top.parameters()} | {id(p) for layer in pooler_layers(model) for p in layer.parameters()}
    assert changed == {name for name, parameter in model.named_parameters() if id(parameter) in drawn}
    assert model.get_input_embeddings().weight.data_ptr() in {model.state_dict()[n].data_ptr() for n in same}


def test_poolers_are_found_where_there_are_any():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    albert = AutoModelForSequenceClassification.from_config(AlbertConfig(vocab_size=50, embedding_size=8, **sizes))
    bert = tiny_encoder("bert")
    assert pooler_layers(bert) == [bert.bert.pooler.dense]
    assert pooler_layers(albert) == [albert.albert.pooler]
    assert not any(
        pooler_layers(tiny_encoder(name)) for name in ("roberta", "electra", "distilbert", "deberta-v2", "gpt2")
    )


def test_drawn_weights_have_the_stated_distribution(dataset):
    model = tiny_encoder("bert", hidden_size=64, intermediate_size=256)
    before = weights(model)
    nn.init.constant_(model.bert.encoder.layer[1].output.LayerNorm.weight, 5.0)
    TopLayerReinitialization(1).setup(model, context(dataset))
    for name, parameter in model.bert.encoder.layer[1].named_parameters():
        if parameter.ndim == 2:
            assert not torch.equal(parameter, before[f"bert.encoder.layer.1.{name}"])
            assert parameter.std().item() == pytest.approx(0.02, rel=5 / (2 * parameter.numel()) ** 0.5)
            assert abs(parameter.mean().item()) < 5 * 0.02 / parameter.numel() ** 0.5
        else:
            is_scale = name.endswith("LayerNorm.weight")
            assert torch.equal(parameter, torch.full_like(parameter, float(is_scale))), name


def test_norms_biases_and_padding_rows_start_at_their_constants():
    module = nn.ModuleList([nn.Linear(3, 3), nn.LayerNorm(3), nn.RMSNorm(3), nn.Embedding(4, 3, padding_idx=1)])
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    reinitialize(module, 0.5, torch.Generator().manual_seed(0))
    linear, layer_norm, rms_norm, embedding = module
    assert not linear.bias.any()
    assert not layer_norm.bias.any()
    assert torch.equal(layer_norm.weight, torch.ones(3))
    assert torch.equal(rms_norm.weight, torch.ones(3))
    assert not embedding.weight[1].any()
    assert embedding.weight[[0, 2, 3]].all()
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_draws_follow_the_seed_and_leave_the_global_stream_alone(dataset):
    drawn = []
    for seed in (1, 1, 2):
        model = tiny_encoder("bert")
        state = torch.get_rng_state()
        TopLayerReinitialization(1).setup(model, context(dataset, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(model.bert.encoder.layer[1].output.dense.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_bfloat16_weights_are_rounded_from_the_same_draws(dataset):
    models = [tiny_encoder("bert", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    for model in models:
        TopLayerReinitialization(2).setup(model, context(dataset))
    full, short = (model.bert.encoder.layer[0].output.dense.weight for model in models)
    assert torch.equal(full.bfloat16(), short)


def test_the_pooler_alone_can_start_anew(dataset):
    model = tiny_encoder("bert")
    before = weights(model)
    TopLayerReinitialization(0).setup(model, context(dataset))
    _, changed = unchanged_and_changed(before, weights(model))
    assert changed == {"bert.pooler.dense.weight"}


def test_more_layers_than_there_are_and_nothing_to_draw_are_refused(dataset):
    with pytest.raises(
        InputError, match="n_layers of at most 2, the blocks of this BertForSequenceClassification, not 5"
    ):
        TopLayerReinitialization().setup(tiny_encoder("bert"), context(dataset))
    with pytest.raises(InputError, match="no pooler in the backbone of ElectraForSequenceClassification: set n_layers"):
        TopLayerReinitialization(0).setup(tiny_encoder("electra"), context(dataset))
    with pytest.raises(InputError, match=r"n_layers in \[0, inf\)"):
        TopLayerReinitialization(-1)


def test_methods_that_choose_the_start_stand_before_snapshots():
    with pytest.raises(InputError, match="TopLayerReinitialization must stand before L2SP"):
        Combination([L2SP(), TopLayerReinitialization(1)])
    with pytest.raises(InputError, match="TopKLayers must stand before Mixout"):
        Combination([Mixout(), TopKLayers(1)])


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("architecture", ["bert", "electra", "distilbert", "deberta-v2", "gpt2"])
def test_frozen_depths_keep_their_bits_and_the_others_move(architecture, k, dataset):
    model = tiny_encoder(architecture)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    levels = [{names[id(p)] for p in level} for level in parameters_by_depth(model)]
    before = weights(model)
    train_in_loop(model, TopKLayers(k), dataset)
    same, changed = unchanged_and_changed(before, weights(model))
    frozen = set().union(*levels[: 2 - k + 1])
    assert frozen <= same
    assert {name for level in levels[2 - k + 1 :] for name in level if name.endswith("weight")} <= changed
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_optimizer_and_snapshots_leave_frozen_parameters_out(dataset):
    model = tiny_encoder("bert")
    method = Combination([TopKLayers(1), L2SP()])
    method.setup(model, context(dataset))
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    groups = method.create_optimizer(model, context(dataset)).param_groups
    assert {id(p) for group in groups for p in group["params"]} == trained
    assert not any(".layer.0." in name or "embeddings" in name for name in method.members[1]._pretrained)
    method.finalize(model)
    assert len(weight_decay_groups(model, 0.0)[0]["params"]) > len(groups[0]["params"])


def test_what_was_frozen_before_stays_frozen_after(dataset):
    model = tiny_encoder("bert")
    model.bert.embeddings.position_embeddings.weight.requires_grad_(False)
    method = TopKLayers(0)
    method.setup(model, context(dataset))
    model(**batches(dataset, 8)[0]).loss.backward()
    assert model.bert.encoder.layer[1].output.dense.weight.grad is None
    method.finalize(model)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["bert.embeddings.position_embeddings.weight"]


def test_more_trained_layers_than_there_are_is_refused(dataset):
    with pytest.raises(
        InputError, match="n_layers of at most 2, the blocks of this BertForSequenceClassification, not 3"
    ):
        TopKLayers().setup(tiny_encoder("bert"), context(dataset))
    with pytest.raises(InputError, match=r"n_layers in \[0, inf\)"):
        TopKLayers(-1)
