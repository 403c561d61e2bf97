"""A MethodTrainer that is interrupted and resumed ends, bit for bit, as one that is not."""

from __future__ import annotations

import shutil

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import tiny_dataset, tiny_encoder
from training_hosts import largest_difference, method_trainer, weights
from transformers import Trainer

from finetune_reg.errors import InputError
from finetune_reg.methods import METHODS, AttentionGuidedWeightMixup, Mixout, Vanilla
from finetune_reg.trainer_parts.method_checkpoint import METHOD_FILE

DATASET = tiny_dataset()
SAVED = {"save_strategy": "steps", "save_steps": 1, "train_sampling_strategy": "random"}


def trained(method, folder, resume=None, seed=0, **arguments) -> dict[str, torch.Tensor]:
    """The weights of a tiny encoder after six updates in two epochs, with a checkpoint after each."""
    model = tiny_encoder("bert", seed)
    method_trainer(model, method, DATASET, folder, **SAVED | arguments).train(resume_from_checkpoint=resume)
    return weights(model)


@pytest.mark.parametrize("name", METHODS)
def test_resumed_in_mid_epoch_on_a_model_with_other_weights(name, tmp_path):
    make = METHOD_SETTINGS[name].active
    uninterrupted = trained(make(), tmp_path)
    resumed = trained(make(), tmp_path / "resumed", str(tmp_path / "checkpoint-2"), seed=5)
    assert largest_difference(uninterrupted, resumed) == 0.0


@pytest.mark.parametrize("name", ["dps_mix", "smart"])
def test_resumed_between_epochs_from_the_latest_whole_checkpoint(name, tmp_path):
    make = METHOD_SETTINGS[name].active
    uninterrupted = trained(make(), tmp_path, accumulation_steps=2)
    for later in (5, 6):
        shutil.rmtree(tmp_path / f"checkpoint-{later}")
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()  # as a process leaves it that is killed while writing
    resumed = trained(make(), tmp_path, True, accumulation_steps=2)
    assert largest_difference(uninterrupted, resumed) == 0.0


def test_a_resumed_run_does_not_search_again(tmp_path):
    method = AttentionGuidedWeightMixup(n_searches=1, search_epochs=1.0)
    trained(method, tmp_path)
    assert method.search_log
    trained(method, tmp_path, True)
    assert method.search_log == []


@pytest.mark.parametrize(
    ("method", "sentence"), [(Mixout(0.4), r"written by Mixout\(.*0\.5.* by Mixout\(.*0\.4"), (Vanilla(), "by Vanilla")]
)
def test_a_checkpoint_of_another_method_is_refused(method, sentence, tmp_path):
    trained(Mixout(0.5), tmp_path, max_steps=1, warmup_steps=0)
    with pytest.raises(InputError, match=sentence):
        trained(method, tmp_path, True)


def test_a_checkpoint_without_a_method_is_refused(tmp_path):
    trained(Mixout(0.5), tmp_path / "weights only", save_only_model=True, max_steps=1, warmup_steps=0)
    assert not list(tmp_path.rglob(METHOD_FILE))
    with pytest.raises(InputError, match="save_only_model"):
        trained(Mixout(0.5), tmp_path / "weights only", True)
    with pytest.raises(InputError, match="no whole checkpoint"):
        trained(Mixout(0.5), tmp_path / "nothing", True)
    with pytest.raises(InputError, match=METHOD_FILE):
        trained(Mixout(0.5), tmp_path, str(tmp_path / "nowhere"))


def test_the_plain_trainer_goes_on_from_a_checkpoint_of_vanilla(tmp_path):
    uninterrupted = trained(Vanilla(), tmp_path)
    model = tiny_encoder("bert")
    ours = method_trainer(model, Vanilla(), DATASET, tmp_path, **SAVED)
    plain = Trainer(model, ours.args, train_dataset=DATASET, data_collator=ours.data_collator)
    plain.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert largest_difference(uninterrupted, weights(model)) == 0.0
