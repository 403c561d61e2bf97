"""The numbers of recorded runs in the pages and in notebook 14, computed again without the package."""

from __future__ import annotations

import ast
import importlib
import re
import sys

import numpy as np
import pandas as pd
import pytest

from finetune_reg.paths import ROOT
from finetune_reg.results.paired_differences import difference_of

BENCHMARKS = ROOT / "benchmarks"
DOCUMENTS = {"--results": ROOT / "docs" / "results.md", "--notebook": ROOT / "notebooks" / "14_results.ipynb"}
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
    assert int(compared[1]) == int(compared[2]) > 3700
    passed_over = report.split("Passed over: ")[1].splitlines()[1:]
    assert [line for line in passed_over if ": column " not in line] == []


def test_what_is_changed_in_the_documents_is_found(recompute, tmp_path, capsys):
    changes = {
        "--results": [
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
    assert "results, sentences: 1.2 points [0.5, 2.0]" in report.split("Passed over")[1]  # its words are gone


def test_what_is_changed_about_the_other_encoder_is_found(recompute):
    notebook = recompute.read_notebook(DOCUMENTS["--notebook"])
    patterns = [
        (notebook.html, "learning", r"(?<=<td>)(\d+)(?=\.)"),
        (notebook.markdown, "learning-verdicts", r"(?<= is )(\d+)(?=\.\d(?: \[[^]]*\])? points)"),
    ]
    changed = {}
    for outputs, cell, pattern in patterns:
        outputs[cell], changed[cell] = re.subn(pattern, lambda written: str(int(written[1]) + 1), outputs[cell])
    comparisons = recompute.Comparisons()
    recompute.check_notebook(recompute.recorded(), notebook, {}, comparisons)
    for cell, times in changed.items():
        found = [line for line in comparisons.disagreements if line.startswith(f"notebook 14, {cell}: ")]
        assert len(found) == times > 0


def test_sentences_can_be_about_the_other_encoder(recompute):
    runs = pd.read_parquet(ROOT / "data" / "results" / "failures_cola_mpnet.parquet")
    main = runs[(runs.learning_rate == 2e-4) & runs.bias_correction & (runs.epochs == 5)].set_index("seed_init")
    ours, theirs = (main[main.method_label == label] for label in ("Vanilla()", "Mixout(mix_probability=0.7)"))
    expected = {
        "cola-mpnet, distance: Mixout()": theirs.distance_from_pretrained.mean(),
        "cola-mpnet, failed: Vanilla() at 2e-4 minus Mixout() at 2e-4": 100
        * (ours.below_majority.astype(float) - theirs.below_majority.astype(float)).mean(),
    }
    for meaning, value in expected.items():
        assert recompute.value_of(meaning, recompute.recorded())["value"] == pytest.approx(value)


def test_a_diverged_run_counts_as_the_best_constant_answer(recompute, tmp_path):
    runs = pd.read_parquet(ROOT / "data" / "results" / "glue300_minilm_variants.parquet")
    changed = {"status": "diverged", "score": np.nan, "below_majority": True, "history": "[]"}
    runs.loc[[0], list(changed)] = pd.DataFrame(changed, index=[0])
    runs.to_parquet(tmp_path / "runs.parquet")
    first = sys.modules["recomputation.recorded_scores"].read_runs(tmp_path).iloc[0]
    assert (first.points, first.failed) == (100 * runs.majority_score[0], 100)


@pytest.mark.parametrize("statistic", ["std", "median", "max"])
@pytest.mark.parametrize("seeds", [1, 6, 20])
def test_bootstrapped_statistics_are_those_of_the_package(recompute, statistic, seeds):
    ours, theirs = np.random.default_rng(0).normal(size=(2, 2, seeds))
    found = sys.modules["recomputation.recorded_scores"].resampled_effect(statistic, ours, 2 * theirs)
    expected = difference_of(statistic, ours, 2 * theirs)
    expected = [expected.n, expected.value, expected.low, expected.high, expected.p_value]
    assert [found.pairs, found.value, found.low, found.high, found.p] == pytest.approx(expected, nan_ok=True)


def test_the_package_has_no_part_in_it():
    for path in [BENCHMARKS / "recompute.py", *(BENCHMARKS / "recomputation").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("finetune_reg") for name in names), path
