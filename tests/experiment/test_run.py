"""Settings, runs and records."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from method_settings import METHOD_SETTINGS
from transformers import AutoModelForSequenceClassification

from finetune_reg.errors import InputError
from finetune_reg.experiment import run as run_module
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.experiment.records import read_record, read_records, record_path, write_record
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods import METHODS
from finetune_reg.tasks import get_task


@pytest.fixture
def settings(tiny_world) -> RunSettings:
    return RunSettings(task="rte", n_train=16, epochs=2, batch_size=8, **tiny_world)


def test_a_run_writes_a_complete_record(settings, tmp_path):
    record = run(settings, tmp_path)
    stored = json.loads(record_path(tmp_path, settings.run_id).read_text())
    assert stored == asdict(record)
    assert RunSettings(**stored["settings"]) == settings
    assert (record.status, record.metric, record.n_updates) == ("ok", "accuracy", 4)
    assert (record.forward_passes, record.backward_passes) == (4, 4)
    assert [entry["epoch"] for entry in record.history] == [1, 2]
    assert [entry["update"] for entry in record.history] == [2, 4]
    assert record.score == record.history[-1]["accuracy"]
    assert record.majority_score == 0.5
    assert record.below_majority == (record.score <= 0.5)
    assert len(record.subset["row_ids"]) == 16
    assert record.distance_from_pretrained > 0
    assert (record.head, len(record.subset["validation_hash"])) == ("drawn", 16)
    empty = [name for name, value in stored.items() if value in (None, [], {}) and name != "error"]
    assert empty == ["transfer", "logits", "masked_token_loss_before", "masked_token_loss_after"]


@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb"])
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_task_runs_with_every_method(settings, tmp_path, task, method):
    hyperparameters = METHOD_SETTINGS[method].active().hyperparameters
    record = run(replace(settings, task=task, method=method, method_hyperparameters=hyperparameters), tmp_path)
    assert record.status == "ok"
    assert np.isfinite(record.score)


def test_the_best_score_is_the_largest_of_all_evaluations_and_the_score_the_last(settings, tmp_path, monkeypatch):
    scores = iter([0.4, 0.9, 0.6])
    monkeypatch.setattr(run_module, "evaluate_predictions", lambda *_: {"accuracy": next(scores)})
    record = run(replace(settings, epochs=3), tmp_path)
    assert (record.best_score, record.score) == (0.9, 0.6)


def test_a_finished_run_is_read_and_not_redone(settings, tmp_path, monkeypatch):
    first = run(settings, tmp_path)
    monkeypatch.setattr(run_module, "train", None)
    assert run(settings, tmp_path) == first
    with pytest.raises(InputError, match="never overwritten"):
        write_record(first, tmp_path)


def test_a_run_that_another_process_finishes_meanwhile_is_read(settings, tmp_path, monkeypatch):
    first = run(settings, tmp_path / "elsewhere")
    train = run_module.train

    def train_while_another_finishes(*arguments, **options):
        write_record(first, tmp_path)
        return train(*arguments, **options)

    monkeypatch.setattr(run_module, "train", train_while_another_finishes)
    assert run(settings, tmp_path) == first


def test_the_same_settings_give_the_same_scores(settings, tmp_path):
    first, again = run(settings, tmp_path / "a"), run(settings, tmp_path / "b")
    assert first.history == again.history
    assert first.distance_from_pretrained == again.distance_from_pretrained


@pytest.mark.parametrize("seed", ["seed_init", "seed_order", "seed_noise", "seed_subset"])
def test_each_seed_changes_the_run_by_itself(settings, tmp_path, seed):
    first, other = run(settings, tmp_path), run(replace(settings, **{seed: 1}), tmp_path)
    assert first.history != other.history
    assert (first.subset != other.subset) == (seed == "seed_subset")


def test_methods_meet_the_same_head_data_and_order(settings, tmp_path):
    """Equal seeds pair the runs: without noise, mixout at 0 and vanilla without dropout agree to the last bit."""
    one = run(replace(settings, method="vanilla", method_hyperparameters={"dropout": 0.0}), tmp_path)
    other = run(replace(settings, method="mixout", method_hyperparameters={"mix_probability": 0.0}), tmp_path)
    assert one.history == other.history


def test_evaluating_less_often_changes_no_weight(settings, tmp_path):
    often, seldom = (run(replace(settings, epochs=4, evaluate_every=every), tmp_path) for every in (1, 4))
    assert len(often.history) == 4
    assert len(seldom.history) == 1
    assert often.distance_from_pretrained == seldom.distance_from_pretrained
    assert often.score == seldom.score


def test_held_out_folds_and_pooled_rows_reach_the_run(settings, tmp_path):
    plain, fold, pooled = (
        run(replace(settings, n_train=15, **changes), tmp_path)
        for changes in ({}, {"held_out_fold": 2}, {"split": "pooled"})
    )
    assert [len(record.subset["row_ids"]) for record in (plain, fold, pooled)] == [15, 12, 15]
    assert set(fold.subset["row_ids"]) < set(plain.subset["row_ids"])
    assert max(pooled.subset["row_ids"]) >= 24
    assert len({record.run_id for record in (plain, fold, pooled)}) == 3


def test_a_classifier_is_scored_on_other_tasks(settings, tmp_path):
    record = run(replace(settings, evaluate_on=["mrpc", "rte"]), tmp_path)
    assert record.transfer["rte"]["accuracy"] == record.score
    assert set(record.transfer["mrpc"]) == {"f1", "accuracy", "constant_prediction"}
    assert run(settings, tmp_path).score == record.score
    with pytest.raises(InputError, match="cannot be scored on"):
        replace(settings, evaluate_on=["stsb"])


def test_adam_without_bias_correction_is_another_run(settings, tmp_path):
    corrected, uncorrected = (run(replace(settings, bias_correction=on), tmp_path) for on in (True, False))
    assert uncorrected.distance_from_pretrained > corrected.distance_from_pretrained


def test_mixed_precision_is_another_run_and_says_so(settings, tmp_path):
    full, mixed = (run(replace(settings, precision=name), tmp_path) for name in ("float32", "bfloat16"))
    assert (full.environment["dtype"], mixed.environment["dtype"]) == ("float32", "bfloat16")
    assert full.distance_from_pretrained != mixed.distance_from_pretrained
    assert mixed.distance_from_pretrained == pytest.approx(full.distance_from_pretrained, rel=0.2)


def test_a_diverging_run_is_recorded_and_does_not_raise(settings, tmp_path):
    record = run(replace(settings, learning_rate=1e30, max_grad_norm=1e30, epochs=20), tmp_path)
    assert record.status == "diverged"
    assert record.score is None
    assert record.below_majority
    assert read_record(record_path(tmp_path, record.run_id)) == record


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["word_embeddings", "classifier"])
def test_weights_that_are_not_finite_at_the_end_are_a_diverged_run(settings, tmp_path, monkeypatch, value, where):
    train = run_module.train

    def train_and_spoil(model, *arguments, **options):
        losses = train(model, *arguments, **options)
        weight = next(weight for name, weight in model.named_parameters() if where in name)
        with torch.no_grad():
            weight[1, 0] = value
        return losses

    monkeypatch.setattr(run_module, "train", train_and_spoil)
    record = run(replace(settings, evaluate_on=["mrpc"]), tmp_path)
    assert (record.status, record.score, record.best_score) == ("diverged", None, None)
    assert (record.distance_from_pretrained, record.transfer) == (None, {})
    assert record.error.startswith("A logit is" if where == "classifier" else f"A weight of bert.embeddings.{where}")
    json.loads(record_path(tmp_path, record.run_id).read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_logits_that_are_not_finite_at_an_evaluation_end_the_run(settings, tmp_path, monkeypatch, task):
    predict = run_module.predict

    def predict_nonsense(*arguments):
        predictions = predict(*arguments)
        predictions.logits[0, 0] = float("inf")
        return predictions

    monkeypatch.setattr(run_module, "predict", predict_nonsense)
    record = run(replace(settings, task=task), tmp_path)
    assert (record.status, record.score, record.history) == ("diverged", None, [])
    assert record.error == "A logit is inf at update 2: lower the learning rate."
    assert record.forward_passes == 2


def test_one_update_trains(settings, tmp_path):
    record = run(replace(settings, epochs=1, batch_size=16), tmp_path)
    assert record.n_updates == 1
    assert record.distance_from_pretrained > 0


def test_a_failing_run_is_recorded_and_raises_and_is_redone(settings, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", fail)
        with pytest.raises(RuntimeError):
            run(settings, tmp_path)
    (record,) = read_records(tmp_path)
    assert (record.status, record.error) == ("failed", "RuntimeError: out of memory")
    assert run(settings, tmp_path).status == "ok"


def test_an_interrupted_run_leaves_no_record(settings, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    with pytest.raises(InputError, match="no run records"):
        read_records(tmp_path)


def test_run_ids_depend_on_every_setting_and_not_on_how_it_was_written():
    ids = {
        RunSettings(**changes).run_id
        for changes in ({}, {"task": "similarity"}, {"seed_order": 1}, {"learning_rate": 1e-3}, {"method": "mixout"})
    }
    assert len(ids) == 5
    assert RunSettings(learning_rate=1).run_id == RunSettings(learning_rate=1.0).run_id
    explicit = RunSettings(method="mixout", method_hyperparameters={"mix_probability": 0.7})
    assert explicit.run_id == RunSettings(method="mixout").run_id


def test_run_ids_are_frozen():
    """Changing this makes every finished run start again."""
    assert RunSettings(method="mixout", task="rte", source="local").run_id == "69c723aec264"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "rte2"}, "did you mean 'rte'"),
        ({"method": "mixot"}, "did you mean 'mixout'"),
        ({"method": "mixout", "method_hyperparameters": {"p": 0.9}}, "'p'"),
        ({"method": "mixout", "method_hyperparameters": {"mix_probability": "0.9"}}, "a number, not '0.9'"),
        ({"epochs": 0}, r"epochs in \[1, inf\), not 0"),
        ({"epochs": 2.5}, "epochs to be an integer"),
        ({"learning_rate": "2e-5"}, "learning_rate to be a number"),
        ({"warmup_fraction": 2.0}, r"warmup_fraction in \[0, 1\], not 2.0"),
        ({"pretrained": 1}, "true or false"),
    ],
)
def test_unusable_settings_are_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        RunSettings(**changes)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("./no/such/model", "There is no model folder"), ("nobody/no-such-model", "Cannot load the model")],
)
def test_a_model_that_cannot_be_found_is_refused(name, sentence):
    with pytest.raises(InputError, match=sentence):
        load_encoder(name, get_task("rte"), seed=0)


def test_an_unavailable_device_is_refused(settings, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="use 'cpu' or 'auto'"):
        run(settings, tmp_path, device="cuda")


def test_a_read_only_folder_is_one_sentence(settings, tmp_path):
    (tmp_path / "records").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="Cannot write"):
        run(settings, tmp_path)


def test_a_torn_record_is_named(settings, tmp_path):
    path = record_path(tmp_path, settings.run_id)
    path.parent.mkdir()
    path.write_text('{"run_id": ')
    with pytest.raises(InputError, match="is not a run record"):
        run(settings, tmp_path)


def test_head_is_drawn_from_the_seed_and_the_backbone_from_the_checkpoint(tiny_world):
    first, same, other = (load_encoder(tiny_world["model_name"], get_task("mnli"), seed) for seed in (0, 0, 1))
    assert torch.equal(first.model.classifier.weight, same.model.classifier.weight)
    assert not torch.equal(first.model.classifier.weight, other.model.classifier.weight)
    assert first.weights_hash == other.weights_hash
    random = load_encoder(tiny_world["model_name"], get_task("mnli"), seed=5, pretrained=False)
    assert random.weights_hash is None
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_world["model_name"])
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(first.model.get_parameter(name), plain.get_parameter(name))
    assert not torch.equal(random.model.get_parameter(name), plain.get_parameter(name))
