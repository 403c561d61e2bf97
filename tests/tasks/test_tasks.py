"""Loading, subsets, metrics and batches; every bad input gets one sentence."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_reg.errors import InputError
from finetune_reg.tasks import (
    TASKS,
    evaluate_predictions,
    evaluate_transfer,
    get_task,
    label_map,
    load_split,
    load_task,
    majority_score,
)
from finetune_reg.tasks.batching import LengthBucketedBatches
from finetune_reg.tasks.loading import rows_hash
from finetune_reg.tasks.subsets import subset_row_ids


def write_task(folder: Path, name: str = "rte", n: int = 8, splits=("train", "validation"), **changes) -> Path:
    row = {"sentence1": "A dog runs.", "sentence2": "A dog moves.", "label": 0, "idx": 0} | changes
    row = {column: value for column, value in row.items() if value is not ...}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split in splits:
        lines = [json.dumps(row | ({"label": i % 2} if "label" not in changes else {})) for i in range(n)]
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n" * bool(lines))
    return folder


def test_a_local_folder_in_either_format_gives_the_same_rows(tmp_path):
    folder = write_task(tmp_path / "jsonl")
    (tmp_path / "parquet" / "rte").mkdir(parents=True)
    for split in ("train", "validation"):
        rows = load_split(get_task("rte"), split, str(folder))
        pd.DataFrame(rows).to_parquet(tmp_path / "parquet" / "rte" / f"{split}.parquet")
    assert load_task("rte", str(folder), 5) == load_task("rte", str(tmp_path / "parquet"), 5)


def test_source_local_reads_the_folder_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_REG_GLUE", str(write_task(tmp_path)))
    assert len(load_task("rte", "local").train) == 8


def test_rows_without_a_gold_label_are_dropped(tmp_path):
    folder = write_task(tmp_path)
    with (folder / "rte" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"sentence1": "a", "sentence2": "b", "label": -1}) + "\n")
    assert len(load_task("rte", str(folder)).train) == 8


@pytest.mark.parametrize("split", ["official", "pooled"])
def test_row_ids_are_positions_in_the_files_unlabelled_rows_counted(tmp_path, split):
    rows = [{"sentence1": f"s{i}", "sentence2": "b", "label": -1 if i in (0, 3) else i % 2} for i in range(10)]
    (tmp_path / "rte").mkdir()
    for name in ("train", "validation"):
        lines = [json.dumps(row | {"sentence2": name}) + "\n" for row in rows]
        (tmp_path / "rte" / f"{name}.jsonl").write_text("\n".join(lines))
    data = load_task("rte", str(tmp_path), 6, split=split)
    files = [row | {"sentence2": name} for name in ("train", "validation") for row in rows]
    assert [files[i] for i in data.row_ids] == data.train


def test_label_names_stand_for_their_numbers(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": name} for name in ("neutral", "entails", "neutral")]
    (tmp_path / "scitail").mkdir()
    (tmp_path / "scitail" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [row["label"] for row in load_split(get_task("scitail"), "test", str(tmp_path))] == [1, 0, 1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sentence2": ...}, "no column 'sentence2'"),
        ({"label": ...}, "no column 'label'"),
        ({"label": 7}, "label 7 is not one of 0 entailment, 1 not_entailment"),
        ({"label": "yes"}, "label 'yes' is not one of"),
        ({"label": -1}, "no row with a gold label"),
        ({"n": 0}, "has no rows"),
        ({"splits": ("train",)}, "needs its validation split"),
        ({"splits": ()}, "needs its train split"),
    ],
)
def test_unusable_files_are_refused(tmp_path, changes, sentence):
    folder = write_task(tmp_path, **changes)
    with pytest.raises(InputError, match=sentence):
        load_task("rte", str(folder))


@pytest.mark.parametrize("label", [7.5, -1, "3.0", float("nan")])
def test_a_score_out_of_range_is_refused(tmp_path, label):
    folder = write_task(tmp_path, "stsb", label=label)
    with pytest.raises(InputError, match=r"not a number from 0\.0 to 5\.0"):
        load_task("stsb", str(folder))


def test_a_torn_file_is_refused(tmp_path):
    folder = write_task(tmp_path)
    path = folder / "rte" / "train.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match="line 8 is not a JSON object"):
        load_task("rte", str(folder))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rtee", "local"), "did you mean 'rte'"),
        (("rte", "pocket"), "does not come from source 'pocket'"),
        (("entailment", "hub"), "source 'pocket' has the tasks acceptability"),
        (("rte", "/no/such/folder"), "There is no folder"),
        (("hans", "hub"), "load it from a local folder"),
    ],
)
def test_unknown_tasks_and_sources_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        load_task(*arguments)


def test_source_local_without_the_variable_says_what_to_set(monkeypatch):
    monkeypatch.delenv("FINETUNE_REG_GLUE", raising=False)
    with pytest.raises(InputError, match="FINETUNE_REG_GLUE"):
        load_task("rte", "local")


def test_the_hub_is_read_by_the_code_that_reads_a_folder_laid_out_like_it(tmp_path, monkeypatch):
    folder = write_task(tmp_path / "hub")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    like_hub = replace(get_task("rte"), hub=(str(folder / "rte"), None))
    for split in ("train", "validation"):
        assert load_split(like_hub, split, "hub") == load_split(get_task("rte"), split, str(folder))


def test_an_unreachable_hub_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="Check the network"):
        load_task("rte", "hub")


@pytest.mark.parametrize("n_train", [0, -3, 9])
def test_more_rows_than_there_are_is_refused(tmp_path, n_train):
    with pytest.raises(InputError, match="between 1 and 8"):
        load_task("rte", str(write_task(tmp_path)), n_train)


def test_subsets_are_frozen():
    assert subset_row_ids(2490, 5, 0, "rte") == [1577, 1722, 165, 1060, 2094]
    rows = [{"sentence1": "é", "sentence2": "b", "label": 1}]
    assert rows_hash(get_task("rte"), rows) == "21ab8c7cd863b03c"


@given(st.integers(1, 60), st.integers(0, 5))
def test_subsets_have_no_repeated_rows(n, seed):
    ids = subset_row_ids(60, n, seed, "x")
    assert len(set(ids)) == n
    assert set(ids) <= set(range(60))


def test_five_folds_part_the_chosen_rows_and_leave_the_development_set_unread(tmp_path):
    folder = str(write_task(tmp_path, n=40, splits=("train",)))
    folds = [load_task("rte", folder, 30, held_out_fold=fold) for fold in range(5)]
    with pytest.raises(InputError, match="needs its validation split"):
        load_task("rte", folder, 30)
    chosen = set(subset_row_ids(40, 30, 0, "rte"))
    for fold in folds:
        assert (len(fold.train), len(fold.validation)) == (24, 6)
        assert set(fold.row_ids) < chosen
    left_out = [chosen - set(fold.row_ids) for fold in folds]
    assert sum(map(len, left_out)) == 30
    assert set.union(*left_out) == chosen


def test_pooled_rows_are_shuffled_and_the_last_fifth_tests(tmp_path):
    folder = write_task(tmp_path, n=10, splits=("train",))
    other = {"sentence1": "x", "sentence2": "y", "label": 1}
    (folder / "rte" / "validation.jsonl").write_text("\n".join(json.dumps(other | {"idx": i}) for i in range(5)))
    first, second = (load_task("rte", str(folder), subset_seed=seed, split="pooled") for seed in (0, 1))
    assert (len(first.train), len(first.validation)) == (12, 3)
    pool = load_split(get_task("rte"), "train", str(folder)) + load_split(get_task("rte"), "validation", str(folder))
    assert first.train == [pool[i] for i in first.row_ids]
    assert sorted(map(str, first.train + first.validation)) == sorted(map(str, pool))
    assert first.row_ids != second.row_ids
    assert load_task("rte", str(folder), 6, split="pooled").row_ids != first.row_ids[:6]


def test_the_development_rows_are_scored_in_place_of_the_test_rows(tmp_path):
    columns = {"premise": "a b", "hypothesis": "a"}
    (folder := tmp_path / "snli").mkdir()
    for split, label in (("train", 0), ("validation", 1), ("test", 2)):
        rows = [columns | {"label": label, "idx": i} for i in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scored = {
        split: load_task("snli", str(tmp_path), split=split).validation[0]["label"]
        for split in ("official", "development")
    }
    assert scored == {"official": 2, "development": 1}


@pytest.mark.glue
@pytest.mark.parametrize(
    ("name", "n_train", "n_test"), [("cola", 7675, 1919), ("mrpc", 3260, 816), ("rte", 2213, 554), ("stsb", 5799, 1450)]
)
def test_pooled_sizes_are_those_of_the_paper(name, n_train, n_test):
    data = load_task(name, "local", split="pooled")
    assert (len(data.train), len(data.validation)) == (n_train, n_test)


def test_a_stratified_subset_keeps_the_proportions(tmp_path):
    folder = write_task(tmp_path, n=30)
    path = folder / "rte" / "train.jsonl"
    rows = [json.loads(line) | {"label": int(i % 3 == 0)} for i, line in enumerate(path.read_text().splitlines())]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load_task("rte", str(folder), 9, stratified=True)
    assert sum(row["label"] for row in data.train) == 3
    assert data == load_task("rte", str(folder), 9, stratified=True)
    assert data.row_ids != load_task("rte", str(folder), 9, subset_seed=1, stratified=True).row_ids


@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        ("stsb", {"n_train": 4, "stratified": True}, "has scores, not classes"),
        ("rte", {"stratified": True}, "needs n_train from 2 to 6"),
        ("rte", {"n_train": 7, "stratified": True}, "needs n_train from 2 to 6"),
        ("rte", {"held_out_fold": 5}, "0 to 4"),
        ("rte", {"n_train": 4, "held_out_fold": 0}, "cannot be cut into 5 folds"),
    ],
)
def test_impossible_subsets_are_refused(tmp_path, task, options, sentence):
    folder = write_task(tmp_path, task, **({"label": 2.5} if task == "stsb" else {}))
    with pytest.raises(InputError, match=sentence):
        load_task(task, str(folder), **options)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=300), st.integers(1, 20))
def test_each_epoch_has_every_example_once(lengths, batch_size):
    sampler = LengthBucketedBatches(lengths, batch_size, seed=0)
    for _ in range(2):
        epoch = list(sampler)
        assert len(epoch) == len(sampler)
        assert sorted(i for batch in epoch for i in batch) == list(range(len(lengths)))


def test_bucketing_saves_padding_and_epochs_differ():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 100, 300).tolist()

    def padded(epoch):
        return sum(max(lengths[i] for i in batch) * len(batch) for batch in epoch)

    sampler = LengthBucketedBatches(lengths, 16, seed=0)
    first, second = list(sampler), list(sampler)
    unsorted = [list(range(i, min(i + 16, 300))) for i in range(0, 300, 16)]
    assert padded(first) < 0.75 * padded(unsorted)
    assert first != second
    assert list(LengthBucketedBatches(lengths, 16, seed=0)) == first


def test_metrics_by_hand():
    labels, logits = np.array([1, 1, 0, 0]), np.array([[0, 1], [1, 0], [1, 0], [1, 0]], dtype=float)
    assert evaluate_predictions(get_task("rte"), logits, labels)["accuracy"] == 0.75
    assert evaluate_predictions(get_task("mrpc"), logits, labels)["f1"] == pytest.approx(2 / 3)
    assert evaluate_predictions(get_task("cola"), logits, labels)["matthews"] == pytest.approx(1 / np.sqrt(3))
    scores = evaluate_predictions(get_task("stsb"), np.array([[1.0], [2.0], [4.0]]), np.array([0.0, 1.0, 5.0]))
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(0.9897, abs=1e-4)
    assert not scores["constant_prediction"]


@pytest.mark.parametrize("name", ["cola", "mrpc", "rte", "stsb"])
def test_constant_predictions_are_defined_and_flagged(name):
    task = get_task(name)
    labels = np.array([0.0, 2.0, 5.0]) if task.is_regression else np.array([0, 0, 1])
    scores = evaluate_predictions(task, np.zeros((3, task.n_outputs)), labels)
    assert scores["constant_prediction"]
    expected = {"cola": 0.0, "mrpc": 0.0, "rte": 2 / 3, "stsb": 0.0}[name]
    assert scores[task.metrics[0]] == pytest.approx(expected)


def test_majority_scores_of_the_real_development_sets_as_published():
    """RTE 146 of 277, MRPC all positive F1 81.22 (mixout paper's landmarks)."""
    assert majority_score(get_task("rte"), np.array([0] * 146 + [1] * 131)) == pytest.approx(0.5271, abs=1e-4)
    assert majority_score(get_task("mrpc"), np.array([0] * 129 + [1] * 279)) == pytest.approx(0.8122, abs=1e-4)
    assert majority_score(get_task("cola"), np.array([0] * 322 + [1] * 721)) == 0.0


@pytest.mark.parametrize(
    ("trained", "target", "expected"),
    [
        ("mnli", "snli", [0, 1, 2]),
        ("mnli", "sick", [0, 1, 2]),
        ("mnli", "rte", [0, 1, 1]),
        ("snli", "scitail", [0, 1, 1]),
        ("snli", "hans", [0, 1, 1]),
        ("rte", "hans", [0, 1]),
        ("entailment", "paraphrase", [1, 0]),
        ("sst2", "sst2", [0, 1]),
    ],
)
def test_labels_of_one_task_stand_for_labels_of_another(trained, target, expected):
    assert label_map(get_task(trained), get_task(target)) == expected


@pytest.mark.parametrize(("trained", "target"), [("rte", "mnli"), ("sst2", "rte"), ("stsb", "rte"), ("mnli", "stsb")])
def test_labels_that_do_not_correspond_are_refused(trained, target):
    with pytest.raises(InputError, match=f"{trained} .* cannot be scored on {target}"):
        label_map(get_task(trained), get_task(target))


def test_a_contradiction_counts_as_not_entailed():
    logits = np.array([[3, 1, 0], [0, 1, 3], [0, 3, 1], [3, 0, 1]], dtype=float)
    scores = evaluate_transfer(get_task("mnli"), get_task("hans"), logits, np.array([0, 1, 1, 1]))
    assert scores == {"accuracy": 0.75, "constant_prediction": False}


@pytest.mark.glue
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.embedded])
def test_real_files_load(name):
    task = get_task(name)
    rows = load_split(task, task.validation_split, "local")
    assert len(rows) > 50
    if (Path(os.environ["FINETUNE_REG_GLUE"]) / task.folders[0] / "train.jsonl").exists():
        assert len(load_task(name, "local", 300).train) == 300
