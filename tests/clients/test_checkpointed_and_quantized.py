"""Models that save memory: by computing activations again, or by weights of few bits."""

from __future__ import annotations

import pytest
import torch
from method_settings import METHOD_SETTINGS
from tiny_encoders import tiny_dataset, tiny_encoder
from torch import nn
from training_hosts import context, largest_difference, method_trainer, train_in_loop, weights

from finetune_reg.errors import InputError
from finetune_reg.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")  # its new name is younger than 5.5
DATASET = tiny_dataset()
DIFFERENTIATING = ("smart", "freelb", "child_tuning_d", "attention_guided_weight_mixup", "low_rank_adaptation")


def checkpointed(use_reentrant: bool | None):
    model = tiny_encoder("bert")
    options = {} if use_reentrant is None else {"use_reentrant": use_reentrant}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    return model


@pytest.mark.parametrize("use_reentrant", [True, None])
@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_reentrant_checkpointing_is_refused_at_setup(name, use_reentrant):
    method = METHOD_SETTINGS[name].active()
    with pytest.raises(InputError, match=r"enable checkpointing with use_reentrant=False\."):
        method.setup(checkpointed(use_reentrant).train(), context(DATASET))


@pytest.mark.parametrize("name", ["smart", "freelb", "low_rank_adaptation"])
def test_a_trainer_that_enables_it_later_is_refused_at_its_first_loss(name, tmp_path):
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(InputError, match="use_reentrant"):
        method_trainer(tiny_encoder("bert"), METHOD_SETTINGS[name].active(), DATASET, tmp_path, **options).train()


@pytest.mark.parametrize("name", METHODS)
def test_checkpointing_changes_no_weight(name):
    plain, ours = tiny_encoder("bert"), checkpointed(use_reentrant=name not in DIFFERENTIATING)
    for model in (plain, ours):
        train_in_loop(model, METHOD_SETTINGS[name].active(), DATASET)
    assert largest_difference(weights(plain), weights(ours)) < 1e-6


class Linear4bit(nn.Linear):
    """Stands for the layer of bitsandbytes, which is told by its name."""


@pytest.mark.parametrize(
    "name",
    [
        "mixout",
        "dps_mix",
        "attention_guided_weight_mixup",
        "noisy_tune",
        "top_layer_reinitialization",
        "combination",
        "low_rank_adaptation",
    ],
)
def test_quantized_weights_are_refused_by_what_they_are(name):
    model = tiny_encoder("bert")
    for block in model.bert.encoder.layer:
        block.attention.self.query.__class__ = Linear4bit
    before = weights(model)
    with pytest.raises(InputError, match=r"a Linear4bit, because quantized weights cannot be mixed") as refusal:
        METHOD_SETTINGS[name].active().setup(model, context(DATASET))
    assert str(refusal.value).endswith("load the model without quantization.")
    assert largest_difference(before, weights(model)) == 0.0
    assert not any(type(module) is not nn.Linear for module in model.classifier.modules())


def test_weights_of_a_quantizing_library_are_told_by_their_type():
    class QTensor(nn.Parameter):
        """Stands for a tensor of TorchAO inside a plain linear layer."""

    QTensor.__module__ = "torchao.dtypes"
    model = tiny_encoder("bert")
    model.bert.encoder.layer[0].attention.self.query.weight.__class__ = QTensor
    with pytest.raises(InputError, match="quantized weights cannot be mixed"):
        METHOD_SETTINGS["mixout"].active().setup(model, context(DATASET))
    assert isinstance(model.bert.encoder.layer[0].attention.self.query.weight, torch.Tensor)
