"""The whole way: a table, a look at it, a plan, its runs, the answer, the page and the model."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finetune_reg.console import console
from finetune_reg.errors import InputError
from finetune_reg.experiment.encoders import PACKAGED_ENCODERS, Encoder, load_encoder
from finetune_reg.own_table.answer import (
    Calibration,
    MethodResult,
    SuspectRow,
    calibrate,
    find_suspects,
    judge_methods,
    last_doubling,
    recommend,
    words,
)
from finetune_reg.own_table.candidates import chosen_candidates
from finetune_reg.own_table.inspection import METRIC_WORDS, Account, inspect_table
from finetune_reg.own_table.planning import CURVE, Plan, choose_plan, measure
from finetune_reg.own_table.reading import read_table
from finetune_reg.own_table.runs import HERE, RunMaker, check_options, counted_score, run_curve, run_plan, stored_plan
from finetune_reg.own_table.selection import OwnTable, select_rows
from finetune_reg.own_table.splitting import make_splits, write_task
from finetune_reg.results.statistics import Estimate
from finetune_reg.sweep.availability import default_slots
from finetune_reg.sweep.protocol import write_json
from finetune_reg.tasks.loading import rows_hash

LONGEST_INPUT = 128
MANY_SUSPECTS = 0.1  # of all rows


@dataclass(frozen=True)
class Prepared:
    """A table that was looked at and planned for, before anything is run; `asked` identifies it in its folder."""

    table: OwnTable
    encoder: Encoder
    model_name: str
    max_length: int
    account: Account
    plan: Plan
    splits: list[dict[str, Any]]
    asked: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        results: by method, vanilla first; `best` is the recommended one, `recommendation` says why.
        curve_rows, curve_scores: rows trained on, and the scores of `best`, shape (numbers of rows, splits).
        last_doubling: what the last doubling of the rows brought to the score, None where it was not measured.
        calibration: of `best`, None for scores.
        suspects: rows that all runs get wrong.
        folder: of records, page and model.
    """

    prepared: Prepared
    results: list[MethodResult]
    best: MethodResult
    recommendation: str
    curve_rows: list[int]
    curve_scores: np.ndarray
    last_doubling: Estimate | None
    calibration: Calibration | None
    suspects: list[SuspectRow]
    folder: Path = field(default_factory=Path)

    @property
    def table(self) -> pd.DataFrame:
        """One row per method: score and difference from vanilla in points with 95 % intervals, p, failed, seconds."""
        return pd.DataFrame(
            {
                "method": result.candidate.title,
                "score": 100 * result.score.value,
                "low": 100 * result.score.low,
                "high": 100 * result.score.high,
                "minus_vanilla": 100 * result.difference.value if result.difference else 0.0,
                "difference_low": 100 * result.difference.low if result.difference else 0.0,
                "difference_high": 100 * result.difference.high if result.difference else 0.0,
                "p_holm": result.p_value,
                "failed": result.failed,
                "seconds": result.seconds,
            }
            for result in self.results
        )

    @property
    def lines(self) -> list[str]:
        """The answer in at most five sentences."""
        metric = METRIC_WORDS[self.prepared.table.task.metrics[0]].split(" (")[0]
        constant = 100 * self.prepared.account.best_constant
        lines = [
            self.recommendation,
            f"{self.best.candidate.title} reaches {words(self.best.score, sign=False)} of 100 in {metric} on rows it "
            f"did not train on; the best constant answer {constant:.1f}.",
        ]
        if self.last_doubling is not None:
            rows, gain = " to ".join(map(str, self.curve_rows[-2:])), words(self.last_doubling)
            lines.append(f"From {rows} rows to train on it gained {gain} points; the next doubling seldom brings more.")
        if len(self.suspects) > MANY_SUSPECTS * len(self.prepared.table.rows):
            lines.append(
                f"{len(self.suspects)} rows are answered wrongly by all runs: the task is not learned well yet."
            )
        elif self.suspects:
            places = ", ".join(str(suspect.row) for suspect in self.suspects[:10])
            lines.append(f"All runs answer {len(self.suspects)} rows wrongly: look at the labels of rows {places}.")
        if self.calibration is not None:
            sure = "too sure of itself" if self.calibration.temperature > 1 else "less sure than it could be"
            lines.append(
                f"Its probabilities are off by {100 * self.calibration.error:.0f} points on average: the model is "
                f"{sure}, which the temperature {self.calibration.temperature:.2f} mends."
            )
        return lines


def default_model() -> str:
    """Return MiniLM where its package is installed, else the toy encoder."""
    return next((name for name, (module, _) in PACKAGED_ENCODERS.items() if find_spec(module)), "pocket")


def encoder_width(encoder: Encoder) -> int:
    """Return the size of the encoder's hidden states; DistilBERT calls it dim."""
    config = encoder.model.config
    return int(getattr(config, "hidden_size", 0) or config.dim)


