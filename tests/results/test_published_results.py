"""The table of published figures: its columns, units and ranges, and what its rows must have in common."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from finetune_reg.errors import InputError
from finetune_reg.methods import METHODS
from finetune_reg.results.published_results import COLUMNS, PUBLISHED_RESULTS, load_published_results
from finetune_reg.tasks.task_table import TASKS

ROWS_PER_PAPER = {
    "aghajanyan2021r3f": 88,
    "jiang2020smart": 399,
    "lee2020mixout": 502,
    "liang2021rdrop": 54,
    "mosbach2021stability": 36,
    "rdrop_issue30": 3,
    "sharma2024guided": 28,
    "somayajula2024agwm": 20,
    "wu2022noisytune": 80,
    "xu2021childtuning": 32,
    "yuan2023hype": 165,
    "zhang2021fewsample": 9,
    "zhang2022dps": 5,
    "zhu2020freelb": 100,
}
OTHER_TASKS = {
    "anli", "anli_r1", "anli_r2", "anli_r3", "average_cola_mrpc_rte_stsb", "average_glue", "average_glue8",
    "average_glue9", "average_unknown_tasks", "emnist_digits", "glue_diagnostic", "masked_language_modelling",
    "mnist", "mnli_mismatched", "",
}  # fmt: skip
POINTS = ("points", 0.0, 100.0)
CORRELATION = ("points", -100.0, 100.0)
RANGES = {
    "accuracy": POINTS,
    "f1": POINTS,
    "average": POINTS,
    "matthews": CORRELATION,
    "pearson": CORRELATION,
    "spearman": CORRELATION,
    "correlation": CORRELATION,
    "pearson_spearman_mean": CORRELATION,
    "average_difference": ("points", -100.0, 100.0),
    "cross_entropy": ("nats", 0.0, 10.0),
    "masked_language_model_loss": ("nats", 0.0, 100.0),
    "squared_distance": ("squared norm", 0.0, 10.0),
    "run_time": ("seconds", 1.0, 1e5),
    "memory": ("gigabytes", 1.0, 100.0),
    "cost_ratio": ("ratio", 1.0, 100.0),
}
SAME_RUNS = ["paper", "table", "split", "model", "method", "task", "setting", "metric", "n_train"]


@pytest.fixture(scope="module")
def figures() -> pd.DataFrame:
    return load_published_results()


def test_every_figure_has_its_own_key_a_source_and_a_value(figures):
    assert figures.index.name == "key"
    assert list(figures.columns) == list(COLUMNS)[1:]
    assert figures.index.is_unique
    assert all(re.fullmatch(r"[a-z0-9._/-]+", key) for key in figures.index)
    assert all(key.startswith(f"{paper}/") for key, paper in figures.paper.items())
    assert (figures.source != "").all()
    assert (figures.table != "").all()
    assert figures.value.notna().all()
    assert set(figures["read"]) == {"read", "second_hand", "digitized"}


def test_texts_numbers_and_missing_numbers_keep_their_types(figures):
    assert figures.value.dtype == float
    assert str(figures.n_train.dtype) == str(figures.n_runs.dtype) == "Int64"
    assert figures.n_train.isna().any()
    assert all(isinstance(text, str) for text in figures.note)
    assert (figures.n_train.dropna() > 0).all()
    assert (figures.n_runs.dropna() > 1).all()


def test_each_paper_has_its_figures(figures):
    assert figures.paper.value_counts().to_dict() == ROWS_PER_PAPER


def test_no_figure_is_there_twice(figures):
    assert not figures.duplicated([*SAME_RUNS, "statistic"]).any()


def test_methods_tasks_and_metrics_have_the_names_of_the_package(figures):
    assert set(figures.method_name) <= {*METHODS, ""}
    assert set(figures.task) <= {*TASKS, *OTHER_TASKS}
    assert set(figures.metric) == set(RANGES)
    on_our_tasks = figures[figures.task.isin(TASKS) & figures.metric.isin(["f1", "matthews", "pearson", "spearman"])]
    assert all(
        metric in TASKS[task].metrics for task, metric in zip(on_our_tasks.task, on_our_tasks.metric, strict=True)
    )


@pytest.mark.parametrize("metric", sorted(RANGES))
def test_values_have_the_unit_and_range_of_their_metric(figures, metric):
    unit, low, high = RANGES[metric]
    rows = figures[figures.metric == metric]
    failed = rows.statistic == "failed_fraction"
    assert set(rows.unit[failed]) <= {"percent"}
    assert set(rows.unit[~failed]) == {unit}
    assert rows.value[~failed].between(low, high).all()
    assert rows.value[failed].between(0, 100).all()
    assert rows.value[rows.statistic == "std"].between(0, 50).all()


def test_failed_runs_are_whole_runs(figures):
    failed = figures[(figures.statistic == "failed_fraction") & (figures.paper == "lee2020mixout")]
    runs = failed.value * failed.n_runs.astype(float) / 100
    assert len(failed) > 50
    assert runs.to_numpy() == pytest.approx(runs.round().to_numpy())


def test_statistics_of_the_same_runs_fit_together(figures):
    together = figures.assign(n_train=figures.n_train.fillna(-1)).pivot(
        index=SAME_RUNS, columns="statistic", values="value"
    )
    rounding = 0.051
    for smaller, larger in [("min", "mean"), ("min", "median"), ("mean", "max"), ("median", "max"), ("min", "max")]:
        both = together[[smaller, larger]].dropna()
        assert len(both) > 10
        assert (both[smaller] <= both[larger] + rounding).all()
    ranges = together[["min", "max", "std"]].dropna()
    assert (ranges["std"] <= (ranges["max"] - ranges["min"]) / 2 + rounding).all()  # these are population deviations


def test_averages_are_those_of_their_tasks(figures):
    means = figures[(figures.statistic == "mean") & (figures.paper == "yuan2023hype") & (figures.setting == "")]
    by_task = means[means.table.isin(["Table 1", "Table 5"])].pivot(
        index=["table", "model", "method"], columns="task", values="value"
    )
    assert len(by_task) == 11
    average = by_task[["cola", "mrpc", "rte", "stsb"]].mean(axis=1)
    assert average.to_numpy() == pytest.approx(by_task.average_cola_mrpc_rte_stsb.to_numpy(), abs=0.011)


def test_figures_known_from_the_papers_are_there(figures):
    mixout = "lee2020mixout/table-1/bert-large-uncased/mixout-w_pre-0.9/rte/accuracy"
    assert figures.loc[f"{mixout}/mean"].value == 64.3
    assert figures.loc[f"{mixout}/mean"].n_runs == 20
    assert figures.loc[f"{mixout}/max"].method_name == "mixout"
    average = "average_cola_mrpc_rte_stsb/average"
    dps = figures.loc[f"somayajula2024agwm/main-table/bert-large/dps-dense/{average}/mean"]
    assert (dps.value, dps["read"]) == (80.03, "second_hand")
    smart = figures.loc["jiang2020smart/table-1/bert-base/smart/rte/accuracy/max"]
    assert (smart.value, smart.n_train, smart.split) == (71.2, 2490, "dev")


def test_other_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match="no table of published figures"):
        load_published_results(tmp_path / "missing.csv")
    other = tmp_path / "other.csv"
    other.write_text(PUBLISHED_RESULTS.read_text().replace("n_runs", "runs", 1))
    with pytest.raises(InputError, match="it needs the columns key, paper"):
        load_published_results(other)
