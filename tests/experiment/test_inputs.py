"""Rows and weights that change under the same path are noticed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune_reg.errors import InputError
from finetune_reg.experiment import inputs as inputs_module
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.experiment.inputs import check_inputs
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.results.run_tables import results_table, summary_table
from finetune_reg.tasks import get_task


@pytest.fixture
def world(tiny_world, tmp_path) -> RunSettings:
    """Settings with folders of their own, which a test may change."""
    source = shutil.copytree(tiny_world["source"], tmp_path / "tasks")
    model = shutil.copytree(tiny_world["model_name"], tmp_path / "model")
    recipe = {"n_train": 16, "epochs": 1, "batch_size": 16, "evaluate_on": ["mrpc"]}
    return RunSettings(task="rte", source=str(source), model_name=str(model), **recipe)


def change_rows(source: str, split: str, task: str = "rte") -> None:
    path = Path(source) / task / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"label": 1 - row["label"]}) + "\n" for row in rows))


def change_weights(folder: str) -> None:
    model = load_encoder(folder, get_task("rte"), seed=0).model.base_model
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[3] += 0.1
    model.save_pretrained(folder)


@pytest.mark.parametrize("what", ["training rows", "evaluation rows", "rows of mrpc", "pretrained weights"])
def test_a_finished_run_of_other_rows_or_weights_is_not_reused_and_not_compared(world, tmp_path, what):
    first = run(world, tmp_path / "runs")
    assert run(world, tmp_path / "runs") == first
    if what == "pretrained weights":
        change_weights(world.model_name)
    elif what == "rows of mrpc":
        change_rows(world.source, "validation", "mrpc")
    else:
        change_rows(world.source, "train" if what == "training rows" else "validation")
    with pytest.raises(InputError, match=f"{first.run_id}.json was made with other {what}"):
        run(world, tmp_path / "runs")
    other = run(replace(world, method="mixout", method_hyperparameters={}), tmp_path / "runs")
    assert run(replace(world, pretrained=False), tmp_path / "runs").status == "ok"
    in_table = "rows of evaluate_on" if what == "rows of mrpc" else what
    with pytest.raises(
        InputError, match=f"{first.run_id} and {other.run_id} of rte were made with different {in_table}"
    ):
        summary_table(results_table([first, other]))
    assert len(summary_table(results_table([first]))) == 1


def test_rows_and_models_that_are_gone_are_passed_over(world, tmp_path):
    first = run(world, tmp_path / "runs")
    shutil.rmtree(world.source)
    shutil.rmtree(world.model_name)
    assert run(world, tmp_path / "runs") == first


def test_checking_draws_no_random_number_and_reads_each_file_once(world, tmp_path, monkeypatch):
    records = [run(world.with_seed(seed), tmp_path / "runs") for seed in range(3)]
    records.append(run(replace(world, seed_subset=1), tmp_path / "runs"))
    read, seen = inputs_module.read_labelled_rows, []
    monkeypatch.setattr(
        inputs_module, "read_labelled_rows", lambda *arguments: seen.append(arguments) or read(*arguments)
    )
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_inputs(records, tmp_path / "runs")
    assert torch.equal(torch.rand(1), expected)
    assert len(seen) == 3  # training, evaluation, and the other task
