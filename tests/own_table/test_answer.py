"""Statistics against closed forms and simulation; what is recommended follows from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from own_table.tables import tickets
from scipy import stats

from finetune_reg.experiment.records import RunRecord
from finetune_reg.own_table.answer import (
    calibrate,
    corrected_mean,
    find_suspects,
    judge_methods,
    last_doubling,
    recommend,
)
from finetune_reg.own_table.candidates import CANDIDATES, TRIES
from finetune_reg.own_table.planning import Plan
from finetune_reg.own_table.runs import SplitRuns
from finetune_reg.own_table.selection import select_rows

TABLE = select_rows(tickets().astype(object), ["ticket"], "queue")
PLAN = Plan(list(CANDIDATES[:3]), 5, 2, TRIES[:1], 1.0, [])
TESTS = [list(range(24 * (s % 5), 24 * (s % 5) + 24)) for s in range(10)]


def record(score: float | None, logits=(), below: bool = False) -> RunRecord:
    history = [{"epoch": 1, "macro_f1": score, "accuracy": score, "constant_prediction": False}]
    status = "diverged" if score is None else "ok"
    return RunRecord(
        "x",
        {},
        status,
        "macro_f1",
        score,
        score,
        below,
        0.2,
        history,
        logits=np.array(logits).tolist(),
        wall_seconds=1.0,
    )


def runs_of(scores: dict[str, np.ndarray], **options) -> SplitRuns:
    records = {
        title: {s: record(None if math.isnan(x) else float(x), **options) for s, x in enumerate(values)}
        for title, values in scores.items()
    }
    return SplitRuns(records, {}, {title: {TRIES[0]: 0.0} for title in scores})


def test_the_interval_is_that_of_nadeau_and_bengio():
    values = np.array([0.1, 0.2, 0.4, 0.3, 0.15])
    estimate, p_value = corrected_mean(values, 0.25)
    error = math.sqrt((1 / 5 + 0.25) * values.var(ddof=1))
    assert estimate.value == pytest.approx(0.23)
    assert estimate.high - estimate.value == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert p_value == pytest.approx(2 * stats.t.sf(0.23 / error, 4))
    plain = stats.ttest_1samp(values, 0.0)
    assert corrected_mean(values, 0.0)[1] == pytest.approx(plain.pvalue)
    assert corrected_mean(np.full(5, 0.3), 0.25) == (estimate.__class__(0.3, 0.3, 0.3), 0.0)


def test_vanilla_is_kept_unless_another_method_is_better_beyond_chance():
    draw = np.random.default_rng(0)
    vanilla = 0.7 + 0.05 * draw.standard_normal(10)
    noise = 0.01 * draw.standard_normal((2, 10))
    same = judge_methods(
        PLAN, runs_of({"vanilla": vanilla, "head only": vanilla + noise[0], "mixout": vanilla + noise[1]})
    )
    best, sentence = recommend(same)
    assert best.candidate.title == "vanilla"
    assert sentence.startswith("Keep vanilla: no method differs beyond chance")
    better = judge_methods(
        PLAN, runs_of({"vanilla": vanilla, "head only": vanilla - 0.2 + noise[0], "mixout": vanilla + 0.1 + noise[1]})
    )
    best, sentence = recommend(better)
    assert best.candidate.title == "mixout"
    assert sentence.startswith("Use mixout: it scores +")
    assert better[1].difference.value < -0.1
    assert better[0].difference is None
    certain = judge_methods(PLAN, runs_of({c.title: np.array([1.0, 0.9] * 5) for c in PLAN.candidates}))
    assert certain[0].score.high == 1.0


def test_a_diverged_run_counts_as_the_best_constant_answer_and_failures_forbid_a_model():
    scores = {"vanilla": np.array([0.7] * 9 + [np.nan]), "head only": np.full(10, 0.7), "mixout": np.full(10, 0.7)}
    vanilla = judge_methods(PLAN, runs_of(scores))[0]
    assert vanilla.scores[-1] == 0.2
    failed = judge_methods(PLAN, runs_of({title: np.full(10, 0.2) for title in scores}, below=True))
    assert recommend(failed)[1].startswith("Do not use a model yet")


def test_the_last_doubling_is_compared_split_by_split():
    scores = np.array([[0.1, 0.1, 0.1, 0.1, 0.1], [0.6, 0.6, 0.6, 0.62, 0.58], [0.7, 0.7, 0.71, 0.69, 0.7]])
    gained = last_doubling(PLAN, scores)
    assert gained.value == pytest.approx(0.1)
    assert gained.low < 0.1 < gained.high < 0.2
    assert last_doubling(PLAN, scores[:1]) is None


def test_the_temperature_is_that_by_which_the_logits_were_stretched():
    draw = np.random.default_rng(1)
    table = select_rows(tickets(3000, wrong=0).astype(object), ["ticket"], "queue")
    logits = draw.gumbel(size=(3000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table.rows["label"] = [draw.choice(3, p=row) for row in probabilities]
    found = calibrate(table, {0: record(0.5, 4 * logits)}, [list(range(3000))])
    assert found.temperature == pytest.approx(4, rel=0.1)
    assert found.error > 0.15
    assert found.error_scaled < 0.04
    assert calibrate(table, {0: record(None)}, [list(range(3000))]) is None


def test_rows_that_every_run_gets_wrong_are_found_the_surest_first():
    truth = TABLE.rows.label.to_numpy()
    answered = np.eye(3)[truth] * 2.0
    answered[7], answered[30], answered[31] = np.eye(3)[(truth[7] + 1) % 3], 5 * np.eye(3)[(truth[30] + 1) % 3], 0
    right = np.eye(3)[truth]
    records = {
        title: {
            s: record(0.5, (right if title == "mixout" and s > 4 else answered)[TESTS[s]] + 1e-6) for s in range(10)
        }
        for title in ("vanilla", "head only", "mixout")
    }
    assert find_suspects(TABLE, SplitRuns(records, {}, {}), TESTS) == []
    for s in range(5, 10):
        records["mixout"][s] = records["vanilla"][s]
    suspects = find_suspects(TABLE, SplitRuns(records, {}, {}), TESTS)
    found = [suspect.row for suspect in suspects]
    assert found[:2] == [30, 7]
    assert set(found) <= {30, 7, 31}
    assert suspects[0].n_runs == 6
    assert suspects[0].label == TABLE.task.label_names[truth[30]]
