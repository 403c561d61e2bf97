"""Splits keep units together; a plan fits into its budget, and says what it can show."""

from __future__ import annotations

import json

import numpy as np
import pytest
from own_table.tables import tickets

from finetune_reg.errors import InputError
from finetune_reg.methods import build_method
from finetune_reg.own_table.candidates import CANDIDATES, chosen_candidates, tried_rate
from finetune_reg.own_table.commands import read_minutes
from finetune_reg.own_table.duplicates import find_duplicates
from finetune_reg.own_table.planning import DESIGNS, Plan, Timing, choose_plan
from finetune_reg.own_table.selection import select_rows
from finetune_reg.own_table.splitting import make_splits, write_task
from finetune_reg.tasks import load_task

EQUAL = Timing({candidate.title: 0.1 for candidate in CANDIDATES}, 0.001)


def table(**options):
    return select_rows(tickets().astype(object), ["ticket"], "queue", name="tickets", **options)


def test_each_row_is_tested_once_a_repetition_and_classes_keep_their_shares():
    found = table()
    splits = make_splits(found, np.arange(120), folds=5, repeats=2)
    assert len(splits) == 10
    for repeat in (splits[:5], splits[5:]):
        assert sorted(row for split in repeat for row in split["test"]) == list(range(120))
    assert splits[0]["test"] != splits[5]["test"]
    for split in splits:
        assert set(split["train"]) | set(split["test"]) == set(range(120))
        assert all(set(part) < set(split["train"]) for part in split["held_out"])
        assert len({row for part in split["held_out"] for row in part}) == len(split["train"])
        counts = np.bincount(found.rows.label[split["test"]])
        assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("scores", [False, True])
def test_rows_of_a_unit_stay_on_one_side_inside_the_training_rows_too(scores):
    label = {"label": "minutes", "scores": True} if scores else {"label": "queue"}
    found = select_rows(tickets().astype(object), ["ticket"], group="customer", **label)
    units = find_duplicates(found).units
    for split in make_splits(found, units, folds=3, repeats=1):
        assert not set(units[split["train"]]) & set(units[split["test"]])
        for part in split["held_out"]:
            inside = [row for row in split["train"] if row not in set(part)]
            assert not set(units[part]) & set(units[inside])


def test_groups_that_leave_no_split_are_refused():
    units = find_duplicates(table()).units
    with pytest.raises(InputError, match="belong to 2 groups or texts, too few for 3 folds"):
        make_splits(table(), np.arange(120) % 2, folds=3, repeats=1)
    with pytest.raises(InputError, match=r"too few for 5 folds|without the class"):
        make_splits(table(), table().rows.label.to_numpy() * 3 + units % 2, folds=3, repeats=1)


def test_a_written_task_is_loaded_split_by_split(tmp_path):
    found = table()
    splits = make_splits(found, np.arange(120), folds=3, repeats=1)
    write_task(found, splits, tmp_path / "tickets")
    loaded = load_task("tickets", str(tmp_path), subset_seed=1)
    assert loaded.row_ids == splits[1]["train"]
    assert [row["row"] for row in loaded.validation] == splits[1]["test"]
    assert loaded.task.label_names == ("billing", "delivery", "outage")


@pytest.mark.parametrize("name", ["rte.v2", "RTE", "acceptability", "", "räte"])
def test_any_file_and_class_can_have_any_name(tmp_path, name):
    classes = ["1e5", "0o17", "no", "1:30", 'say "no"\n', "ja – ü"]
    frame = tickets().assign(queue=[classes[i % 6] for i in range(120)])
    found = select_rows(frame.astype(object), ["ticket"], "queue", name=name)
    write_task(found, make_splits(found, np.arange(120), 3, 1), tmp_path / found.task.name)
    loaded = load_task(found.task.name, str(tmp_path))
    assert sorted(loaded.task.label_names) == sorted(text.strip() for text in classes)
    assert loaded.task.n_splits == 3


