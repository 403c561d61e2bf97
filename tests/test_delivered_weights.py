"""What is evaluated and saved in mid-run is what would be delivered, and training does not notice."""

from __future__ import annotations

import json

import numpy as np
import pytest
from method_settings import METHOD_SETTINGS
from tiny_encoders import batches, tiny_encoder, without_dropout
from training_hosts import context, largest_difference, method_trainer, train_in_loop, updates_by_hand, weights
from transformers import AutoModelForSequenceClassification

from finetune_reg.experiment.records import checked_record, record_path
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods import METHODS, Combination, PretrainedInterpolation, PretrainedWeightDecay, WeightAveraging

DELIVERS_OTHERS = {name for name in METHODS if METHOD_SETTINGS[name].active().delivers_other_weights}
METHODS_THAT_DELIVER = {
    **{name: METHOD_SETTINGS[name].active for name in sorted(DELIVERS_OTHERS)},
    "read off": lambda: PretrainedInterpolation(None),
    "exponential": lambda: WeightAveraging("exponential", decay=0.7),
    "bias-corrected": lambda: WeightAveraging("bias_corrected"),
    "in a combination": lambda: Combination([PretrainedWeightDecay(1.0), WeightAveraging(tail_fraction=1.0)]),
}
delivering = pytest.mark.parametrize("name", METHODS_THAT_DELIVER)


def test_the_methods_that_deliver_others_are_known():
    assert {"weight_averaging", "pretrained_interpolation"} == DELIVERS_OTHERS


@delivering
def test_training_goes_on_from_the_trained_weights_bit_for_bit(name, dataset):
    """The loop evaluates after each epoch; by hand, nobody looks before the end."""
    looked, unseen, method = tiny_encoder("bert"), tiny_encoder("bert").train(), METHODS_THAT_DELIVER[name]()
    delivered = []
    train_in_loop(looked, method, dataset, after_epoch=lambda *_: delivered.append(weights(looked)))
    assert len(delivered) == 2
    assert largest_difference(delivered[-1], weights(looked)) == 0.0
    train_in_loop(unseen, METHODS_THAT_DELIVER[name](), dataset)
    assert largest_difference(weights(looked), weights(unseen)) == 0.0


@delivering
def test_other_weights_are_delivered_once_however_often_it_is_asked(name, dataset):
    model, method = tiny_encoder("bert").train(), METHODS_THAT_DELIVER[name]()
    method.setup(model, context(dataset))
    for _ in range(2):
        updates_by_hand(model, method, method.create_optimizer(model, context(dataset)), dataset)
    trained = weights(model)
    with method.delivering(model):
        once = weights(model)
        with method.delivering(model):
            assert largest_difference(once, weights(model)) == 0.0
        assert largest_difference(once, weights(model)) == 0.0
    assert largest_difference(trained, weights(model)) == 0.0
    assert largest_difference(trained, once) > 1e-6
    with pytest.raises(ZeroDivisionError), method.delivering(model):
        _ = 1 / 0
    assert largest_difference(trained, weights(model)) == 0.0
    method.finalize(model)
    assert largest_difference(once, weights(model)) == 0.0
    with method.delivering(model):
        assert largest_difference(once, weights(model)) == 0.0


@delivering
def test_the_trainer_evaluates_saves_and_chooses_what_would_be_delivered(name, dataset, tmp_path):
    """Without dropout: the Trainer draws a seed of the evaluation's loader from the same random stream."""
    in_loop, in_trainer = (tiny_encoder("bert", **without_dropout("bert")) for _ in range(2))
    delivered, method = [], METHODS_THAT_DELIVER[name]
    train_in_loop(in_loop, method(), dataset, after_epoch=lambda *_: delivered.append(weights(in_loop)))
    whole = batches(dataset, len(dataset))[0]
    losses = []
    for each in delivered:
        in_loop.load_state_dict(each)
        losses.append(in_loop.eval()(**whole).loss.item())
    trainer = method_trainer(
        in_trainer,
        method(),
        dataset,
        tmp_path,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        greater_is_better=losses[0] > losses[1],  # so that the first is chosen, and training goes on after it
        metric_for_best_model="eval_loss",
        eval_dataset=dataset,
    )
    trainer.train()
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert logged == pytest.approx(losses, rel=1e-6)
    for step, expected in zip((3, 6), delivered, strict=True):
        saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        assert largest_difference(expected, weights(saved)) == 0.0
    assert trainer.state.best_global_step == 3
    assert largest_difference(delivered[0], weights(in_trainer)) == 0.0
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-6)


def test_a_record_says_so_and_older_ones_still_read(tiny_world, tmp_path):
    settings = RunSettings(task="rte", n_train=16, epochs=2, batch_size=8, **tiny_world)
    other = RunSettings(
        task="rte", n_train=16, epochs=2, batch_size=8, method="weight_averaging", learning_rate=1e-2, **tiny_world
    )
    assert run(settings, tmp_path).delivered_weights == "trained"
    averaged = run(other, tmp_path)
    assert averaged.delivered_weights == "other"
    stored = json.loads(record_path(tmp_path, other.run_id).read_text())
    del stored["delivered_weights"]
    assert checked_record(stored).delivered_weights == "trained"
    assert np.isfinite(averaged.distance_from_pretrained)
