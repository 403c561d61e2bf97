"""Moves of the embeddings that bfloat16 activations do not show are refused, whoever runs the passes."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from training_hosts import added_loss, context, largest_difference, method_trainer, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods import R3F, SMART, Combination, RDrop, method_name

DATASET = tiny_dataset()
ROUNDED = {
    "smart": lambda: SMART(),
    "smart just below": lambda: SMART(epsilon=9e-4),
    "r3f": lambda: R3F(),
    "r3f shared": lambda: R3F(dropout="shared"),
    "combination": lambda: Combination([RDrop(), SMART()]),
}
SEEN = {
    "smart": lambda: SMART(epsilon=1e-3, noise_std=1e-3),
    "smart official": SMART.official,
    "smart without smoothness": lambda: SMART(smoothness_strength=0.0),
    "r3f": lambda: R3F(noise_scale=1e-3),
    "r3f without noise": lambda: R3F(noise_scale=0.0),
    "r3f at strength 0": lambda: R3F(0.0),
}


def refused():
    return pytest.raises(InputError, match=r"which activations in bfloat16 round away: use float32, or \w+ of at least")


@pytest.mark.parametrize("name", ROUNDED)
def test_all_hosts_refuse_moves_that_are_rounded_away_before_they_begin(name, tmp_path):
    model = tiny_encoder("bert")
    before = weights(model)
    with refused():
        train_in_loop(model, ROUNDED[name](), DATASET, precision="bfloat16")
    with refused():
        method_trainer(model, ROUNDED[name](), DATASET, tmp_path, bf16=True).train()
    method = ROUNDED[name]()
    with refused():
        RunSettings(method=method_name(method), method_hyperparameters=method.hyperparameters, precision="bfloat16")
    assert largest_difference(before, weights(model)) == 0.0


@pytest.mark.parametrize("name", ROUNDED)
def test_a_loop_by_hand_is_told_at_its_first_loss(name):
    model, method = tiny_encoder("bert").train(), ROUNDED[name]()
    method.setup(model, context(DATASET))
    batch = batches(DATASET, 8)[0]
    assert added_loss(method, model, batch, model(**batch)).isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16), refused():
        method.training_loss(model, batch, model(**batch))


@pytest.mark.parametrize("name", SEEN)
def test_larger_moves_and_none_run(name):
    assert all(
        torch.tensor(train_in_loop(tiny_encoder("bert"), SEEN[name](), DATASET, precision="bfloat16")).isfinite()
    )


def test_at_the_limit_the_terms_of_both_precisions_agree():
    for method in (SMART(1.0, 0.0, 1e-3, 1e-3, 1e-3), R3F(1.0, 1e-3, dropout="shared")):
        terms = []
        for autocast in (False, True):
            model = tiny_encoder("bert").train()
            method.setup(model, context(DATASET))
            batch = batches(DATASET, 8)[0]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                torch.manual_seed(0)
                outputs = model(**batch)
                terms.append(added_loss(method, model, batch, outputs).item())
            method.finalize(model)
        assert terms[1] == pytest.approx(terms[0], rel=1 / 3)
