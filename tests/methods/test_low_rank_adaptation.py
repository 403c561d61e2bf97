from __future__ import annotations

import builtins
import json
import math
from copy import deepcopy
from functools import cache

import pytest
import torch
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from torch import nn
from training_hosts import context, largest_difference, method_trainer, train_in_loop, updates_by_hand, weights
from transformers import AutoModelForSequenceClassification

from finetune_reg.building_blocks.adapters.low_rank import low_rank_layers
from finetune_reg.errors import InputError
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods import (
    Combination,
    LowRankAdaptation,
    Mixout,
    NoisyTune,
    TopKLayers,
    Vanilla,
    WeightAveraging,
    build_method,
)
from finetune_reg.methods.low_rank_adaptation import adaptable_layers

peft = pytest.importorskip("peft", reason="LowRankAdaptation needs peft: install the extra finetune-reg[peft].")
DATASET = tiny_dataset()
QUERY = "bert.encoder.layer.0.attention.self.query"
KINDS = {
    "LoRA": None,
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "OFT": {"peft_type": "OFT", "r": 0, "oft_block_size": 4},
    "IA3": {"peft_type": "IA3"},
    "LoHa": {"peft_type": "LOHA", "r": 4},
    "LoKr": {"peft_type": "LOKR", "r": 4},
}
by_kind = pytest.mark.parametrize("kind", KINDS)


def low_rank(kind: str = "LoRA", **options) -> LowRankAdaptation:
    return LowRankAdaptation(**{"rank": 4, "targets": "all_linear", "config": KINDS[kind]} | options)


def set_up(method, architecture: str = "bert", **overrides):
    model = tiny_encoder(architecture, **overrides).train()
    method.setup(model, context(DATASET))
    return model


@torch.no_grad()
def logits(model) -> torch.Tensor:
    batch = batches(DATASET, 8)[0]
    return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def move(model, layer) -> None:
    """Give the adapter of a layer other values."""
    torch.manual_seed(1)
    for parameter in layer.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)


@by_kind
def test_it_begins_at_the_pretrained_model_bit_for_bit(kind):
    pretrained = tiny_encoder("bert")
    model = set_up(low_rank(kind))
    assert torch.equal(logits(model), logits(pretrained))
    assert largest_difference(weights(pretrained), weights(model)) == 0.0


@pytest.mark.parametrize(("kind", "scaling"), [("LoRA", 3.0 / 4), ("rsLoRA", 3.0 / 2)])
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_layer_computes_the_equation(kind, scaling, architecture):
    model = set_up(low_rank(kind, alpha=3.0), architecture, dtype=torch.float64)
    for adapted in low_rank_layers(model, "A test"):
        layer, base = adapted._layer, model.get_submodule(adapted.base_name)
        move(model, layer)
        inputs = torch.randn(5, 7, adapted.down.shape[1], dtype=torch.float64)
        deviation = scaling * adapted.up @ adapted.down
        torch.testing.assert_close(layer(inputs), base(inputs) + inputs @ deviation.T)


def test_dora_normalizes_the_rows_and_scales_them_by_its_magnitudes():
    model = set_up(low_rank("DoRA", alpha=3.0), dtype=torch.float64)
    layer = model.get_submodule(QUERY)
    move(model, layer)
    magnitude = layer.lora_magnitude_vector["default"].weight
    whole = layer.base_layer.weight + 0.75 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    weight = magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)
    inputs = torch.randn(5, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(inputs), inputs @ weight.T + layer.base_layer.bias)


@pytest.mark.parametrize(("initialization", "spread"), [(None, math.sqrt(1 / 3) / 4), ("gaussian", 1 / 8)])
def test_a_is_drawn_as_the_card_says_and_by_the_seed_alone(initialization, spread):
    config = None if initialization is None else {"init_lora_weights": initialization}
    drawn = []
    for already in (0, 1):
        torch.manual_seed(already)
        state = torch.get_rng_state()
        model = set_up(LowRankAdaptation(8, targets="all_linear", config=config))
        torch.manual_seed(already)
        assert torch.equal(state, torch.get_rng_state())
        drawn.append(torch.cat([layer.down.flatten() for layer in low_rank_layers(model, "A test")]))
    assert torch.equal(*drawn)
    narrow = torch.cat([a.down.flatten() for a in low_rank_layers(model, "A test") if a.down.shape[1] == 16])
    assert narrow.std().item() == pytest.approx(spread, rel=0.1)


