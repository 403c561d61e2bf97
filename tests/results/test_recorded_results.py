"""The records that ship with the project: made by the plans that ship with it, chosen as they say."""

from __future__ import annotations

import runpy

import pytest

from finetune_reg.paths import ROOT
from finetune_reg.results.run_tables import load_results
from finetune_reg.results.selection import rank_candidates
from finetune_reg.sweep.plan import find_plan, read_plan

TABLES = {path.stem: path for path in (ROOT / "data" / "results").glob("*.parquet")}
TABLES |= {f"{path.stem}_selection": path for path in (ROOT / "data" / "selection").glob("*.parquet")}
EQUAL_BUDGET = find_plan("equal-budget")
TOY_TABLES = {path.stem: path for path in (ROOT / "data" / "results" / "toy").glob("*.parquet")}
PAGES = {"results_tables": "results.md", "toy_costs": "toy_costs.md"}


@pytest.mark.parametrize("script", PAGES)
def test_the_pages_have_the_tables_of_the_records(script, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"))["TABLES"]
    page = (ROOT / "docs" / PAGES[script]).read_text()
    assert [table.__name__ for table in tables if table() not in page] == []


@pytest.mark.parametrize("table", sorted(TOY_TABLES))
def test_every_recorded_run_of_the_toy_belongs_to_its_plan(table):
    scale = "pocket" if table.startswith("equal-budget") else None
    plan = read_plan(find_plan(table.removesuffix("-pocket")), scale)
    assert set(load_results(TOY_TABLES[table]).run_id) <= {run_id for notebook in plan for run_id in notebook.run_ids}


def test_rates_at_equal_cost_are_those_chosen_on_held_out_rows_among_as_many_tries():
    held_out = load_results(TOY_TABLES["equal-budget-selection-pocket"])
    planned = {(run.label, run.settings[0].epochs): run.settings[0] for run in read_plan(EQUAL_BUDGET, "pocket")}
    searched = dict(list(held_out.groupby(["method_label", "epochs"])))
    assert set(planned) <= set(searched)
    for budget, settings in planned.items():
        runs = searched[budget]
        assert settings.learning_rate == rank_candidates(runs).learning_rate.iloc[0]
        assert (len(runs), runs.learning_rate.nunique()) == (12, 3)


@pytest.mark.parametrize("plan", sorted(TABLES))
def test_every_recorded_run_belongs_to_its_plan(plan):
    planned = {run_id for notebook in read_plan(find_plan(plan)) for run_id in notebook.run_ids}
    recorded = load_results(TABLES[plan]).run_id
    assert set(recorded) <= planned
    assert recorded.is_unique
    if plan.endswith("selection"):
        assert set(recorded) == planned


def test_epochs_and_learning_rates_are_those_chosen_on_held_out_folds():
    selection = load_results(TABLES["glue300_minilm_selection"])
    settings = [notebook.settings[0] for notebook in read_plan(find_plan("glue300_minilm"))]
    for task, runs in selection.groupby("task"):
        chosen = rank_candidates(runs).iloc[0]
        planned = {(s.learning_rate, s.epochs) for s in settings if s.task == task}
        assert planned == {(chosen.learning_rate, chosen.epochs)}


@pytest.mark.parametrize(("task", "stem"), [("sst2", "glue300_minilm"), ("stsb", "glue300_minilm_stsb")])
def test_tuned_methods_have_the_rate_and_strength_chosen_on_held_out_folds(task, stem):
    ranked = rank_candidates(load_results(TABLES[f"{stem}_tuning_selection"]))
    chosen = set(ranked[ranked.chosen][["method_label", "learning_rate"]].itertuples(index=False, name=None))
    tuned = {(run.label, run.settings[0].learning_rate) for run in read_plan(find_plan(f"{stem}_tuned"))}
    assert tuned == {(label, rate) for label, rate in chosen if rate != 1e-4}
    ordinary = read_plan(find_plan("glue300_minilm"))
    at_the_shared_rate = {
        (run.label, run.settings[0].learning_rate) for run in ordinary if run.settings[0].task == task
    }
    assert chosen - tuned <= at_the_shared_rate
