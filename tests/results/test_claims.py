"""Claims as data: what a file of them may hold, and whether the figures behind each say what it claims."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from finetune_reg.errors import InputError
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.hyperparameters.typed_parameters import load_yaml
from finetune_reg.methods import SMART, AttentionGuidedWeightMixup, ChildTuningD, ChildTuningF
from finetune_reg.results.claims import CLAIMS, MECHANISMS, load_claims, published_effect
from finetune_reg.results.planned_claims import PlannedClaim, planned_claims
from finetune_reg.results.published_results import load_published_results
from finetune_reg.results.statistics import smallest_decided_effect
from finetune_reg.sweep import find_plan, read_plan


def test_at_least_thirty_claims_cover_the_five_papers_and_the_baselines():
    claims = load_claims()
    assert len(claims) >= 30
    papers = {"lee2020mixout", "jiang2020smart", "zhang2022dps", "somayajula2024agwm", "sharma2024guided"}
    assert papers <= {claim.paper for claim in claims}
    compared = [spec for claim in claims for spec in (claim.method, claim.against)]
    methods = {next(iter(spec)) if isinstance(spec, dict) else spec for spec in compared}
    baselines = {"r3f", "r_drop", "freelb", "child_tuning_d", "child_tuning_f", "rec_adam", "noisy_tune"}
    assert baselines | {"top_layer_reinitialization"} <= methods
    assert len({claim.statement for claim in claims}) == len(claims)


def test_the_figures_behind_a_claim_say_what_it_claims():
    figures = load_published_results()
    certainty = ["second_hand", "digitized", "read"]
    for claim in load_claims():
        if claim.read == "stated":
            assert (claim.evidence, claim.minimal_effect) == ([], 0.5), claim.id
            continue
        evidence = figures.loc[claim.evidence + claim.evidence_against]
        assert certainty.index(claim.read) <= min(map(certainty.index, evidence["read"])), claim.id
        effect = published_effect(claim, figures)
        if effect is None:
            continue
        if claim.direction == "equal":
            assert abs(effect) < claim.minimal_effect, claim.id
            continue
        assert effect > 0, claim.id
        assert claim.minimal_effect == pytest.approx(max(effect / 2, 0.1), abs=0.051), claim.id
        if len(evidence.query("metric in ['accuracy', 'f1', 'matthews', 'pearson', 'spearman']")):
            assert sorted(evidence.task.unique()) == sorted(claim.tasks), claim.id
        if claim.n_train is not None:
            assert set(evidence.n_train) == {claim.n_train}, claim.id


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
        smallest = {"mean": 0.5, "failed_fraction": 15.0, "distance": 10.0}
        assert study.minimal_effect == smallest[study.statistic], study.id


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


def test_the_papers_weight_mixup_is_held_against_vanilla_of_as_many_passes():
    for name in ("agwm-main", "agwm-low-resource"):
        runs = [run.settings[0] for run in read_plan(find_plan(name), "paper")]
        searching = {run.epochs for run in runs if run.method == "attention_guided_weight_mixup"}
        (epochs,) = searching
        (longest,) = {run.epochs for run in runs if run.method == "vanilla"} - searching
        for n_rows in (300, 2490, 8551):
            updates = epochs * math.ceil(n_rows / 16)
            passes, _ = AttentionGuidedWeightMixup().search_passes(n_rows, 16)
            assert longest / epochs == pytest.approx((updates + passes) / updates, rel=0.05)
        claims = [claim for claim in load_claims() if claim.paper == "somayajula2024agwm" and claim.control_settings]
        assert {claim.control_settings["epochs"]["times"] for claim in claims} == {longest / epochs}


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
        ({"direction": "better"}, "needs direction to be 'higher' or 'lower' or 'equal'"),
        ({"direction": "equal"}, "about their mean and has no control"),
        ({"direction": "equal", "control": None, "statistic": "std"}, "about their mean and has no control"),
        ({"trained_on": "mnl"}, "no task 'mnl'"),
        ({"n_train": 0}, "n_train of at least 1"),
        ({"read": "stated"}, "then it has none"),
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


def _runs(plan: str, scale: str | None = None) -> list[RunSettings]:
    return [settings for notebook in read_plan(find_plan(plan), scale) for settings in notebook.settings]


def test_a_plan_says_what_its_pairs_can_decide():
    def found(plan: str, scale: str | None = None) -> dict[str, PlannedClaim]:
        return {one.claim.id: one for one in planned_claims(load_claims(), _runs(plan, scale))}

    small = found("mixout-table1", "real-small")
    assert (small["mixout-0.7-mean"].pairs, small["mixout-0.7-mean"].tests) == (10, 11)
    assert small["mixout-0.7-mean"].smallest_effect == pytest.approx(smallest_decided_effect(10, 11))
    # By the permutation test alone six pairs decide nothing among eleven comparisons, and no plan may promise it.
    assert replace(small["mixout-failed-runs-rte"], pairs=6).effect_words == "none: too few pairs"
    many = found("failures_cola_mpnet")
    assert set(many) == {"mixout-failed-runs-cola", "mixout-spread-cola"}
    assert many["mixout-failed-runs-cola"].pairs == 20
    assert many["mixout-failed-runs-cola"].smallest_effect < 1
    assert found("screening_mpnet300_selection") == {}
    elsewhere = found("dps-out-of-domain", "real-small")
    assert {name: one.pairs for name, one in elsewhere.items()} == {
        "dps-dense-out-of-domain": 10,
        "dps-mix-out-of-domain": 10,
    }
    by_rows = {one.claim.id for one in planned_claims(load_claims(), _runs("dps-low-resource", "real-small"))}
    assert {"dps-dense-500-rows", "dps-dense-1000-rows"} <= by_rows


def test_a_comparison_of_two_papers_counts_in_each():
    runs = _runs("glue300_minilm")
    both = [claim for claim in load_claims() if claim.id in ("r-drop-mean", "r-drop-rerun-mean", "r3f-rerun-mean")]
    assert [(one.claim.paper, one.tests) for one in planned_claims(both, runs)] == [
        ("yuan2023hype", 2),
        ("liang2021rdrop", 1),
        ("yuan2023hype", 2),
    ]
