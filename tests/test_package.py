"""The package as users meet it: import time, README, a built wheel, tidy sources."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import finetune_reg
from finetune_reg.methods import METHODS
from finetune_reg.paths import ROOT

README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"


def test_import_is_quick_and_leaves_torch_alone():
    script = "import sys, time; t = time.perf_counter(); import finetune_reg; "
    script += "print(time.perf_counter() - t, 'torch' in sys.modules)"
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout for _ in range(3)]
    assert statistics.median(float(run.split()[0]) for run in runs) < 0.5
    assert all(run.split()[1] == "False" for run in runs)


def test_planning_a_sweep_loads_nothing_that_only_running_one_needs():
    script = "import sys, finetune_reg.sweep.commands, finetune_reg.sweep.plan, finetune_reg.sweep.cost; "
    script += "print(sorted({'nbformat', 'papermill', 'distributed'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_every_public_name_resolves():
    for name in finetune_reg.__all__:
        assert getattr(finetune_reg, name) is not None
    with pytest.raises(AttributeError):
        _ = finetune_reg.NoSuchName


def shown_scripts(marker: str) -> list[str]:
    page = (DOCS / "your_loop.md").read_text()
    return re.findall(rf"<!-- {marker} -->\n```python\n(.*?)```", page, flags=re.S)


@pytest.mark.parametrize("marker", ["plain loop", "trainer"])
def test_a_page_shows_code_that_runs(marker, tmp_path, monkeypatch):
    (block,) = shown_scripts(marker)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "your_loop.md", "exec"), {})


def test_the_readme_changes_three_lines_of_a_trainer_script():
    (diff,) = re.findall(r"```diff\n(.*?)```", README, flags=re.S)
    added = [line for line in diff.splitlines() if line.startswith("+")]
    assert len(added) == 3


def test_the_page_of_methods_names_each_and_its_file():
    page = (DOCS / "methods.md").read_text()
    for cls in METHODS.values():
        assert f"`{cls.__name__}" in page
        assert cls.__module__.replace(".", "/") + ".py" in page


def test_the_readme_is_a_page_that_is_read_to_its_end():
    assert len(README.split()) <= 1200
    assert README.count("![") == 1


def test_every_file_that_a_page_links_exists():
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_a_wheel_carries_pocket_the_template_the_claims_the_report_and_its_types(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "from finetune_reg import RunSettings, run; from finetune_reg.sweep import TEMPLATE, find_plan;"
        "from finetune_reg.results.claims import MECHANISMS, load_claims;"
        "from finetune_reg.report.page import write_report;"
        "assert TEMPLATE.is_file() and find_plan('pocket').is_file() and load_claims() and load_claims(MECHANISMS);"
        "print(run(RunSettings(n_train=8, epochs=1), 'runs').status, write_report('runs')[0].is_file())"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert finished.stdout.strip() == "ok True", finished.stderr
    assert (tmp_path / "site" / "finetune_reg" / "py.typed").is_file()
    assert (tmp_path / "runs" / "records").is_dir()


def test_sources_name_no_machine_path():
    forbidden = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users)/")
    for folder in ("finetune_reg", "notebooks", "benchmarks", "data"):
        for path in Path(ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".yaml", ".ipynb", ".json", ".csv"):
                assert not forbidden.search(path.read_text()), path
