"""The fitted head: against scikit-learn's logistic regression, the normal equations and the gradient at the minimum."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_encoders import DECODERS, ENCODERS, batches, tiny_dataset, tiny_encoder
from torch import nn
from torch.nn import functional as F
from training_hosts import context, largest_difference, method_trainer, weights

from finetune_reg.errors import InputError
from finetune_reg.experiment.pass_counting import PassCounter
from finetune_reg.methods import (
    Combination,
    HeadFirst,
    Mixout,
    NoisyTune,
    PretrainedInterpolation,
    TopLayerReinitialization,
)
from finetune_reg.methods.head_first import fit_output_layer

DATASET = tiny_dataset()


def output_layer(model) -> tuple[nn.Module, str]:
    head = next(getattr(model, name) for name in ("classifier", "score") if hasattr(model, name))
    return (head, "out_proj") if hasattr(head, "out_proj") else (model, "classifier" if head is not model else "")


def features_of(model, batch) -> torch.Tensor:
    """What the model returns in place of its logits when its output layer does nothing."""
    parent, name = output_layer(model)
    name = "score" if hasattr(model, "score") else name
    layer = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    with torch.no_grad():
        features = model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits
    setattr(parent, name, layer)
    return features


def test_worked_numbers():
    """One feature, x = y, with a sum of squares of 2 about its mean: the slope is 2 / (2 + lambda)."""
    numbers = torch.tensor([1.0, 2.0, 3.0])
    weight, bias = fit_output_layer(numbers[:, None], numbers, 1, penalty=2.0)
    assert weight.item() == pytest.approx(0.5)
    assert bias.item() == pytest.approx(1.0)
    # x = -1, 1 of labels 0, 1, without a bias: d/dw of 2 log(1 + exp(-w)) + lambda w^2 / 2 is 0 at w = log 3.
    penalty = 0.5 / torch.tensor(3.0).log().item()
    features, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    weight, _ = fit_output_layer(features, labels, 2, penalty, has_bias=False)
    assert weight.flatten().tolist() == pytest.approx([-0.5493061, 0.5493061], abs=1e-6)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_the_gradient_of_the_penalized_loss_vanishes(n_labels):
    torch.manual_seed(0)
    features, labels, penalty = torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % n_labels, 0.3
    weight, bias = (t.requires_grad_() for t in fit_output_layer(features, labels, n_labels, penalty))
    penalized = weight[1] - weight[0] if n_labels == 2 else weight
    loss = F.cross_entropy(features @ weight.T + bias, labels, reduction="sum") + penalty / 2 * penalized.square().sum()
    assert loss.item() < 40 * torch.tensor(float(n_labels)).log().item()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_without_an_update_it_is_logistic_regression_on_frozen_features(architecture):
    model = tiny_encoder(architecture)
    whole, before = batches(DATASET, len(DATASET))[0], weights(model)
    features = features_of(model, whole)
    with_bias = architecture != "gpt2"
    expected = LogisticRegression(C=1 / 0.1, fit_intercept=with_bias, tol=1e-8, max_iter=1000)
    expected.fit(features.double().numpy(), whole["labels"].numpy())
    method = HeadFirst(0.1)
    model.train()
    with PassCounter(model) as passes:
        method.setup(model, context(DATASET))
    assert (passes.forward, passes.backward) == (3, 0)
    assert model.training
    method.finalize(model)
    with torch.no_grad():
        found = model.eval()(**whole).logits.softmax(-1).numpy()
    assert abs(found - expected.predict_proba(features.double().numpy())).max() < 1e-5
    changed = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
    assert 1 <= len(changed) <= 2
    assert all(name.startswith(("classifier", "score")) for name in changed)


def test_a_run_at_rate_0_in_the_trainer_ends_with_the_fitted_head(tmp_path):
    in_trainer, fitted = tiny_encoder("bert"), tiny_encoder("bert")
    method_trainer(in_trainer, HeadFirst(), DATASET, tmp_path, learning_rate=0.0).train()
    HeadFirst().setup(fitted, context(DATASET))
    assert largest_difference(weights(in_trainer), weights(fitted)) == 0.0


def test_a_regression_solves_the_normal_equations():
    model = tiny_encoder("bert", num_labels=1, dtype=torch.float64)
    dataset = [{**example, "labels": example["labels"].double() + 0.1 * i} for i, example in enumerate(DATASET)]
    whole = batches(dataset, len(dataset))[0]
    features, numbers = features_of(model, whole), whole["labels"]
    HeadFirst(0.2).setup(model, context(dataset))
    centred = features - features.mean(0)
    gram = centred.T @ centred + 0.2 * torch.eye(features.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(gram, centred.T @ (numbers - numbers.mean()))
    torch.testing.assert_close(model.classifier.weight[0].detach(), slope)
    torch.testing.assert_close(model.classifier.bias[0].detach(), numbers.mean() - features.mean(0) @ slope)


def test_rows_that_do_not_have_one_label_of_all_are_refused():
    with pytest.raises(InputError, match="training rows of all 3 labels, and label 2 has none"):
        HeadFirst().setup(tiny_encoder("bert", num_labels=3), context(DATASET))
    model = tiny_encoder("bert", problem_type="multi_label_classification")
    several = [{**example, "labels": torch.ones(2)} for example in DATASET]
    with pytest.raises(InputError, match="use single-label data or a regression"):
        HeadFirst().setup(model, context(several))


def test_it_stands_after_what_changes_the_features_and_before_what_copies_the_head():
    for members in ([HeadFirst(), NoisyTune()], [HeadFirst(), TopLayerReinitialization(1)], [Mixout(), HeadFirst()]):
        with pytest.raises(InputError, match="must stand before"):
            Combination(members)
    model = tiny_encoder("bert")
    both = Combination([HeadFirst(), PretrainedInterpolation(0.0, include_head=True)])
    both.setup(model, context(DATASET))
    fitted = weights(model)
    nn.init.zeros_(model.classifier.weight)
    both.finalize(model)
    assert largest_difference(fitted, weights(model)) == 0.0
