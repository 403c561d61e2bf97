"""The four fine-tuning tasks of pocket."""

import hashlib
import json
from functools import cache
from random import Random

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.preprocessing import StandardScaler

from finetune_reg.pocket.corruption import corrupted, wrong_agreement
from finetune_reg.pocket.grammar import combination, is_held_out, sample_clause
from finetune_reg.pocket.tasks import POCKET_TASKS, generate_task
from finetune_reg.pocket.tokenizer import build_tokenizer

# First 16 digits of the SHA-256 of the split as JSON: the rows may never change without a new name.
FROZEN = {
    "acceptability": {"train": "4573457f2b912936", "validation": "e74e3a88ac8ec5b5"},
    "entailment": {"train": "20d945faa85245c5", "validation": "8e24f3f4917f9dba"},
    "paraphrase": {"train": "85a895e1c8e8dbf7", "validation": "439825c114ff3b61"},
    "similarity": {"train": "9a7b84fb4fea52b4", "validation": "a05c2400d7d05e23"},
}

# What a linear model on words, lengths and overlap may reach after 2,000 examples; 200 take the encoder much further.
SHORTCUT_CEILING = {"acceptability": 0.15, "entailment": 0.68, "paraphrase": 0.60, "similarity": 0.68}


rows_of = cache(generate_task)


def sentences(row: dict) -> list[str]:
    return [row[column] for column in ("sentence", "sentence1", "sentence2") if column in row]


def digest(rows: list[dict]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", POCKET_TASKS)
def test_splits_are_frozen(name):
    assert {split: digest(rows) for split, rows in rows_of(name).items()} == FROZEN[name]
    assert generate_task(name) == rows_of(name)


@pytest.mark.parametrize("name", POCKET_TASKS)
def test_splits_share_no_sentence_and_no_row_repeats(name):
    train, validation = rows_of(name)["train"], rows_of(name)["validation"]
    assert (len(train), len(validation)) == (2_000, 500)
    assert not {s for row in train for s in sentences(row)} & {s for row in validation for s in sentences(row)}
    for rows in (train, validation):
        assert len({tuple(sentences(row)) for row in rows}) == len(rows)
        assert [row["idx"] for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize("name", POCKET_TASKS)
def test_sentences_are_known_words_and_short(name):
    tokenizer = build_tokenizer()
    for rows in rows_of(name).values():
        ids = [tokenizer(*sentences(row))["input_ids"] for row in rows]
        assert all(tokenizer.unk_token_id not in row for row in ids)
        assert max(map(len, ids)) <= 34


def test_labels_are_balanced_and_in_range():
    share = {name: np.mean([row["label"] for row in rows_of(name)["train"]]) for name in POCKET_TASKS[:3]}
    assert share["acceptability"] == pytest.approx(0.5, abs=0.05)
    assert share["entailment"] == pytest.approx(0.5, abs=0.05)
    assert share["paraphrase"] == pytest.approx(0.43, abs=0.05)
    assert {row["label"] for name in POCKET_TASKS[:3] for row in rows_of(name)["train"]} == {0, 1}
    scores = [row["label"] for row in rows_of("similarity")["train"]]
    assert (min(scores), max(scores)) == (0.0, 5.0)
    assert np.std(scores) > 1


def test_the_held_out_combinations_are_a_fifth():
    rng = Random(0)
    clauses = [sample_clause(rng) for _ in range(3_000)]
    held_out = {combination(clause) for clause in clauses if is_held_out(clause)}
    kept = {combination(clause) for clause in clauses if not is_held_out(clause)}
    assert not held_out & kept
    assert len(held_out) / len(held_out | kept) == pytest.approx(0.2, abs=0.05)


def test_corruptions_break_what_they_say():
    rng = Random(0)
    assert list(wrong_agreement(["the", "doctors", "buy", "a", "car"])) == [["the", "doctors", "buys", "a", "car"]]
    words = ["these", "doctors", "do", "not", "buy", "a", "car"]
    assert all(corrupted(words, rng) != words for _ in range(50))
    assert corrupted(["anna", "slept"], rng) is None


@pytest.mark.parametrize("name", POCKET_TASKS)
def test_words_lengths_and_overlap_do_not_solve_the_task(name):
    train, validation = rows_of(name)["train"], rows_of(name)["validation"]
    vectorizer = CountVectorizer(token_pattern=r"[a-z]+").fit([" ".join(sentences(row)) for row in train])

    def features(rows: list[dict]) -> np.ndarray:
        counts = [vectorizer.transform(part).toarray() for part in zip(*map(sentences, rows), strict=True)]
        first, last = counts[0], counts[-1]
        shared = np.minimum(first, last).sum(1)
        lengths = first.sum(1), last.sum(1)
        return np.c_[first, last, shared, lengths[0] - lengths[1], shared / lengths[0], shared / lengths[1]]

    scaler = StandardScaler().fit(features(train))
    inputs, held_out = scaler.transform(features(train)), scaler.transform(features(validation))
    labels, truth = [row["label"] for row in train], [row["label"] for row in validation]
    for columns in (slice(None), slice(-4, None)):
        if name == "similarity":
            predicted = Ridge(alpha=1_000).fit(inputs[:, columns], labels).predict(held_out[:, columns])
            score = spearmanr(predicted, truth)[0]
        else:
            linear = LogisticRegression(C=0.01, max_iter=300).fit(inputs[:, columns], labels)
            metric = {"acceptability": matthews_corrcoef, "entailment": accuracy_score, "paraphrase": f1_score}[name]
            score = metric(truth, linear.predict(held_out[:, columns]))
        assert score < SHORTCUT_CEILING[name]


def test_an_unknown_task_is_refused():
    with pytest.raises(
        ValueError, match="No pocket task is named 'sentiment'; choose one of acceptability, entailment"
    ):
        generate_task("sentiment")
