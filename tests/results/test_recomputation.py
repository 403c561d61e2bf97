"""The numbers of recorded runs in README and notebook 12, computed again without the package."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from finetune_reg.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
DOCUMENTS = {"--readme": ROOT / "README.md", "--notebook": ROOT / "notebooks" / "12_results.ipynb"}
pytestmark = pytest.mark.xdist_group("recomputation")


@pytest.fixture(scope="module")
def recompute():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("recompute")


def test_the_documents_have_the_numbers_of_the_records(recompute, capsys):
    assert recompute.main([]) == 0
    report = capsys.readouterr().out
    compared = re.search(r"^all +(\d+) +(\d+)$", report, re.MULTILINE)
    assert int(compared[1]) == int(compared[2]) > 3500
    passed_over = report.split("Passed over: ")[1].splitlines()[1:]
    assert [line for line in passed_over if ": column " not in line] == []


def test_what_is_changed_in_the_documents_is_found(recompute, tmp_path, capsys):
    changes = {
        "--readme": [
            (
                "| +2.1 [0.9, 3.3] | -1.2",
                "| +2.2 [0.9, 3.3] | -1.2",
                "DPSDense(), stsb (Spearman correlation), difference",
            ),
            ("**-1.5 [-1.9, -1.1]** (10)", "-1.5 [-1.9, -1.1] (10)", "ChildTuningD(), mrpc (F1), bold"),
            ("0.5 [-0.6, 1.5] and 0.0", "0.5 [-0.6, 1.6] and 0.0", "high is written 1.6, recomputed 1.5499"),
            ("does better on SST-2 than", "is better on SST-2 than", "is written 0 times, recomputed once"),
            ("`_variants`, 40 runs", "`_variants`, 41 runs", "glue300_minilm_variants is written 41, recomputed 40"),
        ],
        "--notebook": [
            ("0.6 0.834 1.000", "0.6 0.816 1.000", "sst2 DPSMix(), p is written 0.816"),
            ("permutation p = 0.055, 0.055", "permutation p = 0.055, 0.053", "p is written 0.053"),
        ],
    }
    arguments = []
    for option, of_document in changes.items():
        text = DOCUMENTS[option].read_text(encoding="utf-8")
        for written, changed, _ in of_document:
            assert written in text
            text = text.replace(written, changed, 1)
        copy = tmp_path / DOCUMENTS[option].name
        copy.write_text(text, encoding="utf-8")
        arguments += [option, str(copy)]
    assert recompute.main(arguments) == 1
    report = capsys.readouterr().out
    for of_document in changes.values():
        assert [found for _, _, found in of_document if found not in report] == []
    assert f"Disagreements: {sum(map(len, changes.values()))}\n" in report
    assert "README, sentences: 1.2 points [0.5, 2.0]" in report.split("Passed over")[1]  # its words are gone


def test_the_package_has_no_part_in_it():
    for path in [BENCHMARKS / "recompute.py", *(BENCHMARKS / "recomputation").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("finetune_reg") for name in names), path
