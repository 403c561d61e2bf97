"""Each verdict on tables made to deserve it."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import RunRecord
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.results.claims import Claim, claim_on, load_claims
from finetune_reg.results.method_labels import method_words
from finetune_reg.results.paired_differences import Corrected
from finetune_reg.results.published_results import load_published_results
from finetune_reg.results.run_tables import results_table
from finetune_reg.results.verdicts import judge, judge_all

CLAIM = Claim(
    id="mixout-mean",
    paper="lee2020mixout",
    statement="Mixout has a higher mean score.",
    source="Table 1",
    scale="BERT-large",
    read="read",
    method={"mixout": {"mix_probability": 0.9}},
    against="vanilla",
    control={"vanilla": {"dropout": 0.0}},
    tasks=["rte", "cola"],
    statistic="mean",
    direction="higher",
    minimal_effect=2.0,
    evidence=["lee2020mixout/table-1/bert-large-uncased/mixout-w_pre-0.9/rte/accuracy/mean"],
)
WITHOUT_CONTROL = replace(CLAIM, control=None)
MIXOUT, VANILLA, CONTROL = ("mixout", {"mix_probability": 0.9}), ("vanilla", {}), ("vanilla", {"dropout": 0.0})
BASE = RunSettings(task="rte", source="local", model_name="bert", n_train=300)


def runs(method, gains, tasks=("rte", "cola"), settings=BASE, failed=False) -> list[RunRecord]:
    """Records of one method, seed i scoring `gains[i]` points above the level of the seed; NaN is a diverged run."""
    records = []
    for task in tasks:
        for seed, gain in enumerate(gains):
            run = replace(settings, task=task, method=method[0], method_hyperparameters=method[1]).with_seed(seed)
            diverged = np.isnan(gain)
            record = RunRecord(run.run_id, asdict(run), "diverged" if diverged else "ok", "accuracy")
            record.score = None if diverged else (70 + 3 * (seed % 4) + gain) / 100
            record.majority_score = 0.5
            record.below_majority = bool(diverged or failed)
            records.append(record)
    return records


def spread(center: float, n: int = 12, width: float = 1.0) -> np.ndarray:
    """Return n gains of that mean, evenly spread, in shuffled order."""
    return center + width * np.random.default_rng(0).permutation(np.linspace(-1, 1, n))


def table(*records: list[RunRecord]) -> pd.DataFrame:
    return results_table([record for group in records for record in group])


def test_a_claim_is_reproduced_when_the_method_gains_enough_and_its_control_does_not():
    verdict = judge(
        CLAIM, table(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)), runs(CONTROL, spread(0, 12, 0.5)))
    )
    assert verdict.outcome == "reproduced"
    assert verdict.effect.n == 12
    assert verdict.effect.value == pytest.approx(5)
    assert verdict.effect.low > 2
    assert verdict.of_paper.permutation == pytest.approx(2 / 2**12)
    assert verdict.of_paper.t < 1e-6
    assert verdict.beyond_control.value == pytest.approx(5)
    assert verdict.control_effect.value == pytest.approx(0)
    assert set(verdict.by_task) == {"rte", "cola"}
    assert verdict.reduced
    assert verdict.sentence.startswith(
        "Reproduced at reduced scale: the mean of Mixout(mix_probability=0.9) on rte, cola is 5.0 ["
    )
    assert "12 pairs" in verdict.sentence


def test_a_claim_is_not_reproduced_when_the_whole_interval_lies_below_the_smallest_effect():
    verdict = judge(CLAIM, table(runs(MIXOUT, spread(0.5)), runs(VANILLA, np.zeros(12))))
    assert verdict.outcome == "not reproduced"
    assert verdict.effect.high < 2


def test_an_effect_against_the_claim_is_told_in_its_own_direction():
    verdict = judge(CLAIM, table(runs(MIXOUT, spread(-5)), runs(VANILLA, np.zeros(12))))
    low, high = -verdict.effect.high, -verdict.effect.low
    assert f"is 5.0 [{low:.1f}, {high:.1f}] points lower than that of Vanilla()" in verdict.sentence
    assert "where 2 higher would count; the whole interval falls short of that." in verdict.sentence


def at_the_constant_answer(method, tasks, n=12) -> list[RunRecord]:
    """Runs whose scores lie around that of the best constant answer, 50."""
    levels = 20 + 3 * (np.arange(n) % 4)
    return runs(method, spread(0, n) - levels, tasks, failed=True)


def test_a_task_at_chance_leaves_the_mean_over_tasks():
    learned = [runs(MIXOUT, spread(5), ["rte"]), runs(VANILLA, np.zeros(12), ["rte"])]
    chance = [at_the_constant_answer(method, ["cola"]) for method in (MIXOUT, VANILLA)]
    verdict = judge(WITHOUT_CONTROL, table(*learned, *chance))
    assert verdict.outcome == "reproduced"
    assert verdict.effect.value == pytest.approx(5)
    assert verdict.untested == {"cola": "neither beats the best constant answer"}
    assert set(verdict.by_task) == {"rte"}
    assert verdict.sentence.endswith("Left out: on cola neither beats the best constant answer.")


def test_the_smallest_effect_is_that_of_the_tasks_that_are_tested():
    claim = next(claim for claim in load_claims() if claim.id == "mixout-0.7-mean")
    mixout = ("mixout", claim.method["mixout"])
    learned = [runs(method, gains, ["rte", "stsb"]) for method, gains in ((mixout, spread(3)), (VANILLA, np.zeros(12)))]
    chance = [at_the_constant_answer(method, ["cola", "mrpc"]) for method in (mixout, VANILLA)]
    figures = load_published_results()
    gains = [
        figures.value[ours] - figures.value[theirs]
        for ours, theirs in zip(claim.evidence, claim.evidence_against, strict=True)
    ]
    verdict = judge(claim, table(*learned, *chance))
    part = claim_on(claim, ["rte", "stsb"], figures)
    assert part.minimal_effect == pytest.approx((gains[2] + gains[3]) / 4, abs=0.051)
    assert "on rte, stsb is 3.0" in verdict.sentence
    assert f"where {part.minimal_effect:g} higher would count" in verdict.sentence


def test_a_task_that_one_of_the_two_learns_is_tested():
    chance = at_the_constant_answer(VANILLA, ["rte", "cola"])
    verdict = judge(WITHOUT_CONTROL, table(runs(MIXOUT, spread(5)), chance))
    assert verdict.outcome == "reproduced"
    assert not verdict.untested


def test_nothing_is_said_where_no_task_is_learned():
    chance = [at_the_constant_answer(method, ["rte", "cola"]) for method in (MIXOUT, VANILLA)]
    verdict = judge(WITHOUT_CONTROL, table(*chance))
    assert verdict.outcome == "not testable here"
    assert verdict.effect is None
    assert "on rte, cola neither beats the best constant answer" in verdict.sentence


def test_a_baseline_that_never_fails_leaves_no_failures_to_save():
    claim = replace(WITHOUT_CONTROL, statistic="failed_fraction", direction="lower", minimal_effect=15.0, tasks=["rte"])
    verdict = judge(claim, table(runs(MIXOUT, np.zeros(12)), runs(VANILLA, np.zeros(12))))
    assert verdict.outcome == "not testable here"
    assert "the failed fraction of Vanilla() is 0.0" in verdict.sentence


def test_a_claim_is_undecided_when_the_interval_has_values_on_both_sides():
    verdict = judge(WITHOUT_CONTROL, table(runs(MIXOUT, spread(2, width=4)), runs(VANILLA, np.zeros(12))))
    assert verdict.outcome == "undecided"
    assert verdict.effect.low < 2 < verdict.effect.high


def test_a_gain_that_the_control_has_as_well_is_explained_by_it():
    records = runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)), runs(CONTROL, spread(5)[::-1])
    verdict = judge(CLAIM, table(*records))
    assert verdict.outcome == "explained by the control"
    assert verdict.control_effect.low > 2
    assert verdict.beyond_control.low <= 0
    assert "the control Vanilla(dropout=0.0) gains +5.0" in verdict.sentence
    assert judge(WITHOUT_CONTROL, table(*records)).outcome == "reproduced"


def test_a_method_that_gains_more_than_a_good_control_is_reproduced():
    records = runs(MIXOUT, spread(9)), runs(VANILLA, np.zeros(12)), runs(CONTROL, spread(5)[::-1])
    assert judge(CLAIM, table(*records)).outcome == "reproduced"


def test_a_control_that_is_neither_clear_nor_beaten_leaves_the_claim_undecided():
    records = runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)), runs(CONTROL, spread(3, width=9))
    assert judge(CLAIM, table(*records)).outcome == "undecided"


def test_a_claim_that_holds_waits_for_its_control():
    records = runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12))
    assert judge(CLAIM, table(*records)).outcome == "undecided"
    few = judge(CLAIM, table(*records, runs(CONTROL, np.zeros(5))))
    assert few.outcome == "undecided"
    assert "the control Vanilla(dropout=0.0) has fewer than 6 pairs" in few.sentence


@pytest.mark.parametrize("missing", ["method", "baseline", "task"])
def test_a_claim_without_pairs_on_all_its_tasks_is_not_run(missing):
    tasks = ["rte"] if missing == "task" else ["rte", "cola"]
    ours = runs(("mixout", {}) if missing == "method" else MIXOUT, spread(5), tasks)
    theirs = runs(CONTROL if missing == "baseline" else VANILLA, np.zeros(12))
    verdict = judge(CLAIM, table(ours, theirs))
    assert verdict.outcome == "not run"
    assert verdict.effect is None


def test_more_seeds_turn_undecided_into_a_decision():
    outcomes = [
        judge(WITHOUT_CONTROL, table(runs(MIXOUT, spread(4, n, 3)), runs(VANILLA, np.zeros(n)))).outcome
        for n in (1, 3, 5, 20)
    ]
    assert outcomes == ["undecided", "undecided", "undecided", "reproduced"]


def test_a_few_seeds_do_not_refute_a_claim_either():
    verdict = judge(CLAIM, table(runs(MIXOUT, spread(0, 5)), runs(VANILLA, np.zeros(5))))
    assert verdict.outcome == "undecided"
    assert verdict.effect.high < 2
    assert np.isnan(verdict.of_paper.deciding)
    assert "no test decides with fewer than 6 pairs" in verdict.sentence


def test_claims_judged_together_pay_for_their_number():
    """Six pairs decide one claim; of two, neither by the sign-flip test, whose floor is said; both by the t test."""
    ours, theirs = runs(MIXOUT, spread(5, 6)), runs(VANILLA, np.zeros(6))
    other = replace(WITHOUT_CONTROL, id="another", tasks=["rte"])
    alone, (together, _) = (
        judge(WITHOUT_CONTROL, table(ours, theirs)),
        judge_all([WITHOUT_CONTROL, other], table(ours, theirs)),
    )
    assert alone.of_paper.permutation == pytest.approx(2 / 2**6)
    assert together.of_paper.permutation == together.of_paper.floor == pytest.approx(2 * 2 / 2**6)
    assert together.of_paper.t == pytest.approx(2 * alone.of_paper.t)
    assert together.outcome == "reproduced"
    assert "at least 0.062 with so few pairs" in together.sentence
    by_wins = [replace(claim, statistic="probability_of_improvement") for claim in (WITHOUT_CONTROL, other)]
    assert [verdict.outcome for verdict in judge_all(by_wins, table(ours, theirs))] == ["undecided", "undecided"]
    assert judge(by_wins[0], table(ours, theirs)).outcome == "reproduced"


def test_claims_of_a_paper_are_a_family_and_claims_not_run_or_the_same_do_not_count():
    records = table(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)))
    again = replace(WITHOUT_CONTROL, id="again", minimal_effect=1.0, statement="The same comparison, elsewhere.")
    not_run = replace(WITHOUT_CONTROL, id="not run", method="l2_sp")
    elsewhere = replace(WITHOUT_CONTROL, id="elsewhere", paper="jiang2020smart", tasks=["rte"])
    found = judge_all([WITHOUT_CONTROL, again, not_run, elsewhere], records)
    assert [verdict.of_paper.tests for verdict in found] == [1, 1, 0, 1]
    assert [verdict.of_all.tests for verdict in found] == [2, 2, 0, 2]


def test_a_sign_flip_test_that_could_decide_has_to_agree():
    gains = np.array([4.0] * 9 + [-3.9] * 3) + spread(0, 12, 0.1)
    effect = Corrected(t=0.01, permutation=0.2, tests=1, floor=0.01)
    assert effect.deciding == 0.2
    assert replace(effect, floor=0.06).deciding == 0.01
    assert replace(effect, t=math.nan, floor=0.06).deciding == 0.2
    verdict = judge(WITHOUT_CONTROL, table(runs(MIXOUT, gains), runs(VANILLA, np.zeros(12))))
    assert verdict.of_paper.deciding == max(verdict.of_paper.t, verdict.of_paper.permutation)


def test_a_run_at_the_scale_of_the_paper_is_said_without_reserve():
    at_scale = replace(BASE, model_name="bert-large-uncased", n_train=2490)
    records = [
        runs(method, gains, ["rte"], at_scale) for method, gains in ((MIXOUT, spread(5)), (VANILLA, np.zeros(12)))
    ]
    claim = replace(WITHOUT_CONTROL, tasks=["rte"])
    verdict = judge(claim, table(*records))
    assert not verdict.reduced
    assert verdict.sentence.startswith("Reproduced: the mean")
    assert not judge(replace(claim, read="ours", evidence=[]), table(*records)).reduced


@pytest.mark.parametrize(
    ("true_gain", "expected", "at_least"),
    [
        (2.0, {"reproduced"}, 0.9),
        (1.0, {"reproduced", "undecided"}, 0.95),
        (0.0, {"not reproduced", "undecided"}, 0.97),
    ],
)
def test_simulated_claims_come_out_right(true_gain, expected, at_least):
    """Ten claims of one paper, ten pairs each; effects in standard deviations of the differences, a quarter counts."""
    noise, outcomes = np.random.default_rng(0), []
    tasks = ["cola", "rte", "mrpc", "stsb", "sst2", "qnli", "wnli", "mnli", "qqp", "snli"]
    claims = [replace(WITHOUT_CONTROL, id=task, tasks=[task], minimal_effect=0.25) for task in tasks]
    both = table(runs(MIXOUT, np.zeros(10), tasks), runs(VANILLA, np.zeros(10), tasks))
    for _ in range(20):
        gains = np.where(both.method == "mixout", true_gain + noise.normal(size=len(both)), 0.0)
        outcomes += [verdict.outcome for verdict in judge_all(claims, both.assign(score=both.score + gains / 100))]
    assert np.mean([outcome in expected for outcome in outcomes]) >= at_least


def test_a_method_twenty_points_better_everywhere_is_reproduced():
    """With ten pairs and the many claims of the real file, all made of one method and its baseline."""
    means = [claim for claim in load_claims() if claim.statistic == "mean" and claim.against == "vanilla"]
    claims = [claim for claim in means if claim.direction == "higher" and claim.n_train in (None, BASE.n_train)]
    noise = np.random.default_rng(0)
    tasks = sorted({task for claim in claims for task in claim.tasks})
    records = {method_words("vanilla"): runs(VANILLA, np.zeros(10), tasks)}
    for claim in claims:
        spec = claim.method if isinstance(claim.method, dict) else {claim.method: {}}
        ((name, hyperparameters),) = spec.items()
        gains = 20 + noise.normal(scale=3, size=10)
        records.setdefault(method_words(claim.method), runs((name, hyperparameters), gains, tasks))
    outcomes = {
        verdict.claim.id: verdict.outcome
        for verdict in judge_all(
            [replace(claim, control=None, control_settings={}) for claim in claims], table(*records.values())
        )
    }
    assert set(outcomes.values()) == {"reproduced"}


def test_tasks_are_pooled_over_the_seeds_they_share():
    records = (
        runs(MIXOUT, spread(6), ["rte"]),
        runs(MIXOUT, spread(2, 8), ["cola"]),
        runs(VANILLA, np.zeros(12)),
    )
    verdict = judge(WITHOUT_CONTROL, table(*records))
    expected = (spread(6)[:8].mean() + 2) / 2
    assert verdict.effect.n == 8
    assert verdict.effect.value == pytest.approx(expected)
    assert verdict.by_task["rte"].n == 12


def test_a_diverged_run_counts_as_the_best_constant_prediction():
    gains = np.zeros(6)
    gains[0] = np.nan
    verdict = judge(WITHOUT_CONTROL, table(runs(VANILLA, np.zeros(6)), runs(MIXOUT, gains)))
    assert verdict.effect.n == 6
    assert verdict.effect.value == pytest.approx((50 - 70) / 6)


def test_fewer_failed_runs_are_a_gain():
    claim = replace(WITHOUT_CONTROL, statistic="failed_fraction", direction="lower", minimal_effect=20.0, tasks=["rte"])
    records = table(runs(MIXOUT, np.zeros(8)), runs(VANILLA, np.zeros(8), failed=True))
    verdict = judge(claim, records)
    assert verdict.outcome == "reproduced"
    assert verdict.effect.value == 100.0
    assert verdict.of_paper.permutation == pytest.approx(2 / 2**8)
    assert judge(replace(claim, direction="higher"), records).outcome == "not testable here"


def test_a_smaller_spread_is_a_gain():
    claim = replace(WITHOUT_CONTROL, statistic="std", direction="lower", minimal_effect=1.0)
    level = -3.0 * (np.arange(16) % 4)  # takes the level of the seeds out
    records = table(runs(MIXOUT, level + spread(0, 16, 0.5)), runs(VANILLA, level + spread(0, 16, 9.0)))
    assert judge(claim, records).outcome == "reproduced"


@pytest.mark.parametrize(
    ("gain", "width", "outcome"),
    [
        (0.0, 1.0, "reproduced"),
        (1.0, 1.0, "reproduced"),  # nearly as far as counts, but the whole interval lies below
        (-1.9, 1.0, "undecided"),
        (0.0, 8.0, "undecided"),
        (5.0, 1.0, "not reproduced"),
        (-5.0, 1.0, "not reproduced"),
    ],
)
def test_methods_are_equal_when_the_whole_interval_lies_within_the_tolerance(gain, width, outcome):
    claim = replace(WITHOUT_CONTROL, direction="equal")
    verdict = judge(claim, table(runs(MIXOUT, spread(gain, width=width)), runs(VANILLA, np.zeros(12))))
    assert verdict.outcome == outcome
    assert "where 2 either way would count" in verdict.sentence
    assert "p = " not in verdict.sentence


def test_a_claim_that_methods_are_equal_costs_the_others_nothing():
    records = table(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)), runs(CONTROL, np.zeros(12)))
    equal = replace(WITHOUT_CONTROL, id="equal", direction="equal", against={"vanilla": {"dropout": 0.0}})
    alone, beside = judge(WITHOUT_CONTROL, records), judge_all([WITHOUT_CONTROL, equal], records)
    assert beside[0].of_all == alone.of_all
    assert beside[1].of_all.tests == 0


def scored_elsewhere(method, gains, failed=False) -> list[RunRecord]:
    """Runs on MNLI, which score `gains` above the level of their seed on RTE and 60 on SNLI."""
    records = runs(method, np.full(len(gains), -15.0 if failed else 0.0), ["mnli"], failed=failed)
    for seed, record in enumerate(records):
        rte = (70 + 3 * (seed % 4) + gains[seed]) / 100
        record.transfer = {"rte": {"accuracy": rte}, "snli": {"accuracy": 0.6}}
        record.settings["evaluate_on"] = ["rte", "snli"]
        record.run_id = RunSettings(**record.settings).run_id
    return records


def test_a_claim_about_transfer_is_judged_by_scores_on_other_tasks():
    claim = replace(WITHOUT_CONTROL, tasks=["rte"], trained_on="mnli", evidence=[], read="ours")
    elsewhere = [*scored_elsewhere(MIXOUT, spread(5)), *scored_elsewhere(VANILLA, np.zeros(12))]
    verdict = judge(claim, table(elsewhere))
    assert verdict.outcome == "reproduced"
    assert verdict.effect.value == pytest.approx(5)
    assert "on rte, trained on mnli is 5.0" in verdict.sentence
    own = [*runs(MIXOUT, spread(-5), ["rte"]), *runs(VANILLA, np.zeros(12), ["rte"])]
    assert judge(claim, table(own)).outcome == "not run"
    assert judge(claim, table(elsewhere, own)).effect.value == pytest.approx(5)
    assert judge(replace(claim, trained_on=None), table(elsewhere, own)).effect.value == pytest.approx(-5)


def test_models_that_did_not_learn_their_own_task_say_nothing_elsewhere():
    claim = replace(WITHOUT_CONTROL, tasks=["rte"], trained_on="mnli")
    unlearned = [scored_elsewhere(method, spread(5, width=9), failed=True) for method in (MIXOUT, VANILLA)]
    low = [replace(record, score=0.4) for record in (*unlearned[0], *unlearned[1])]
    assert judge(claim, table(low)).outcome == "not testable here"


@pytest.mark.parametrize(("n_train", "outcome"), [(300, "reproduced"), (500, "not run"), (None, "reproduced")])
def test_a_claim_about_a_number_of_rows_is_judged_there_alone(n_train, outcome):
    records = table(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)))
    assert judge(replace(WITHOUT_CONTROL, n_train=n_train), records).outcome == outcome


def test_a_distance_is_compared_in_percent_and_without_runs_that_have_none():
    claim = replace(WITHOUT_CONTROL, statistic="distance", direction="lower", minimal_effect=10.0)
    near, far = runs(MIXOUT, np.zeros(12)), runs(VANILLA, [*np.zeros(11), math.nan])
    for seed, record in enumerate(near):
        record.distance_from_pretrained = 4.0 + 0.1 * (seed % 4)
    for seed, record in enumerate(far):
        record.distance_from_pretrained = None if record.status == "diverged" else 5.0 + 0.1 * (seed % 3)
    verdict = judge(claim, table(near, far))
    assert (verdict.outcome, verdict.effect.n) == ("reproduced", 11)
    ratio = [(5.0 + 0.1 * (seed % 3)) / (4.0 + 0.1 * (seed % 4)) for seed in range(11)]
    assert verdict.effect.value == pytest.approx(100 * np.log(ratio).mean())


def test_runs_that_never_differ_do_not_reproduce_anything():
    verdict = judge(CLAIM, table(runs(MIXOUT, np.zeros(8)), runs(VANILLA, np.zeros(8)), runs(CONTROL, np.zeros(8))))
    assert verdict.outcome == "not reproduced"
    assert (verdict.effect.value, verdict.of_paper.permutation, verdict.of_paper.t) == (0.0, 1.0, 1.0)


def test_a_control_may_train_longer():
    claim = replace(CLAIM, control="vanilla", control_settings={"epochs": {"times": 3}})
    longer = replace(BASE, epochs=3 * BASE.epochs, evaluate_every=5)
    records = runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)), runs(VANILLA, spread(5)[::-1], settings=longer)
    verdict = judge(claim, table(*records))
    assert verdict.effect.value == pytest.approx(5)
    assert verdict.outcome == "explained by the control"
    assert "the control Vanilla() with 3 times the epochs gains" in verdict.sentence


SMALLER_STEP = replace(CLAIM, control="vanilla", control_settings={"learning_rate": {"times": 0.5477}})


@pytest.mark.parametrize(
    ("ours", "smaller_step", "outcome"),
    [
        (spread(5), spread(0, 12, 0.5), "reproduced"),
        (spread(5), spread(5)[::-1], "explained by the control"),
        (spread(5), spread(3, width=9), "undecided"),
        (spread(5), spread(0, 5), "undecided"),
        (spread(5), None, "undecided"),
        (spread(0.5), spread(5), "not reproduced"),
        (None, spread(5), "not run"),
    ],
)
def test_a_control_with_settings_of_its_own_decides_like_any_other(ours, smaller_step, outcome):
    records = [runs(VANILLA, np.zeros(12))]
    if ours is not None:
        records.append(runs(MIXOUT, ours))
    if smaller_step is not None:
        records.append(runs(VANILLA, smaller_step, settings=replace(BASE, learning_rate=1.643e-4)))
    verdict = judge(SMALLER_STEP, table(*records))
    assert verdict.outcome == outcome
    if ours is not None:
        assert verdict.effect.value == pytest.approx(ours.mean())


@pytest.mark.parametrize(("learning_rate", "pairs"), [(1.643e-4, 12), (1.6445e-4, 12), (1.646e-4, None), (3e-4, None)])
def test_a_rounded_learning_rate_is_that_of_the_control_and_another_is_not(learning_rate, pairs):
    own = runs(VANILLA, spread(0), settings=replace(BASE, learning_rate=learning_rate))
    baseline = [] if learning_rate == BASE.learning_rate else runs(VANILLA, np.zeros(12))
    verdict = judge(SMALLER_STEP, table(runs(MIXOUT, spread(5)), baseline, own))
    assert (verdict.beyond_control and verdict.beyond_control.n) == pairs
    assert (verdict.outcome == "reproduced") == (pairs is not None)


def test_a_control_may_have_several_settings_of_its_own():
    claim = replace(CLAIM, control="vanilla", control_settings={"bias_correction": False, "epochs": {"times": 2}})
    wanted = replace(BASE, bias_correction=False, epochs=2 * BASE.epochs)
    ours = runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12))
    assert judge(claim, table(*ours, runs(VANILLA, spread(5)[::-1], settings=wanted))).outcome == (
        "explained by the control"
    )
    for incomplete in (replace(wanted, epochs=BASE.epochs), replace(wanted, bias_correction=True)):
        verdict = judge(claim, table(*ours, runs(VANILLA, spread(5)[::-1], settings=incomplete)))
        assert verdict.outcome == "undecided"
        assert "Vanilla() with bias_correction=False and 2 times the epochs has fewer than 6" in verdict.sentence


FAILING = replace(BASE, bias_correction=False, learning_rate=8e-4)
FEWER_FAILURES = replace(
    CLAIM,
    statistic="failed_fraction",
    direction="lower",
    minimal_effect=15.0,
    tasks=["rte"],
    settings={"bias_correction": False, "learning_rate": 8e-4},
    control="vanilla",
    control_settings={"bias_correction": True},
)


@pytest.mark.parametrize(
    ("ours_fails", "corrected_fails", "outcome"),
    [
        (False, True, "reproduced"),
        (False, False, "explained by the control"),
        (False, None, "undecided"),
        (True, False, "not reproduced"),
        (None, False, "not run"),
    ],
)
def test_settings_choose_the_runs_that_are_judged_and_the_control_changes_them(ours_fails, corrected_fails, outcome):
    zeros = np.zeros(12)
    records = [runs(VANILLA, zeros, settings=FAILING, failed=True)]
    records += [runs(MIXOUT, zeros), runs(VANILLA, zeros)]  # the ordinary settings, where nothing fails
    if ours_fails is not None:
        records.append(runs(MIXOUT, zeros, settings=FAILING, failed=ours_fails))
    if corrected_fails is not None:
        corrected = replace(FAILING, bias_correction=True)
        records.append(runs(VANILLA, zeros, settings=corrected, failed=corrected_fails))
    verdict = judge(FEWER_FAILURES, table(*records))
    assert verdict.outcome == outcome
    assert "on rte with bias_correction=False and learning_rate=0.0008" in verdict.sentence


def test_a_method_at_several_settings_gets_a_verdict_for_each():
    gentle = replace(BASE, learning_rate=1e-5)
    records = table(
        *(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12))),
        *(runs(MIXOUT, spread(0.5), settings=gentle), runs(VANILLA, np.zeros(12), settings=gentle)),
        *(runs(MIXOUT, spread(7), tasks=["mrpc"]), runs(VANILLA, np.zeros(12), tasks=["mrpc"])),
    )
    once = replace(WITHOUT_CONTROL, id="once", tasks=["mrpc"])
    verdicts = judge_all([WITHOUT_CONTROL, once], records)
    found = {verdict.claim.settings.get("learning_rate"): verdict.outcome for verdict in verdicts}
    assert found == {1e-5: "not reproduced", BASE.learning_rate: "reproduced", None: "reproduced"}
    assert [verdict.claim.id for verdict in verdicts] == ["mixout-mean", "mixout-mean", "once"]
    assert {verdict.of_paper.tests for verdict in verdicts} == {3}


def test_each_task_may_have_settings_of_its_own():
    longer = replace(BASE, epochs=30)
    records = [
        runs(method, gains, [task], settings)
        for task, settings in (("rte", BASE), ("cola", longer))
        for method, gains in ((MIXOUT, spread(5)), (VANILLA, np.zeros(12)))
    ]
    (verdict,) = judge_all([WITHOUT_CONTROL], table(*records))
    assert verdict.outcome == "reproduced"
    assert not verdict.claim.settings


def test_runs_on_held_out_folds_are_not_judged():
    folds = [runs(MIXOUT, spread(50), settings=replace(BASE, held_out_fold=fold)) for fold in range(5)]
    verdict = judge(WITHOUT_CONTROL, table(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12)), *folds))
    assert verdict.effect.value == pytest.approx(5)


def test_runs_of_another_recipe_are_not_paired():
    gentle = replace(BASE, learning_rate=1e-5)
    assert (
        judge(CLAIM, table(runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12), settings=gentle))).outcome == "not run"
    )


def test_tables_that_mix_scales_or_recipes_or_repeat_runs_are_refused():
    ours, theirs = runs(MIXOUT, spread(5)), runs(VANILLA, np.zeros(12))
    with pytest.raises(InputError, match="one scale, but the table has n_train 300, 500"):
        judge(CLAIM, table(ours, theirs, runs(MIXOUT, spread(5), settings=replace(BASE, n_train=500))))
    with pytest.raises(InputError, match="at several settings"):
        judge(CLAIM, table(ours, theirs, runs(MIXOUT, spread(5), settings=replace(BASE, learning_rate=1e-5))))
    evaluated_less = runs(VANILLA, np.zeros(12), settings=replace(BASE, evaluate_every=2))
    with pytest.raises(InputError, match="twice"):
        judge(CLAIM, table(ours, theirs, evaluated_less))
    assert judge(CLAIM, table(ours, theirs, theirs)) == judge(CLAIM, table(ours, theirs))
    with pytest.raises(InputError, match="different results of the run"):
        judge(CLAIM, table(ours, theirs, runs(VANILLA, np.ones(12))))
