"""From a table to an answer, a page and a model: once for all tests, on the tiny encoder, without kernels."""

from __future__ import annotations

import pandas as pd
import pytest
from command_line import call
from own_table.tables import animals
from tiny_world import write_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, T5Config, T5Model, pipeline

import finetune_reg
from finetune_reg.errors import InputError
from finetune_reg.own_table import planning
from finetune_reg.own_table.model import predict_table

pytestmark = pytest.mark.xdist_group("own table")
OPTIONS = {"engine": "here", "methods": ["mixout"], "budget": None}


@pytest.fixture(scope="module")
def compared(tiny_world, tmp_path_factory):
    """The comparison of one table, its folder, and the arguments that made it."""
    folder = tmp_path_factory.mktemp("compared")
    path = folder / "animals.csv"
    animals().to_csv(path, index=False)
    arguments = {"source": path, "text": "words", "label": "animal", "output_dir": folder / "out"}
    arguments |= OPTIONS | {"model": tiny_world["model_name"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "DESIGNS", ((3, 1, 1), (3, 1, 2)))
        patch.setattr(planning, "TRIES", ((1.0, 2), (2.0, 1)))
        return finetune_reg.compare(**arguments), folder / "out", arguments


def test_the_results_hold_every_row_and_method(compared):
    found, folder, _ = compared
    assert found.table.method.tolist() == ["vanilla", "mixout"]
    assert (found.table.low <= found.table.score).all()
    assert found.curve_scores.shape == (3, 3)
    assert len(list((folder / "records").glob("*.json"))) == 2 * 3 * 3 + 2 * 3
    assert 2 <= len(found.lines) <= 5
    assert found.recommendation == found.lines[0]


def test_the_page_is_whole(compared):
    found, folder, _ = compared
    page = (folder / "answer.html").read_text()
    for text in ("Which method for animals?", found.lines[1], "Nadeau and Bengio", "What was found in the table"):
        assert text.replace("'", "&#39;") in page
    assert page.count("<figure>") == 2
    best = found.best.setting
    assert f", {best[1]}</td>" in page
    assert "{{" not in page


def test_again_makes_no_run_and_the_same_page(compared):
    _, folder, arguments = compared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/*.json")}
    page = (folder / "answer.html").read_text()
    finetune_reg.compare(**arguments)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("**/*.json")} == before
    assert (folder / "answer.html").read_text() == page


def test_another_table_or_option_needs_another_folder(compared):
    _, _, arguments = compared
    with pytest.raises(InputError, match="holds a comparison with another metric: give --output-dir"):
        finetune_reg.compare(**arguments | {"metric": "accuracy"})


def test_the_model_opens_anywhere_and_predicts(compared):
    found, folder, _ = compared
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.id2label == {0: "bird", 1: "cat", 2: "dog"}
    new = animals().head(4).drop(columns="animal")
    new.loc[2, "words"] = None
    predicted = predict_table(folder / "model", new)
    classify = pipeline("text-classification", model=str(folder / "model"))
    assert predicted.prediction[[0, 1, 3]].tolist() == [
        answer["label"] for answer in classify(new.words.dropna().tolist())
    ]
    assert pd.isna(predicted.prediction[2])
    assert predicted.filter(like="probability ").sum(axis=1)[[0, 1, 3]].tolist() == pytest.approx([1, 1, 1])
    card = (folder / "model" / "README.md").read_text()
    assert found.prepared.asked["rows_hash"] in card
    assert found.recommendation in card


def test_the_command_predicts_into_a_file(compared, tmp_path):
    _, folder, arguments = compared
    finished = call("predict", folder / "model", arguments["source"], "--out", tmp_path / "p.csv")
    assert finished.returncode == 0, finished.stderr
    assert "60 rows in" in finished.stdout
    assert len(pd.read_csv(tmp_path / "p.csv")) == 60


@pytest.mark.parametrize(
    ("model", "columns", "sentence"),
    [
        ("out", {}, "is no model of `finetune-reg compare`"),
        ("out/model", {"words": "word"}, "There is no column 'words': did you mean 'word'?"),
        ("out/model", {"size": "prediction"}, "has a column 'prediction' already"),
    ],
)
def test_what_cannot_be_predicted_is_refused(compared, model, columns, sentence):
    with pytest.raises(InputError) as refusal:
        predict_table(compared[1].parent / model, animals().rename(columns=columns))
    assert sentence in str(refusal.value)


def test_pairs_and_scores_are_compared_too(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "DESIGNS", ((3, 1, 1),))
    monkeypatch.setattr(planning, "TRIES", ((1.0, 1),))
    table = animals(36).assign(second=animals(36).words[::-1].to_numpy())
    options = OPTIONS | {"model": tiny_world["model_name"], "scores": True}
    found = finetune_reg.compare(table, ["words", "second"], "size", tmp_path, **options)
    assert found.calibration is None
    assert found.last_doubling is None
    predicted = predict_table(tmp_path / "model", table)
    assert predicted.prediction.notna().all()


@pytest.fixture(scope="module")
def two_stacks(tmp_path_factory):
    """The folder of a tiny T5, at whose depths no method can act, with the tokenizer of the tiny BERT."""
    folder = write_model(tmp_path_factory.mktemp("t5"))
    words = len(AutoTokenizer.from_pretrained(folder))
    sizes = {"vocab_size": words, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(**sizes, eos_token_id=3, pad_token_id=0, decoder_start_token_id=0)).save_pretrained(folder)
    return folder


def test_a_method_that_cannot_train_the_encoder_is_left_out_and_named(two_stacks, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "DESIGNS", ((3, 1, 1),))
    monkeypatch.setattr(planning, "TRIES", ((1.0, 1),))
    path = tmp_path / "animals.csv"
    animals(36).to_csv(path, index=False)
    command = ("compare", path, "--text", "words", "--label", "animal", "--model", two_stacks, "--engine", "here")
    command += ("--method", "head only", "--method", "no dropout", "--output-dir", tmp_path / "out")
    sentence = "head only: T5ForSequenceClassification has two stacks of transformer blocks"
    shown = call(*command, "--plan")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"Left out {sentence}" in " ".join(shown.stdout.split())
    for again in (False, True):  # the second time the plan is the stored one
        finished = call(*command)
        assert finished.returncode == 0, finished.stderr
        printed = " ".join(finished.stdout.split())
        assert f"Left out {sentence}" in printed
        assert again or printed.index("Left out") < printed.index("Testing all methods")
    page = (tmp_path / "out" / "answer.html").read_text()
    assert sentence in page
    assert "head only</td>" not in page


def test_nothing_to_compare_is_refused(two_stacks, tmp_path):
    options = OPTIONS | {"methods": ["head only"], "model": str(two_stacks)}
    with pytest.raises(InputError, match=r"No method is left to compare with vanilla\. head only: T5.* two stacks"):
        finetune_reg.compare(animals(36), "words", "animal", tmp_path, **options)


def test_the_command_shows_table_and_plan_and_starts_nothing(compared, tiny_world, tmp_path):
    _, _, arguments = compared
    options = ("--text", "words", "--model", tiny_world["model_name"], "--output-dir", tmp_path / "plan", "--plan")
    finished = call("compare", arguments["source"], "--label", "animal", *options, "--budget", "2h")
    assert finished.returncode == 0, finished.stderr
    for text in (
        "60; text in 'words'",
        "best constant answer",
        "Mixes pretrained weights",
        "folds",
    ):
        assert text in " ".join(finished.stdout.split())
    assert not (tmp_path / "plan").exists()
    finished = call("compare", arguments["source"], "--label", "animals", *options)
    assert (finished.returncode, len(finished.stderr.strip().splitlines())) == (2, 1)
    assert "did you mean 'animal'?" in finished.stderr
