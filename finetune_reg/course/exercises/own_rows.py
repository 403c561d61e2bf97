"""Exercises of notebook 15: contradictions, groups that leak, intervals over folds, and the model on new rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd

from finetune_reg.course.exercises import Checker
from finetune_reg.own_table.answer import corrected_mean
from finetune_reg.own_table.reading import read_table
from finetune_reg.paths import HOTEL_NOTES

NOTES = ["The lamp fell.", "the  lamp fell.", "A thief ran.", "The lamp fell.", "A THIEF ran.", "A thief ran away."]
DESKS = ["repairs", "repairs", "security", "security", "kitchen", "kitchen"]
FEWEST_NOTES = 5


def check_contradictions(contradictions: Callable[[list[str], list[str]], Collection[int]]) -> None:
    """Compare positions on made-up rows: `contradictions(texts, labels)`."""
    for texts, labels, wanted in (
        (NOTES[:1] * 2, ["a", "a"], set()),
        (NOTES, DESKS, {3, 4}),
        (["x", "y", "x", "x"], ["a", "b", "b", "a"], {2}),
    ):
        found = set(contradictions(list(texts), list(labels)))
        assert not found - wanted & {1}, "a text that repeats with the same label is no contradiction"
        assert 0 not in found, "the first row with a text contradicts none before it; count the later one"
        assert 4 in found or 4 not in wanted, "compare texts without case: the fifth one repeats the third"
        assert found == wanted, f"for {texts} with {labels} you have {sorted(found)}, not {sorted(wanted)}"


def check_leaking_groups(leaking_groups: Callable[[list[str], list[int]], Collection[str]]) -> None:
    """Compare groups on both sides of a split: `leaking_groups(groups, test)`."""
    generator = np.random.default_rng(0)
    for n in (6, 12, 30):
        groups = [f"room {i}" for i in generator.integers(0, n // 3, n)]
        for test in ([], generator.choice(n, n // 4, replace=False).tolist(), list(range(n))):
            in_test = {groups[i] for i in test}
            wanted = in_test & {groups[i] for i in range(n) if i not in test}
            found = set(leaking_groups(list(groups), list(test)))
            assert found <= in_test, f"{sorted(found - in_test)[0]} has no row in the test part"
            assert found == wanted, (
                f"with the test rows {test} of {groups} you have {sorted(found)}: a group leaks if it has rows in "
                "the test part and among the others"
            )


def check_interval_over_folds(interval: Callable[[list[float], int], tuple[float, float, float]]) -> None:
    """Compare with the package on made-up scores: `interval(scores, folds)`."""
    generator = np.random.default_rng(0)
    for folds, repeats in ((5, 1), (5, 2), (3, 4)):
        scores = generator.normal(0.7, 0.05, folds * repeats)
        attempt = interval(scores.tolist(), folds)
        assert np.shape(attempt) == (3,), "return mean, low and high"
        mean, low, high = (float(value) for value in attempt)
        exact, _ = corrected_mean(scores, 1 / (folds - 1))
        assert np.isclose(mean, exact.value), f"the mean of the scores is {exact.value:.4f}, not {mean:.4f}"
        naive, _ = corrected_mean(scores, 0.0)
        assert not np.isclose(high, naive.high), "this interval takes the splits for independent; add n_test / n_train"
        assert np.allclose((low, high), (exact.low, exact.high)), (
            f"from {low:.4f} to {high:.4f} is not the corrected interval: the quantile of t has {len(scores) - 1} "
            "degrees of freedom, the standard deviation ddof = 1, and n_test / n_train is 1 / (folds - 1)"
        )


def check_own_notes(predicted: pd.DataFrame) -> None:
    """Look at predictions of new notes: a table as `predict_table` returns it."""
    assert isinstance(predicted, pd.DataFrame), "give the table that predict_table returns"
    assert {"note", "prediction", "probability"} <= set(predicted), "the table has no note, prediction or probability"
    assert len(predicted) >= FEWEST_NOTES, f"write at least {FEWEST_NOTES} notes, not {len(predicted)}"
    known = set(read_table(HOTEL_NOTES).note.dropna().str.casefold().str.split().str.join(" "))
    again = [note for note in predicted.note if " ".join(str(note).casefold().split()) in known]
    assert not again, f"the note {again[0]!r} stands in the table that the model was trained on"
    sums: Sequence[float] = predicted.filter(like="probability ").sum(axis=1).tolist()
    assert np.allclose(sums, 1), "the probabilities of the desks do not sum to 1: do not change them"


EXERCISES: dict[str, Checker] = {
    "contradictions": check_contradictions,
    "leaking-groups": check_leaking_groups,
    "interval-over-folds": check_interval_over_folds,
    "notes-of-your-own": check_own_notes,
}
