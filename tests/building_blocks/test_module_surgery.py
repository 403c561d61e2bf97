"""Replacing modules and dropout rates, and undoing it; which layers count as what on encoders not in the contract."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import tiny_dataset, tiny_encoder
from torch import nn
from training_hosts import train_in_loop
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    XLNetConfig,
)
from transformers.pytorch_utils import Conv1D

from finetune_reg.building_blocks.module_surgery import replace_linears, set_dropout
from finetune_reg.building_blocks.parameter_groups import (
    named_backbone_parameters,
    named_head_parameters,
    weight_decay_groups,
)
from finetune_reg.building_blocks.pretrained_model import name_backbone
from finetune_reg.errors import InputError
from finetune_reg.methods import Mixout
from finetune_reg.methods.attention_guided_weight_mixup import MixedLinear
from finetune_reg.methods.dps_mix import SelectiveMixLinear
from finetune_reg.methods.mixout import MixLinear

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def classifier(config) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def mixed_names(model: nn.Module) -> set[str]:
    return {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, MixLinear)}


def test_a_layer_shared_by_all_blocks_is_replaced_once_and_restored():
    model = classifier(AlbertConfig(**SMALL, intermediate_size=32, embedding_size=8))
    before = dict(model.named_modules())
    method = Mixout(0.5)
    method.setup(model, None)
    assert mixed_names(model) >= {"query", "key", "value", "dense", "ffn_output"}
    assert "ffn" not in mixed_names(model)
    method.finalize(model)
    assert dict(model.named_modules()) == before


def test_fused_attention_projections_are_mixed_and_the_widening_layer_of_the_mlp_is_not():
    model = classifier(ModernBertConfig(**SMALL, intermediate_size=24, pad_token_id=0))
    Mixout(0.5).setup(model, None)
    assert mixed_names(model) == {"Wqkv", "Wo"}


def test_rates_that_attention_keeps_as_numbers_are_set_and_restored():
    model = classifier(ModernBertConfig(**SMALL, intermediate_size=24, pad_token_id=0, attention_dropout=0.3))
    attention = [module for module in model.modules() if hasattr(module, "attention_dropout")]
    undo = ExitStack()
    set_dropout(model, 0.0, undo)
    assert {module.attention_dropout for module in attention} == {0.0}
    undo.close()
    assert {module.attention_dropout for module in attention} == {0.3}


def test_an_encoder_without_linear_layers_is_refused():
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 2))
    name_backbone(model, "0")
    with pytest.raises(InputError, match="found no linear layer to replace in Sequential"):
        Mixout(0.5).setup(model, None)


def test_a_tied_weight_stays_tied():
    model = BertForMaskedLM(BertConfig(**SMALL, intermediate_size=32))
    undo = ExitStack()
    replace_linears(
        model,
        select=lambda name: name.endswith("decoder"),
        build=lambda linear: MixLinear(linear, 0.5),
        undo=undo,
        method="test",
    )
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_backbone_and_head_share_no_parameter_and_miss_none(architecture, encoder):
    pretrained, head = dict(named_backbone_parameters(encoder)), dict(named_head_parameters(encoder))
    assert pretrained.keys() | head.keys() == dict(encoder.named_parameters()).keys()
    assert not pretrained.keys() & head.keys()
    assert all("classifier" in name or "pooler" in name for name in head)


def test_weight_decay_spares_vectors_and_frozen_parameters_are_left_out():
    model = tiny_encoder("bert")
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    decayed, spared = weight_decay_groups(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    listed = {id(parameter) for group in (decayed, spared) for parameter in group["params"]}
    assert listed == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_a_bare_backbone_is_refused():
    with pytest.raises(InputError, match="load it with AutoModelForSequenceClassification"):
        Mixout(0.5).setup(tiny_encoder("bert").bert, None)


@pytest.mark.parametrize(
    "name", ["mixout", "dps_mix", "smart", "r3f", "freelb", "neftune", "attention_guided_weight_mixup"]
)
def test_a_model_whose_attention_is_no_layers_is_refused_by_name(name):
    config = XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32)
    model = AutoModelForSequenceClassification.from_config(config)
    method = METHOD_SETTINGS[name].active()
    with pytest.raises(InputError, match=r"cannot use XLNet\w+, whose attention keeps weights outside of layers"):
        train_in_loop(model, method, tiny_dataset())
    assert all(type(module) is nn.Linear for module in model.modules() if isinstance(module, nn.Linear))


@pytest.mark.parametrize(
    "build",
    [
        lambda linear: MixLinear(linear, 0.5),
        lambda linear: MixLinear(linear, 0.5, granularity="weight"),
        lambda linear: SelectiveMixLinear(linear, 0.5),
        lambda linear: MixedLinear(linear, 2 * linear.weight.detach(), rank=None),
    ],
    ids=["input units", "weights", "stages", "coefficients"],
)
def test_a_weight_the_other_way_round_is_mixed_as_its_transpose_is(build):
    torch.manual_seed(0)
    plain, transposed = nn.Linear(3, 5).double(), Conv1D(5, 3).double()
    transposed.weight.data, transposed.bias.data = plain.weight.data.T.clone(), plain.bias.data.clone()
    results = []
    for linear in (plain, transposed):
        layer = build(linear)
        assert layer.weight is linear.weight
        assert (layer.in_features, layer.out_features) == (3, 5)
        layer.weight.data.mul_(1.5)
        if isinstance(layer, SelectiveMixLinear):
            layer.draw_mask(torch.Generator().manual_seed(0))
        if isinstance(layer, MixedLinear):
            layer.alpha1.copy_(layer.turned(torch.linspace(0, 1, 15).view(5, 3)))
        torch.manual_seed(1)
        mapped = layer(torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 2, 3))
        mapped.square().sum().backward()
        results.append((mapped, layer.turned(layer.weight.grad)))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    assert not torch.allclose(results[0][0], plain(torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 2, 3)))
