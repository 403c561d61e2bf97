"""Encoders from the hub and from a folder: one code path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.xdist_group("loaded encoders")
REVISION = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.errors import InputError
from finetune_reg.tasks import get_task
import sys
for name in sys.argv[1:]:
    try:
        encoder = load_encoder(name, get_task("rte"), seed=0)
    except InputError as error:
        print(error)
    else:
        print(encoder.weights_hash, len(encoder.tokenizer))
"""


@pytest.fixture(scope="module")
def loaded(tiny_world, tmp_path_factory) -> dict[str, str]:
    """What a new process says of each name: the hub's cache is chosen once, when its library is imported."""
    cache = tmp_path_factory.mktemp("cache")
    repository = cache / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_world["model_name"], repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    names = {"hub": "someone/tiny", "folder": tiny_world["model_name"], "unreachable": "someone/unknown"}
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, *names.values()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def test_a_hub_snapshot_and_a_folder_give_the_same_encoder(loaded):
    assert loaded["hub"] == loaded["folder"]
    assert len(loaded["hub"].split()[0]) == 16


def test_an_unreachable_hub_says_what_to_do(loaded):
    assert "a hub name with the network on" in loaded["unreachable"]
