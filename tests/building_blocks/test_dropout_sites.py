"""Dropouts found by position: on six architectures, each of them once, each of them real."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from dropout_models import MODELS, tiny_model
from tiny_encoders import batches, tiny_dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from finetune_reg.building_blocks.dropout_sites import SUB_LAYERS, dropout_sites, dropout_variance
from finetune_reg.building_blocks.module_surgery import set_dropout
from finetune_reg.errors import InputError


def expected_positions(name: str, n_blocks: int = 2) -> list[str]:
    kinds = [kind for kind in SUB_LAYERS if not (name == "distilbert" and kind == "attention_output")]
    return ["embeddings", *(f"layer.{i}.{kind}" for i in range(n_blocks) for kind in kinds)]


@pytest.mark.parametrize("name", MODELS)
def test_every_dropout_of_the_backbone_is_found_once(name):
    model = tiny_model(name)
    sites = dropout_sites(model)
    assert [site.position for site in sites] == expected_positions(name)
    holders = [holder for site in sites for holder in site.holders]
    assert len({(id(module), attribute) for module, attribute in holders}) == len(holders) == len(sites)
    found = {id(module) for module, _ in holders}
    spared = {n for n, m in model.base_model.named_modules() if isinstance(m, nn.Dropout) and id(m) not in found}
    positions = {f"encoder.layer.{i}.attention.self.pos_dropout" for i in (0, 1)}
    assert spared == (positions if "relative" in name else set())


SITE_CASES = [(name, position) for name in MODELS for position in expected_positions(name)]


@pytest.mark.parametrize(("name", "position"), SITE_CASES)
def test_each_dropout_acts_alone_in_training_and_not_in_evaluation(name, position):
    stock, model = tiny_model(name), tiny_model(name)
    batch = batches(tiny_dataset(), 8)[0]
    undo = ExitStack()
    set_dropout(model, 0.0, undo)
    with torch.no_grad():
        model.train()
        assert torch.equal(model(**batch).logits, model(**batch).logits)
        next(site for site in dropout_sites(model) if site.position == position).set_rate(0.9, undo)
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
        assert torch.equal(model.eval()(**batch).logits, stock.eval()(**batch).logits)
    assert list(model.state_dict()) == list(stock.state_dict())
    undo.close()
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [
        m.p for m in stock.modules() if isinstance(m, nn.Dropout)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_the_dropout_before_the_head_is_no_site(name):
    model = tiny_model(name)
    undo = ExitStack()
    for site in dropout_sites(model):
        site.set_rate(0.9, undo)
    backbone = set(model.base_model.modules())
    assert all(m.p <= 0.2 for m in model.modules() if isinstance(m, nn.Dropout) and m not in backbone)


def norm(prefix: str) -> set[str]:
    return {f"{prefix}.weight", f"{prefix}.bias"}


PARAMETERS = {
    "bert": {
        "embeddings": {f"embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}
        | norm("embeddings.LayerNorm"),
        "layer.1.attention_probabilities": {
            name for part in ("query", "key", "value") for name in norm(f"encoder.layer.1.attention.self.{part}")
        },
        "layer.1.attention_output": norm("encoder.layer.1.attention.output.dense")
        | norm("encoder.layer.1.attention.output.LayerNorm"),
        "layer.1.feed_forward_output": norm("encoder.layer.1.output.dense") | norm("encoder.layer.1.output.LayerNorm"),
    },
    "distilbert": {
        "embeddings": {f"embeddings.{table}_embeddings.weight" for table in ("word", "position")}
        | norm("embeddings.LayerNorm"),
        "layer.0.attention_probabilities": {
            name for part in "qkv" for name in norm(f"transformer.layer.0.attention.{part}_lin")
        },
        "layer.0.feed_forward_output": norm("transformer.layer.0.ffn.lin2")
        | norm("transformer.layer.0.output_layer_norm"),
    },
    "gpt2": {
        "embeddings": {"wte.weight", "wpe.weight"},
        "layer.0.attention_probabilities": norm("h.0.attn.c_attn"),
        "layer.0.attention_output": norm("h.0.attn.c_proj") | norm("h.0.ln_2"),
        "layer.0.feed_forward_output": norm("h.0.mlp.c_proj"),
    },
    "deberta-v2 with relative positions": {
        "layer.0.attention_probabilities": {
            name
            for part in ("query", "key", "value", "pos_key", "pos_query")
            for name in norm(f"encoder.layer.0.attention.self.{part}_proj")
        },
        "layer.0.attention_output": norm("encoder.layer.0.attention.output.dense")
        | norm("encoder.layer.0.attention.output.LayerNorm"),
    },
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_before_each_dropout(name):
    model = tiny_model(name)
    prefix = f"{model.base_model_prefix}."
    sites = {site.position: site for site in dropout_sites(model)}
    for position, expected in PARAMETERS[name].items():
        assert {parameter.removeprefix(prefix) for parameter in sites[position].parameters} == expected
    named = dict(model.named_parameters())
    assert all(named[n] is parameter for site in sites.values() for n, parameter in site.parameters.items())


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
def test_tensors_per_sub_layer_are_five_six_four_four(name):
    counts = [len(site.parameters) for site in dropout_sites(tiny_model(name))]
    assert counts == [5, 6, 4, 4, 6, 4, 4]


def test_bert_base_has_37_of_its_38_dropouts():
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    assert len(dropout_sites(model)) == 37
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 38


def test_a_rate_kept_as_a_number_beside_the_module_is_set_too():
    model = tiny_model("bert")
    attention = model.bert.encoder.layer[0].attention.self
    attention.dropout_prob = 0.1
    with ExitStack() as undo:
        site = next(site for site in dropout_sites(model) if site.position == "layer.0.attention_probabilities")
        site.set_rate(0.4, undo)
        assert (attention.dropout_prob, attention.dropout.p, site.rate) == (0.4, 0.4, 0.4)
    assert (attention.dropout_prob, attention.dropout.p) == (0.1, 0.1)


def test_a_model_without_dropout_modules_is_refused():
    model = tiny_model("bert")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Identity())
    with pytest.raises(InputError, match="no dropout module"):
        dropout_sites(model)


def test_blocks_without_attention_are_refused():
    model = tiny_model("bert")
    for block in model.bert.encoder.layer:
        block.attention = nn.Identity()
    with pytest.raises(InputError, match="no attention module"):
        dropout_sites(model)


@pytest.mark.parametrize(
    ("rate", "variance"), [(0.1, 1 / 9), (0.099, 0.10988), (0.0495, 0.05208), (0.00275, 0.0027576), (0.0, 0.0)]
)
def test_the_factor_of_dropout_has_mean_one_and_variance_p_over_one_minus_p(rate, variance):
    assert dropout_variance(rate) == pytest.approx(variance, rel=1e-4)
    kept = 1 / (1 - rate)
    assert (1 - rate) * kept == pytest.approx(1.0)
    assert (1 - rate) * (kept - 1) ** 2 + rate == pytest.approx(dropout_variance(rate), rel=1e-12, abs=1e-15)


def test_inverted_dropout_measured():
    torch.manual_seed(0)
    factor = nn.functional.dropout(torch.ones(400_000, dtype=torch.float64), 0.099, training=True)
    assert factor.mean().item() == pytest.approx(1.0, abs=0.003)
    assert factor.var().item() == pytest.approx(0.10988, rel=0.02)
