"""Every method under every kind of adapter of peft: it has a meaning there, or refuses in a sentence."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from adapters import ADAPTERS, adapted, frozen, peft
from method_settings import METHOD_SETTINGS
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from training_hosts import context, largest_difference, train_in_loop, updates_by_hand, weights

from finetune_reg.building_blocks.adapters.adapted_models import adapter_kinds
from finetune_reg.building_blocks.parameter_groups import backbone, named_backbone_parameters, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import name_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.paper_card import paper_card
from finetune_reg.methods import METHODS, Vanilla

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it
DATASET = tiny_dataset()
IN_BLOCKS = {"LORA", "DORA", "ADALORA", "OFT", "IA3"}
DEFINED = {  # the other methods have a meaning under every adapter
    "mixout": set(),
    "l2_sp": set(),
    "pretrained_weight_decay": set(),
    "attention_guided_weight_mixup": set(),
    "layerwise_learning_rate_decay": IN_BLOCKS,
    "top_layer_reinitialization": set(),
    "top_k_layers": IN_BLOCKS,
    "noisy_tune": set(),
    "dps_dense": {"LORA", "DORA"},
    "dps_mix": set(),
    "child_tuning_d": IN_BLOCKS,
    "combination": set(),
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