def test_the_first_gradient_goes_to_b_to_the_pooler_and_to_the_head_alone():
    model = set_up(low_rank())
    model(**batches(DATASET, 8)[0]).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    moved = {name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_A" not in name} == moved
    in_full = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert {name for name in trained if "lora_" not in name} == in_full


@cache
def trained(kind: str):
    """Return the predictions before `finalize`, the model after it, and a checkpoint written before."""
    method = low_rank(kind)
    model = set_up(method)
    updates_by_hand(model, method, method.create_optimizer(model, context(DATASET)), DATASET)
    before, checkpoint = logits(model), weights(model)
    method.finalize(model)
    return before, model, checkpoint


@by_kind
def test_merged_equals_unmerged(kind):
    before, model, _ = trained(kind)
    torch.testing.assert_close(logits(model), before, atol=1e-6, rtol=0.0)
    assert (before - logits(tiny_encoder("bert"))).abs().max() > 1e-3


@by_kind
def test_a_checkpoint_in_mid_run_holds_what_finalize_leaves(kind):
    _, model, checkpoint = trained(kind)
    assert largest_difference(checkpoint, weights(model)) == 0.0
    assert {type(module) for module in model.modules()} == {type(module) for module in tiny_encoder("bert").modules()}
    assert not hasattr(model, "peft_config")
    assert all(parameter.requires_grad for parameter in model.parameters())


@by_kind
def test_what_was_frozen_has_not_moved(kind):
    _, model, _ = trained(kind)
    start, now = weights(tiny_encoder("bert")), weights(model)
    still = {name for name in start if torch.equal(start[name], now[name])}
    linear = {name for name in start if "embeddings" not in name and "LayerNorm" not in name and "encoder" in name}
    assert still == {name for name in start if name.startswith("bert.e")} - {n for n in linear if "weight" in n}


@by_kind
def test_weights_that_are_loaded_in_mid_run_are_those_that_the_model_has(kind):
    _, plain, checkpoint = trained(kind)
    model = set_up(low_rank(kind))
    for layer in [m for m in model.modules() if hasattr(m, "base_layer")]:
        move(model, layer)
    model.load_state_dict(checkpoint)
    assert torch.equal(logits(model), logits(plain))
    assert largest_difference(checkpoint, weights(model)) == 0.0
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({name: w for name, w in checkpoint.items() if QUERY not in name})


@pytest.mark.parametrize("kind", ["DoRA", "OFT"])
def test_a_trainer_saves_plain_models_and_resumes_bit_for_bit(kind, tmp_path):
    models = []
    for checkpoint in (None, tmp_path / "checkpoint-3"):
        model = tiny_encoder("bert", seed=0 if checkpoint is None else 5)
        options = {"save_strategy": "epoch", "eval_strategy": "epoch", "eval_dataset": DATASET}
        trainer = method_trainer(model, low_rank(kind), DATASET, tmp_path, **options)
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        models.append(model)
    assert largest_difference(*map(weights, models)) == 0.0
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    for step, loss in zip((3, 6), logged, strict=True):
        folder = tmp_path / f"checkpoint-{step}"
        plain, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert plain.eval()(**batches(DATASET, 24)[0]).loss.item() == pytest.approx(loss, rel=1e-6)
    assert largest_difference(weights(plain), weights(model)) == 0.0


def test_the_optimizer_holds_what_trains_and_less_of_it_than_vanillas():
    sizes = {}
    for method in (Vanilla(), low_rank(), LowRankAdaptation()):
        model = set_up(method)
        optimizer = method.create_optimizer(model, context(DATASET))
        updates_by_hand(model, method, optimizer, DATASET)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in model.parameters() if p.requires_grad}
        states = [t for state in optimizer.state.values() for t in state.values()]
        sizes[repr(method)] = sum(tensor.nbytes for tensor in states)
    vanilla, all_linear, query_value = sizes.values()
    assert query_value < all_linear < 0.8 * vanilla  # a tiny model is hardly wider than the rank


