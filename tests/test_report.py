"""Records -> table -> summary -> page."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from finetune_reg.errors import InputError
from finetune_reg.experiment import RunSettings, run
from finetune_reg.plotting import plot_learning_curves, scores_figure
from finetune_reg.report import write_report
from finetune_reg.results import collect, load_results, method_label, summary_table


@pytest.fixture(scope="module")
def folder(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    base = RunSettings(n_train=16, epochs=2, batch_size=8, task="rte", **tiny_world)
    diverging = replace(base, learning_rate=1e30, max_grad_norm=1e30, epochs=20, seed_init=9)
    for settings in (
        *(base.with_seed(seed) for seed in range(3)),
        *(replace(base, method="mixout", method_hyperparameters={}).with_seed(seed) for seed in range(3)),
        replace(base, task="stsb"),
        diverging,
    ):
        run(settings, folder)
    return folder


def test_the_table_has_a_row_per_run_and_survives_parquet(folder, tmp_path):
    table = collect(folder, tmp_path / "results.parquet")
    assert len(table) == 8
    pd.testing.assert_frame_equal(load_results(tmp_path / "results.parquet"), load_results(folder))


def test_the_summary_counts_seeds_and_failures_and_compares_equal_seeds(folder):
    summary = summary_table(collect(folder)).set_index(["task", "epochs", "method"])
    vanilla = summary.loc[("rte", 2, "Vanilla()")]
    mixout = summary.loc[("rte", 2, "Mixout(mix_probability=0.7)")]
    diverged = summary.loc[("rte", 20, "Vanilla()")]
    assert (vanilla.n, mixout.n, mixout.paired_n) == (3, 3, 3)
    assert mixout.paired_difference == pytest.approx(mixout["mean"] - vanilla["mean"])
    assert pd.isna(vanilla.paired_difference)
    assert (diverged.n, diverged.failed) == (0, 1)


def test_runs_that_differ_in_any_setting_are_not_pooled(tiny_world, tmp_path):
    base = RunSettings(n_train=16, epochs=1, task="rte", **tiny_world)
    for changes in ({}, {"batch_size": 8}, {"weight_decay": 0.1}, {"seed_subset": 1}):
        run(replace(base, **changes), tmp_path)
    summary = summary_table(collect(tmp_path))
    assert summary.n.tolist() == [1, 1, 1, 1]


def test_runs_are_paired_by_all_their_seeds(tiny_world, tmp_path):
    base = RunSettings(n_train=16, epochs=1, task="rte", **tiny_world)
    run(base, tmp_path)
    run(replace(base, method="mixout", method_hyperparameters={}, seed_order=1), tmp_path)
    assert "paired_n" not in summary_table(collect(tmp_path))


def test_the_page_has_the_table_and_the_figure(folder):
    page, tables = write_report(folder)
    text = page.read_text()
    (rows,) = tables.values()
    assert ["rte (accuracy)", "Mixout(mix_probability=0.7)", "3"] in [row[:3] for row in rows]
    assert all(f"| {' | '.join(row)} |" in text for row in rows)
    (figure,) = page.parent.glob("scores_*.png")
    assert f"({figure.name})" in text
    assert figure.stat().st_size > 5_000


def test_figures_label_every_axis(folder):
    table = collect(folder)
    figure = scores_figure(table)
    assert [axes.get_xlabel() for axes in figure.axes] == ["accuracy", "Spearman correlation"]
    _, axes = plt.subplots()
    plot_learning_curves(table[table.task == "rte"], axes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy")
    plt.close("all")


def test_labels_say_what_differs_from_the_default():
    assert method_label("vanilla", {"dropout": None}) == "Vanilla()"
    assert method_label("vanilla", {"dropout": 0.0}) == "Vanilla(dropout=0.0)"
    label = method_label("mixout", {"mix_probability": 0.9, "scope": "all_linear", "rescale_gradient": True})
    assert label == "Mixout(mix_probability=0.9, scope=all_linear)"
    members = [{"method": "mixout", "mix_probability": 0.7}, {"method": "l2_sp", "pretrained_strength": 0.1}]
    expected = "Mixout(mix_probability=0.7) + L2SP(pretrained_strength=0.1)"
    assert method_label("combination", {"members": members}) == expected


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run records"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="neither"):
        load_results(tmp_path / "missing.parquet")
