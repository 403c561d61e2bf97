"""Encoders from the hub and from a folder: one code path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

LOAD = """
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.errors import InputError
from finetune_reg.tasks import get_task
import sys
try:
    encoder = load_encoder(sys.argv[1], get_task("rte"), seed=0)
except InputError as error:
    print(error)
else:
    print(encoder.weights_hash, len(encoder.tokenizer))
"""


def load_in_a_new_process(name, cache) -> str:
    """The hub's cache is chosen once, when its library is imported."""
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", LOAD, name], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_snapshot_and_a_folder_give_the_same_encoder(tiny_world, tmp_path):
    repository = tmp_path / "hub" / "models--someone--tiny"
    revision = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_world["model_name"], repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    from_hub = load_in_a_new_process("someone/tiny", tmp_path)
    assert from_hub == load_in_a_new_process(tiny_world["model_name"], tmp_path)
    assert len(from_hub.split()[0]) == 16


def test_an_unreachable_hub_says_what_to_do(tmp_path):
    assert "a hub name with the network on" in load_in_a_new_process("someone/unknown", tmp_path)
