"""Tables and options that `compare` refuses before anything is trained, from files and from Python."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from command_line import call
from own_table.tables import animals
from refusals import assert_refused
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import finetune_reg
from finetune_reg.own_table.commands import read_minutes
from finetune_reg.own_table.comparison import prepare
from finetune_reg.own_table.model import ABOUT, predict_table
from finetune_reg.own_table.reading import read_table
from finetune_reg.own_table.selection import select_rows

TABLE = animals()
CSV = TABLE.to_csv(index=False)
ROWS = TABLE.to_dict("records")


def lines(**changes) -> bytes:
    """Rows of a JSONL file, with columns of which a function of the number says what they hold."""
    rows = [row | {name: value(i) for name, value in changes.items()} for i, row in enumerate(ROWS)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FILES = [
    ("t.csv", CSV.replace("dog", "d\0g").encode(), {}, "holds null characters"),
    ("t.csv", CSV.encode("utf-16-le"), {}, "holds null characters: if it is text, name its encoding"),
    ("t.csv", CSV.encode("utf-32"), {}, "holds null characters"),
    ("t.csv", CSV.encode("utf-16") + b"x", {}, "is not text in utf-16"),
    *(("t.csv", CSV.encode(), {"encoding": name}, "There is no encoding") for name in ("\0", "base64", "rot13", "oem")),
    ("t.csv", b"\xef\xbb\xbf", {}, "has no rows"),
    ("t.csv", b"\n\n\n", {}, "has no rows"),
    ("t.csv", b"PK\x03\x04\x86\x91", {}, "is not text in utf-8"),
    ("t.csv", b"words,,\na,b,c\n", {}, "has the column '' twice"),
    ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", {}, "is a Git LFS pointer"),
    ("t.jsonl", b'{"\\ud800": 1}\n', {}, "its column '\\ud800' holds half of a character"),
    ("t.jsonl", b"[" * 5_000 + b"]" * 5_000, {}, "is not a JSON object"),
    ("t.jsonl", b"null\n", {}, "is not a JSON object but a NoneType"),
    ("t.jsonl", b'{"a": 1, "a": 2}\n', {}, "it has 'a' twice"),
    ("t.PARQUET", b"PAR1", {}, "is not a complete Parquet file"),
    ("t.parquet", b"", {}, "is not a complete Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "options", "sentence"), FILES, ids=lambda value: repr(value)[:40])
def test_files_that_are_no_tables(name, content, options, sentence, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(lambda: read_table(path, **options), sentence, tmp_path)


@pytest.mark.parametrize("source", [5, None, [1], TABLE.words, b"t.csv"], ids=repr)
def test_what_is_neither_a_path_nor_a_data_frame(source):
    assert_refused(lambda: finetune_reg.compare(source, "words", "animal"), "is no table: give a .csv")


def test_columns_whose_names_are_no_text():
    assert_refused(lambda: read_table(TABLE.set_axis([0, 1, 2], axis=1)), "has a column 0 whose name is no text")


def test_a_user_that_there_is_not():
    assert_refused(lambda: read_table("~nosuchuser/t.csv"), "There is no file ~nosuchuser/t.csv")
    assert_refused(lambda: predict_table("~nosuchuser/model", TABLE), "is no model of")


def alternating(*values):
    return lambda i: values[i % len(values)]


CELLS = [
    ({"animal": alternating(["dog"])}, {}, "Row 0 of 'animal' is not one value but ['dog'] (list)"),
    ({"animal": alternating({"a": "dog"})}, {}, "is not one value but {'a': 'dog'} (dict)"),
    ({"animal": alternating("\ud800dog", "cat")}, {}, "Row 0 of 'animal' holds half of a character"),
    ({"animal": alternating("\0dog", "cat")}, {}, "holds a line break or a control character"),
    ({"animal": alternating("dog\nx", "cat")}, {}, "holds a line break or a control character"),
    ({"animal": alternating("\x1b[31mdog", "cat")}, {}, "holds a line break or a control character"),
    ({"animal": alternating("dog" * 5_000, "cat")}, {}, "has 15000 characters, more than 200"),
    ({"animal": alternating("cafe\u0301", "caf\u00e9")}, {}, "differ in spelling only"),
    ({"animal": alternating("dog\u200b", "dog")}, {}, "differ in spelling only"),
    ({"animal": alternating("a  dog", "a dog")}, {}, "differ in spelling only"),
    ({"animal": alternating("-0", "0")}, {}, "differ in spelling only"),
    ({"animal": alternating("1e0", "1")}, {}, "differ in spelling only"),
    ({"animal": alternating(1, True)}, {}, "of mixed types (bool, int)"),
    ({"animal": alternating(None)}, {}, "There are 0 labelled rows"),
    ({"animal": alternating(float("nan"))}, {}, "There are 0 labelled rows"),
    ({"animal": alternating("dog")}, {}, "All labels in 'animal' are 'dog'"),
    ({"animal": lambda i: i + 0.5}, {}, "if they are scores, say so with --scores."),
    ({"animal": lambda i: f"name {i}"}, {}, "is it the right column?"),
    ({"animal": alternating("1e308", "-1e308")}, {"scores": True}, "reach 1e+308, more than 1e+06: divide all"),
    ({"animal": alternating(1e7, 2)}, {"scores": True}, "reach 1e+07"),
    ({"animal": alternating("inf", "1")}, {"scores": True}, "labels are numbers, but 'animal' has 'inf'"),
    ({"animal": alternating("nan", "1")}, {"scores": True}, "labels are numbers, but 'animal' has 'nan'"),
    ({"animal": alternating("3,5", "1")}, {"scores": True}, "labels are numbers, but 'animal' has '3,5'"),
    ({"animal": alternating(True, False)}, {"scores": True}, "labels are numbers, but 'animal' has True"),
    ({"animal": alternating(10**400, 1)}, {"scores": True}, "labels are numbers"),
    ({"words": alternating(["red dog"])}, {}, "Row 0 of 'words' is not text but ['red dog'] (list)"),
    ({"words": alternating("   ")}, {}, "There are 0 labelled rows (60 without text or label"),
    ({"words": alternating("\ud800 dog", "cat")}, {}, "Row 0 of 'words' holds half of a character"),
    ({"g": alternating([1])}, {"group": "g"}, "Row 0 of 'g' is not one value but [1] (list)"),
    ({"g": alternating({"a": 1})}, {"group": "g"}, "is not one value but {'a': 1} (dict)"),
    ({"g": alternating("\ud800")}, {"group": "g"}, "Row 0 of 'g' holds half of a character"),
    ({"g": alternating(1, "1")}, {"group": "g"}, "The groups in 'g' are of mixed types (int, str)"),
    ({"g": alternating(None)}, {"group": "g"}, "No row has a group in 'g'"),
    ({}, {"group": ""}, "There is no column ''"),
    ({}, {"group": "grp"}, "There is no column 'grp'"),
]


@pytest.mark.parametrize(("changes", "options", "sentence"), CELLS, ids=[row[-1][:60] for row in CELLS])
def test_cells_that_cannot_be_compared_on(changes, options, sentence, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(lines(**changes))
    assert_refused(lambda: select_rows(read_table(path), ["words"], "animal", **options), sentence)


NAN, INF = float("nan"), float("inf")
OPTIONS = [
    *(({"budget": value}, "compare needs budget in (0, 525600]") for value in (0, -5, NAN, INF, 1e9)),
    *(({"budget": value}, "compare needs budget to be a number or None") for value in ("15m", True)),
    *(({"rows": value}, "compare needs rows in [30, inf)") for value in (0, -5, 29)),
    *(({"rows": value}, "compare needs rows to be an integer or None") for value in (1.5, "60", True)),
    *(({"max_length": value}, "compare needs max_length in [4, 1000000]") for value in (0, 3, -1, 10**9)),
    ({"max_length": 10**20}, "compare needs max_length to be at most"),
    ({"max_length": 25}, "The model reads at most 24 tokens: --max-length 25 is too many"),
    *(({"methods": value}, "Vanilla alone is no comparison: name another method") for value in ([], ["vanilla"])),
    *(({"methods": value}, "compare needs methods to be a list of strings") for value in ("mixout", [1], ("mixout",))),
    ({"methods": ["Mixout"]}, "did you mean 'mixout'?"),
    *(({"slots": value}, "compare needs slots in [1, inf)") for value in (0, -1)),
    *(({"slots": value}, "compare needs slots to be an integer") for value in (1.5, "2")),
    *(({"engine": value}, "There is no engine or scheduler file") for value in ("nosuch", "", "HERE", "local ", "\0")),
    ({"engine": None}, "compare needs engine to be a string"),
    *(({"scores": value}, "compare needs scores to be true or false") for value in (1, "yes", None)),
    *(({"text": value}, "compare needs text to be a list of strings") for value in ([5], [["words"]], [None])),
    ({"text": []}, "Give one or two different text columns, not none"),
    *(({"label": value}, "compare needs label to be a string") for value in (5, ["animal"], None)),
    *(({"metric": value}, "There is no metric for these classes") for value in ("", "F1", "spearman")),
    *(({"model": value}, "There is no model folder") for value in ("", "bert base", "\0", "pocket/")),
]


@pytest.mark.parametrize(("changes", "sentence"), OPTIONS, ids=lambda value: repr(value)[:40])
def test_options_that_no_comparison_can_have(changes, sentence, tiny_world, tmp_path):
    options = {"text": "words", "label": "animal", "model": tiny_world["model_name"], "engine": "here"} | changes
    assert_refused(lambda: finetune_reg.compare(TABLE, output_dir=tmp_path / "out", **options), sentence, tmp_path)


@pytest.mark.parametrize("groups", [["x"], ["x", "y"], ["x", "y", "z", "w"]], ids=len)
def test_too_few_groups_are_seen_before_anything_is_written(groups, tiny_world, tmp_path):
    table = TABLE.assign(g=[groups[i % len(groups)] for i in range(len(TABLE))])
    options = {"group": "g", "model": tiny_world["model_name"], "engine": "here", "methods": ["mixout"], "budget": None}
    refused = lambda: finetune_reg.compare(table, "words", "animal", tmp_path / "out", **options)  # noqa: E731
    assert_refused(refused, "too few for 5 folds", tmp_path)


@pytest.mark.parametrize(
    "text",
    ["0m", "-5m", "1e9h", "abc", "", "m", "2h30m", "1:30", "٣m", "5s", "nan", "inf", "1,5h", "+5m", "5M", "[/b]"],
)
def test_budgets_that_are_no_time(text):
    assert_refused(lambda: read_minutes(text), "is no time: write 30m or 2h")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"asked": 3}', '{"asked": {}}', "SAME {}", 'SAME {"candidates": ["nosuch"]}', "\0"]
)
def test_a_damaged_plan_in_the_folder(content, tiny_world, tmp_path):
    options = {"model": tiny_world["model_name"], "engine": "here", "methods": ["mixout"]}
    if content.startswith("SAME "):
        prepared = prepare(TABLE, ["words"], "animal", tmp_path, **options)
        content = json.dumps({"asked": prepared.asked, "plan": json.loads(content.removeprefix("SAME "))})
    (tmp_path / "comparison.json").write_text(content)
    call_it = lambda: finetune_reg.compare(TABLE, "words", "animal", tmp_path, **options)  # noqa: E731
    assert_refused(
        call_it, "move it away" if content != '{"asked": {}}' else "holds a comparison with another", tmp_path
    )


def test_long_documents_and_other_endings_are_read(tmp_path):
    long = TABLE.assign(words=TABLE.words + " " + "red " * 50_000)
    long.head(2).to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv").words.str.len().min() > 131_072
    TABLE.to_parquet(tmp_path / "t.PARQUET")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.PARQUET"), TABLE.astype(object))


def test_the_command_refuses_in_one_line(tmp_path):
    (tmp_path / "t.csv").write_text(CSV)
    finished = call("compare", tmp_path / "t.csv", "--text", "words", "--label", "animal", "--budget", "9" * 400 + "h")
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert "compare needs budget in (0, 525600]" in finished.stderr


KEPT = {"columns": {"text": ["words"], "label": "animal"}, "temperature": 1.2, "max_length": 24}
NAN_WEIGHTS = "nan"


@pytest.fixture(scope="module")
def model(tiny_world, tmp_path_factory):
    """A folder as `compare` writes it, with an untrained head."""
    folder = tmp_path_factory.mktemp("predicting") / "model"
    labels = dict(enumerate(["bird", "cat", "dog"]))
    names = {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    AutoModelForSequenceClassification.from_pretrained(tiny_world["model_name"], **names).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_world["model_name"]).save_pretrained(folder)
    (folder / ABOUT).write_text(json.dumps(KEPT))
    return folder


def kept(**changes) -> dict[str, str]:
    return {ABOUT: json.dumps(KEPT | changes)}


def config(**changes):
    return {"config.json": changes}


DAMAGED_MODELS = [
    *(({ABOUT: text}, "is no whole model of `finetune-reg compare`") for text in ("", "[]", "{}", "null", "\0", '"x"')),
    *(
        (kept(columns=value), "is no whole model")
        for value in (3, {}, {"text": "words"}, {"text": [1]}, {"text": [[]]})
    ),
    *((kept(columns={"text": value}), "has no text columns") for value in ([], ["words", "words"], ["a", "b", "c"])),
    (kept(columns={"text": ["nosuch"]}), "There is no column 'nosuch'"),
    *((kept(temperature=value), "The model needs the temperature") for value in (0, -1, NAN, INF, "x", None, True)),
    *((kept(max_length=value), "The model needs max_length") for value in (0, -1, "x", None, 10**30, 1.5)),
    *((kept(max_length=value), "has no room for text beside the 2 special tokens") for value in (1, 2)),
    *(({"config.json": text}, "is no whole model") for text in (None, "{", "[]", "{}", '{"id2label": 3}')),
    (config(id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}), "lacks weights of the head"),
    (config(id2label={"0": "a", "1": "a", "2": "b"}), "labels that are not different"),
    (config(id2label={"a": "bird", "b": "cat", "c": "dog"}), "is no whole model"),
    (config(num_hidden_layers=5), ""),
    (config(hidden_size=64), ""),
    (config(auto_map={"AutoConfig": "x.Y"}, model_type="custom"), "which is never run (trust_remote_code=False)"),
    ({"model.safetensors": None}, ""),
    ({"model.safetensors": "version https://git-lfs.github.com/spec/v1\n"}, "Git LFS pointer"),
    ({"model.safetensors": "cut"}, ""),
    ({"model.safetensors": NAN_WEIGHTS}, ""),
    ({"tokenizer.json": None}, ""),
    ({"tokenizer.json": "{"}, ""),
]


@pytest.mark.parametrize(("files", "sentence"), DAMAGED_MODELS, ids=lambda value: repr(value)[:50])
def test_a_damaged_model_predicts_nothing(files, sentence, model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        elif isinstance(content, dict):
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | content))
        elif content == NAN_WEIGHTS:
            weights = load_file(folder / name)
            weights = {key: torch.full_like(value, NAN) for key, value in weights.items()}
            save_file(weights, folder / name, {"format": "pt"})
        else:
            (folder / name).write_text(content)
    assert_refused(lambda: predict_table(folder, TABLE), sentence, folder)


NEW = [
    ({"words": [5]}, "Row 0 of 'words' is not text but 5 (int)"),
    ({"words": ["red", ["a"]]}, "Row 1 of 'words' is not text but ['a'] (list)"),
    ({"words": ["\ud800 red"]}, "holds half of a character"),
    ({"text": ["red"]}, "There is no column 'words'"),
    *(({"words": ["red"], name: [1]}, f"has a column {name!r} already") for name in ("probability", "probability dog")),
]


@pytest.mark.parametrize(("columns", "sentence"), NEW, ids=lambda value: repr(value)[:50])
def test_new_rows_that_cannot_be_predicted(columns, sentence, model):
    assert_refused(lambda: predict_table(model, pd.DataFrame(columns, dtype=object)), sentence)


@pytest.mark.parametrize("out", [".", "", "missing/p.csv", "file/p.csv", "n" * 300, "model"])
def test_predictions_that_cannot_be_written(out, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "new.jsonl").write_text('{"words": "red dog", "other": "\\ud800"}\n')
    finished = call("predict", model, "new.jsonl", "--out", out)
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1)
    assert "cannot be used (" in finished.stderr
    assert call("predict", model, "new.jsonl", "--out", "p.csv").returncode == 0
    assert r"\ud800" in (tmp_path / "p.csv").read_text()
