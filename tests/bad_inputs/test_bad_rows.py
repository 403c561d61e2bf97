"""Files of rows that are damaged, foreign or wrong, and draws that they do not allow."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import assert_refused

from finetune_reg.tasks import get_task, load_split, load_task

ROW = {"sentence1": "the dog runs", "sentence2": "a cat", "label": 1}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def jsonl(**changes: Any) -> bytes:
    """Two right rows, and a third one with changes; `...` leaves a column out."""
    return lines(ROW, ROW, {name: value for name, value in (ROW | changes).items() if value is not ...})


def parquet(rows: Any = None, **columns: Any) -> bytes:
    """Three right rows, with columns in the place of theirs."""
    frame = pd.DataFrame([ROW] * 3 if rows is None else rows).assign(**columns)
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def parquet_with_a_column_twice() -> bytes:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"]), pa.array([0])]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, ["sentence1", "sentence1", "sentence2", "label"]), buffer)
    return buffer.getvalue()


def parquet_with_bytes_for_text(content: bytes) -> bytes:
    table = {"sentence1": pa.array([content]), "sentence2": pa.array(["b"]), "label": pa.array([0])}
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


GOOD = lines(ROW, ROW)
FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("jsonl", b"", "has no rows"),
    "blank": ("jsonl", b"\n \n\t\n", "has no rows"),
    "null": ("jsonl", b"null\n", "line 1 is not a JSON object but a NoneType"),
    "null after a row": ("jsonl", GOOD + b"null\n", "line 3 is not a JSON object but a NoneType"),
    "number": ("jsonl", b"3\n", "line 1 is not a JSON object but a int"),
    "string": ("jsonl", b'"text"\n', "line 1 is not a JSON object but a str"),
    "array": ("jsonl", json.dumps([ROW, ROW]).encode(), "line 1 is not a JSON object but a list"),
    "pretty array": ("jsonl", json.dumps([ROW], indent=1).encode(), "line 1 is not a JSON object"),
    "torn": ("jsonl", GOOD[:-9], "line 2 is not a JSON object: is the file complete?"),
    "torn in the middle": ("jsonl", GOOD[:20] + GOOD[40:], "is not a JSON object"),
    "csv": ("jsonl", b"sentence1,sentence2,label\na,b,0\n", "line 1 is not a JSON object"),
    "python": ("jsonl", b"{'sentence1': 'a'}\n", "line 1 is not a JSON object"),
    "latin-1": ("jsonl", GOOD.replace(b"cat", b"caf\xe9"), "is not text in UTF-8"),
    "cp1252": ("jsonl", GOOD.replace(b"cat", b"\x93cat\x94"), "is not text in UTF-8"),
    "utf-16": ("jsonl", GOOD.decode().encode("utf-16"), "is not text in UTF-8"),
    "utf-16 without a mark": ("jsonl", GOOD.decode().encode("utf-16-le"), "is not a JSON object"),
    "utf-32": ("jsonl", GOOD.decode().encode("utf-32"), "is not text in UTF-8"),
    "gzip": ("jsonl", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "is not text in UTF-8"),
    "null bytes": ("jsonl", b"\x00" * 64, "is not a JSON object"),
    "LFS pointer": ("jsonl", LFS, "is a Git LFS pointer"),
    "column twice": (
        "jsonl",
        b'{"sentence1": "a", "sentence2": "b", "label": 0, "label": 1}\n',
        "it has 'label' twice",
    ),
    "deep": ("jsonl", b"[" * 100_000 + b"\n", "line 1 is not a JSON object"),
    "5,000 digits": ("jsonl", b'{"label": ' + b"1" * 5_000 + b"}\n", "line 1 cannot be read"),
    "no first text": ("jsonl", jsonl(sentence1=...), "row 2: no column 'sentence1'"),
    "no second text": ("jsonl", jsonl(sentence2=...), "row 2: no column 'sentence2'"),
    "no label": ("jsonl", jsonl(label=...), "row 2: no column 'label'"),
    "null text": ("jsonl", jsonl(sentence1=None), "row 2: sentence1 is missing"),
    "NaN text": ("jsonl", jsonl(sentence1=float("nan")), "row 2: sentence1 is missing"),
    "number for text": ("jsonl", jsonl(sentence1=5), "row 2: sentence1 is not text but 5 (int)"),
    "truth for text": ("jsonl", jsonl(sentence1=True), "row 2: sentence1 is not text but True (bool)"),
    "float for text": ("jsonl", jsonl(sentence1=0.5), "row 2: sentence1 is not text but 0.5 (float)"),
    "list for text": (
        "jsonl",
        jsonl(sentence2=["the", "cat"]),
        "row 2: sentence2 is not text but ['the', 'cat'] (list)",
    ),
    "two texts for text": ("jsonl", jsonl(sentence2=["a", "b"]), "row 2: sentence2 is not text"),
    "mapping for text": ("jsonl", jsonl(sentence2={"text": "a"}), "row 2: sentence2 is not text"),
    "lone surrogate": ("jsonl", jsonl(sentence1="bad \ud83d"), "row 2: sentence1 holds half of a character"),
    "other surrogate": ("jsonl", jsonl(sentence2="\udc80"), "row 2: sentence2 holds half of a character"),
    "null label": ("jsonl", jsonl(label=None), "row 2: label None is not one of 0 entailment"),
    "label too large": ("jsonl", jsonl(label=2), "row 2: label 2 is not one of 0 entailment, 1 not_entailment"),
    "label below": ("jsonl", jsonl(label=-2), "row 2: label -2 is not one of"),
    "huge label": ("jsonl", jsonl(label=10**100), "is not one of"),
    "float label": ("jsonl", jsonl(label=1.0), "row 2: label 1.0 is not one of"),
    "NaN label": ("jsonl", jsonl(label=float("nan")), "row 2: label nan is not one of"),
    "truth label": ("jsonl", jsonl(label=True), "row 2: label True is not one of"),
    "text label": ("jsonl", jsonl(label="1"), "row 2: label '1' is not one of"),
    "label of another task": ("jsonl", jsonl(label="equivalent"), "row 2: label 'equivalent' is not one of"),
    "long label": ("jsonl", jsonl(label="x" * 10_000), "is not one of"),
    "list label": ("jsonl", jsonl(label=[1]), "row 2: label [1] is not one of"),
    "mapping label": ("jsonl", jsonl(label={"value": 1}), "is not one of"),
    "hidden labels": ("jsonl", lines(*[ROW | {"label": -1}] * 3), "has no row with a gold label"),
    "empty object": ("jsonl", b"{}\n", "row 0: no column 'sentence1'"),
    "empty Parquet": ("parquet", b"", "is not a complete Parquet file"),
    "torn Parquet": ("parquet", parquet()[:-40], "is not a complete Parquet file"),
    "Parquet without its end": ("parquet", parquet()[:100], "is not a complete Parquet file"),
    "Parquet without its start": ("parquet", parquet()[100:], "is not a complete Parquet file"),
    "zeros in Parquet": ("parquet", b"PAR1" + b"\0" * 400 + b"PAR1", "is not a complete Parquet file"),
    "JSONL called Parquet": ("parquet", GOOD, "is not a complete Parquet file"),
    "LFS pointer to Parquet": ("parquet", LFS, "is a Git LFS pointer"),
    "no rows in Parquet": ("parquet", parquet(pd.DataFrame([ROW])[:0]), "has no rows"),
    "no columns in Parquet": ("parquet", parquet(pd.DataFrame(index=range(3))), "has no rows"),
    "no label in Parquet": ("parquet", parquet([{"sentence1": "a", "sentence2": "b"}]), "row 0: no column 'label'"),
    "column twice in Parquet": ("parquet", parquet_with_a_column_twice(), "has the column 'sentence1' twice"),
    "missing text in Parquet": ("parquet", parquet(sentence1=["a", None, "b"]), "row 1: sentence1 is missing"),
    "missing number for text": ("parquet", parquet(sentence1=[float("nan")] * 3), "row 0: sentence1 is missing"),
    "numbers for text in Parquet": (
        "parquet",
        parquet(sentence1=[1, 2, 3]),
        "row 0: sentence1 is not text but 1 (int)",
    ),
    "dates for text": (
        "parquet",
        parquet(sentence2=pd.to_datetime(["2020-01-01"] * 3)),
        "row 0: sentence2 is not text",
    ),
    "bytes for text": ("parquet", parquet_with_bytes_for_text(b"text"), "row 0: sentence1 is not text but b'text'"),
    "lists for text in Parquet": ("parquet", parquet(sentence1=[["a", "b"]] * 3), "row 0: sentence1 is not text"),
    "missing label in Parquet": ("parquet", parquet(label=[0, None, 1]), "label 0.0 is not one of"),
    "float labels in Parquet": ("parquet", parquet(label=[0.0, 1.0, 1.0]), "row 0: label 0.0 is not one of"),
    "truth labels in Parquet": ("parquet", parquet(label=[True, False, True]), "row 0: label True is not one of"),
    "text labels in Parquet": ("parquet", parquet(label=["yes", "no", "no"]), "row 0: label 'yes' is not one of"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_damaged_foreign_or_wrong_are_refused(tmp_path, case):
    suffix, content, sentence = FILES[case]
    (tmp_path / "rte").mkdir()
    path = tmp_path / "rte" / f"train.{suffix}"
    path.write_bytes(content)
    assert_refused(lambda: load_split(get_task("rte"), "train", str(tmp_path)), sentence, tmp_path)


@pytest.mark.parametrize(
    "score", [-1, -0.1, 5.1, float("nan"), float("inf"), "3.0", None, True, [3.0], 10**400], ids=lambda s: str(s)[:9]
)
def test_scores_out_of_range_are_refused(tmp_path, score):
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb" / "train.jsonl").write_bytes(jsonl(label=score))
    assert_refused(lambda: load_split(get_task("stsb"), "train", str(tmp_path)), "is not a number from 0.0 to 5.0")


SOURCES = {
    "": "There is no folder",
    "/no/such/folder": "There is no folder /no/such/folder",
    "~nobody_of_this_name/glue": "There is no folder",
    "a\0b": "There is no folder",
    "x" * 5_000: "There is no folder",
    "nosuch": "There is no folder nosuch",
    "pocket": "does not come from source 'pocket'",
    "Hub": "There is no folder Hub",
    "local": "needs the environment variable FINETUNE_REG_GLUE",
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: repr(source)[:20])
def test_sources_that_are_none_are_refused(source, monkeypatch):
    monkeypatch.delenv("FINETUNE_REG_GLUE", raising=False)
    assert_refused(lambda: load_task("rte", source), SOURCES[source])


def test_a_folder_without_a_task_or_with_a_folder_for_its_file_is_refused(tmp_path):
    assert_refused(lambda: load_task("rte", str(tmp_path)), "lacks rte/train.jsonl or rte/train.parquet", tmp_path)
    (tmp_path / "rte" / "train.jsonl").mkdir(parents=True)
    assert_refused(lambda: load_task("rte", str(tmp_path)), "lacks rte/train.jsonl or rte/train.parquet", tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    assert_refused(lambda: load_task("rte", str(file)), "There is no folder")


LABELS = {
    "even": [0, 1] * 10,
    "one of a class": [0] * 20 + [1],
    "none of a class": [0] * 20,
    "rare": [0] * 97 + [1] * 3,
}
DRAWS: list[tuple[str, dict[str, Any], str]] = [
    ("even", {"n_train": 0}, "n_train must be between 1 and 20"),
    ("even", {"n_train": -7}, "n_train must be between 1 and 20"),
    ("even", {"n_train": 21}, "n_train must be between 1 and 20"),
    ("even", {"subset_seed": -1}, "load_task needs subset_seed in [0, 4294967295]"),
    ("even", {"subset_seed": 2**32}, "load_task needs subset_seed in [0, 4294967295]"),
    ("even", {"subset_seed": 0.5}, "load_task needs subset_seed to be an integer"),
    ("even", {"subset_seed": None}, "load_task needs subset_seed to be an integer"),
    ("even", {"held_out_fold": 9}, "held_out_fold is 0 to 4"),
    ("even", {"held_out_fold": -1}, "held_out_fold is 0 to 4"),
    ("even", {"n_train": 4, "held_out_fold": 0}, "cannot be cut into 5 folds"),
    ("even", {"stratified": True}, "needs n_train from 2 to 18, not None"),
    ("even", {"stratified": True, "n_train": 1}, "needs n_train from 2 to 18, not 1"),
    ("even", {"stratified": True, "n_train": 20}, "needs n_train from 2 to 18, not 20"),
    ("one of a class", {"stratified": True, "n_train": 10}, "has 1 rows of the class not_entailment"),
    ("none of a class", {"stratified": True, "n_train": 10}, "has 0 rows of the class not_entailment"),
    ("rare", {"stratified": True, "n_train": 10}, "none of the 3 of the class not_entailment: raise n_train to 34"),
]


@pytest.mark.parametrize(("labels", "options", "sentence"), DRAWS, ids=str)
def test_draws_that_the_rows_do_not_allow_are_refused(tmp_path, labels, options, sentence):
    (tmp_path / "rte").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "rte" / f"{split}.jsonl").write_bytes(lines(*(ROW | {"label": label} for label in LABELS[labels])))
    assert_refused(lambda: load_task("rte", str(tmp_path), **options), sentence, tmp_path)


def test_the_advised_number_of_rows_has_every_class(tmp_path):
    (tmp_path / "rte").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "rte" / f"{split}.jsonl").write_bytes(lines(*(ROW | {"label": label} for label in LABELS["rare"])))
    for seed in range(20):
        data = load_task("rte", str(tmp_path), 34, seed, stratified=True)
        assert {row["label"] for row in data.train} == {0, 1}


@pytest.mark.parametrize("task", ["sick", "snli"])
def test_any_of_several_rare_classes_is_missed(tmp_path, task):
    rows = [{"premise": "a", "hypothesis": "b", "label": 0 if i < 94 else 1 + i % 2} for i in range(100)]
    (tmp_path / task).mkdir()
    for split in ("train", "test"):
        (tmp_path / task / f"{split}.jsonl").write_bytes(lines(*rows))
    assert_refused(lambda: load_task(task, str(tmp_path), 17, stratified=True), "raise n_train to 34", tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + GOOD, GOOD + b"\n\n", b"\n" + GOOD, GOOD.replace(b"\n", b"\r\n")]
)
def test_marks_and_blank_lines_are_accepted(tmp_path, content):
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "train.jsonl").write_bytes(content)
    assert load_split(get_task("rte"), "train", str(tmp_path)) == [ROW, ROW]
