"""Hand the course out to a class, and grade what it hands in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from finetune_reg.console import console, interrupts_raise
from finetune_reg.errors import InputError
from finetune_reg.sweep import commands as sweep_commands

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.callback()
def course() -> None:
    """Hand the course out to a class."""


@app.command()
def student(out: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write the notebooks for students: no solutions, no links to them, and cells for the answers that are read."""
    from finetune_reg.course.student_bundle import write_student_bundle

    console.print(f"{len(write_student_bundle(out))} notebooks for students in {out}", soft_wrap=True)


@app.command()
def otter(out: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write the lessons with exercises for otter-grader, each with its test files."""
    from finetune_reg.course.otter_export import write_for_otter

    console.print(f"{len(write_for_otter(out))} notebooks with tests for otter-grader in {out}", soft_wrap=True)


def grade(
    folder: Annotated[Path, typer.Argument(help="Folder of notebooks that students filled in.")],
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("points.csv"),
    time_limit: Annotated[
        float, typer.Option(callback=sweep_commands.check_minutes, help="Minutes that one notebook may run, above 0.")
    ] = 10.0,
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks that run at a time.")] = 1,
    memory: Annotated[float, typer.Option(min=1, max=1_000_000, help="GB of memory that one notebook may use.")] = 4.0,
) -> None:
    """Execute each notebook in a process of its own and count the exercises that are right.

    The table is written anew after each; a page of feedback for each student lies beside it.
    """
    if sys.platform == "win32":
        raise InputError("Submissions are graded on Linux or macOS: on Windows, use its subsystem for Linux.")
    from finetune_reg.course.grading import grade
    from finetune_reg.course.grading.sandbox import describe_isolation

    console.print(describe_isolation(), soft_wrap=True)
    with interrupts_raise():
        graded = grade(folder, out, time_limit, jobs, memory)
    table = Table("submission", "points", "error", "changed checks")
    n_exercises = list(graded).index("total") - 1
    row: Any
    for row in graded.itertuples():
        table.add_row(row.submission, f"{row.total} of {n_exercises}", row.error, row.changed_checks)
    console.print(table)
    console.print(f"Written: {out}, and feedback in {out.stem}_feedback beside it", soft_wrap=True)
