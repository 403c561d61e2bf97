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
PAGE_TABLES = runpy.run_path(str(ROOT / "benchmarks" / "results_tables.py"))["TABLES"]


@pytest.mark.parametrize("table", PAGE_TABLES, ids=lambda table: table.__name__)
def test_the_results_have_the_numbers_of_the_records(table):
    assert table() in (ROOT / "docs" / "results.md").read_text()


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
