"""The state of a method: interrupted and resumed, a loop ends as one that was not, whatever model it resumes on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import tiny_dataset, tiny_encoder
from training_hosts import BATCH_SIZE, context, largest_difference, updates_by_hand, weights

from finetune_reg.errors import InputError
from finetune_reg.methods import METHODS, SMART, Mixout

DATASET = tiny_dataset()
EXAMPLES = 2 * DATASET  # of the six updates of the context
CYCLES = ("dps_dense", "dps_mix")  # of two stages of two updates


def begin(name: str, seed: int, resumes: bool):
    model, method = tiny_encoder("bert", seed).train(), METHOD_SETTINGS[name].active()
    method.setup(model, replace(context(DATASET), resumes=resumes))
    return model, method


@pytest.mark.parametrize(
    ("name", "n_before"), [(name, n) for name in METHODS for n in ((1, 2, 3, 4, 5) if name in CYCLES else (3,))]
)
def test_resumed_equals_uninterrupted_bit_for_bit(name, n_before):
    earlier, later = EXAMPLES[: n_before * BATCH_SIZE], EXAMPLES[n_before * BATCH_SIZE :]
    model, method = begin(name, seed=0, resumes=False)
    torch.manual_seed(0)
    optimizer = method.create_optimizer(model, context(DATASET))
    updates_by_hand(model, method, optimizer, earlier)
    stored = safetensors.torch.save(method.state_dict())
    with method.delivering(model):
        weights_then = weights(model)
    optimizer_then, random_then = deepcopy(optimizer.state_dict()), torch.get_rng_state()
    updates_by_hand(model, method, optimizer, later)
    method.finalize(model)
    uninterrupted = weights(model)

    model, method = begin(name, seed=5, resumes=True)  # with other weights than the pretrained ones
    model.load_state_dict(weights_then)
    method.load_state_dict(safetensors.torch.load(stored))
    optimizer = method.create_optimizer(model, context(DATASET))
    optimizer.load_state_dict(optimizer_then)
    torch.set_rng_state(random_then)
    updates_by_hand(model, method, optimizer, later)
    method.finalize(model)
    assert largest_difference(uninterrupted, weights(model)) == 0.0


@pytest.mark.parametrize("name", ["child_tuning_d", "attention_guided_weight_mixup"])
def test_what_setup_searched_is_not_searched_again(name, monkeypatch):
    for module in ("building_blocks.fisher_information", "methods.attention_guided_weight_mixup_search"):
        monkeypatch.setattr(f"finetune_reg.{module}.task_outputs", None)
    with pytest.raises(TypeError):
        begin(name, seed=0, resumes=False)
    begin(name, seed=0, resumes=True)


@pytest.mark.parametrize("name", METHODS)
def test_state_of_another_method_or_model_is_refused(name):
    _, method = begin(name, seed=0, resumes=True)
    with pytest.raises(InputError, match="The state does not fit"):
        method.load_state_dict({"another": torch.zeros(1)})


def test_state_of_a_smaller_model_is_refused():
    method = Mixout(0.5)
    method.setup(tiny_encoder("bert"), context(DATASET))
    smaller = tiny_encoder("bert", intermediate_size=8)
    other = SMART(), Mixout(0.5)
    for each in other:
        each.setup(smaller, context(DATASET))
        with pytest.raises(InputError, match="differs in"):
            method.load_state_dict(each.state_dict())