def prepare(
    source: Path | str | pd.DataFrame,
    text: Sequence[str],
    label: str,
    folder: Path,
    *,
    group: str | None = None,
    scores: bool = False,
    metric: str | None = None,
    rows: int | None = None,
    model: str | None = None,
    max_length: int | None = None,
    methods: list[str] | None = None,
    budget: float | None = 15.0,
    encoding: str | None = None,
    engine: str = "local",
    slots: int | None = None,
) -> Prepared:
    """Look at a table and plan for it; see `compare`. A plan that is in the folder already is taken from there."""
    check_options(locals())
    start = time.monotonic()
    frame = read_table(source, encoding)
    name = "table" if isinstance(source, pd.DataFrame) else Path(source).stem
    table = select_rows(
        frame,
        text,
        label,
        name=name,
        group=group,
        scores=scores,
        metric=metric,
        sample=rows,
    )
    candidates, model = chosen_candidates(methods), default_model() if model is None else model
    before_loading = time.monotonic()
    encoder = load_encoder(model, table.task, seed=0)
    loading = time.monotonic() - before_loading
    limit = encoder.n_positions or LONGEST_INPUT
    max_length = max_length or min(limit, LONGEST_INPUT)
    if max_length > (encoder.n_positions or max_length):
        raise InputError(
            f"The model reads at most {encoder.n_positions} tokens: --max-length {max_length} is too many."
        )
    account = inspect_table(table, encoder, max_length)
    asked = {
        "rows_hash": rows_hash(table.task, table.records),
        "columns": table.columns,
        "metric": table.task.metrics[0],
        "model": model,
        "max_length": max_length,
        "methods": [candidate.title for candidate in candidates],
        "budget": budget,
    }
    if (plan := stored_plan(folder, asked)) is None:
        is_here = engine == HERE
        timing = measure(candidates, table, encoder, loading, max_length, is_here)
        n_slots = 1 if is_here else slots or default_slots()
        spent = (time.monotonic() - start) / 60
        plan = choose_plan(candidates, timing, len(table.rows), budget, n_slots, kernels=not is_here, spent=spent)
    splits = make_splits(table, account.duplicates.units, plan.folds, plan.repeats)
    return Prepared(table, encoder, model, max_length, account, plan, splits, asked)


def carry_out(prepared: Prepared, folder: Path, engine: str = "local", slots: int | None = None) -> Comparison:
    """Make the runs that are missing, and judge them."""
    table, plan, splits = prepared.table, prepared.plan, prepared.splits
    write_task(table, splits, folder / "rows" / table.task.name)
    write_json(folder / "comparison.json", {"asked": prepared.asked, "plan": plan.to_json()})
    location = prepared.model_name if not os.path.isdir(prepared.model_name) else os.path.abspath(prepared.model_name)
    shared = {
        "task": table.task.name,
        "source": str(folder / "rows"),
        "model_name": location,
        "max_length": prepared.max_length,
    }
    maker = RunMaker(folder, shared, encoder_width(prepared.encoder), engine, slots)
    runs = run_plan(plan, maker)
    results = judge_methods(plan, runs)
    best, recommendation = recommend(results)
    n_train = min(len(split["train"]) for split in splits)
    rarest = table.rows.label.value_counts().min() if table.task.label_names else n_train
    parts = [part for part in CURVE if plan.draws_curve and rarest * part >= 2]
    n_rows = [int(part * n_train) for part in parts]
    title = best.candidate.title
    curve = run_curve(plan, maker, best.candidate, runs.chosen[title], n_rows, not table.task.is_regression)
    curve.append({split: runs.records[title][split] for split in range(plan.folds)})
    curve_scores = np.array([[counted_score(record) for record in part.values()] for part in curve])
    tests = [split["test"] for split in splits]
    return Comparison(
        prepared,
        results,
        best,
        recommendation,
        [*n_rows, n_train],
        curve_scores,
        last_doubling(plan, curve_scores),
        calibrate(table, runs.records[title], tests),
        find_suspects(table, runs, tests),
        folder,
    )


def compare(
    source: Path | str | pd.DataFrame,
    text: str | Sequence[str],
    label: str,
    output_dir: Path | str = "runs/compare",
    *,
    engine: str = "local",
    slots: int | None = None,
    **options: Any,
) -> Comparison:
    """Compare methods of fine-tuning on labelled rows of one's own, write a page and a model, and return the results.

    What is finished in the folder already is not done again.

    Args:
        source: a .csv, .tsv, .jsonl or .parquet file, the folder of a Hugging Face data set, or a data frame.
        text: the column of the texts, or two columns for pairs; label: that of the labels.
        output_dir: of records, page and model.
        engine, slots: as of `run_sweep`; `"here"` makes one run after another in this process.
        options: `group`, `scores`, `metric`, `rows`, `model`, `max_length`, `methods`, `budget` in minutes, `encoding`:
            as the options of `finetune-reg compare`.

    Raises:
        InputError: a table, option or folder that cannot be used, a budget that is too small, or a run that failed.
    """
    from finetune_reg.own_table.model import write_model
    from finetune_reg.own_table.page import write_page
    from finetune_reg.sweep.protocol import usable_folder

    folder = usable_folder(Path(output_dir))
    texts = [text] if isinstance(text, str) else list(text)
    prepared = prepare(source, texts, label, folder, engine=engine, slots=slots, **options)
    for exclusion in prepared.plan.exclusions:
        console.print(f"Left out: {exclusion}", soft_wrap=True)
    comparison = carry_out(prepared, folder, engine, slots)
    write_page(comparison)
    console.print("Training the model on all rows.")
    write_model(comparison)
    return comparison
