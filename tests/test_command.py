"""The command as a user meets it: one sentence and exit code 2 for what the user can mend."""

from __future__ import annotations

import subprocess

import pytest
from command_line import COMMAND, call

from finetune_reg.methods import METHODS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "-p", "tusk=rte"), "There is no notebook parameter 'tusk': did you mean 'task'?"),
        (("run", "-p", "method=mixot"), "There is no method 'mixot': did you mean 'mixout'?"),
        (("run", "-p", "method=mixout", "-p", "method_hyperparameters={mix_probability: 1.5}"), "in [0, 1], not 1.5"),
        (("methods", "mixot"), "There is no method 'mixot': did you mean 'mixout'?"),
        (("run", "-p", "epochs"), "Parameter 'epochs' is not NAME=VALUE."),
        (("reproduce", "poket"), "There is no plan 'poket': did you mean 'pocket'?"),
        (("report", "no-such-folder"), "no-such-folder holds no run records"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(arguments, sentence):
    finished = call(*arguments)
    assert finished.returncode == 2
    assert sentence in finished.stderr
    assert "Traceback" not in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_the_installed_command_ends_as_main_does():
    finished = subprocess.run([COMMAND, "methods", "mixot"], capture_output=True, text=True)
    in_process = call("methods", "mixot")
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", in_process.stderr)
    assert "did you mean 'mixout'" in finished.stderr


def test_tasks_of_a_source_are_listed():
    listing = call("data", "--source", "pocket").stdout
    assert "acceptability" in listing
    assert "2000" in listing


def test_every_method_is_listed_with_its_ranges_cost_place_and_differences():
    listing = " ".join(call("methods").stdout.replace("\u2502", " ").split())
    for name in METHODS:
        assert name in listing
    assert "mix_probability: [0, 1]; default 0.7" in listing
    assert "Passes per update: 1 forward, 1 backward" in listing
    assert "Acts in: setup, training_loss, finalize." in listing
    assert "Its backward pass multiplies by `b`, not by `b / (1 - p)`" in listing
