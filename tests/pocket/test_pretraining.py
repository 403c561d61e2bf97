"""The shipped encoder, and pretraining in miniature."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from finetune_reg.pocket.corpus import generate_documents
from finetune_reg.pocket.encoder import pocket_config
from finetune_reg.pocket.masking import CLS, MASK, mask_batch, masking_rates, tokenize_corpus
from finetune_reg.pocket.pretraining import HASHED_FILES, evaluate_masked_prediction, pretrain_pocket, sha256_of
from finetune_reg.pocket.tokenizer import build_tokenizer, vocabulary

SHIPPED = Path(__file__).parents[2] / "data" / "pocket"
MINIATURE = {"updates": 50, "documents": 1_000, "batch_size": 32}


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((SHIPPED / "pretraining.json").read_text())


def test_shipped_files_are_those_that_were_written(record):
    assert record["sha256"] == {name: sha256_of(SHIPPED / name) for name in HASHED_FILES}
    assert (SHIPPED / "model.safetensors").stat().st_size <= 6_000_000


def test_shipped_config_and_tokenizer_are_those_of_the_package(record):
    model = AutoModelForMaskedLM.from_pretrained(SHIPPED)
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "hidden_dropout_prob"):
        assert getattr(model.config, key) == getattr(pocket_config(), key)
    assert model.num_parameters() == record["parameters"] <= 1_200_000
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(vocabulary())}
    pair = "The doctor bought a car.", "An owl slept."
    assert dict(tokenizer(*pair)) == dict(build_tokenizer()(*pair))


def test_shipped_weights_reproduce_the_recorded_losses(record):
    measured = evaluate_masked_prediction(AutoModelForMaskedLM.from_pretrained(SHIPPED))
    assert measured == pytest.approx({key: record[key] for key in measured}, abs=1e-3)


def test_only_the_head_of_a_classifier_is_new():
    model, info = AutoModelForSequenceClassification.from_pretrained(SHIPPED, num_labels=2, output_loading_info=True)
    assert {key.split(".")[-3 if "pooler" in key else -2] for key in info["missing_keys"]} == {"pooler", "classifier"}
    assert model.config.num_labels == 2


def test_the_relation_word_is_asked_where_it_stands_or_at_cls():
    documents = list(generate_documents(400, seed=1))
    corpus = tokenize_corpus(documents)
    batch = mask_batch(corpus, torch.arange(400), masking_rates(), torch.Generator().manual_seed(0))
    words = vocabulary()
    asked = 0
    for row, document in enumerate(documents):
        for position in batch.relation_asked[row].nonzero().flatten().tolist():
            asked += 1
            assert words[batch.labels[row, position]] == document.relation
            assert batch.input_ids[row, position] == (MASK if document.written else CLS)
            assert position == (corpus.second_start[row] if document.written else 0)
    pairs = sum(document.second is not None for document in documents)
    assert asked / pairs == pytest.approx(0.75, abs=0.06)


def test_pretraining_in_miniature_lowers_the_loss_and_writes_a_loadable_folder(tmp_path):
    before = os.umask(umask := 0o027)
    try:
        record = pretrain_pocket(tmp_path / "pocket", **MINIATURE)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in modes}
    assert record == json.loads((tmp_path / "pocket" / "pretraining.json").read_text())
    assert record["masked_token_loss"] < 6.0  # a uniform guess over the vocabulary has 6.9
    assert [path.name for path in tmp_path.iterdir()] == ["pocket"]
    AutoTokenizer.from_pretrained(tmp_path / "pocket")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "pocket").num_parameters() == record["parameters"]


def test_an_interrupted_run_leaves_the_folder_as_it_was(tmp_path):
    def interrupt(update, model):
        raise KeyboardInterrupt

    (tmp_path / "pocket").mkdir()
    (tmp_path / "pocket" / "note").touch()
    with pytest.raises(KeyboardInterrupt):
        pretrain_pocket(tmp_path / "pocket", updates=50, documents=64, batch_size=2, on_progress=interrupt)
    assert [path.name for path in (tmp_path / "pocket").iterdir()] == ["note"]
