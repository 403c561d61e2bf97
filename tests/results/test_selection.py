"""Choosing on held-out folds."""

from __future__ import annotations

import pytest
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.results.run_tables import results_table, summary_table
from finetune_reg.results.selection import rank_candidates, runs_as_chosen

SCORES = {1e-4: {"rte": [0.5, 0.6], "mrpc": [0.9, 0.8]}, 2e-4: {"rte": [0.7, 0.6], "mrpc": [0.7, 0.9]}}


def held_out_runs(method: str = "vanilla", gain: float = 0.0, **settings):
    return [
        recorded_run(task, method, score=score + gain, held_out_fold=fold, learning_rate=rate, **settings)
        for rate, by_task in SCORES.items()
        for task, scores in by_task.items()
        for fold, score in enumerate(scores)
    ]


def test_the_mean_over_folds_and_tasks_chooses_for_each_method():
    ranked = rank_candidates(results_table([*held_out_runs(), *held_out_runs("mixout", gain=0.05)]))
    assert ranked["mean"].tolist() == pytest.approx([77.5, 75.0, 72.5, 70.0])
    assert ranked.method.tolist() == ["mixout", "mixout", "vanilla", "vanilla"]
    assert ranked.learning_rate.tolist() == [2e-4, 1e-4, 2e-4, 1e-4]
    assert ranked.chosen.tolist() == [True, False, True, False]
    assert ranked.rte.tolist() == pytest.approx([70.0, 60.0, 65.0, 55.0])
    assert set(ranked.runs) == {2}


def test_a_diverged_run_counts_as_the_constant_prediction():
    runs = [run for run in held_out_runs() if run.settings["task"] == "rte" and run.settings["learning_rate"] == 1e-4]
    diverged = recorded_run("rte", score=None, status="diverged", held_out_fold=1, learning_rate=1e-4)
    ranked = rank_candidates(results_table([runs[0], diverged]))
    assert ranked["mean"].tolist() == pytest.approx([50.0])


def test_runs_on_the_development_set_choose_nothing():
    on_development_set = recorded_run("rte", score=0.99, learning_rate=1e-4)
    ranked = rank_candidates(results_table([*held_out_runs(), on_development_set]))
    assert ranked["mean"].max() == pytest.approx(72.5)
    with pytest.raises(InputError, match="it does not choose"):
        rank_candidates(results_table([on_development_set]))


def test_a_missing_fold_is_named():
    runs = [run for run in held_out_runs() if run.settings != held_out_runs()[3].settings]
    with pytest.raises(InputError, match=r"learning_rate 0.0001 was not run on fold 1 of mrpc"):
        rank_candidates(results_table(runs))


def test_vanilla_without_dropout_is_chosen_beside_vanilla():
    control = held_out_runs(gain=0.1, method_hyperparameters={"dropout": 0.0})
    ranked = rank_candidates(results_table([*held_out_runs(), *control]))
    assert ranked[ranked.chosen].method_label.tolist() == ["Vanilla(dropout=0.0)", "Vanilla()"]


def test_methods_are_compared_each_at_its_own_choice():
    slow = {1e-4: 0.3, 2e-4: -0.3}
    mixout = [
        recorded_run(task, "mixout", score=0.5 + slow[rate], held_out_fold=fold, learning_rate=rate)
        for rate, by_task in SCORES.items()
        for task in by_task
        for fold in (0, 1)
    ]
    held_out = results_table([*held_out_runs(), *mixout])
    chosen, others = {"vanilla": 2e-4, "mixout": 1e-4}, {"vanilla": 1e-4, "mixout": 2e-4}
    reported = [
        *(recorded_run("rte", name, seed, 0.70, learning_rate=chosen[name]) for name in chosen for seed in range(3)),
        *(recorded_run("rte", name, seed, 0.99, learning_rate=others[name]) for name in others for seed in range(3)),
        *(recorded_run("rte", "vanilla", seed, 0.99, learning_rate=2e-4, epochs=99) for seed in range(3)),
        recorded_run("sst2", "vanilla", 0, 0.99, learning_rate=2e-4),
    ]
    runs = runs_as_chosen(results_table([*reported, *held_out_runs()]), held_out)
    assert set(runs.run_id) == {run.run_id for run in reported[:6]}
    summary = summary_table(runs).set_index("method_name")
    assert summary.n.to_dict() == {"vanilla": 3, "mixout": 3}
    assert summary.paired_n["mixout"] == 3
    assert set(summary.learning_rate) == {"chosen"}
