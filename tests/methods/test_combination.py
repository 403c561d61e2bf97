"""Combinations: what they add up, in which order, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder
from training_hosts import added_loss, context, largest_difference, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import (
    L2SP,
    R3F,
    SMART,
    AttentionGuidedWeightMixup,
    ChildTuningD,
    ChildTuningF,
    Combination,
    DPSMix,
    FreeLB,
    GuidedDropout,
    LayerwiseLearningRateDecay,
    Mixout,
    NoisyTune,
    PretrainedWeightDecay,
    RDrop,
    RecAdam,
    TopLayerReinitialization,
    Vanilla,
)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (
            lambda: [Mixout(0.5, disable_dropout=False), DPSMix(disable_dropout=False)],
            "Mixout and DPSMix cannot be combined: both replace the linear layers.",
        ),
        (
            lambda: [AttentionGuidedWeightMixup(), Mixout(0.5)],
            "AttentionGuidedWeightMixup and Mixout cannot be combined: both replace the linear layers.",
        ),
        (
            lambda: [GuidedDropout(), Vanilla(dropout=0.0)],
            "GuidedDropout and Vanilla cannot be combined: both set the dropout rates.",
        ),
        (
            lambda: [Mixout(0.5), GuidedDropout()],
            "Mixout and GuidedDropout cannot be combined: both set the dropout rates.",
        ),
        (
            lambda: [LayerwiseLearningRateDecay(), RecAdam()],
            "LayerwiseLearningRateDecay and RecAdam cannot be combined: each brings its own optimizer.",
        ),
        (
            lambda: [L2SP(), TopLayerReinitialization(1)],
            "TopLayerReinitialization must stand before L2SP in a Combination: it changes the initial weights, "
            "and L2SP takes snapshots of the weights or changes modules.",
        ),
        (
            lambda: [Mixout(0.5), NoisyTune()],
            "NoisyTune must stand before Mixout in a Combination: it changes the initial weights, "
            "and Mixout takes snapshots of the weights or changes modules.",
        ),
        (
            lambda: [ChildTuningD(), GuidedDropout()],
            "GuidedDropout must stand before ChildTuningD in a Combination: it takes snapshots of the weights or "
            "changes modules, and ChildTuningD searches or measures on the training data.",
        ),
        (
            lambda: [SMART(), Mixout(0.5)],
            "Mixout must stand before SMART in a Combination: it takes snapshots of the weights or changes modules, "
            "and SMART copies the whole model.",
        ),
        (lambda: [FreeLB(), FreeLB()], "FreeLB and FreeLB cannot be combined: both replace the task loss."),
        (lambda: [], "Combination needs at least one method."),
        (lambda: ["mixout"], "Combination needs members to be a list of FineTuningMethods, not ['mixout'] (list)."),
    ],
)
def test_a_refused_combination_names_two_members_and_the_reason(members, sentence):
    with pytest.raises(InputError) as refusal:
        Combination(members())
    assert str(refusal.value) == sentence


def test_a_combination_inside_a_combination_keeps_the_rules():
    inner = Combination([DPSMix(disable_dropout=False)])
    with pytest.raises(InputError, match="DPSMix and Mixout cannot be combined: both replace the linear layers"):
        Combination([inner, Mixout(0.5, disable_dropout=False)])
    with pytest.raises(InputError, match="RecAdam and RecAdam cannot be combined: each brings its own optimizer"):
        Combination([Combination([RecAdam()]), RecAdam()])
    assert Combination([Combination([NoisyTune(), L2SP()]), RDrop()]) == Combination([NoisyTune(), L2SP(), RDrop()])


def test_anchors_are_the_weights_after_initialization(dataset):
    model = tiny_encoder("bert")
    before = weights(model)
    combination = Combination([NoisyTune(2.0), L2SP(1.0, 0.0)])
    combination.setup(model, context(dataset))
    assert largest_difference(before, weights(model)) > 0.01
    assert added_loss(combination, model, {}, None).item() == 0.0


def test_losses_and_passes_add_up(dataset):
    members = [L2SP(10.0, 1.0), RDrop(1.0), SMART(1.0, 0.0)]
    forward, backward = Combination(members).passes_per_update
    assert forward == 1 + sum(member.passes_per_update[0] - 1 for member in members)
    assert backward == 1 + sum(member.passes_per_update[1] - 1 for member in members)
    model, batch = tiny_encoder("bert").eval(), batches(dataset, 8)[0]
    combination = Combination([L2SP(10.0, 1.0), L2SP(4.0, 2.0)])
    combination.setup(model, context(dataset))
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(0.1)
    extra = [added_loss(member, model, batch, model(**batch)) for member in combination.members]
    torch.testing.assert_close(added_loss(combination, model, batch, model(**batch)), sum(extra))


@pytest.mark.parametrize(
    "members",
    [
        lambda: [FreeLB(3), L2SP(1.0)],
        lambda: [R3F(), FreeLB(2)],
        lambda: [FreeLB(3), RDrop(), SMART()],
        lambda: [FreeLB(1), RDrop()],
    ],
)
def test_the_passes_of_a_combination_are_those_that_it_makes(members, dataset):
    model, method = tiny_encoder("bert"), Combination(members())
    with PassCounter(model) as passes:
        train_in_loop(model, method, dataset)
    assert (passes.forward, passes.backward) == tuple(6 * n for n in method.passes_per_update)


def test_a_replaced_task_loss_is_replaced_before_others_add_to_it(dataset):
    """The mean over the path, and each other member's part at the main pass, in any order of the members."""
    batch, found = batches(dataset, 8)[0], []
    for members in ([RDrop(), FreeLB(2, 0.3)], [FreeLB(2, 0.3), RDrop()]):
        model, method = tiny_encoder("bert", dtype=torch.float64).train(), Combination(members)
        method.setup(model, context(dataset))
        torch.manual_seed(0)
        loss = method.training_loss(model, batch, model(**batch))
        loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()} | {"loss": loss.detach()})
        method.finalize(model)
    assert largest_difference(*found) == 0.0


