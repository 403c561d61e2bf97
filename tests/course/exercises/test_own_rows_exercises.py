from __future__ import annotations

import math

import numpy as np
import pandas as pd
from exercise_attempts import right_attempts, unattempted, wrong_attempts
from scipy import stats

from finetune_reg.course.exercises.own_rows import EXERCISES
from finetune_reg.own_table.reading import read_table
from finetune_reg.paths import HOTEL_NOTES


def contradictions(texts, labels, normalize=lambda text: " ".join(text.casefold().split()), compare=True):
    first, found = {}, []
    for position, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if first.setdefault(normalize(text), label) != label or (not compare and normalize(text) in texts[:position]):
            found.append(position)
    return found


def leaking_groups(groups, test):
    return {groups[i] for i in test} & {group for i, group in enumerate(groups) if i not in test}


def interval(scores, folds, share=lambda folds: 1 / (folds - 1)):
    n = len(scores)
    margin = stats.t.ppf(0.975, n - 1) * math.sqrt((1 / n + share(folds)) * np.var(scores, ddof=1))
    return np.mean(scores), np.mean(scores) - margin, np.mean(scores) + margin


NEW = pd.DataFrame({"note": [f"The lamp fell {i} times." for i in range(5)], "prediction": "repairs"})
NEW = NEW.assign(**{"probability": 0.6, "probability repairs": 0.6, "probability security": 0.4})
OLD = read_table(HOTEL_NOTES).note[0]

test_the_right_attempt_passes = right_attempts(
    [
        ("contradictions", contradictions),
        ("leaking-groups", leaking_groups),
        ("interval-over-folds", interval),
        ("notes-of-your-own", NEW),
    ]
)
test_a_wrong_attempt_is_helped = wrong_attempts(
    [
        ("contradictions", lambda texts, labels: contradictions(texts, labels, str.strip), "without case"),
        ("contradictions", lambda texts, labels: [0, *contradictions(texts, labels)], "contradicts none before it"),
        ("contradictions", lambda texts, labels: [1, *contradictions(texts, labels)], "is no contradiction"),
        ("leaking-groups", lambda groups, test: set(groups), "has no row in the test part"),
        ("leaking-groups", lambda groups, test: {groups[i] for i in test}, "and among the others"),
        ("interval-over-folds", lambda scores, folds: interval(scores, folds, lambda f: 0), "splits for independent"),
        ("interval-over-folds", lambda scores, folds: interval(scores, folds, lambda f: 1 / f), "corrected interval"),
        ("interval-over-folds", lambda scores, folds: np.mean(scores), "return mean, low and high"),
        ("notes-of-your-own", NEW[:3], "write at least 5 notes, not 3"),
        ("notes-of-your-own", NEW.assign(note=OLD.upper()), "stands in the table that the model was trained on"),
        ("notes-of-your-own", NEW.assign(**{"probability repairs": 0.7}), "do not sum to 1"),
        ("notes-of-your-own", NEW.note.tolist(), "give the table"),
    ]
)
test_stubs_are_not_attempted = unattempted(EXERCISES, answers=["notes-of-your-own"])
