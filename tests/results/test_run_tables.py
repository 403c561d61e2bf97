"""Records -> table -> summaries per setting, matrices, aggregates over tasks, published figures beside ours."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import write_record
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods import METHODS
from finetune_reg.results.comparable_runs import finished_runs
from finetune_reg.results.published_comparison import beside_published
from finetune_reg.results.restoring import restore
from finetune_reg.results.run_tables import (
    aggregate_table,
    by_recipe,
    collect,
    load_results,
    method_label,
    results_table,
    score_matrix,
    short_method_label,
    summary_table,
    with_best_epochs,
)
from finetune_reg.results.selection import rank_candidates

SCORES = {
    ("rte", "vanilla"): [0.50, 0.56, 0.58],
    ("rte", "mixout"): [0.60, 0.62, 0.70],
    ("stsb", "vanilla"): [0.80, 0.81, 0.85],
    ("stsb", "mixout"): [0.79, 0.82, 0.90],
}


@pytest.fixture
def table():
    return results_table(
        [
            recorded_run(task, method, seed, score)
            for (task, method), s in SCORES.items()
            for seed, score in enumerate(s)
        ]
    )


def test_the_table_has_a_row_per_run_and_survives_parquet(tmp_path):
    for seed in range(3):
        write_record(recorded_run(seed=seed), tmp_path)
    write_record(recorded_run(seed=9, score=None, status="diverged"), tmp_path)
    table = collect(tmp_path, tmp_path / "results.parquet")
    assert len(table) == 4
    pd.testing.assert_frame_equal(load_results(tmp_path / "results.parquet"), load_results(tmp_path))


def test_the_best_epoch_on_the_development_set_is_an_option_of_its_own():
    rose, fell = recorded_run(score=0.7), recorded_run(seed=1, score=0.4)
    fell.best_score = 0.65
    lost = recorded_run(seed=2, score=None, status="diverged")
    runs = with_best_epochs(last := results_table([rose, fell, lost]))
    assert list(last.score)[:2] == [0.7, 0.4]
    assert list(runs.score)[:2] == [0.7, 0.65]
    assert [list(table.below_majority) for table in (last, runs)] == [[False, True, True], [False, False, True]]
    (summary,) = summary_table(runs).itertuples()
    assert (summary.mean, summary.failed) == (pytest.approx(0.675), 1)


def test_the_summary_counts_seeds_and_failures_and_compares_equal_seeds(table):
    diverged = recorded_run(score=None, status="diverged", epochs=20)
    summary = summary_table(pd.concat([table, results_table([diverged])])).set_index(["task", "epochs", "method"])
    vanilla = summary.loc[("rte", 10, "Vanilla()")]
    mixout = summary.loc[("rte", 10, "Mixout(mix_probability=0.7)")]
    assert (vanilla.n, vanilla.failed, mixout.n, mixout.paired_n) == (3, 1, 3, 3)  # 0.50 is the best constant answer
    assert mixout.paired_difference == pytest.approx((0.10 + 0.06 + 0.12) / 3)
    assert pd.isna(vanilla.paired_difference)
    assert tuple(summary.loc[("rte", 20, "Vanilla()")][["n", "failed"]]) == (0, 1)


def test_p_values_are_corrected_for_all_comparisons_with_one_baseline(table):
    more = [recorded_run("rte", "dps_dense", seed, score) for seed, score in enumerate([0.60, 0.50, 0.70])]
    summary = summary_table(pd.concat([table, results_table(more)]))
    compared = summary[summary.paired_p_value.notna()].set_index(["task", "method_name"])
    p_values = {("rte", "mixout"): 0.25, ("rte", "dps_dense"): 0.5, ("stsb", "mixout"): 0.75}  # eighths
    assert compared.paired_p_value.to_dict() == pytest.approx(p_values)
    corrected = {("rte", "mixout"): 0.5, ("rte", "dps_dense"): 0.5, ("stsb", "mixout"): 0.75}
    assert compared.paired_holm.to_dict() == pytest.approx(corrected)
    assert "paired_holm" not in summary_table(table[table.method == "vanilla"])


def test_runs_that_differ_in_any_setting_are_not_pooled():
    changes = ({}, {"batch_size": 8}, {"weight_decay": 0.1}, {"seed_subset": 1})
    table = results_table([recorded_run(**change) for change in changes])
    assert summary_table(table).n.tolist() == [1, 1, 1, 1]
    headings = [heading for heading, runs in by_recipe(table) if len(runs) == 1]
    assert len(set(headings)) == 4
    assert "Model pocket, source pocket, batch_size 8, weight_decay 0.01, seed_subset 0" in headings


def test_runs_are_paired_by_all_their_seeds(tiny_world, tmp_path):
    base = RunSettings(n_train=16, epochs=1, task="rte", **tiny_world)
    run(base, tmp_path)
    run(replace(base, method="mixout", method_hyperparameters={}, seed_order=1), tmp_path)
    assert "paired_n" not in summary_table(collect(tmp_path))


def test_a_matrix_has_the_seeds_that_are_present_for_all_tasks(table):
    mixout = table[table.method == "mixout"]
    assert score_matrix(mixout).to_numpy().tolist() == [[0.60, 0.79], [0.62, 0.82], [0.70, 0.90]]
    matrix = score_matrix(mixout[(mixout.task != "stsb") | (mixout.seed_init != 1)])
    assert matrix.columns.tolist() == ["rte", "stsb"]
    assert matrix.index.get_level_values("seed_init").tolist() == [0, 2]


def test_a_diverged_run_counts_as_the_best_constant_prediction_and_a_failed_one_not_at_all():
    runs = [recorded_run(), recorded_run(seed=1, score=None, status="diverged")]
    runs.append(recorded_run(seed=2, score=None, status="failed", majority_score=None, forward_passes=None))
    assert score_matrix(results_table(runs)).rte.tolist() == [0.6, 0.5]


def test_a_matrix_of_several_methods_or_of_no_common_seed_is_refused(table):
    with pytest.raises(InputError, match="one method and recipe, not method_label"):
        score_matrix(table)
    vanilla = table[table.method == "vanilla"]
    with pytest.raises(InputError, match="same seeds on each task"):
        score_matrix(vanilla[(vanilla.task == "rte") == (vanilla.seed_init == 0)])


def test_aggregates_over_tasks_by_hand(table):
    vanilla, mixout = aggregate_table(table).itertuples()
    assert (vanilla.tasks, vanilla.runs, vanilla.mean_passes) == (2, 3, 200)
    assert vanilla.iqm == pytest.approx((0.56 + 0.58 + 0.80 + 0.81) / 4)
    assert math.isnan(vanilla.improvement)
    assert mixout.improvement == pytest.approx((9 / 9 + 5 / 9) / 2)
    assert mixout.improvement_low < mixout.improvement < mixout.improvement_high


def test_a_method_without_a_seed_on_all_its_tasks_is_left_out_of_aggregates(table):
    split = (table.method == "mixout") & ((table.task == "rte") == (table.seed_init == 0))
    aggregates = aggregate_table(table[(table.method == "vanilla") | split])
    assert aggregates.method.tolist() == ["Vanilla()"]
    assert aggregate_table(table[:0]).empty


@pytest.fixture
def published():
    same = {"paper": "lee2020mixout", "method_name": "mixout", "model": "pocket", "task": "rte", "metric": "accuracy"}
    figure = {**same, "n_train": 2490, "statistic": "mean", "value": 68.5, "source": "Table 1"}
    others = [{"statistic": "max", "value": 73.0}, {"model": "bert"}, {"task": "stsb"}, {"method_name": "smart"}]
    return pd.DataFrame([figure, *(figure | other for other in others)])


def test_published_figures_stand_beside_ours_of_the_same_method_task_metric_and_model(table, published):
    (row,) = beside_published(summary_table(table), published).itertuples()
    assert (row.task, row.method, row.mean) == ("rte", "Mixout(mix_probability=0.7)", pytest.approx(0.64))
    assert (row.published_mean, row.published_max, row.published_n_train) == (68.5, 73.0, 2490)
    assert math.isnan(row.published_std)
    assert row.published_source == "Table 1"
    elsewhere = published.assign(unit="points", split="test server")
    assert beside_published(summary_table(table), elsewhere).empty
    assert beside_published(summary_table(table), published[:0]).empty


def test_labels_say_what_differs_from_the_default():
    assert method_label("vanilla", {"dropout": None}) == "Vanilla()"
    assert method_label("vanilla", {"dropout": 0.0}) == "Vanilla(dropout=0.0)"
    label = method_label("mixout", {"mix_probability": 0.9, "scope": "all_linear", "rescale_gradient": True})
    assert label == "Mixout(mix_probability=0.9, scope=all_linear)"
    members = [{"method": "mixout", "mix_probability": 0.7}, {"method": "l2_sp", "pretrained_strength": 0.1}]
    expected = "Mixout(mix_probability=0.7) + L2SP(pretrained_strength=0.1)"
    assert method_label("combination", {"members": members}) == expected


def test_short_labels_leave_out_defaults_and_name_the_released_preset():
    smart = METHODS["smart"]
    assert short_method_label("smart", smart().hyperparameters) == "SMART()"
    assert short_method_label("smart", smart.official().hyperparameters) == "SMART.official()"
    assert short_method_label("sam", METHODS["sam"].official().hyperparameters) == "SAM()"  # the same as the default
    assert short_method_label("vanilla", {"dropout": 0.0}) == "Vanilla(dropout=0.0)"
    guided = METHODS["guided_dropout"](scores={"embeddings": 1.0}).hyperparameters
    assert short_method_label("guided_dropout", guided) == "GuidedDropout(scores=...)"
    members = [{"method": "mixout", "mix_probability": 0.9}, {"method": "l2_sp", "pretrained_strength": 0.1}]
    assert short_method_label("combination", {"members": members}) == "Mixout(mix_probability=0.9) + L2SP()"


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run records"):
        collect(tmp_path)
    with pytest.raises(InputError, match="neither"):
        load_results(tmp_path / "missing.parquet")


def test_a_table_restores_the_records_it_was_made_of(tmp_path):
    records = [
        recorded_run(seed=0, n_train=None, evaluate_on=["mrpc"]),
        recorded_run(seed=1, score=None, status="failed", majority_score=None, forward_passes=None),
        recorded_run(seed=2, method="mixout", held_out_fold=3),
    ]
    table = results_table(records)
    table.to_parquet(tmp_path / "table.parquet")
    restored = restore(load_results(tmp_path / "table.parquet"), tmp_path / "restored")
    assert {record.run_id: record for record in restored} == {record.run_id: record for record in records}
    pd.testing.assert_frame_equal(collect(tmp_path / "restored"), table)
    assert restore(table, tmp_path / "restored") == restored


def test_tables_from_before_a_setting_existed_get_its_default(tmp_path):
    table = results_table([recorded_run()])
    table.drop(columns=["held_out_fold", "evaluate_on", "split"]).to_parquet(tmp_path / "old.parquet")
    old = load_results(tmp_path / "old.parquet")
    assert old[["held_out_fold", "evaluate_on", "split"]].values.tolist() == [[None, "[]", "official"]]


def test_settings_that_single_records_lack_get_their_defaults(tmp_path):
    table = results_table([recorded_run(), recorded_run("stsb", n_train=None)])
    table.assign(precision=["float32", None]).to_parquet(tmp_path / "mixed.parquet")
    pd.testing.assert_frame_equal(load_results(tmp_path / "mixed.parquet"), table, check_dtype=False)


def test_a_repeated_run_counts_once(table):
    twice = pd.concat([table, table.iloc[:3].assign(wall_seconds=1.0)])
    pd.testing.assert_frame_equal(summary_table(twice), summary_table(table))
    pd.testing.assert_frame_equal(aggregate_table(twice), aggregate_table(table))
    with pytest.raises(InputError, match=f"different results of the run {table.run_id[0]}"):
        summary_table(pd.concat([table, table.iloc[:1].assign(score=0.99)]))


@pytest.mark.parametrize("compare", [summary_table, aggregate_table, finished_runs, rank_candidates])
def test_runs_of_other_rows_or_weights_under_one_name_are_not_compared(compare):
    fold = {"held_out_fold": 0} if compare is rank_candidates else {}
    ours, theirs = recorded_run(**fold), recorded_run(method="mixout", **fold)
    assert len(compare(results_table([ours, theirs]))) == 2
    for changes, what in (
        ({"subset": ours.subset | {"content_hash": "another"}}, "training rows"),
        ({"weights_hash": "another"}, "pretrained weights"),
    ):
        with pytest.raises(InputError, match=f"{theirs.run_id} of rte were made with different {what}"):
            compare(results_table([ours, replace(theirs, **changes)]))


def test_mappings_are_written_short_and_told_apart():
    first, second = (method_label("guided_dropout", {"scores": {"embeddings": score}}) for score in (1.0, 2.0))
    assert first.startswith("GuidedDropout(scores=<1 values, ")
    assert first != second
