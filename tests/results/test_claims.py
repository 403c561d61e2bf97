"""Claims as data, and each verdict on tables made to deserve it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import RunRecord
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.hyperparameters.typed_parameters import load_yaml
from finetune_reg.methods import SMART, AttentionGuidedWeightMixup, ChildTuningD, ChildTuningF
from finetune_reg.results.claims import CLAIMS, MECHANISMS, Claim, judge, judge_all, load_claims, published_effect
from finetune_reg.results.published_results import load_published_results
from finetune_reg.results.run_tables import results_table
from finetune_reg.sweep import find_plan, read_plan

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
    assert verdict.p_value == pytest.approx(2 / 2**12)
    assert verdict.beyond_control.value == pytest.approx(5)
    assert verdict.control_effect.value == pytest.approx(0)
    assert set(verdict.by_task) == {"rte", "cola"}
    assert verdict.sentence.startswith("Reproduced: the mean of Mixout(mix_probability=0.9) on rte, cola is 5.0 [")
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


@pytest.mark.parametrize("mixout_fails", [True, False])
def test_a_task_that_neither_method_learns_is_named(mixout_fails):
    records = [runs(method, spread(0.5), ["rte"]) for method in (MIXOUT, VANILLA)]
    records += [
        runs(MIXOUT, np.zeros(12), ["cola"], failed=mixout_fails),
        runs(VANILLA, np.zeros(12), ["cola"], failed=True),
    ]
    verdict = judge(WITHOUT_CONTROL, table(*records))
    assert verdict.outcome == "not reproduced"
    assert ("No run of either beats the best constant answer on cola." in verdict.sentence) == mixout_fails


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
    assert np.isnan(verdict.p_value)
    assert "no test decides with fewer than 6 pairs" in verdict.sentence


def test_claims_judged_together_pay_for_their_number():
    records = table(runs(MIXOUT, spread(5, 6)), runs(VANILLA, np.zeros(6)))
    assert judge(WITHOUT_CONTROL, records).outcome == "reproduced"
    together = judge_all([WITHOUT_CONTROL, replace(WITHOUT_CONTROL, id="again", minimal_effect=1.0)], records)
    assert [verdict.outcome for verdict in together] == ["undecided", "undecided"]
    assert together[0].p_value == pytest.approx(2 * 2 / 2**6)
    not_run = replace(WITHOUT_CONTROL, id="not run", method="l2_sp")
    assert judge_all([WITHOUT_CONTROL, not_run], records)[0].outcome == "reproduced"


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
    assert verdict.p_value == pytest.approx(2 / 2**8)
    assert judge(replace(claim, direction="higher"), records).outcome == "not reproduced"


def test_a_smaller_spread_is_a_gain():
    claim = replace(WITHOUT_CONTROL, statistic="std", direction="lower", minimal_effect=1.0)
    level = -3.0 * (np.arange(16) % 4)  # takes the level of the seeds out
    records = table(runs(MIXOUT, level + spread(0, 16, 0.5)), runs(VANILLA, level + spread(0, 16, 9.0)))
    assert judge(claim, records).outcome == "reproduced"


def test_runs_that_never_differ_do_not_reproduce_anything():
    verdict = judge(CLAIM, table(runs(MIXOUT, np.zeros(8)), runs(VANILLA, np.zeros(8)), runs(CONTROL, np.zeros(8))))
    assert verdict.outcome == "not reproduced"
    assert (verdict.effect.value, verdict.p_value) == (0.0, 1.0)


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
    assert verdicts[2].p_value == pytest.approx(3 * 2 / 2**12)  # three tests share the correction


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


def test_at_least_thirty_claims_cover_the_five_papers_and_the_baselines():
    claims = load_claims()
    assert len(claims) >= 30
    papers = {"lee2020mixout", "jiang2020smart", "zhang2022dps", "somayajula2024agwm", "sharma2024guided"}
    assert papers <= {claim.paper for claim in claims}
    methods = {next(iter(claim.method)) if isinstance(claim.method, dict) else claim.method for claim in claims}
    baselines = {"r3f", "r_drop", "freelb", "child_tuning_d", "child_tuning_f", "rec_adam", "noisy_tune"}
    assert baselines | {"top_layer_reinitialization"} <= methods
    assert len({claim.statement for claim in claims}) == len(claims)


def test_the_figures_behind_a_claim_say_what_it_claims():
    figures = load_published_results()
    certainty = ["second_hand", "digitized", "read"]
    for claim in load_claims():
        evidence = figures.loc[claim.evidence + claim.evidence_against]
        assert certainty.index(claim.read) <= min(map(certainty.index, evidence["read"])), claim.id
        effect = published_effect(claim, figures)
        if effect is None:
            continue
        assert effect > 0, claim.id
        assert claim.minimal_effect == pytest.approx(max(effect / 2, 0.1), abs=0.051), claim.id
        if len(evidence.query("metric in ['accuracy', 'f1', 'matthews', 'pearson', 'spearman']")):
            assert sorted(evidence.task.unique()) == sorted(claim.tasks), claim.id


def test_published_effects_point_in_the_direction_of_the_claim():
    figures, claims = load_published_results(), {claim.id: claim for claim in load_claims()}
    assert published_effect(claims["mixout-failed-runs-cola"], figures) == pytest.approx(35 - 5)
    assert published_effect(claims["child-tuning-gain"], figures) == pytest.approx(1.5)
    assert published_effect(claims["guided-dropout-mean"], figures) is None


def test_the_mechanism_studies_are_ours_and_follow_one_rule():
    studies = load_claims(MECHANISMS)
    assert not {study.id for study in studies} & {claim.id for claim in load_claims()}
    assert {study.paper for study in studies} <= {claim.paper for claim in load_claims()}
    for study in studies:
        assert (study.read, study.source) == ("ours", "this project"), study.id
        assert published_effect(study, load_published_results()) is None
        assert study.minimal_effect == {"mean": 0.5, "failed_fraction": 15.0}[study.statistic], study.id


def test_the_controls_of_the_mechanism_studies_have_the_side_effect_that_they_stand_for():
    studies = {study.id: study for study in load_claims(MECHANISMS)}
    for name, kept in (("f", ChildTuningF().keep_probability), ("d", ChildTuningD().keep_fraction)):
        changed = studies[f"child-tuning-{name}-beyond-a-smaller-step"].control_settings
        assert changed["learning_rate"]["times"] == pytest.approx(kept**0.5, rel=1e-4)

    released = studies["smart-released-radius"]
    assert released.method["smart"].items() <= SMART.official().hyperparameters.items()
    assert SMART(**released.method["smart"]) == SMART.official()

    ordinary = read_plan(find_plan("glue300_minilm"))
    scores = [run.parameters["method_hyperparameters"] for run in ordinary if "guided_dropout" in run.stem]
    guided = studies["guided-beyond-its-mean-rate"]
    assert guided.method["guided_dropout"] == guided.control["uniform_dropout"]
    assert scores
    assert all(planned == guided.method["guided_dropout"] for planned in scores)


def test_the_control_of_weight_mixup_has_at_least_its_passes():
    (study,) = (study for study in load_claims(MECHANISMS) if study.id == "weight-mixup-beyond-compute")
    (task,) = study.tasks
    planned = [run.settings[0] for run in read_plan(find_plan("glue300_minilm"))]
    vanilla = next(run for run in planned if (run.task, run.method) == (task, "vanilla"))
    updates = vanilla.epochs * math.ceil(vanilla.n_train / vanilla.batch_size)
    searching = AttentionGuidedWeightMixup(**study.method["attention_guided_weight_mixup"])
    passes, _ = searching.search_passes(vanilla.n_train, vanilla.batch_size)
    assert updates * study.control_settings["epochs"]["times"] >= updates + passes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minimum": 1.0}, "no parameter of a claim 'minimum'"),
        ({"method": "mixot"}, "no method 'mixot': did you mean 'mixout'"),
        ({"method": {"mixout": {"mix_probability": 2.0}}}, "mix_probability"),
        ({"method": {"mixout": {}, "vanilla": {}}}, "one name"),
        ({"control": {}}, "one name"),
        ({"tasks": ["rta"]}, "no task 'rta'"),
        ({"tasks": ["rte", "rte"]}, "each once"),
        ({"statistic": "average"}, "needs statistic to be 'mean' or"),
        ({"direction": "better"}, "needs direction to be 'higher' or 'lower'"),
        ({"minimal_effect": 0.0}, "minimal_effect above 0"),
        ({"evidence": []}, "needs published figures as evidence"),
        ({"read": "ours"}, "then it has none"),
        ({"read": "ours", "evidence": []}, "then it has none"),
        ({"settings": {"learning_rat": 1e-4}}, "no setting of a claim 'learning_rat': did you mean 'learning_rate'"),
        ({"settings": {"n_train": 300}}, "no setting of a claim 'n_train'"),
        ({"settings": {"learning_rate": -1e-4}}, r"learning_rate in \(0, inf\), not -0.0001"),
        ({"settings": {"epochs": {"times": 2}}}, "needs epochs to be an integer"),
        ({"control_settings": {"epoch": {"times": 4}}}, "no setting of a claim 'epoch': did you mean 'epochs'"),
        ({"control_settings": {"seed_init": 1}}, "no setting of a claim 'seed_init'"),
        ({"control_settings": {"bias_correction": "no"}}, "needs bias_correction to be true or false"),
        ({"control_settings": {"bias_correction": {"times": 2}}}, "bias_correction has no factor"),
        ({"control_settings": {"precision": {"times": 2}}}, "precision has no factor"),
        ({"control_settings": {"epochs": {"times": 0}}}, "a factor above 0"),
        ({"control_settings": {"epochs": {"times": "4"}}}, "a factor above 0"),
        ({"control_settings": {"epochs": {"time": 4}}}, "a factor above 0"),
        ({"control": None, "control_settings": {"epochs": 3}}, "needs a control that has these settings"),
        ({"evidence": ["lee2020mixout/table-1"]}, "no published figure"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "claims.yaml"
    entry = load_yaml(CLAIMS)[0]
    path.write_text(str([entry]))
    assert len(load_claims(path)) == 1
    path.write_text(json.dumps([entry | change]))
    with pytest.raises(InputError, match=message) as refused:
        load_claims(path)
    assert "mixout-0.7-mean" in str(refused.value)


def test_files_that_are_no_list_of_claims_are_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    entry = load_yaml(CLAIMS)[0]
    for content, message in (("claims: 1", "not a file of claims"), (str([entry, entry]), "twice")):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            load_claims(path)
    entry.pop("statement")
    path.write_text(str([entry]))
    with pytest.raises(InputError, match="needs statement"):
        load_claims(path)
