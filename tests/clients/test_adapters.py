"""Every method under every kind of adapter of peft: it has a meaning there, or refuses in a sentence."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from adapters import ADAPTERS, adapted, frozen, peft
from method_settings import METHOD_SETTINGS
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from training_hosts import (
    added_loss,
    context,
    largest_difference,
    method_trainer,
    train_in_loop,
    updates_by_hand,
    weights,
)
from transformers import AutoModelForSequenceClassification

from finetune_reg.building_blocks.adapters.adapted_models import adapter_kinds
from finetune_reg.building_blocks.adapters.low_rank import half_squared_norm_gradients, low_rank_layers, squared_norm
from finetune_reg.building_blocks.parameter_groups import backbone, named_backbone_parameters, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import name_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.paper_card import paper_card
from finetune_reg.methods import L2SP, METHODS, Mixout, PretrainedWeightDecay, Vanilla
from finetune_reg.methods.mixout import draw_keep_mask, mixout

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
DATASET = tiny_dataset()
IN_BLOCKS = {"LORA", "DORA", "ADALORA", "OFT", "IA3"}
DEFINED = {  # the other methods have a meaning under every adapter
    "mixout": {"LORA"},
    "l2_sp": {"LORA"},
    "pretrained_weight_decay": {"LORA"},
    "attention_guided_weight_mixup": set(),
    "layerwise_learning_rate_decay": IN_BLOCKS,
    "top_layer_reinitialization": set(),
    "top_k_layers": IN_BLOCKS,
    "low_rank_adaptation": set(),
    "noisy_tune": set(),
    "dps_dense": {"LORA", "DORA"},
    "dps_mix": set(),
    "child_tuning_d": IN_BLOCKS,
    "combination": {"LORA"},
}
SELDOM_ACTS = {("selective_projection_decay", kind) for kind in ADAPTERS if kind not in IN_BLOCKS}  # on one tensor
CELLS = [
    pytest.param(name, kind, marks=[] if kind in ("LORA", "PROMPT_TUNING") else pytest.mark.campaign)
    for name in METHODS
    for kind in ADAPTERS
    if kind in DEFINED.get(name, ADAPTERS)
]
REFUSED = [(name, kind) for name in METHODS for kind in ADAPTERS if kind not in DEFINED.get(name, ADAPTERS)]


def trained(kind: str, method, weight_decay: float = 0.01):
    """Make three updates; return the model and what was frozen before."""
    model, run_context = adapted(kind), replace(context(DATASET, weight_decay), n_updates=3)
    before = frozen(model)
    method.setup(model, run_context)
    torch.manual_seed(0)
    updates_by_hand(model, method, method.create_optimizer(model, run_context), DATASET)
    method.finalize(model)
    return model, before


@cache
def plain(kind: str, weight_decay: float) -> dict[str, torch.Tensor]:
    return trained(kind, Vanilla(), weight_decay)[0].state_dict()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    batch = batches(DATASET, 8)[0]
    return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_a_method_that_has_a_meaning_changes_only_what_the_adapter_file_holds(name, kind, tmp_path):
    setting = METHOD_SETTINGS[name]
    model, before = trained(kind, setting.active(), setting.weight_decay)
    now = dict(model.named_parameters())
    assert largest_difference(before, {n: now[n] for n in before}) == 0.0
    acts = largest_difference(plain(kind, setting.weight_decay), model.state_dict()) > 1e-5
    assert acts or (name, kind) in SELDOM_ACTS
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_encoder("bert"), tmp_path)
    torch.testing.assert_close(logits(again), logits(model), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_the_neutral_setting_is_the_plain_adapter_bit_for_bit(name, kind):
    setting = METHOD_SETTINGS[name]
    model, _ = trained(kind, setting.neutral(), setting.weight_decay)
    assert largest_difference(plain(kind, setting.weight_decay), model.state_dict()) == 0.0


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_a_method_without_a_meaning_says_so_and_leaves_the_model_alone(name, kind):
    model, method = adapted(kind), METHOD_SETTINGS[name].active()
    before, types = weights(model), [type(module) for module in model.modules()]

    def begin() -> None:
        method.setup(model, context(DATASET))
        method.create_optimizer(model, context(DATASET))

    with pytest.raises(InputError, match=rf" has no meaning under {kind} of peft, because [^.]*: [^.]*\.$"):
        begin()
    method.finalize(model)
    assert largest_difference(before, model.state_dict()) == 0.0
    assert types == [type(module) for module in model.modules()]


@pytest.mark.parametrize("name", METHODS)
def test_the_card_says_what_the_tests_know(name):
    card = paper_card(METHODS[name])
    assert len(card.adapters) > 15
    assert ("Refused" in card.adapters) == (DEFINED.get(name, ADAPTERS) != ADAPTERS and name != "combination")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapter_and_head_are_told_apart(kind):
    model = adapted(kind)
    assert adapter_kinds(model) == [kind]
    assert name_of(model) == "BertForSequenceClassification"
    assert type(backbone(model)).__name__ == "BertModel"
    head, inside = dict(named_head_parameters(model)), dict(named_backbone_parameters(model))
    assert all("classifier.modules_to_save.default" in name for name in head)
    assert len(head) == 2
    assert inside
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == head.keys() | inside.keys()


def test_a_model_without_adapter_has_none():
    assert adapter_kinds(tiny_encoder("bert")) == []
    merged = adapted("LORA").merge_and_unload()
    assert adapter_kinds(merged) == []


def test_adapters_that_peft_puts_into_a_model_without_wrapping_it_are_seen():
    model = tiny_encoder("bert")
    model.add_adapter(ADAPTERS["LORA"]())
    assert adapter_kinds(model) == ["LORA"]
    with pytest.raises(InputError, match="NoisyTune has no meaning under LORA"):
        METHOD_SETTINGS["noisy_tune"].active().setup(model, context(DATASET))


def test_the_teacher_of_smart_copies_trainable_weights_only():
    model, method = adapted("LORA"), METHOD_SETTINGS["smart"].active()
    method.setup(model, context(DATASET))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(w.numel() for w in method._teacher.values()) == sum(p.numel() for p in trainable)
    method.finalize(model)


def test_guided_dropout_leaves_the_dropout_of_the_adapter_alone():
    model, method = adapted("LORA"), METHOD_SETTINGS["guided_dropout"].active()
    method.setup(model, context(DATASET))
    assert {m.p for n, m in model.named_modules() if ".lora_dropout." in n} == {0.1}
    plain_model, plain_method = tiny_encoder("bert"), METHOD_SETTINGS["guided_dropout"].active()
    plain_method.setup(plain_model, context(DATASET))
    rates = [m.p for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and ".lora_dropout." not in n]
    assert rates == [m.p for m in plain_model.modules() if isinstance(m, torch.nn.Dropout)]


def test_the_plain_loop_refuses_adalora_which_it_would_not_serve():
    with pytest.raises(InputError, match=r"call model\.base_model\.update_and_allocate"):
        train_in_loop(adapted("ADALORA"), Vanilla(), DATASET)


def test_child_tuning_holds_the_first_factor_of_a_fresh_lora_and_says_when_nothing_is_left_to_choose():
    model, method = adapted("LORA"), METHODS["child_tuning_d"](0.3)
    method.setup(model, context(DATASET))
    kept = {name: mask.float().mean().item() for name, mask in method._masks.items()}
    assert {share for name, share in kept.items() if "lora_A" in name} == {0.0}
    assert max(kept.values()) > 0.5
    method.finalize(model)
    with pytest.raises(InputError, match=r"cannot choose a share of 0\.9 by Fisher information"):
        METHODS["child_tuning_d"](0.9).setup(adapted("LORA"), context(DATASET))


def low_rank_model(**options):
    """A tiny model in float64 whose LoRA has moved."""
    model = adapted("LORA", overrides={"dtype": torch.float64}, **options).double()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(generator=generator)
    return model


def delta(layer) -> torch.Tensor:
    return layer.scaling * layer.up @ layer.down


def test_the_norm_of_the_deviation_and_its_gradients_need_no_product():
    for layer in low_rank_layers(low_rank_model(), "A test"):
        factors = [factor.detach().requires_grad_() for factor in layer.factors]
        half = (layer.scaling * factors[1] @ factors[0]).square().sum() / 2
        torch.testing.assert_close(squared_norm(*layer.factors, layer.scaling) / 2, half)
        ours = half_squared_norm_gradients(*layer.factors, layer.scaling)
        torch.testing.assert_close(ours, torch.autograd.grad(half, factors))


def test_mixout_of_the_whole_weight_is_lora_dropout_with_one_coin_per_input_unit():
    model, method = low_rank_model(lora_dropout=0.0), Mixout(0.4, "all_linear", disable_dropout=False)
    method.setup(model, context(DATASET))
    low_rank = low_rank_layers(model, "A test")[0]
    layer = model.get_submodule(low_rank.base_name.removesuffix(".base_layer"))
    inputs = torch.randn(5, 7, 16, dtype=torch.float64)
    torch.manual_seed(2)
    ours = layer(inputs)
    torch.manual_seed(2)
    base = layer.base_layer
    keep = draw_keep_mask(base.weight, 0.4)
    assert 0 < keep.sum() < 16
    mixed = mixout(base.weight + delta(low_rank), base.weight, keep, 0.4)
    torch.testing.assert_close(ours, torch.nn.functional.linear(inputs, mixed, base.bias))
    method.finalize(model)
    torch.testing.assert_close(layer(inputs), base(inputs) + inputs @ delta(low_rank).T)


def test_mixout_of_probability_one_is_the_pretrained_model_in_training():
    model, method = low_rank_model(), Mixout(1.0, "all_linear")
    method.setup(model, context(DATASET))
    batch = batches(DATASET, 8)[0]
    mixed = model(**batch).logits
    with model.disable_adapter():
        torch.testing.assert_close(mixed, model(**batch).logits)


def test_mixout_spares_what_no_dropout_feeds_and_mixes_a_head_and_whole_layers_that_train():
    model, method = low_rank_model(modules_to_save=["pooler"]), Mixout(0.5, head_mix_probability=0.7)
    method.setup(model, context(DATASET))
    dropped = {name for name, module in model.named_modules() if type(module).__name__ == "InputUnitDropout"}
    assert any("attention.output.dense" in name for name in dropped)
    assert not any("intermediate.dense" in name for name in dropped)
    mixed = {n: m.mix_probability for n, m in model.named_modules() if type(m).__name__ == "MixLinear"}
    assert {name.split(".")[-4]: p for name, p in mixed.items() if "classifier" in name} == {"model": 0.7}
    assert {p for name, p in mixed.items() if "pooler" in name} == {0.5}
    assert len(mixed) == 2
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


@pytest.mark.parametrize("options", [{"rescale_gradient": False}, {"granularity": "weight"}])
def test_mixout_refuses_what_needs_the_whole_matrix(options):
    with pytest.raises(InputError, match="Mixout under LoRA is dropout of input units"):
        Mixout(0.5, **options).setup(adapted("LORA"), context(DATASET))


def test_l2_sp_pulls_the_effective_weight_toward_the_pretrained_one():
    model, method = low_rank_model(), L2SP(0.3, 0.2)
    method.setup(model, context(DATASET))
    layers = low_rank_layers(model, "A test")
    head = [p for _, p in named_head_parameters(model)]
    distance = sum(delta(layer).square().sum() for layer in layers)
    expected = 0.15 * distance + 0.1 * sum(p.square().sum() for p in head)
    torch.testing.assert_close(added_loss(method, model, {}), expected.detach())
    method.after_backward(model)
    factors = [factor for layer in layers for factor in layer.factors] + head
    for factor, gradient in zip(factors, torch.autograd.grad(expected, factors), strict=True):
        torch.testing.assert_close(factor.grad, gradient)


def test_decay_shrinks_the_deviation_by_the_share_of_the_equation():
    model, method = low_rank_model(), PretrainedWeightDecay(50.0)
    run_context = context(DATASET)
    method.setup(model, run_context)
    layers = low_rank_layers(model, "A test")
    before = [delta(layer).detach() for layer in layers]
    method.after_step(model, method.create_optimizer(model, run_context))
    for layer, deviation in zip(layers, before, strict=True):
        torch.testing.assert_close(delta(layer), deviation * (1 - run_context.learning_rate * 50.0))
    with pytest.raises(InputError, match="cannot shrink LoRA by the share 2 at a step"):
        PretrainedWeightDecay(2000.0).setup(model, run_context)


def test_pretrained_weights_that_the_adapter_has_moved_are_refused():
    with pytest.raises(InputError, match="init_lora_weights='pissa' has moved a part of them"):
        L2SP().setup(adapted("LORA", init_lora_weights="pissa"), context(DATASET))


def test_a_quantized_base_serves_what_never_reads_it():
    class Linear4bit(torch.nn.Linear):
        """Stands for the layer of bitsandbytes, which is told by its name."""

    model = adapted("LORA")
    for module in model.modules():
        if hasattr(module, "base_layer"):
            module.base_layer.__class__ = Linear4bit
    for name in ("mixout", "l2_sp", "pretrained_weight_decay"):
        method = METHOD_SETTINGS[name].active()
        method.setup(model, context(DATASET))
        updates_by_hand(model, method, method.create_optimizer(model, context(DATASET)), DATASET)
        method.finalize(model)
    for name in ("noisy_tune", "dps_mix"):
        with pytest.raises(InputError, match="has no meaning under LORA of peft"):
            METHOD_SETTINGS[name].active().setup(model, context(DATASET))


def test_merged_and_unmerged_exports_predict_alike(tmp_path):
    model, _ = trained("LORA", METHOD_SETTINGS["mixout"].active())
    ours = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(tiny_encoder("bert"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), ours, atol=1e-6, rtol=0.0)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), ours, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("name", ["mixout", "l2_sp", pytest.param("smart", marks=pytest.mark.campaign)])
def test_a_peft_script_trains_with_a_method_in_place_of_nothing(name, tmp_path):
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear")
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny_encoder("bert"), config)
    trainer = method_trainer(model, METHOD_SETTINGS[name].active(), DATASET, tmp_path / "runs", save_strategy="epoch")
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    assert sorted(file.suffix for file in (tmp_path / "adapter").glob("adapter_*")) == [".json", ".safetensors"]
    for folder in (tmp_path / "adapter", tmp_path / "runs" / "checkpoint-6"):
        again = peft.PeftModel.from_pretrained(tiny_encoder("bert"), folder)
        torch.testing.assert_close(logits(again), logits(model), atol=1e-6, rtol=0.0)
    torch.manual_seed(1)
    in_loop = peft.get_peft_model(tiny_encoder("bert"), config).train()
    train_in_loop(in_loop, METHOD_SETTINGS[name].active(), DATASET)
    assert largest_difference(weights(in_loop), weights(model)) == 0.0
