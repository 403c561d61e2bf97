"""Every format gives the same rows; every bad table gets one sentence before anything starts."""

from __future__ import annotations

import datasets
import pandas as pd
import pytest
from own_table.tables import tickets

from finetune_reg.errors import InputError
from finetune_reg.own_table.reading import read_table
from finetune_reg.own_table.selection import select_rows


def selected(frame, text=("ticket",), label="queue", **options):
    return select_rows(frame.astype(object), text, label, **options)


def test_every_format_gives_the_same_rows(tmp_path):
    frame = tickets()[["ticket", "queue"]]
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "utf16.csv", index=False, encoding="utf-16")
    frame.to_csv(tmp_path / "windows.csv", index=False, encoding="cp1252")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    data_set = datasets.Dataset.from_pandas(frame).class_encode_column("queue")
    datasets.DatasetDict(train=data_set, test=data_set).save_to_disk(tmp_path / "t")
    names = ["t.csv", "t.tsv", "semicolons.csv", "utf16.csv", "t.jsonl", "t.parquet", "t", "t/test"]
    tables = [read_table(tmp_path / name) for name in names] + [read_table(frame)]
    tables.append(read_table(tmp_path / "windows.csv", encoding="cp1252"))
    for table in tables:
        pd.testing.assert_frame_equal(table, frame.astype(object))


def test_empty_cells_are_missing_and_the_text_NA_is_text(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n"NA, or ""none""",\n\nnull,x\n')
    assert read_table(tmp_path / "t.csv").values.tolist() == [['NA, or "none"', None], ["null", "x"]]


@pytest.mark.parametrize(
    ("name", "content", "encoding", "sentence"),
    [
        ("t.csv", b"a,b\ncaf\xe9,x\n", None, "not text in utf-8"),
        ("t.csv", b"a,b\ncaf\xe9,x\n", "klingon", "There is no encoding 'klingon'"),
        ("t.csv", b"a,b\n1,2,3\n", None, "row 1 of 1 (the last line is 2): it has 3 cells, the header has 2"),
        ("t.csv", b'a,b\n"1,2\n', None, "Is a quote missing?"),
        ("t.csv", b"a,a\n1,2\n", None, "has the column 'a' twice"),
        ("t.csv", b"a,b\n", None, "has no rows"),
        ("t.csv", b"", None, "has no rows"),
        ("t.xlsx", b"PK", None, "no known ending: give a .csv, .tsv"),
        ("t.jsonl", b"{}", "cp1252", "needs no encoding"),
        ("folder/x", b"", None, "not the folder of a data set"),
        (None, b"", None, "There is no file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, encoding, sentence):
    path = tmp_path / (name or "missing.csv")
    if name:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        read_table(path.parent if path.name == "x" else path, encoding)
    assert sentence in str(refusal.value)


def test_labels_become_classes_in_order_or_scores_on_request():
    stars = tickets().assign(stars=[f"{i % 4 + 8}" for i in range(120)])
    classes = selected(stars, label="stars")
    assert classes.task.label_names == ("8", "9", "10", "11")
    assert classes.rows.label[:5].tolist() == [0, 1, 2, 3, 0]
    assert classes.task.metrics[0] == "macro_f1"
    scores = selected(stars, label="stars", scores=True)
    assert scores.rows.label[:3].tolist() == [8.0, 9.0, 10.0]
    assert (scores.task.metrics[0], scores.task.label_range) == ("spearman", (8.0, 11.0))
    assert selected(stars, label="stars", metric="accuracy").task.metrics[0] == "accuracy"


def test_rows_without_text_or_label_are_counted_and_places_kept():
    frame = tickets().astype(object)
    frame.loc[3, "ticket"], frame.loc[5, "ticket"], frame.loc[7, "queue"] = None, "  ", None
    table = selected(frame, group="customer")
    assert (table.without_text, table.without_label, len(table.rows)) == (2, 1, 117)
    assert table.rows.row[:6].tolist() == [0, 1, 2, 4, 6, 8]
    assert table.rows.group[3] == "c1"


def test_a_draw_of_rows_is_the_same_for_the_same_seed():
    drawn = [selected(tickets(), sample=60, seed=seed).rows.row.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 60


FEW = tickets().assign(queue=lambda t: t.queue.where(t.index != 0, "other").where(t.index != 1, "other"))


@pytest.mark.parametrize(
    ("frame", "options", "sentence"),
    [
        (tickets(), {"label": "quue"}, "There is no column 'quue': did you mean 'queue'?"),
        (tickets(), {"text": ["body"]}, "known are: customer, minutes, queue, ticket"),
        (tickets(), {"text": ["ticket", "ticket"]}, "one or two different text columns"),
        (tickets(), {"label": "ticket"}, "both the text and the label"),
        (tickets(), {"text": ["minutes"]}, "is not text but 0 (int): name a column of texts"),
        (tickets(10), {}, "There are 10 labelled rows; a comparison needs at least 30"),
        (pd.concat([tickets()] * 200), {}, "more than 20,000: draw some at random with --rows"),
        (tickets().assign(ticket="the same"), {}, "All texts in ticket are equal"),
        (tickets().assign(queue="one"), {}, "All labels in 'queue' are 'one'"),
        (FEW, {}, "The class 'other' has 2 rows; training and testing need at least 5"),
        (tickets(), {"label": "ticket", "text": ["queue"]}, "too many for classes: is it the right column?"),
        (tickets().assign(n=range(120)), {"label": "n"}, "if they are scores, say so with --scores"),
        (tickets().assign(queue=[1, "one"] * 60), {}, "of mixed types (int, str)"),
        (tickets().assign(queue=["Yes", "yes "] * 60), {}, "'Yes' and 'yes' in 'queue' differ in spelling only"),
        (tickets().assign(queue=["1", "1.0"] * 60), {}, "'1' and '1.0' in 'queue' differ in spelling only"),
        (tickets(), {"scores": True}, "labels are numbers, but 'queue' has 'outage'"),
        (tickets().assign(n=3), {"label": "n", "scores": True}, "All scores in 'n' are 3"),
        (tickets(), {"metric": "spearman"}, "There is no metric for these classes 'spearman'"),
    ],
)
def test_tables_on_which_nothing_can_be_compared_are_refused(frame, options, sentence):
    with pytest.raises(InputError) as refusal:
        selected(frame, **options)
    assert sentence in str(refusal.value)
