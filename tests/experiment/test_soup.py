"""Kept weights, and the soups made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from shutil import disk_usage
from types import SimpleNamespace

import pytest
import torch
from command_line import call
from safetensors.torch import load_file, save_file
from training_hosts import largest_difference, weights
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_reg.errors import InputError
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.experiment.kept_weights import read_weights, weights_path
from finetune_reg.experiment.records import record_path
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.experiment.soup import greedy_soup, make_soup, uniform_soup
from finetune_reg.sweep import NotebookRun
from finetune_reg.sweep.cost import disk_for_weights
from finetune_reg.sweep.plan import prepare
from finetune_reg.tasks import get_task

SEEDS = range(4)
PARAMETERS = {"task": "rte", "n_train": 20, "epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "held_out_fold": 0}


def given(*values: float) -> list:
    """Ingredients of one number each, beside an integer that is no weight."""
    return [lambda value=value: {"w": torch.tensor([value]), "n": torch.tensor(7)} for value in values]


@pytest.fixture(scope="module")
def kept(tmp_path_factory, tiny_world):
    """A folder of four runs that kept their weights, and their settings."""
    folder = tmp_path_factory.mktemp("kept")
    first = RunSettings(
        task="rte", n_train=20, epochs=3, batch_size=8, learning_rate=3e-3, held_out_fold=0, **tiny_world
    )
    settings = [first.with_seed(seed, varied=["seed_order", "seed_noise"]) for seed in SEEDS]
    for one in settings:
        run(one, folder, keep_weights=True)
    return folder, settings


def test_the_uniform_soup_is_the_mean_and_a_soup_of_one_is_itself():
    soup = uniform_soup(given(1.0, 5.0, 3.0, 7.0))
    assert soup["w"].item() == pytest.approx(4.0, rel=1e-7)
    assert soup["n"] == 7
    assert uniform_soup(given(0.1))["w"] == torch.tensor(0.1)


@pytest.mark.parametrize(
    ("values", "inside", "mean"),
    [
        ([4.0, 1.0, 6.0], [0, 2], 5.0),  # 4 and 6 meet at 5; with 1 they would be at 11/3
        ([5.0, 0.0, 10.0], [0], 5.0),
        ([5.0, 5.0], [0, 1], 5.0),  # what makes it no worse is taken in
        ([0.0, 4.5, 6.5], [1, 2], 5.5),
    ],
)
def test_the_greedy_soup_takes_in_what_does_not_make_it_worse(values, inside, mean):
    def score(weights) -> float:
        return -abs(weights["w"].item() - 5.0)

    found, order = greedy_soup(given(*values), [score(read()) for read in given(*values)], score)
    assert order == inside
    assert found["w"].item() == pytest.approx(mean)
    assert score(found) >= max(score(read()) for read in given(*values))


def test_weights_are_kept_when_asked_for_and_change_no_run(kept, tmp_path):
    folder, settings = kept
    for one in settings:
        assert weights_path(folder, one.run_id).is_file()
    without = run(settings[0], tmp_path)
    assert not (tmp_path / "weights").exists()
    with_them = json.loads(record_path(folder, settings[0].run_id).read_text())
    assert (without.run_id, without.history) == (with_them["run_id"], with_them["history"])


def test_each_run_alone_scores_what_its_record_says(kept):
    folder, settings = kept
    soup = make_soup(folder, "uniform")
    for one in settings:
        recorded = json.loads(record_path(folder, one.run_id).read_text())["score"]
        assert soup.singles[one.run_id] == recorded
    mean = {
        name: torch.stack([load_file(weights_path(folder, one.run_id))[name] for one in settings]).mean(0)
        for name in load_file(weights_path(folder, settings[0].run_id))
    }
    found = soup.encoder.model.state_dict()
    assert largest_difference(mean, {name: found[name] for name in mean}) < 1e-6
    assert soup.inside == sorted(one.run_id for one in settings)
    assert soup.test_score is not None


def test_the_greedy_soup_is_never_worse_than_the_best_run_on_held_out_rows(kept):
    soup = make_soup(kept[0], "greedy")
    assert soup.score >= max(soup.singles.values())
    assert soup.singles[soup.inside[0]] == max(soup.singles.values())


def test_a_soup_of_one_is_that_run_bit_for_bit(kept):
    folder, settings = kept
    soup = make_soup(folder, "greedy", {"seed_order": 2})
    model = load_encoder(settings[2].model_name, get_task("rte", settings[2].source), 0).model
    assert soup.inside == [settings[2].run_id]
    assert largest_difference(read_weights(model, folder, settings[2].run_id), weights(soup.encoder.model)) == 0.0


def test_the_command_writes_a_plain_model_once(kept, tmp_path):
    folder, _ = kept
    made = call("soup", folder, "--out", tmp_path / "soup")
    assert made.returncode == 0, made.stderr
    assert "soup of" in made.stdout
    assert "On the evaluation split" in " ".join(made.stdout.split())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup")
    AutoTokenizer.from_pretrained(tmp_path / "soup")
    assert largest_difference(weights(model), weights(make_soup(folder).encoder.model)) == 0.0
    about = json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert (about["kind"], about["metric"], len(about["singles"])) == ("greedy", "accuracy", 4)
    again = call("soup", folder, "--out", tmp_path / "soup")
    assert again.returncode == 2
    assert "is there already" in again.stderr


def refused(folder, **options) -> str:
    with pytest.raises(InputError) as refusal:
        make_soup(folder, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_what_makes_no_soup_is_one_sentence(kept, tmp_path):
    folder, settings = kept
    assert "no kind of soup 'minestrone'" in refused(folder, kind="minestrone")
    assert "no setting 'seed_ordr': did you mean 'seed_order'?" in refused(folder, only={"seed_ordr": 1})
    assert "has no kept weights of such runs" in refused(folder, only={"method": "mixout"})
    run(replace(settings[0], held_out_fold=None), tmp_path, keep_weights=True)
    assert "held none out: make them with held_out_fold: 0" in refused(tmp_path)
    assert make_soup(tmp_path, "uniform").test_score is None
    run(settings[0], tmp_path, keep_weights=True)
    assert "These runs differ in held_out_fold (" in refused(tmp_path)
    run(settings[0].with_seed(1), tmp_path, keep_weights=True)
    assert "began at 2 places, and a soup needs the same start" in refused(tmp_path, only={"held_out_fold": 0})
    save_file({"another": torch.zeros(1)}, weights_path(tmp_path, settings[0].run_id))
    assert "does not hold the weights of this model" in refused(tmp_path, only={"held_out_fold": 0, "seed_init": 0})


def test_weights_that_were_not_kept_are_not_made_up(kept, tmp_path):
    settings = kept[1][0]
    run(settings, tmp_path)
    world = {"source": settings.source, "model_name": settings.model_name}
    notebook = NotebookRun(PARAMETERS | world | {"seeds": [0], "keep_weights": True})
    assert notebook.run_ids == [settings.run_id]
    for wanted in (lambda: run(settings, tmp_path, keep_weights=True), lambda: prepare([notebook], tmp_path)):
        with pytest.raises(InputError, match="whose weights were not kept: choose another folder"):
            wanted()


def test_a_disk_that_cannot_hold_them_fails_the_run_by_name(kept, tmp_path):
    (tmp_path / "weights").write_text("in the way")
    with pytest.raises(InputError, match=r"Cannot write .*safetensors: "):
        run(kept[1][0], tmp_path, keep_weights=True)


def test_the_plan_says_how_much_disk_they_take_and_refuses_too_much(tmp_path, monkeypatch):
    plain, keeping = (NotebookRun({"seeds": [0, 1], "keep_weights": keep}) for keep in (False, True))
    assert disk_for_weights([plain], tmp_path) == ""
    said = disk_for_weights([plain, keeping], tmp_path / "new" / "folder")
    assert said.startswith("The weights of 2 runs are kept: about 0.0076 GB in ")
    free = SimpleNamespace(free=disk_usage(tmp_path).free)
    monkeypatch.setattr("finetune_reg.sweep.cost.shutil.disk_usage", lambda _: free)
    free.free = 10**6
    with pytest.raises(InputError, match=r"takes about 0\.0 GB, and .* has 0\.0 GB free: make space"):
        disk_for_weights([keeping], tmp_path)
