"""The command as a user meets it: one sentence and exit code 2 for what the user can mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "finetune-reg"


def call(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "-p", "tusk=rte"), "There is no notebook parameter 'tusk': did you mean 'task'?"),
        (("run", "-p", "method=mixot"), "There is no method 'mixot': did you mean 'mixout'?"),
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


def test_tasks_of_a_source_are_listed():
    listing = call("data", "--source", "pocket").stdout
    assert "acceptability" in listing
    assert "2000" in listing
