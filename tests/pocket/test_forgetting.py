"""What fine-tuning makes the pocket encoder forget, and what records of it hold."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import BertForMaskedLM, BertModel

from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.paths import POCKET
from finetune_reg.pocket.forgetting import masked_token_loss, pretrained_masked_token_loss
from finetune_reg.pocket.pretraining import evaluate_masked_prediction
from finetune_reg.results.restoring import record_of
from finetune_reg.results.run_tables import results_table


@cache
def pretrained_backbone() -> BertModel:
    return BertModel.from_pretrained(POCKET)


def test_an_encoder_that_did_not_move_has_the_loss_of_pretraining():
    assert masked_token_loss(pretrained_backbone()) == pretrained_masked_token_loss()
    assert pretrained_masked_token_loss() == pytest.approx(
        evaluate_masked_prediction(BertForMaskedLM.from_pretrained(POCKET), 250)["masked_token_loss"]
    )
    recorded = json.loads((POCKET / "pretraining.json").read_text())["masked_token_loss"]
    assert pretrained_masked_token_loss() == pytest.approx(recorded, abs=0.15)  # on an eighth of the documents


def test_the_loss_grows_with_noise_and_reads_the_embeddings_of_the_backbone():
    moved = BertModel.from_pretrained(POCKET).train()
    before = {name: weight.clone() for name, weight in moved.state_dict().items()}
    losses = [pretrained_masked_token_loss()]
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            moved.embeddings.word_embeddings.weight.add_(0.05 * torch.randn(128))  # a shift that all words share
        losses.append(masked_token_loss(moved))
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
    assert moved.training
    assert set(before) == set(moved.state_dict())
    torch.nn.init.normal_(moved.encoder.layer[3].output.dense.weight)
    assert masked_token_loss(moved) > losses[-1] + 1


def test_the_scores_of_words_are_those_of_the_pretrained_embeddings():
    """Words that no document holds change what is scored, not what is read: their embeddings must not matter."""
    moved = BertModel.from_pretrained(POCKET)
    with torch.no_grad():
        moved.embeddings.word_embeddings.weight[0].mul_(100.0)  # padding, which attention leaves out
    assert masked_token_loss(moved) == pytest.approx(pretrained_masked_token_loss(), abs=1e-6)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list:
    folder: Path = tmp_path_factory.mktemp("forgetting")
    settings = {"n_train": 32, "epochs": 1, "learning_rate": 1e-3}
    arms = [{}, {"method": "top_k_layers", "method_hyperparameters": {"n_layers": 0}}, {"pretrained": False}]
    return [run(RunSettings(**settings, **arm), folder, "cpu") for arm in arms]


def test_a_run_of_pocket_records_what_it_forgot(records):
    vanilla, head_only, random = records
    assert vanilla.masked_token_loss_before == pretrained_masked_token_loss()
    assert vanilla.masked_token_loss_after > vanilla.masked_token_loss_before
    assert head_only.masked_token_loss_after == head_only.masked_token_loss_before
    assert random.masked_token_loss_before is random.masked_token_loss_after is None


def test_the_losses_survive_a_table(records):
    rows = results_table(records).to_dict("records")
    losses = {row["run_id"]: record_of(row).masked_token_loss_after for row in rows}
    assert losses == {record.run_id: record.masked_token_loss_after for record in records}