def test_a_larger_budget_buys_a_larger_design_and_a_small_one_fewer_methods():
    candidates = list(CANDIDATES)

    def plan(budget):
        return choose_plan(candidates, EQUAL, 300, budget, slots=1, kernels=False)

    designs = [(p.folds, p.repeats, len(p.tries)) for p in map(plan, (None, 60, 30, 15, 8, 2.2))]
    assert designs[0] == DESIGNS[-1]
    assert [DESIGNS.index(design) for design in designs] == sorted(map(DESIGNS.index, designs), reverse=True)
    assert all(plan(budget).minutes <= budget for budget in (60, 30, 15, 8))
    fewer = plan(8)
    assert (fewer.folds, len(fewer.candidates) + len(fewer.left_out)) == (5, len(candidates))
    assert fewer.left_out
    small = plan(2.2)
    assert small.folds == 3
    assert [candidate.title for candidate in small.candidates] == ["vanilla", "head only"]
    assert small.left_out == [candidate.title for candidate in candidates[2:]]
    with pytest.raises(InputError, match=r"takes about .* more than the budget of 0.5: give --budget"):
        plan(0.5)


def test_the_estimate_is_the_sum_of_what_is_run():
    update, row, encoder, kernel = 0.1, 0.001, 0.5, 4.0
    timing = Timing({candidate.title: update for candidate in CANDIDATES[:2]}, row, encoder, kernel)

    def minutes(slots, kernels):
        return choose_plan(list(CANDIDATES[:2]), timing, 300, None, slots, kernels, spent=2.0)

    plan = minutes(1, True)
    assert (plan.folds, plan.repeats, [epochs for _, epochs in plan.tries]) == (5, 4, [10, 3, 10])
    choosing = 2 * 20 * sum(encoder + 12 * epochs * update + 48 * row for epochs in (10, 3, 10))
    testing = 2 * 20 * (encoder + 15 * 23 / 3 * update + 60 * row)
    curve = 5 * (2 * encoder + (4 + 8) * 10 * update + 2 * 60 * row)
    final = encoder + 19 * 10 * update
    kernels = kernel * (2 * 3 + 2 * 3 + 2 + 3)  # those of the runs, and workers before each of three stages
    assert plan.minutes == pytest.approx(2 + (choosing + testing + curve + final + kernels) / 60)
    assert minutes(1, False).minutes == pytest.approx(plan.minutes - kernels / 60)
    half = 2 + (choosing / 2 + testing / 2 + final) / 60
    assert half + curve / 2 / 60 < minutes(2, False).minutes < half + curve / 60


def test_the_smallest_design_leaves_the_curve_out_and_says_so():
    small = choose_plan(list(CANDIDATES), EQUAL, 300, 2.6, slots=1, kernels=False)
    assert not small.draws_curve
    assert "the score by the number of rows: the budget is too small" in small.exclusions[0]
    large = choose_plan(list(CANDIDATES), EQUAL, 300, 60, slots=1, kernels=False)
    assert (large.draws_curve, large.exclusions) == (True, [])


def test_methods_that_refuse_are_not_planned_but_vanilla_has_to_run():
    def plan(*refused):
        update = {c.title: 0.1 for c in CANDIDATES if c.title not in refused}
        timing = Timing(update, 0.001, refused=dict.fromkeys(refused, "No."))
        return choose_plan(list(CANDIDATES), timing, 300, None, 1, False)

    without = plan("mixout", "r-drop")
    assert [c.title for c in without.candidates] == [c.title for c in CANDIDATES if c.title not in ("mixout", "r-drop")]
    assert without.exclusions == ["mixout: No.", "r-drop: No."]
    assert Plan.restore(json.loads(json.dumps(without.to_json()))) == without
    with pytest.raises(InputError, match=r"vanilla has to run, but cannot: No\."):
        plan("vanilla")


def test_more_rows_show_smaller_differences():
    small = choose_plan(list(CANDIDATES), EQUAL, 300, 30, 1, False)
    assert small.visible_difference(1000) < small.visible_difference(300)
    assert 0.03 < small.visible_difference(1000) < 0.15


def test_candidates_can_be_built_and_named():
    for candidate in CANDIDATES:
        build_method(candidate.method, **candidate.hyperparameters)
    assert [c.title for c in chosen_candidates(["mixout"])] == ["vanilla", "mixout"]
    with pytest.raises(InputError, match="did you mean 'mixout'"):
        chosen_candidates(["mixot"])
    assert tried_rate(CANDIDATES[0], 1.0, 128) == 3e-4
    assert tried_rate(CANDIDATES[0], 1.0, 384) == 1e-4


def test_a_budget_is_a_time():
    assert [read_minutes(text) for text in ("30m", "1.5h", "20", "5 min")] == [30, 90, 20, 5]
    for text in ("soon", "0m", "-3m"):
        with pytest.raises(InputError, match="is no time"):
            read_minutes(text)
