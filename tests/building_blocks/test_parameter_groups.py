"""Which parameter lies at which depth, on encoders that arrange theirs differently."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import collate, tiny_encoder
from training_hosts import largest_difference, method_trainer, weights
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    FlaubertConfig,
    FunnelConfig,
    ModernBertConfig,
    MPNetConfig,
    T5Config,
    Trainer,
    TrainingArguments,
    XLMConfig,
    XLNetConfig,
)

from finetune_reg.building_blocks.parameter_groups import (
    parameters_by_depth,
    split_by_weight_decay,
    transformer_blocks,
    weight_decay_groups,
)
from finetune_reg.errors import InputError
from finetune_reg.methods import Vanilla
from finetune_reg.trainer import MethodTrainer

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ARCHITECTURES = ("bert", "roberta", "electra", "distilbert", "deberta-v2", "gpt2")
BLOCKS = {"distilbert": "distilbert.transformer.layer", "deberta-v2": "deberta.encoder.layer", "gpt2": "transformer.h"}


def names_by_depth(model) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(parameter)] for parameter in level} for level in parameters_by_depth(model)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_are_found_on_every_encoder(architecture):
    model = tiny_encoder(architecture)
    assert transformer_blocks(model) is model.get_submodule(BLOCKS.get(architecture, f"{architecture}.encoder.layer"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_one_depth_and_blocks_are_in_order(architecture):
    model = tiny_encoder(architecture)
    levels = names_by_depth(model)
    assert len(levels) == 2 + 2
    assert sorted(name for level in levels for name in level) == sorted(name for name, _ in model.named_parameters())
    blocks = BLOCKS.get(architecture, f"{architecture}.encoder.layer")
    assert all(name.startswith(f"{blocks}.0.") for name in levels[1])
    assert all(name.startswith(f"{blocks}.1.") for name in levels[2])
    assert model.get_input_embeddings().weight in set(parameters_by_depth(model)[0])


def test_pooler_final_norm_and_head_lie_above_and_projections_of_embeddings_below():
    above = {name: names_by_depth(tiny_encoder(name))[-1] for name in ARCHITECTURES}
    assert above["bert"] == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert above["gpt2"] == {"transformer.ln_f.weight", "transformer.ln_f.bias", "score.weight"}
    assert all(name.startswith("classifier.") for name in above["roberta"] | above["electra"])
    assert "electra.embeddings_project.weight" in names_by_depth(tiny_encoder("electra"))[0]


def test_relative_positions_that_all_blocks_read_count_as_embeddings():
    model = tiny_encoder("deberta-v2", relative_attention=True, norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"])
    levels = names_by_depth(model)
    assert "deberta.encoder.rel_embeddings.weight" in levels[0]
    assert "deberta.encoder.LayerNorm.weight" in levels[-1]


def test_frozen_parameters_have_no_depth():
    model = tiny_encoder("bert")
    model.bert.embeddings.requires_grad_(False)
    embeddings, *blocks, above = names_by_depth(model)
    assert not embeddings
    assert all(blocks)
    assert above


def test_a_block_shared_by_all_layers_is_one_block():
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    model = AutoModelForSequenceClassification.from_config(AlbertConfig(vocab_size=50, embedding_size=8, **sizes))
    embeddings, block, above = names_by_depth(model)
    assert "albert.encoder.embedding_hidden_mapping_in.weight" in embeddings
    assert all("albert_layer_groups.0" in name for name in block)
    assert above == {"albert.pooler.weight", "albert.pooler.bias", "classifier.weight", "classifier.bias"}


def test_a_part_is_split_by_weight_decay_as_the_whole_is():
    model = tiny_encoder("bert")
    parts = [split_by_weight_decay(model, level, 0.1) for level in parameters_by_depth(model)]
    for whole, *pieces in zip(weight_decay_groups(model, 0.1), *parts, strict=True):
        assert {piece["weight_decay"] for piece in pieces} == {whole["weight_decay"]}
        assert {id(p) for piece in pieces for p in piece["params"]} == {id(p) for p in whole["params"]}


DECAYING = {
    **{name: (lambda name=name: tiny_encoder(name)) for name in ARCHITECTURES},
    **{
        name: (lambda config=config: AutoModelForSequenceClassification.from_config(config))
        for name, config in {
            "mpnet": MPNetConfig(vocab_size=50, **SIZES),
            "xlnet": XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32),
            "funnel": FunnelConfig(vocab_size=50, d_model=16, n_head=2, d_head=8, d_inner=32, block_sizes=[1, 1]),
            "t5": T5Config(vocab_size=50, d_model=16, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=0),
            "modernbert": ModernBertConfig(vocab_size=50, pad_token_id=0, **SIZES),
        }.items()
    },
}


@pytest.mark.parametrize("name", DECAYING)
def test_what_decays_is_what_the_trainer_decays(name, tmp_path):
    model = DECAYING[name]()
    trainer = Trainer(model, TrainingArguments(str(tmp_path), weight_decay=0.1, use_cpu=True, report_to="none"))
    theirs = trainer.create_optimizer().param_groups
    ours = weight_decay_groups(model, 0.1)
    assert [group["weight_decay"] for group in ours] == [group["weight_decay"] for group in theirs] == [0.1, 0.0]
    for our_group, their_group in zip(ours, theirs, strict=True):
        assert [id(p) for p in our_group["params"]] == [id(p) for p in their_group["params"]]


@pytest.mark.parametrize("name", ["mpnet", "t5"])
def test_vanilla_equals_the_plain_trainer(name, dataset, tmp_path):
    for example in dataset:
        example["input_ids"][-1] = 1  # the end token, which T5's classifier reads
    models = []
    for trainer_class in (MethodTrainer, Trainer):
        torch.manual_seed(0)
        models.append(DECAYING[name]())
        ours = method_trainer(models[-1], Vanilla(), dataset, tmp_path, weight_decay=0.5)
        if trainer_class is MethodTrainer:
            ours.train()
        else:
            Trainer(models[-1], ours.args, train_dataset=dataset, data_collator=collate).train()
    assert largest_difference(*(weights(model) for model in models)) == 0.0


@pytest.mark.parametrize("config", [XLMConfig, FlaubertConfig])
def test_a_model_that_lists_its_sub_layers_instead_of_blocks_is_refused(config):
    model = AutoModelForSequenceClassification.from_config(config(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2))
    with pytest.raises(InputError, match="no list of transformer blocks"):
        parameters_by_depth(model)


def test_a_model_without_blocks_is_refused():
    model = tiny_encoder("bert")
    model.bert.encoder.layer = torch.nn.Sequential(*model.bert.encoder.layer)
    with pytest.raises(InputError, match="no list of transformer blocks"):
        parameters_by_depth(model)
