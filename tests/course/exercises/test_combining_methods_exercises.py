from __future__ import annotations

import math

import numpy as np
import pandas as pd
from exercise_attempts import right_attempts, unattempted, wrong_attempts
from scipy import stats

from finetune_reg.course.exercises.combining_methods import CELLS, EXERCISES

STAGES = ["initialization", "preparation", "search", "reference"]
SCORES = {
    "neither": [0.85, 0.86, 0.84],
    "L2-SP": [0.85, 0.85, 0.86],
    "Mixout": [0.82, 0.86, 0.85],
    "both": [0.84, 0.86, 0.83],
}


def combined_probability(p, alpha, m):
    odds = p / (1 - p) + alpha / m
    return odds / (1 + odds)


def stage(method):
    return STAGES.index(method.setup_stage)


def interval(per_seed, ddof=1):
    per_seed = np.asarray(per_seed)
    n = len(per_seed)
    margin = stats.t.ppf(0.975, n - 1) * per_seed.std(ddof=ddof) / math.sqrt(n)
    return per_seed.mean(), per_seed.mean() - margin, per_seed.mean() + margin


def per_seed(neither, a, b, both):
    return np.array(both) - np.array(a) - np.array(b) + np.array(neither)


def unpaired(*cells):
    mean = per_seed(*cells).mean()
    margin = stats.t.ppf(0.975, len(cells[0]) - 1) * math.sqrt(sum(np.var(c, ddof=1) for c in cells) / len(cells[0]))
    return mean, mean - margin, mean + margin


def runs(scores=SCORES, learning_rate=3e-4):
    rows = [(cell, seed, score) for cell, values in scores.items() for seed, score in enumerate(values)]
    return pd.DataFrame(rows, columns=["method_label", "seed_init", "score"]).assign(learning_rate=learning_rate)


def answer(table=None, **changes):
    mean, low, high = interval(per_seed(*(SCORES[cell] for cell in ("neither", "Mixout", "L2-SP", "both"))))
    return {"runs": runs() if table is None else table, "interaction": mean, "low": low, "high": high} | changes


test_the_right_attempt_passes = right_attempts(
    [
        ("combined-pull", combined_probability),
        ("arrange-members", lambda methods: sorted(methods, key=stage)),
        ("interaction", lambda *cells: interval(per_seed(*cells))),
        ("interaction-at-a-gentle-rate", answer()),
    ]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("combined-pull", lambda p, alpha, m: p + alpha, "no probability below 1"),
        ("combined-pull", lambda p, alpha, m: p, "makes the pull stronger"),
        ("combined-pull", lambda p, alpha, m: combined_probability(p, alpha, 1.0), "together pull with"),
        ("arrange-members", lambda methods: methods.sort(key=stage), "sorting in place returns None"),
        ("arrange-members", lambda methods: methods, "must stand before"),
        ("arrange-members", lambda methods: sorted(methods, key=stage, reverse=True), "must stand before"),
        ("arrange-members", lambda methods: sorted(methods, key=stage)[1:], "does not hold the same methods"),
        ("arrange-members", lambda methods: sorted(methods[::-1], key=stage), "changed places"),
        ("interaction", lambda *cells: interval(-per_seed(*cells)), "the sign is turned"),
        ("interaction", lambda neither, a, b, both: interval(np.subtract(both, neither)), "this is the gain of both"),
        ("interaction", lambda neither, a, b, both: interval(np.subtract(both, a)), "use all four settings"),
        ("interaction", lambda *cells: interval(per_seed(*cells), ddof=0), "ddof = 1"),
        ("interaction", unpaired, "is not the t interval"),
        ("interaction", lambda *cells: per_seed(*cells).mean(), "return mean, low and high"),
        ("interaction-at-a-gentle-rate", 0.0, "give a dictionary"),
        ("interaction-at-a-gentle-rate", answer(runs(learning_rate=2e-3)), "at the learning rate 3e-4"),
        ("interaction-at-a-gentle-rate", answer(runs({c: SCORES[c] for c in CELLS[:3]})), "with the label 'both'"),
        ("interaction-at-a-gentle-rate", answer(runs(SCORES | {"both": [0.8]})), "only 1 seeds"),
        ("interaction-at-a-gentle-rate", answer(interaction=-answer()["interaction"]), "seed by seed"),
    ]
)
test_stubs_are_not_attempted = unattempted(EXERCISES, answers=["interaction-at-a-gentle-rate"])
