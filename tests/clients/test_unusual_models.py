"""Each method on each model that is not a text classifier of one stack: it works, or one sentence refuses it."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import partial

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from training_hosts import largest_difference, method_trainer, train_by_hand, train_in_loop, weights
from transformers import T5ForTokenClassification
from unusual_models import FAMILIES, UNUSUAL

from finetune_reg.building_blocks.embedding_perturbation import input_embeddings, perturbed_embeddings
from finetune_reg.building_blocks.parameter_groups import backbone, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import name_backbone
from finetune_reg.errors import InputError
from finetune_reg.methods import L2SP, METHODS, R3F, FreeLB, Mixout, RDrop, Vanilla
from finetune_reg.methods.low_rank_adaptation import adaptable_layers
from finetune_reg.trainer import MethodTrainer

TEXT = ("input_ids", "attention_mask")
NO_BACKBONE = "does not separate a pretrained backbone"
NO_TABLE = "has no table of word embeddings"
NO_INPUT_IDS = "has no input_ids, whose word embeddings are to be moved"
TWO_STACKS = "has two stacks of transformer blocks"
NAMED = partial(MethodTrainer, backbone="encoder")
EXCHANGED = "it with attention_type='original_full'."
NO_RATES = "GaussianDropout needs a dropout module at"
FREE_OF_BACKBONES = (
    "vanilla",
    "child_tuning_f",
    "r_drop",
    "smart",
    "r3f",
    "freelb",
    "sam",
    "neftune",
    "weight_averaging",
)
MOVING = ("smart", "r3f", "freelb", "neftune")
DROPPING = tuple(name for name in METHODS if name.endswith("_dropout"))
BY_DEPTH = (
    *DROPPING,
    "layerwise_learning_rate_decay",
    "top_layer_reinitialization",
    "top_k_layers",
    "child_tuning_d",
    "hype",
)
MIXING = ("mixout", "attention_guided_weight_mixup", "dps_mix", "combination")
CHANGING_MODULES = (*DROPPING, *MIXING, "low_rank_adaptation", "vanilla")  # vanilla's active setting sets dropout rates
REFUSED = {
    "modernbert": {"gaussian_dropout": NO_RATES},
    "albert": dict.fromkeys(set(DROPPING) - {"gaussian_dropout"}, "does not fit AlbertForSequenceClassification"),
    "mpnet": {},
    "llama": dict.fromkeys(DROPPING, "has dropout on its attention probabilities alone"),
    "qwen2": dict.fromkeys(DROPPING, "has dropout on its attention probabilities alone"),
    "longformer": {"gaussian_dropout": NO_RATES},
    "xlnet": dict.fromkeys(
        (*MOVING, *MIXING, "low_rank_adaptation"), "whose attention keeps weights outside of layers"
    ),
    "images": {**dict.fromkeys(MOVING, NO_TABLE), "gaussian_dropout": NO_RATES},
    "plain": {
        **{name: NO_BACKBONE for name in METHODS if name not in FREE_OF_BACKBONES},
        **dict.fromkeys(MOVING, NO_TABLE),
    },
    "own head, dictionary": {},
    "own head, tuple": {},
    "holder": {},
    "tuples": dict.fromkeys(("smart", "r3f", "r_drop"), "returns tuples"),
    "inputs_embeds": dict.fromkeys(MOVING, NO_INPUT_IDS),
    "t5": dict.fromkeys(BY_DEPTH, TWO_STACKS),
    "t5, writing": {
        **dict.fromkeys(BY_DEPTH, TWO_STACKS),
        "head_first": "no trainable linear layer whose outputs are the logits",
    },
    "bart": dict.fromkeys(BY_DEPTH, TWO_STACKS),
    "big_bird": dict.fromkeys(CHANGING_MODULES, EXCHANGED),
    "big_bird, full attention": {},
}


def crossed() -> list:
    """Each method on each model; on a family of text encoders, what is neither refused nor mixed is a campaign."""
    return [
        pytest.param(
            name,
            kind,
            marks=[pytest.mark.campaign] * (kind in FAMILIES and name not in MIXING and name not in REFUSED[kind]),
        )
        for name in METHODS
        for kind in UNUSUAL
    ]


@pytest.mark.parametrize(("name", "kind"), crossed())
def test_it_works_or_one_sentence_refuses_it(name, kind):
    model, dataset = UNUSUAL[kind]()
    before, classes = weights(model), [type(module) for module in model.modules()]
    sentence = REFUSED[kind].get(name)
    if sentence is None:
        train_by_hand(model, METHOD_SETTINGS[name].active(), dataset)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        assert largest_difference(before, weights(model)) > 0.0
    else:
        with pytest.raises(InputError, match=re.escape(sentence)) as refusal:
            train_by_hand(model, METHOD_SETTINGS[name].active(), dataset)
        assert "\n" not in str(refusal.value)
        assert str(refusal.value).endswith(".")
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_encoder_reads_the_moved_embeddings_of_two_stacks(kind):
    model, dataset = UNUSUAL[kind]()
    model.eval()
    batch = batches(dataset, 4)[0]
    words = input_embeddings(model, batch)
    noise = torch.randn_like(words)
    with perturbed_embeddings(model, noise):
        moved = model(**batch).logits
    assert (moved - model(**batch).logits).abs().max() > 1e-5
    heard = model.get_encoder()(inputs_embeds=words + noise, attention_mask=batch["attention_mask"])
    again = model(**batch, encoder_outputs=heard).logits
    torch.testing.assert_close(moved, again)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_r3f_is_not_vanilla_on_two_stacks(kind):
    model, dataset = UNUSUAL[kind]()
    ours, plain = deepcopy(model), deepcopy(model)
    train_by_hand(ours, R3F(1.0, noise_scale=0.1, dropout="shared"), dataset)
    train_by_hand(plain, Vanilla(), dataset)
    assert largest_difference(weights(ours), weights(plain)) > 1e-5


def test_a_head_on_the_encoder_of_two_stacks_reads_moved_embeddings():
    model = T5ForTokenClassification(UNUSUAL["t5"]()[0].config).eval()
    batch = {"input_ids": torch.arange(5, 12)[None], "attention_mask": torch.ones(1, 7, dtype=torch.long)}
    with perturbed_embeddings(model, torch.randn_like(input_embeddings(model, batch))):
        moved = model(**batch).logits
    assert (moved - model(**batch).logits).abs().max() > 1e-5


def test_mixout_leaves_nothing_on_big_bird_whose_attention_is_full():
    model, dataset = UNUSUAL["big_bird, full attention"]()
    classes = [type(module) for module in model.modules()]
    for length in (62, 20):
        train_by_hand(model, Mixout(0.5), [{**e, **{k: e[k][:length] for k in TEXT}} for e in dataset])
    assert [type(module) for module in model.modules()] == classes


def test_padding_that_the_model_appends_stays_put():
    model, dataset = UNUSUAL["big_bird"]()
    model.eval()
    batch = batches(dataset, 2)[0]
    with perturbed_embeddings(model, torch.zeros_like(input_embeddings(model, batch))):
        moved = model(**batch).logits
    assert torch.equal(moved, model(**batch).logits)


def test_a_pass_that_looks_nothing_up_is_refused():
    model, dataset = tiny_encoder("bert"), tiny_dataset()
    batch = batches(dataset, 4)[0]
    noise = torch.zeros_like(input_embeddings(model, batch))
    words = model.bert.embeddings.word_embeddings.weight[batch["input_ids"]].detach()
    with pytest.raises(InputError, match="did not look them up"), perturbed_embeddings(model, noise):
        model(inputs_embeds=words)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_in_a_module_of_ones_own_trains_as_it_does_bare(name):
    bare, held = tiny_encoder("bert"), UNUSUAL["holder"]()[0]
    for model in (bare, held):
        train_by_hand(model, METHOD_SETTINGS[name].active(), tiny_dataset())
    assert largest_difference(weights(bare), weights(held.network)) == 0.0


@pytest.mark.parametrize("kind", ["own head, dictionary", "own head, tuple"])
@pytest.mark.parametrize("build", [partial(R3F, 1.0, noise_scale=0.1), RDrop, L2SP, FreeLB])
def test_both_hosts_take_a_head_of_ones_own(kind, build, tmp_path):
    trained = []
    for train_model in (
        lambda model, dataset: train_in_loop(model, build(), dataset),
        lambda model, dataset: method_trainer(model, build(), dataset, tmp_path, trainer_class=NAMED).train(),
    ):
        model, dataset = UNUSUAL[kind]()
        before = weights(model)
        train_model(model, dataset)
        assert largest_difference(before, weights(model)) > 0.0
        trained.append(weights(model))
    assert largest_difference(*trained) < 1e-6


def test_the_part_that_is_named_is_the_backbone():
    model, _ = UNUSUAL["own head, tuple"]()
    assert backbone(model) is model.encoder
    assert [name for name, _ in named_head_parameters(model)] == ["head.weight", "head.bias"]
    name_backbone(model, "encoder.encoder")
    assert backbone(model) is model.encoder.encoder
    assert "encoder.embeddings.word_embeddings.weight" in dict(named_head_parameters(model))


def test_the_one_model_inside_gives_backbone_and_head():
    model, _ = UNUSUAL["holder"]()
    assert backbone(model) is model.network.bert
    assert all(name.startswith("network.classifier.") for name, _ in named_head_parameters(model))


@pytest.mark.parametrize("name", ["decoder", "", "dropout"])
def test_a_backbone_that_is_not_there_is_refused_by_both_hosts(name, tmp_path):
    model, dataset = UNUSUAL["own head, tuple"]()
    named = partial(MethodTrainer, backbone=name)
    for start in (
        lambda: train_in_loop(model, Vanilla(), dataset, backbone=name),
        lambda: method_trainer(model, Vanilla(), dataset, tmp_path, trainer_class=named),
    ):
        with pytest.raises(InputError, match=r"name one such as encoder, head\."):
            start()


def test_all_of_a_language_model_without_a_base_is_pretrained():
    model, _ = UNUSUAL["t5, writing"]()
    assert backbone(model) is model
    assert not list(named_head_parameters(model))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mpnet", ["q", "v"]), ("modernbert", ["Wqkv"]), ("llama", ["q_proj", "v_proj"]), ("albert", ["query", "value"])],
)
def test_low_rank_adaptation_finds_query_and_value(kind, expected):
    names = adaptable_layers(UNUSUAL[kind]()[0], "query_value")
    assert sorted({name.rpartition(".")[2] for name in names}) == expected


def test_low_rank_adaptation_leaves_a_table_that_also_writes_alone():
    model, _ = UNUSUAL["t5, writing"]()
    assert model.lm_head.weight is model.shared.weight
    assert not any("lm_head" in name for name in adaptable_layers(model, "all_linear"))


def test_several_pretrained_models_in_one_module_need_a_name():
    model, dataset = UNUSUAL["own head, tuple"]()
    model.reader = tiny_encoder("roberta")
    with pytest.raises(InputError, match="several pretrained models, encoder and reader: name the one"):
        train_in_loop(model, L2SP(), dataset)
    name_backbone(model, "encoder")
    train_in_loop(model, L2SP(), dataset)


def test_several_numbers_and_several_labels_are_not_told_apart_without_a_config():
    model, dataset = UNUSUAL["own head, tuple"]()
    batch = batches(dataset, 4)[0] | {"labels": torch.rand(4, 2)}
    with pytest.raises(InputError, match="may be several labels at once or several numbers"):
        RDrop().training_loss(model, batch, model(**batch))


def test_both_hosts_refuse_tuples_before_they_begin(tmp_path):
    model, dataset = tiny_encoder("bert", return_dict=False), tiny_dataset()
    for start in (
        lambda: train_in_loop(model, RDrop(), dataset),
        lambda: method_trainer(model, RDrop(), dataset, tmp_path).train(),
    ):
        with pytest.raises(InputError, match=r"set config\.return_dict=True"):
            start()