@pytest.mark.parametrize(
    ("architecture", "query_value", "n_attention", "n_all"),
    [
        ("bert", ["query", "value"], 4, 6),
        ("roberta", ["query", "value"], 4, 6),
        ("electra", ["query", "value"], 4, 6),
        ("distilbert", ["q_lin", "v_lin"], 4, 6),
        ("deberta-v2", ["query_proj", "value_proj"], 4, 6),
        ("gpt2", ["c_attn"], 2, 4),
    ],
)
def test_targets_are_found_in_every_family(architecture, query_value, n_attention, n_all):
    model = tiny_encoder(architecture)
    found = adaptable_layers(model, "query_value")
    assert [name.rpartition(".")[2] for name in found] == 2 * query_value
    assert len(adaptable_layers(model, "attention")) == 2 * n_attention
    n_besides = architecture == "electra"  # the projection of its embeddings
    assert len(adaptable_layers(model, "all_linear")) == 2 * n_all + n_besides
    assert adaptable_layers(model, query_value) == found


def test_layers_that_are_frozen_get_no_adapter_and_stay_frozen():
    model = tiny_encoder("bert")
    model.bert.encoder.layer[0].requires_grad_(False)
    assert all(".layer.1." in name for name in adaptable_layers(model, "all_linear"))
    method = low_rank()
    method.setup(model, context(DATASET))
    method.finalize(model)
    assert {p.requires_grad for p in model.bert.encoder.layer[0].parameters()} == {False}


