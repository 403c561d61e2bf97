"""What a checkpoint brings: its head, its labels, its padding, its positions."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import DECODERS, ENCODERS, tiny_encoder
from transformers import AutoTokenizer

from finetune_reg.experiment.checkpoints import count_positions
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.tasks import encode, evaluation_loader, get_task
from finetune_reg.training_loop import predict

ROWS = [
    {"sentence1": "red dog runs", "sentence2": "dog runs", "label": 0},
    {"sentence1": "cat", "sentence2": "bird", "label": 1},
]


@pytest.fixture
def fine_tuned(tiny_world, tmp_path):
    """A classifier of two classes, saved with its head."""
    encoder = load_encoder(tiny_world["model_name"], get_task("rte"), seed=0)
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    return encoder, str(tmp_path)


def test_a_head_of_another_width_in_the_checkpoint_is_drawn(fine_tuned):
    saved, folder = fine_tuned
    encoder = load_encoder(folder, get_task("mnli"), seed=0)
    assert encoder.model.classifier.weight.shape == (3, 16)
    assert (encoder.head, encoder.weights_hash) == ("drawn", saved.weights_hash)


def test_a_head_for_the_same_labels_is_kept(fine_tuned):
    saved, folder = fine_tuned
    encoder = load_encoder(folder, get_task("qnli"), seed=5)
    assert (saved.head, encoder.head) == ("drawn", "kept")
    assert torch.equal(encoder.model.classifier.weight, saved.model.classifier.weight)
    assert encoder.weights_hash != saved.weights_hash  # it holds the head, too


def test_a_head_without_names_for_its_labels_is_kept(fine_tuned):
    saved, folder = fine_tuned
    saved.model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    saved.model.save_pretrained(folder)
    assert load_encoder(folder, get_task("sst2"), seed=0).head == "kept"


def test_labels_are_those_of_the_task(tiny_world):
    config = load_encoder(tiny_world["model_name"], get_task("mnli"), seed=0).model.config
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    score = load_encoder(tiny_world["model_name"], get_task("stsb"), seed=0).model.config
    assert (score.num_labels, score.problem_type) == (1, "regression")


def test_without_pretraining_no_weights_are_needed_and_all_are_drawn(fine_tuned, tmp_path):
    _, folder = fine_tuned
    (tmp_path / "model.safetensors").unlink()
    encoder = load_encoder(folder, get_task("rte"), seed=0, pretrained=False)
    assert (encoder.head, encoder.weights_hash) == ("drawn", None)


def folder_of(architecture, tiny_world, tmp_path, **special_tokens):
    tiny_encoder(architecture).base_model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_world["model_name"], **special_tokens)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("architecture", ["bert", "electra", "distilbert", "deberta-v2"])
def test_other_families_are_loaded_and_read_a_batch(architecture, tiny_world, tmp_path):
    encoder = load_encoder(folder_of(architecture, tiny_world, tmp_path), get_task("rte"), seed=0)
    examples = encode(get_task("rte"), ROWS, encoder.tokenizer, 24, encoder.n_positions)
    assert predict(encoder.model, evaluation_loader(examples, encoder.tokenizer)).logits.shape == (2, 2)


def test_a_decoder_without_padding_token_pads_with_its_end_token(tiny_world, tmp_path):
    """Padding changes no answer: the last token is looked up from the padding."""
    tiny_encoder("gpt2", pad_token_id=None).base_model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_world["model_name"], pad_token=None, eos_token="[SEP]")
    assert tokenizer.pad_token is None
    tokenizer.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), get_task("rte"), seed=0)
    assert (encoder.tokenizer.pad_token, encoder.model.config.pad_token_id) == ("[SEP]", 3)
    examples = encode(get_task("rte"), ROWS, encoder.tokenizer, 24)
    together = predict(encoder.model, evaluation_loader(examples, encoder.tokenizer))
    alone = predict(encoder.model, evaluation_loader(examples, encoder.tokenizer, batch_size=1))
    assert together.logits == pytest.approx(alone.logits, abs=1e-6)


@pytest.mark.parametrize(
    ("architecture", "positions"),
    [("bert", 24), ("roberta", 22), ("electra", 24), ("distilbert", 24), ("deberta-v2", 24), ("gpt2", 24)],
)
def test_positions_are_counted_as_the_model_reads_them(architecture, positions):
    assert architecture in ENCODERS | DECODERS
    model = tiny_encoder(architecture)
    assert count_positions(model) == positions
    tokens = torch.full((1, positions), 7)
    model(input_ids=tokens)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, positions + 1), 7))
