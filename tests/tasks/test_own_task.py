"""A task that a folder describes: read like the tables' own, split as it says, refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from finetune_reg import RunSettings, run
from finetune_reg.errors import InputError
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.sweep.cost import count_operations
from finetune_reg.tasks import encode, evaluate_predictions, evaluation_loader, get_task, load_task
from finetune_reg.training_loop import predict

DESCRIPTION = {"text_columns": ["text"], "label_names": ["cold", "warm"], "metrics": ["macro_f1", "accuracy"]}
WORDS = ["red", "green", "blue dog", "cat", "bird runs now", "sings"]
SPLITS = [
    {"train": list(range(4, 24)), "test": [3, 0, 2, 1], "held_out": [[4 + i, 9 + i] for i in range(5)]},
    {"train": list(range(20)), "test": [23, 20], "held_out": [[i] for i in range(5)]},
]


def write(folder: Path, splits=SPLITS, n_rows: int = 24, **changes) -> str:
    (folder / "weather").mkdir()
    rows = [{"text": WORDS[i % 6] + " sleeps" * (i % 3), "label": i % 2} for i in range(n_rows)]
    (folder / "weather" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "weather" / "splits.json").write_text(json.dumps(splits))
    described = {key: value for key, value in (DESCRIPTION | {"n_splits": 2} | changes).items() if value is not ...}
    (folder / "weather" / "task.yaml").write_text(yaml.safe_dump(described))
    return str(folder)


def test_a_seed_chooses_a_split_and_a_held_out_fold_a_part_of_its_training_rows(tmp_path):
    source = write(tmp_path)
    first, second = (load_task("weather", source, subset_seed=seed) for seed in (0, 1))
    assert first.task.label_names == ("cold", "warm")
    assert (first.row_ids, second.row_ids) == (list(range(4, 24)), list(range(20)))
    assert first.validation == [*(load_task("weather", source, subset_seed=1).train[i] for i in (3, 0, 2, 1))]
    inside = load_task("weather", source, subset_seed=0, held_out_fold=1)
    assert inside.row_ids == [i for i in range(4, 24) if i not in (5, 10)]
    assert [row["label"] for row in inside.validation] == [1, 0]
    fewer = load_task("weather", source, 8, 0, stratified=True)
    assert set(fewer.row_ids) < set(range(4, 24))
    assert fewer.validation == first.validation


def test_a_run_keeps_the_logits_of_the_test_rows_in_their_order(tmp_path, tiny_world):
    source = write(tmp_path)
    shared = {"source": source, "model_name": tiny_world["model_name"], "n_train": None, "batch_size": 4}
    settings = RunSettings(task="weather", epochs=1, **shared)
    record = run(settings, tmp_path / "out", device="cpu")
    data = load_task("weather", source)
    logits, labels = np.array(record.logits), np.array([row["label"] for row in data.validation])
    assert logits.shape == (4, 2)
    assert evaluate_predictions(data.task, logits, labels)["accuracy"] == record.history[-1]["accuracy"]
    assert record.metric == "macro_f1"
    untrained = load_encoder(tiny_world["model_name"], data.task, seed=0)
    examples = encode(data.task, data.validation, untrained.tokenizer, 16)
    lengths = [len(example["input_ids"]) for example in examples]
    assert lengths != sorted(lengths)  # so that the order of the loader is another
    labels_as_loaded = predict(untrained.model, evaluation_loader(examples, untrained.tokenizer)).labels
    assert labels_as_loaded.tolist() != labels.tolist()
    assert count_operations(settings) > 0


def test_without_numbered_splits_the_files_are_the_splits(tmp_path):
    source = write(tmp_path, n_splits=...)
    rows = (tmp_path / "weather" / "train.jsonl").read_text().splitlines()
    (tmp_path / "weather" / "validation.jsonl").write_text("\n".join(rows[:3]))
    assert len(load_task("weather", source, 10).validation) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metrics": ["spearman"]}, "needs metrics from accuracy, f1, macro_f1, matthews"),
        ({"label_names": ["one"]}, "at least two different ones"),
        ({"label_range": [0, 5]}, "needs label_names"),
        ({"label_names": ..., "label_range": [5, 0], "metrics": ["pearson"]}, "the smallest and the largest score"),
        ({"text_columns": ["label"]}, "not called label"),
        ({"columns": ["text"]}, "and may have label_names"),
        ({"n_splits": "two"}, "needs n_splits to be an integer"),
        ({"n_splits": 1}, "has the splits 0 to 0: seed_subset cannot be 1"),
        ({"splits": SPLITS[:1]}, "does not hold split 1 of the 24 rows"),
        ({"n_rows": 20}, "does not hold split 1 of the 20 rows"),
        ({"splits": "none"}, "does not hold split 1"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, options, sentence):
    source = write(tmp_path, **options)
    with pytest.raises(InputError) as refusal:
        load_task("weather", source, subset_seed=1)
    assert sentence in str(refusal.value)


def test_other_names_are_still_unknown(tmp_path):
    for name in ("wether", "../weather", ""):
        with pytest.raises(InputError, match="There is no task"):
            get_task(name, write(tmp_path) if not (tmp_path / "weather").exists() else str(tmp_path))
