"""A comparison that is killed and started again ends with the same page as one that is not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND
from own_table.tables import animals
from sweep_plans import ENVIRONMENT, wait_for

from finetune_reg.sweep.protocol import read_json, write_json


@pytest.mark.campaign
def test_a_killed_comparison_ends_with_the_same_page(tiny_world, tmp_path):
    path, out = tmp_path / "animals.csv", tmp_path / "out"
    animals().to_csv(path, index=False)
    command = [COMMAND, "compare", path, "--text", "words", "--label", "animal", "--model", tiny_world["model_name"]]
    command += ["--method", "mixout", "--output-dir", out, "--budget", "1h"]
    shown = subprocess.run([*command, "--plan"], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert "5 folds, 4 times" in shown.stdout
    killed = _start(command, tmp_path)
    wait_for(lambda: (out / "comparison.json").exists() or killed.poll() is not None, 120)
    _shrink(killed, out)
    killed = _start(command, tmp_path)
    wait_for(lambda: len(list(out.glob("records/*.json"))) >= 5 or killed.poll() is not None, 240)
    killed.kill()
    killed.wait()
    assert not (out / "answer.html").exists()
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copy(out / "comparison.json", whole)
    pages = []
    for folder in (out, whole):
        command[command.index("--output-dir") + 1] = folder
        subprocess.run(command, env=ENVIRONMENT, check=True, timeout=400, capture_output=True)
        pages.append(_without_times(folder / "answer.html"))
    assert pages[0] == pages[1]


def _start(command: list, folder: Path) -> subprocess.Popen:
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)


def _shrink(process: subprocess.Popen, out: Path) -> None:
    """Kill the command as soon as its plan is stored, and leave a plan of four splits in its place."""
    process.kill()
    process.wait()
    kept = read_json(out / "comparison.json")
    kept["plan"] |= {"folds": 4, "repeats": 1, "tries": [[1.0, 1]]}
    write_json(out / "comparison.json", kept)


def _without_times(page: Path) -> str:
    text = re.sub(r'src="data:image[^"]*"', "", page.read_text())
    return re.sub(r'<td class="number">\d+\.\d</td>\s*</tr>', "", text)  # seconds stand in the last column