def test_a_layer_that_two_modules_share_is_adapted_in_both_and_merged_once():
    model, method = tiny_encoder("bert"), low_rank()
    first, second = (block.attention.self for block in model.bert.encoder.layer)
    second.query = first.query
    method.setup(model, context(DATASET))
    assert first.query is second.query
    assert hasattr(first.query, "base_layer")
    move(model, first.query)
    before = logits(model)
    method.finalize(model)
    assert first.query is second.query
    assert type(first.query) is nn.Linear
    torch.testing.assert_close(logits(model), before, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"targets": ["query", "kweri"]},
            "no linear layer of BertForSequenceClassification whose name ends with 'kweri'",
        ),
        ({"config": {"peft_type": "ADALORA"}}, "peft_type to be one of LORA, OFT, IA3, LOHA, LOKR, not 'ADALORA'"),
        ({"config": {"init_lora_weights": "pissa"}}, "an adapter with init_lora_weights='pissa' elsewhere"),
        ({"config": {"init_lora_weights": False}}, "an adapter with init_lora_weights=False elsewhere"),
        ({"config": {"modules_to_save": ["pooler"]}}, "trains the head besides: leave modules_to_save out"),
        ({"config": {"use_dorra": True}}, "because peft says: .*use_dorra"),
        ({"config": {"peft_type": "OFT", "r": 5}}, "because peft says: "),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_the_model_alone(options, sentence):
    model, method = tiny_encoder("bert"), low_rank(**options)
    before, classes = weights(model), [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=sentence) as refusal:
        method.setup(model, context(DATASET))
    method.finalize(model)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert largest_difference(before, weights(model)) == 0.0
    assert classes == [type(module) for module in model.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_without_attention_has_no_query():
    model = tiny_encoder("bert")
    model.bert.encoder.requires_grad_(False)
    with pytest.raises(InputError, match="found no layer of BertForSequenceClassification for targets='query_value'"):
        LowRankAdaptation().setup(model, context(DATASET))


def test_without_peft_one_sentence_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without_peft(name, *arguments):
        if name.startswith("peft"):
            raise ModuleNotFoundError(name="peft")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(InputError, match=r"needs peft: install it with `pip install finetune_reg\[peft\]`\.$"):
        LowRankAdaptation().setup(tiny_encoder("bert"), context(DATASET))
    set_up(LowRankAdaptation(None))


def test_a_configuration_of_peft_comes_before_the_fields_and_survives_json():
    method = LowRankAdaptation(
        config=peft.LoraConfig(task_type="SEQ_CLS", r=2, use_dora=True, target_modules=["value", "query"])
    )
    assert method.config == {"peft_type": "LORA", "r": 2, "use_dora": True, "target_modules": ["query", "value"]}
    assert build_method("low_rank_adaptation", **json.loads(json.dumps(method.hyperparameters))) == method
    model = set_up(method)
    layers = [module for module in model.modules() if hasattr(module, "lora_magnitude_vector")]
    assert [tuple(layer.lora_A["default"].weight.shape) for layer in layers] == 4 * [(2, 16)]
    everywhere = set_up(LowRankAdaptation(config=peft.OFTConfig(target_modules="all-linear", r=0, oft_block_size=4)))
    assert sum(hasattr(module, "oft_R") for module in everywhere.modules()) == 12


def test_mixout_beside_it_is_lora_dropout():
    method = Combination([low_rank(), Mixout(0.5, "all_linear")])
    model = set_up(method)
    assert sum(type(module).__name__ == "InputUnitDropout" for module in model.modules()) == 12
    updates_by_hand(model, method, method.create_optimizer(model, context(DATASET)), DATASET)
    before = logits(model)
    method.finalize(model)
    torch.testing.assert_close(logits(model), before, atol=1e-6, rtol=0.0)
    assert not hasattr(model, "peft_config")


def test_in_a_combination_it_stands_first_and_others_act_or_refuse_as_under_an_adapter():
    with pytest.raises(InputError, match=r"LowRankAdaptation must stand before NoisyTune .*: it puts adapters into"):
        Combination([NoisyTune(), low_rank()])
    with pytest.raises(InputError, match="NoisyTune has no meaning under LORA of peft"):
        set_up(Combination([low_rank(), NoisyTune()]))
    with pytest.raises(
        InputError, match="LowRankAdaptation has no meaning under LORA of peft, because it brings its own"
    ):
        set_up(Combination([low_rank(), low_rank()]))
    top = set_up(Combination([low_rank(), TopKLayers(1)]))
    adapters = {name for name, p in top.named_parameters() if p.requires_grad and "lora_" in name}
    assert adapters
    assert all(".layer.1." in name for name in adapters)


def test_averaging_beside_it_delivers_the_product_of_the_averages():
    method = Combination([low_rank(), WeightAveraging(tail_fraction=1.0)])
    model = set_up(method)
    optimizer = method.create_optimizer(model, context(DATASET))
    layer, base = model.get_submodule(QUERY), tiny_encoder("bert").get_submodule(QUERY).weight
    visited = []
    for batch in (DATASET[:8], DATASET[8:16]):
        updates_by_hand(model, method, optimizer, batch)
        visited.append([deepcopy(layer.lora_B["default"].weight), deepcopy(layer.lora_A["default"].weight)])
    up, down = ((first + second) / 2 for first, second in zip(*visited, strict=True))
    with method.delivering(model):
        delivered = model.state_dict()[f"{QUERY}.weight"]
    method.finalize(model)
    torch.testing.assert_close(model.get_submodule(QUERY).weight.data, base + 2.0 * up @ down)
    assert torch.equal(model.get_submodule(QUERY).weight, delivered)


def test_bfloat16_weights_keep_their_type():
    model = tiny_encoder("bert", dtype=torch.bfloat16)
    train_in_loop(model, low_rank(), DATASET)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_record_counts_passes_and_distance_of_the_merged_model(tiny_world, tmp_path):
    common = {"task": "rte", "n_train": 16, "epochs": 1, "batch_size": 8, **tiny_world}
    adapted = RunSettings(method="low_rank_adaptation", method_hyperparameters={"rank": 2}, **common)
    record, plain = run(adapted, tmp_path), run(RunSettings(**common), tmp_path)
    assert (record.forward_passes, record.backward_passes) == (plain.forward_passes, plain.backward_passes) == (2, 2)
    assert 0 < record.distance_from_pretrained < plain.distance_from_pretrained
    assert record.delivered_weights == "trained"
