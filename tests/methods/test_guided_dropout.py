"""Guided dropout and its controls: the schedule, the published table, Fisher scores of sub-layers."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import ENCODERS, LENGTH, VOCABULARY, batches, tiny_dataset, tiny_encoder
from torch import nn
from training_hosts import context, largest_difference, train_in_loop, weights
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
)

from finetune_reg.building_blocks.dropout_sites import dropout_sites
from finetune_reg.building_blocks.fisher_information import fisher_information
from finetune_reg.building_blocks.sub_layer_fisher import pretraining_fisher_scores, sub_layer_score
from finetune_reg.errors import InputError
from finetune_reg.methods import GuidedDropout, PermutedDropout, ReversedDropout, UniformDropout, Vanilla
from finetune_reg.methods.guided_dropout import BERT_BASE_RANKING, expected_dropout_penalty, linear_rank_schedule
from finetune_reg.paths import POCKET
from finetune_reg.pocket import fisher_scores as pocket_scores

MINI = {"A": 0.2, "B": 0.9, "C": 0.5, "D": 0.05}
PUBLISHED = {
    "attention_probabilities": {
        7: 0.09900, 10: 0.09625, 9: 0.09350, 8: 0.09075, 1: 0.08800, 6: 0.08525,
        11: 0.08250, 2: 0.07975, 0: 0.07700, 5: 0.07425, 3: 0.07150, 4: 0.06875,
    },
    "attention_output": {
        11: 0.06600, 0: 0.06325, 9: 0.06050, 10: 0.05775, 7: 0.05500, 1: 0.05225,
        6: 0.04950, 8: 0.04675, 2: 0.04400, 5: 0.04125, 4: 0.03850, 3: 0.03575,
    },
    "feed_forward_output": {
        11: 0.03300, 9: 0.03025, 6: 0.02750, 5: 0.02475, 2: 0.02200, 0: 0.01925,
        10: 0.01650, 8: 0.01375, 7: 0.01100, 1: 0.00825, 4: 0.00550, 3: 0.00275,
    },
}  # fmt: skip


def bert_of_12_blocks() -> BertForSequenceClassification:
    torch.manual_seed(0)
    small = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(**small, num_hidden_layers=12, max_position_embeddings=24))


def rates_of(model: nn.Module) -> dict[str, float]:
    return {site.position: site.rate for site in dropout_sites(model)}


def rates_after(method: GuidedDropout, seed: int = 3) -> dict[str, float]:
    model = bert_of_12_blocks()
    method.setup(model, context([], seed=seed))
    return rates_of(model)


def masked_batch(n: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, VOCABULARY, (n, LENGTH), generator=generator)
    labels = torch.full_like(tokens, -100)
    labels[:, 2] = tokens[:, 2]
    labels[::2, 4] = tokens[::2, 4]
    return {
        "input_ids": tokens.where(labels == -100, 4),
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
    }


def masked_language_model(architecture: str = "bert", **overrides) -> nn.Module:
    config = type(ENCODERS[architecture]).from_dict(ENCODERS[architecture].to_dict() | overrides)
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(config).double()


def test_worked_schedule_of_four_sub_layers():
    rates = linear_rank_schedule(MINI, 0.1, 0.0)
    assert list(rates) == ["D", "A", "C", "B"]
    assert list(rates.values()) == pytest.approx([0.1, 0.06667, 0.03333, 0.0], abs=1e-5)


@pytest.mark.parametrize(("upper", "total", "average"), [(0.1, 1.85, 0.05), (0.099, 1.8315, 0.0495)])
def test_schedule_of_37_sub_layers(upper, total, average):
    rates = list(linear_rank_schedule({str(i): i for i in range(37)}, upper, 0.0).values())
    assert rates[0] == upper
    assert rates[-1] == 0.0
    assert all(0.0 <= second < first <= 0.1 for first, second in pairwise(rates))
    assert sum(rates) == pytest.approx(total, abs=1e-12)
    assert mean(rates) == pytest.approx(average, abs=1e-12)


def test_one_sub_layer_gets_the_upper_rate():
    assert linear_rank_schedule({"only": 3.0}, 0.1, 0.0) == {"only": 0.1}


@pytest.mark.parametrize("transform", [lambda s: 1e-9 * s, math.log, lambda s: s**3, lambda s: s - 7])
def test_only_ranks_matter(transform):
    assert linear_rank_schedule({k: transform(s) for k, s in MINI.items()}, 0.1, 0.0) == linear_rank_schedule(
        MINI, 0.1, 0.0
    )


def test_equal_scores_rank_in_the_order_of_the_model_whatever_the_order_given():
    assert list(linear_rank_schedule({"b": 1.0, "a": 1.0, "c": 0.0}, 0.1, 0.0)) == ["c", "b", "a"]
    equal = dict.fromkeys(BERT_BASE_RANKING, 1.0)
    shuffled = dict.fromkeys(reversed(BERT_BASE_RANKING), 1.0)
    rates = rates_after(GuidedDropout(scores=equal))
    assert rates == rates_after(GuidedDropout(scores=shuffled))
    assert list(rates.values()) == sorted(rates.values(), reverse=True)


def test_official_rates_are_the_published_table():
    rates = rates_after(GuidedDropout.official())
    expected = {f"layer.{i}.{kind}": p for kind, column in PUBLISHED.items() for i, p in column.items()}
    assert rates == pytest.approx(expected | {"embeddings": 0.0}, abs=1e-15)
    assert len(rates) == 37
    assert sum(rates.values()) == pytest.approx(1.8315, abs=1e-12)
    for kind, average in (("probabilities", 0.0839), ("attention_output", 0.0509), ("feed_forward_output", 0.0179)):
        assert mean(p for position, p in rates.items() if position.endswith(kind)) == pytest.approx(average, abs=5e-5)


def test_the_default_is_the_same_ranking_from_a_tenth():
    official, clean = rates_after(GuidedDropout.official()), rates_after(GuidedDropout())
    assert {g: p * 0.1 / 0.099 for g, p in official.items()} == pytest.approx(clean, abs=1e-15)


@pytest.mark.parametrize("method", [GuidedDropout(), UniformDropout(), PermutedDropout(), ReversedDropout()])
def test_classifier_dropout_modules_and_weights_are_left_alone(method):
    stock, model = bert_of_12_blocks(), bert_of_12_blocks()
    method.setup(model, context([]))
    assert model.dropout.p == 0.1
    kinds = [[type(module) for module in m.modules()] for m in (stock, model)]
    assert kinds[0] == kinds[1]
    assert largest_difference(weights(stock), weights(model)) == 0.0
    method.finalize(model)
    assert set(rates_of(model).values()) == {0.1}


@pytest.mark.parametrize("official", [False, True])
def test_controls_keep_the_rates_and_move_them(official):
    guided, uniform, permuted, reverse = (
        rates_after(kind.official() if official else kind())
        for kind in (GuidedDropout, UniformDropout, PermutedDropout, ReversedDropout)
    )
    top = 0.099 if official else 0.1
    (rate,) = set(uniform.values())
    assert rate == pytest.approx(top / 2, abs=1e-15)
    assert sorted(permuted.values()) == sorted(reverse.values()) == sorted(guided.values())
    assert reverse == pytest.approx({position: top - rate for position, rate in guided.items()}, abs=1e-15)
    assert permuted != guided
    assert permuted != reverse


def test_each_seed_has_its_own_permutation_and_the_global_stream_is_not_touched():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model = bert_of_12_blocks()
    torch.set_rng_state(state)
    PermutedDropout().setup(model, context([], seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert rates_of(model) == rates_after(PermutedDropout(), seed=1) != rates_after(PermutedDropout(), seed=2)


def test_uniform_dropout_at_the_default_rate_is_vanilla_at_that_rate_in_the_backbone(architecture):
    scores = {site.position: float(i) for i, site in enumerate(dropout_sites(tiny_encoder(architecture)))}
    models = []
    for method in (UniformDropout(0.2, 0.0, scores), Vanilla()):
        models.append(tiny_encoder(architecture))
        train_in_loop(models[-1], method, tiny_dataset())
    assert largest_difference(*map(weights, models)) == 0.0


def test_evaluation_is_that_of_the_stock_model_bit_for_bit(architecture, encoder, dataset):
    scores = {site.position: float(i) for i, site in enumerate(dropout_sites(encoder))}
    batch = batches(dataset, 8)[0]
    with torch.no_grad():
        stock = encoder.eval()(**batch).logits
        GuidedDropout(0.9, scores=scores).setup(encoder, context(dataset))
        assert torch.equal(encoder(**batch).logits, stock)
    assert max(rates_of(encoder).values()) == 0.9


def test_the_published_ranking_is_refused_on_another_depth_with_a_way_out(dataset):
    with pytest.raises(InputError, match=r"bert-base-uncased \(12 blocks\).*2 blocks.*pretraining_fisher_scores"):
        GuidedDropout().setup(tiny_encoder("bert"), context(dataset))


def test_scores_of_another_depth_and_missing_scores_are_refused(dataset):
    model = tiny_encoder("bert")
    scores = {site.position: 1.0 for site in dropout_sites(model)}
    with pytest.raises(InputError, match=r"scores \(3 blocks\) does not fit"):
        GuidedDropout(scores=scores | {"layer.2.attention_output": 1.0}).setup(model, context(dataset))
    del scores["embeddings"]
    with pytest.raises(InputError, match="does not fit"):
        GuidedDropout(scores=scores).setup(model, context(dataset))
    assert set(rates_of(model).values()) == {0.1}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"upper_rate": 1.0}, r"upper_rate in \[0, 1\)"),
        ({"lower_rate": -0.1}, r"lower_rate in \[0, 1\)"),
        ({"upper_rate": 0.1, "lower_rate": 0.2}, r"lower_rate in \[0, 0.1\]"),
        ({"scores": {"layer.0.attention": 1.0}}, "layer.0.attention"),
        ({"scores": {"embeddings": float("nan")}}, "finite number"),
        ({"scores": {"embeddings": "high"}}, "finite number"),
        ({"scores": [1.0]}, "scores"),
    ],
)
@pytest.mark.parametrize("kind", [GuidedDropout, PermutedDropout])
def test_bad_values_are_refused(kind, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        kind(**arguments)


def test_dropout_on_the_inputs_of_a_regression_is_an_l2_penalty():
    inputs, targets = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([1.0, 2.0]).double()
    weight = torch.tensor([1.0]).double()
    assert expected_dropout_penalty(inputs, weight, 0.5).item() == pytest.approx(5.0, abs=1e-12)
    torch.manual_seed(0)
    dropped = nn.functional.dropout(inputs.expand(200_000, 2, 1), 0.5, training=True)
    losses = (targets - dropped @ weight).square().sum(-1)
    assert (losses.mean().item()) == pytest.approx(5.0, abs=0.05)


def test_the_penalty_is_p_over_one_minus_p_times_the_diagonal_form():
    torch.manual_seed(0)
    inputs, weight = torch.randn(7, 3).double(), torch.randn(3).double()
    diagonal = torch.diag((inputs.T @ inputs).diagonal())
    expected = 0.099 / 0.901 * weight @ diagonal @ weight
    torch.testing.assert_close(expected_dropout_penalty(inputs, weight, 0.099), expected)


def test_worked_group_score_ignores_tensor_sizes_unless_weighted_by_parameter():
    tensors = [torch.tensor([1.0]), torch.tensor([[2.0, 4.0]]), torch.full((5, 5), 10.0)]
    assert sub_layer_score(tensors) == pytest.approx(14 / 3)
    assert sub_layer_score(tensors) == pytest.approx(4.667, abs=5e-4)
    assert sub_layer_score(tensors, "parameter") == pytest.approx((1 + 6 + 250) / 28)


def test_scores_are_means_of_squared_gradients_per_sequence_without_dropout():
    model, batch = masked_language_model(), masked_batch()
    named = dict(model.named_parameters())
    squares = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    model.eval()
    for i in range(6):
        model.zero_grad()
        model(**{name: tensor[i : i + 1] for name, tensor in batch.items()}).loss.backward()
        for name, parameter in named.items():
            squares[name] += parameter.grad.square() / 6
    model.zero_grad()
    model.train().bert.embeddings.eval()
    scores = pretraining_fisher_scores(model, [batch])
    assert model.training
    assert not model.bert.embeddings.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for site in dropout_sites(model):
        expected = mean(squares[name].mean().item() for name in site.parameters)
        assert scores[site.position] == pytest.approx(expected, rel=1e-9)
    word = "bert.embeddings.word_embeddings.weight"
    assert word in dropout_sites(model)[0].parameters
    assert model.cls.predictions.decoder.weight is named[word]


def test_scores_do_not_depend_on_how_sequences_are_batched_and_skip_those_that_ask_nothing():
    model, batch = masked_language_model(), masked_batch()
    whole = pretraining_fisher_scores(model, [batch])
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 1), slice(1, 6))]
    silent = {**parts[0], "labels": torch.full_like(parts[0]["labels"], -100)}
    assert pretraining_fisher_scores(model, [silent, *parts, silent]) == pytest.approx(whole, rel=1e-12)
    assert pretraining_fisher_scores(model, [batch, batch]) == pytest.approx(whole, rel=1e-12)
    first, rest = (pretraining_fisher_scores(model, [part]) for part in parts)
    assert {g: (first[g] + 5 * rest[g]) / 6 for g in whole} == pytest.approx(whole, rel=1e-9)
    with pytest.raises(InputError, match="at least one sequence"):
        pretraining_fisher_scores(model, [silent])


def test_the_fisher_information_of_a_key_bias_is_zero():
    """The softmax ignores a shift of its input: the key bias drags the score of the attention probabilities down."""
    model, batch = masked_language_model(), masked_batch()
    attention = model.bert.encoder.layer[1].attention.self
    with torch.no_grad():
        for linear in (attention.query, attention.key):
            linear.weight.mul_(20.0)
            linear.bias.normal_()
    sequences = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(6)]
    biases = {"key": attention.key.bias, "query": attention.query.bias}
    fisher = fisher_information(model.eval(), sequences, biases)
    assert fisher["query"].min() > 0
    assert (fisher["key"] < 1e-10 * fisher["query"].mean()).all()


def test_scaling_the_loss_scales_the_scores_by_its_square(monkeypatch):
    model, batch = masked_language_model(), masked_batch()
    scores = pretraining_fisher_scores(model, [batch])
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: SimpleNamespace(loss=3 * forward(**inputs).loss))
    assert pretraining_fisher_scores(model, [batch]) == pytest.approx({g: 9 * s for g, s in scores.items()}, rel=1e-9)


@pytest.mark.parametrize("architecture", [name for name in ENCODERS if name != "bert"])
def test_scores_of_a_masked_language_model_fit_its_classifier(architecture):
    model = masked_language_model(architecture)
    scores = pretraining_fisher_scores(model, [masked_batch(2)], weighting="parameter")
    classifier = tiny_encoder(architecture)
    assert list(scores) == [site.position for site in dropout_sites(classifier)]
    assert all(score > 0 for score in scores.values())
    GuidedDropout(scores=scores).setup(classifier, context([]))
    assert rates_of(classifier) == pytest.approx(linear_rank_schedule(scores, 0.1, 0.0))


def test_half_precision_models_are_scored_in_float32():
    exact = pretraining_fisher_scores(masked_language_model().float(), [masked_batch()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = pretraining_fisher_scores(masked_language_model().float(), [masked_batch()])
    half = pretraining_fisher_scores(masked_language_model().bfloat16(), [masked_batch()])
    for position, score in exact.items():
        assert autocast[position] == pytest.approx(score, rel=0.1)
        assert half[position] == pytest.approx(score, rel=0.1)


def test_scores_survive_json_as_hyperparameters():
    scores = pretraining_fisher_scores(masked_language_model(), [masked_batch(1)])
    stored = json.loads(json.dumps(GuidedDropout(scores=scores).hyperparameters))
    assert GuidedDropout(**stored) == GuidedDropout(scores=scores)


def test_the_shipped_scores_fit_the_pocket_encoder():
    model = AutoModelForSequenceClassification.from_pretrained(POCKET)
    GuidedDropout(scores=pocket_scores.pocket_fisher_scores()).setup(model, context([]))
    rates = rates_of(model)
    assert rates["embeddings"] == 0.0
    assert mean(rates.values()) == pytest.approx(0.05)
    for first, second in (("attention_probabilities", "attention_output"), ("attention_output", "feed_forward_output")):
        sums = [sum(p for g, p in rates.items() if g.endswith(kind)) for kind in (first, second)]
        assert sums[0] > sums[1]


def test_the_shipped_scores_can_be_measured_again():
    shipped = pocket_scores.pocket_fisher_scores()
    measured = pocket_scores.measure_pocket_fisher_scores(documents=150, seed=5)["scores"]
    assert measured.keys() == shipped.keys()
    ranks = [torch.tensor(list(scores.values())).argsort().argsort().double() for scores in (shipped, measured)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.85
    assert all(0.2 < measured[g] / shipped[g] < 5 for g in shipped)


def test_scores_of_other_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(pocket_scores, "POCKET", tmp_path)
    with pytest.raises(InputError, match=r"python -m finetune_reg\.pocket\.fisher_scores"):
        pocket_scores.pocket_fisher_scores()
    (tmp_path / "fisher_scores.json").write_text((POCKET / "fisher_scores.json").read_text())
    with pytest.raises(InputError, match="does not belong"):
        pocket_scores.pocket_fisher_scores()


def test_the_masked_language_model_of_pocket_is_complete():
    _, report = BertForMaskedLM.from_pretrained(POCKET, output_loading_info=True)
    assert not report["missing_keys"]
