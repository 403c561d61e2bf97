"""Settings that no run can have."""

from __future__ import annotations

from itertools import product

import pytest
from refusals import assert_refused

from finetune_reg.errors import shortened
from finetune_reg.experiment.notebook_parameters import settings_from
from finetune_reg.experiment.settings import SETTING_TYPES, RunSettings, check_device

NAN, INF = float("nan"), float("inf")
COUNTS = ("n_train", "epochs", "batch_size", "max_length", "evaluate_every")
SEEDS = ("seed_init", "seed_order", "seed_noise", "seed_subset")
WRONG_INTEGERS = (True, 1.0, 2.5, NAN, INF, "1", [1], {}, b"1", (1,))
WRONG_NUMBERS = (True, "0.1", [0.1], {}, None, b"1")
CASES: list[tuple[dict, str]] = [
    *(({name: value}, f"A run needs {name} in [1, inf)") for name, value in product(COUNTS, (0, -1, -7))),
    *(({name: value}, f"A run needs {name} to be an integer") for name, value in product(COUNTS, WRONG_INTEGERS)),
    *(({name: value}, f"A run needs {name} in [0, 4294967295]") for name, value in product(SEEDS, (-1, 2**32))),
    *(
        ({name: value}, f"A run needs {name} to be an integer")
        for name, value in product(SEEDS, (None, *WRONG_INTEGERS))
    ),
    *(({name: 10**9999}, f"A run needs {name} to be at most 9223372036854775807") for name in (*SEEDS, *COUNTS)),
    *(({name: 10**400}, f"A run needs {name} to be at most") for name in ("learning_rate", "weight_decay")),
    *(({"held_out_fold": value}, "A run needs held_out_fold in [0, 4]") for value in (-1, 5, 9)),
    *(({"held_out_fold": value}, "A run needs held_out_fold to be an integer or None") for value in WRONG_INTEGERS),
    *(
        ({name: value}, f"A run needs {name} in (0, inf)")
        for name, value in product(("learning_rate", "max_grad_norm"), (0, 0.0, -1e-4, NAN, INF, -INF))
    ),
    *(({"weight_decay": value}, "A run needs weight_decay in [0, inf)") for value in (-5, -1e-9, NAN, INF, -INF)),
    *(({"warmup_fraction": value}, "A run needs warmup_fraction in [0, 1]") for value in (-0.1, 1.01, NAN, INF)),
    *(
        ({name: value}, f"A run needs {name} to be a number")
        for name, value in product(("learning_rate", "max_grad_norm", "weight_decay", "warmup_fraction"), WRONG_NUMBERS)
    ),
    *(
        ({name: value}, f"A run needs {name} to be true or false")
        for name, value in product(("stratified", "bias_correction", "pretrained"), (0, 1, "yes", None))
    ),
    *(
        ({name: value}, f"A run needs {name} to be a string")
        for name, value in product(("task", "source", "model_name", "method"), (None, 3, ["rte"], b"rte"))
    ),
    *(({"split": value}, "A run needs split to be 'official' or") for value in ("train", None, ["pooled"])),
    *(({"precision": value}, "A run needs precision to be 'float32' or") for value in ("float16", 32, ["float32"])),
    *(({"evaluate_on": value}, "A run needs evaluate_on to be a list") for value in ("rte", [1], None, {"rte": 1})),
    ({"task": "rte2"}, "did you mean 'rte'"),
    ({"task": ""}, "There is no task ''"),
    ({"evaluate_on": ["entailment2"]}, "did you mean 'entailment'"),
    ({"evaluate_on": ["similarity"]}, "cannot be scored on similarity"),
    ({"task": "similarity", "evaluate_on": ["entailment"]}, "cannot be scored on entailment"),
    ({"method": "mixot"}, "did you mean 'mixout'"),
    ({"method_hyperparameters": {"p": 0.9}}, "There is no parameter of method 'vanilla' 'p'"),
    ({"method_hyperparameters": [0.9]}, "A run needs method_hyperparameters to be a mapping"),
    ({"method_hyperparameters": {1: 0.9}}, "A run needs method_hyperparameters to be a mapping"),
    ({"method": "mixout", "method_hyperparameters": {"mix_probability": NAN}}, "needs mix_probability in [0, 1]"),
    ({"method": "l2_sp", "method_hyperparameters": {"pretrained_strength": INF}}, "needs pretrained_strength in"),
    ({"task": "similarity", "stratified": True}, "similarity has scores, not classes"),
    ({"task": "stsb", "stratified": True, "source": "local"}, "stsb has scores, not classes"),
    ({"task": "rte", "split": "development"}, "rte is scored on its development set anyway: leave split out."),
    ({"task": "mnli", "split": "development"}, "mnli is scored on its development set anyway: leave split out."),
    ({"stratified": True, "n_train": None}, "A stratified subset needs n_train"),
    ({"held_out_fold": 0, "n_train": 4}, "4 training rows cannot be cut into 5 folds"),
]
NOTEBOOKS: list[tuple[dict, str]] = [
    ({"seeds": [-1, 1]}, "A run needs seed_init in [0, 4294967295], not -1"),
    ({"seeds": [2**32]}, "A run needs seed_init in [0, 4294967295]"),
    ({"seeds": [0], "seed_subset": -3}, "A run needs seed_subset in"),
    ({"seeds": [-2], "seed_subset": None}, "A run needs seed_init in"),
    ({"seeds": [0, 0]}, "different integers"),
    ({"seeds": []}, "different integers"),
    ({"seeds": [0.0]}, "The notebook needs seeds to be a list of integers"),
    ({"device": "toaster"}, "There is no device 'toaster'"),
    ({"device": 0}, "The notebook needs device to be a string"),
    ({"epoch": 3}, "did you mean 'epochs'"),
]
DEVICES = ("", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:0:1", "cuda:9999", "cpu:0\n", "tpu", "cuda\n", "auto ")


@pytest.mark.parametrize(("settings", "sentence"), CASES, ids=lambda value: shortened(value)[:60])
def test_settings_that_no_run_can_have_are_refused(settings, sentence):
    assert_refused(lambda: RunSettings(**settings), sentence)


@pytest.mark.parametrize(("parameters", "sentence"), NOTEBOOKS, ids=shortened)
def test_parameters_that_no_notebook_can_have_are_refused(parameters, sentence):
    assert_refused(lambda: settings_from(parameters), sentence)


@pytest.mark.parametrize("device", DEVICES)
def test_devices_that_are_none_are_refused(device):
    assert_refused(lambda: check_device(device), "There is no device")


def test_every_setting_is_tried():
    tried = {name for settings, _ in CASES for name in settings}
    assert tried == set(SETTING_TYPES)