def test_a_mask_of_gradients_covers_penalties_that_stand_behind_it(dataset):
    trained = []
    for members in ([L2SP(5.0), ChildTuningF(0.3)], [ChildTuningF(0.3), L2SP(5.0)]):
        model = tiny_encoder("bert")
        train_in_loop(model, Combination(members), dataset)
        trained.append(weights(model))
    assert largest_difference(*trained) == 0.0


def test_members_that_were_set_up_are_undone_when_a_later_one_fails(dataset):
    class Linear4bit(torch.nn.Linear):
        """What a quantizing library puts in place of a linear layer."""

    model = tiny_encoder("bert")
    model.bert.encoder.layer[1].output.dense.__class__ = Linear4bit
    before = weights(model)
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    combination = Combination([Vanilla(dropout=0.4), Mixout(0.5, disable_dropout=False)])
    with pytest.raises(InputError, match="quantized weights cannot be mixed"):
        train_in_loop(model, combination, dataset)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == rates
    assert largest_difference(before, weights(model)) == 0.0


def test_members_are_undone_in_reverse(dataset):
    class Marks(FineTuningMethod):
        def __init__(self, mark):
            self.mark = mark

        def setup(self, model, context):
            self.found, model.mark = model.mark, self.mark

        def finalize(self, model):
            model.mark = self.found

    model = tiny_encoder("bert")
    model.mark = "as it was"
    train_in_loop(model, Combination([Marks("first"), Marks("second")]), dataset)
    assert model.mark == "as it was"


@pytest.mark.parametrize(
    "members",
    [
        lambda: [TopLayerReinitialization(1), LayerwiseLearningRateDecay(), Mixout(0.5), RDrop(1.0)],
        lambda: [NoisyTune(), RecAdam(pretrained_strength=10.0), Mixout(0.5)],
        lambda: [DPSMix(update_ratio=0.2), PretrainedWeightDecay(1.0), SMART()],
    ],
)
def test_combinations_of_three_and_four_train_and_leave_a_plain_model(members, dataset):
    model = tiny_encoder("bert")
    kinds, keys = [type(module) for module in model.modules()], list(model.state_dict())
    losses = train_in_loop(model, Combination(members()), dataset)
    assert all(loss == loss for loss in losses)
    assert [type(module) for module in model.modules()] == kinds
    assert list(model.state_dict()) == keys
