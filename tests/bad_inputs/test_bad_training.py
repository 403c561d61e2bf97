"""What a training loop, and MethodTrainer, cannot do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusals import assert_refused
from tiny_encoders import batches, tiny_dataset, tiny_encoder
from training_hosts import context, method_trainer

from finetune_reg.methods import METHODS, Mixout, Vanilla
from finetune_reg.training_loop import train

NAN, INF = float("nan"), float("inf")
DATASET = tiny_dataset()
CONTEXTS = [
    *(({"n_updates": value}, "TrainingContext needs n_updates") for value in (0, -1, 1.5, "3", None, True)),
    *(({"batch_size": value}, "TrainingContext needs batch_size") for value in (0, -8, 2.0)),
    *(({"seed": value}, "TrainingContext needs seed") for value in (-1, 2**32, 0.5, None)),
    *(({"learning_rate": value}, "TrainingContext needs learning_rate in [0, inf)") for value in (-1e-3, NAN, INF)),
    *(({"weight_decay": value}, "TrainingContext needs weight_decay in [0, inf)") for value in (-5, NAN, INF)),
    *(({"epsilon": value}, "TrainingContext needs epsilon in [0, inf)") for value in (-1e-8, NAN)),
]
ARGUMENTS = [
    *(({"precision": value}, "train needs precision to be 'float32' or") for value in ("float16", "fp32", None)),
    *(({"accumulation_steps": value}, "train needs accumulation_steps") for value in (0, -1, 1.5)),
    *(({"warmup_fraction": value}, "train needs warmup_fraction") for value in (-0.1, 1.1, NAN, "0.1")),
    *(({"max_grad_norm": value}, "max_grad_norm must be above 0") for value in (0, -1.0, NAN)),
]


@pytest.mark.parametrize(("change", "sentence"), CONTEXTS, ids=lambda value: str(value)[:40])
def test_a_context_that_no_run_can_have(change, sentence):
    assert_refused(lambda: replace(context(DATASET), **change), sentence)


@pytest.mark.parametrize(("arguments", "sentence"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments_that_the_loop_refuses(arguments, sentence):
    model = tiny_encoder("bert")
    assert_refused(lambda: train(model, Vanilla(), batches(DATASET, 8), context(DATASET), **arguments), sentence)


@pytest.mark.parametrize("method", [Mixout, "mixout", None, METHODS], ids=["class", "name", "none", "registry"])
def test_something_else_than_a_method(method, tmp_path):
    model = tiny_encoder("bert")
    assert_refused(lambda: train(model, method, batches(DATASET, 8), context(DATASET)), "an object such as Mixout(0.9)")
    assert_refused(lambda: method_trainer(model, method, DATASET, tmp_path), "an object such as Mixout(0.9)")


def test_a_loader_without_labels_or_without_batches():
    model, unlabelled = (
        tiny_encoder("bert"),
        [{k: v for k, v in b.items() if k != "labels"} for b in batches(DATASET, 8)],
    )
    assert_refused(lambda: train(model, Vanilla(), unlabelled, context(DATASET)), "have no loss: give it labels")
    assert_refused(lambda: train(model, Vanilla(), [], context(DATASET)), "The loader gave no batch")


def test_a_model_with_nothing_to_train(tmp_path):
    model = tiny_encoder("bert").requires_grad_(False)
    assert_refused(lambda: train(model, Vanilla(), batches(DATASET, 8), context(DATASET)), "has no parameter to train")
    assert_refused(lambda: method_trainer(model, Vanilla(), DATASET, tmp_path).train(), "has no parameter to train")


@pytest.mark.parametrize("arguments", [{"warmup_steps": 1, "max_steps": 1}, {"warmup_steps": 0.5, "max_steps": 1}])
def test_a_warm_up_that_takes_all_updates_of_the_trainer(arguments, tmp_path):
    model = tiny_encoder("bert")
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    trainer = method_trainer(model, Vanilla(), DATASET, tmp_path, **arguments)
    assert_refused(trainer.train, "cannot warm up for all of its 1 updates")
    assert torch.equal(before, torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
