"""Plan, run and watch sweeps: many notebooks, one record per run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from finetune_reg.console import console, interrupts_raise, print_error
from finetune_reg.errors import InputError, unknown_name

if TYPE_CHECKING:
    from finetune_reg.sweep.plan import NotebookRun
    from finetune_reg.sweep.protocol import Protocol

app = typer.Typer(no_args_is_help=True, help=__doc__)
SHOWN_ERRORS = 20

PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="A YAML file, or a name in notebooks/parameters.")]
Scale = Annotated[str | None, typer.Option(help="One of the plan's scales, for example paper, real-small or pocket.")]
OutputDir = Annotated[
    Path | None, typer.Option(help="Where records and executed notebooks go; default: runs/PLAN, or runs/PLAN-SCALE.")
]
Engine = Annotated[
    str, typer.Option(help="local, slurm, a Dask scheduler (tls://HOST:PORT, tcp://HOST:PORT) or its scheduler file.")
]
Slots = Annotated[int | None, typer.Option(min=1, help="Notebooks at a time; default: one per GPU, else per core.")]


def check_minutes(minutes: float | None) -> float | None:
    """Refuse a time limit as `check_time_limit` does."""
    from finetune_reg.sweep.worker import check_time_limit

    try:
        check_time_limit(minutes)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None
    return minutes


TimeLimit = Annotated[
    float | None, typer.Option(callback=check_minutes, help="Minutes that one notebook may run, above 0.")
]


@app.command()
def plan(plan: PlanName, scale: Scale = None, output_dir: OutputDir = None) -> None:
    """Show the runs of a plan, what the rest will cost, and what all can decide. Starts nothing, reads no data."""
    from finetune_reg.sweep.plan import notebooks_of

    protocol = read_named_plan(plan, scale)
    runs = notebooks_of(protocol)
    print_plan(runs, folder_of(protocol, output_dir))
    print_claims(runs)


@app.command("retry", help="Like `run`, and make failed runs again: an error repeats itself unless its cause is gone.")
@app.command()
def run(
    context: typer.Context,
    plan: PlanName,
    scale: Scale = None,
    output_dir: OutputDir = None,
    engine: Engine = "local",
    slots: Slots = None,
    time_limit: TimeLimit = None,
) -> None:
    """Make the runs that are not done. Start it again to resume; killed and timed-out runs are made again."""
    protocol = read_named_plan(plan, scale)
    folder = folder_of(protocol, output_dir)
    retry_failed = context.info_name == "retry"
    options = {"engine": engine, "slots": slots, "time_limit": time_limit, "retry_failed": retry_failed}
    conclude(make_runs(protocol, folder, **options), folder)


@app.command("run-one")
def run_one(
    plan: PlanName,
    notebook: Annotated[
        str, typer.Argument(help="One notebook of the plan, named TASK-METHOD-HASH, as job arrays do.")
    ],
    scale: Scale = None,
    output_dir: OutputDir = None,
    time_limit: TimeLimit = None,
) -> None:
    """Make the runs of one notebook in this process; for job arrays, whose plan `export` keeps in the folder."""
    from finetune_reg.sweep.plan import notebooks_of, stored_plan
    from finetune_reg.sweep.protocol import usable_folder

    runs = {run.stem: run for run in stored_plan(output_dir)} if output_dir else {}
    if output_dir and notebook in runs:
        folder = usable_folder(output_dir)
    else:
        protocol = read_named_plan(plan, scale)
        folder, runs = folder_of(protocol, output_dir), {run.stem: run for run in notebooks_of(protocol)}
    if notebook not in runs:
        raise unknown_name("notebook in this plan", notebook, runs)
    conclude(make_notebook(runs[notebook], folder, time_limit), folder)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="Folder of a sweep.")]) -> None:
    """Count done, failed, running and waiting runs by task and method."""
    from finetune_reg.sweep.status import STATES, sweep_status

    counts, unfinished = sweep_status(Path(os.path.abspath(folder)))
    table = Table("task", Column("method", overflow="fold"))
    for state in STATES:
        table.add_column(state, justify="right")
    for (task, method), states in counts.items():
        table.add_row(task, method, *(str(states[state] or "") for state in STATES))
    table.add_section()
    total = sum(counts.values(), Counter())
    table.add_row("all", "", *(str(total[state]) for state in STATES))
    console.print(table)
    for record in unfinished[:SHOWN_ERRORS]:
        where = f"{record.settings['task']}, {record.settings['method']}, seed {record.settings['seed_init']}"
        console.print(f"{where}: {record.status} ({record.error})", soft_wrap=True)
    if len(unfinished) > SHOWN_ERRORS:
        console.print(f"... and {len(unfinished) - SHOWN_ERRORS} more; their records hold the errors.")


@app.command()
def export(
    plan: PlanName,
    slurm_array: Annotated[Path, typer.Option(help="The script to write, for sbatch.")],
    scale: Scale = None,
    output_dir: OutputDir = None,
    time_limit: TimeLimit = None,
) -> None:
    """Write a plan as a job-array script: one array index is one notebook."""
    from finetune_reg.sweep.job_array import job_array_script
    from finetune_reg.sweep.plan import find_plan, notebooks_of, store_plan
    from finetune_reg.sweep.worker import storage_errors

    protocol = read_named_plan(plan, scale)
    runs, folder = notebooks_of(protocol), folder_of(protocol, output_dir)
    keep_protocol(protocol, folder)
    with storage_errors(folder):
        store_plan(runs, folder)
    command = Path(sys.executable).with_name("finetune-reg")
    slurm_array.write_text(job_array_script(runs, find_plan(plan).resolve(), folder, command, time_limit))
    console.print(f"{len(runs)} notebooks in {slurm_array}: submit it with `sbatch {slurm_array}`.", soft_wrap=True)


def read_named_plan(plan: str, scale: str | None = None) -> Protocol:
    """Read a plan given by its path or name, at one of its scales if it has any."""
    from finetune_reg.sweep.plan import find_plan
    from finetune_reg.sweep.protocol import read_protocol

    return read_protocol(find_plan(plan), scale)


def folder_of(protocol: Protocol, output_dir: Path | None) -> Path:
    """Return the absolute output folder of a plan; `runs/PLAN` or `runs/PLAN-SCALE` by default.

    Raises:
        InputError, OSError: as `usable_folder`.
    """
    from finetune_reg.sweep.protocol import usable_folder

    return usable_folder(output_dir or Path("runs") / protocol.title)


def print_plan(runs: list[NotebookRun], output_dir: Path) -> None:
    """Print the notebooks of a plan with their cost, and the sum."""
    from finetune_reg.sweep.availability import default_slots
    from finetune_reg.sweep.cost import (
        GPU,
        GPU_OPERATIONS_PER_SECOND,
        OPERATIONS_PER_SECOND,
        SECONDS_PER_NOTEBOOK,
        disk_for_weights,
        estimate_costs,
    )

    costs = estimate_costs(runs, output_dir)
    table = Table("task", Column("method", overflow="fold"), "runs", "done", "passes", "time", "time from")
    varying = [name for name in ("n_train", "epochs") if len({getattr(run.settings[0], name) for run in runs}) > 1]
    for run, cost in zip(runs, costs, strict=True):
        figures = (f"{cost.passes:,}", _duration(cost.seconds), cost.basis) if cost.left else ("", "", "")
        sizes = [f"{name} {getattr(run.settings[0], name) or 'all'}" for name in varying]
        what = ", ".join([run.settings[0].task, *sizes])
        table.add_row(what, run.label, str(len(run.settings)), str(cost.done), *figures)
    console.print(table)
    left, done = sum(cost.left for cost in costs), sum(cost.done for cost in costs)
    seconds, slots = sum(cost.seconds for cost in costs), default_slots()
    passes, operations = sum(cost.passes for cost in costs), sum(cost.operations for cost in costs)
    sentences = (
        f"{left + done} runs in {len(runs)} notebooks, {done} done.",
        f"Left: {passes:,} forward and backward passes, {operations:.1e} floating-point operations, about "
        f"{_duration(seconds)} on one slot, {_duration(seconds / slots)} on the {slots} of this machine.",
        f"The operations alone take {_duration(operations / GPU_OPERATIONS_PER_SECOND)} on {GPU}, which small models "
        "do not reach.",
        "Times come from finished runs of the same model; without any, from its size, for one core ("
        f"{OPERATIONS_PER_SECOND['float32']:.0e} operations a second in float32, {SECONDS_PER_NOTEBOOK:g} s a kernel).",
        disk_for_weights(runs, output_dir),
    )
    console.print(" ".join(filter(None, sentences)))


def print_claims(runs: list[NotebookRun]) -> None:
    """Print the claims of papers that a plan, unless it is a toy, has pairs for, and what these can decide."""
    planned = [settings for run in runs for settings in run.settings if settings.source != "pocket"]
    if not planned:
        return
    from finetune_reg.results.claims import load_claims
    from finetune_reg.results.planned_claims import LEGEND, planned_claims

    table = Table("claim of a paper", "pairs", "comparisons", "smallest effect", "counts from", caption=LEGEND)
    for found in planned_claims(load_claims(), planned):
        cells = found.claim.id, str(found.pairs), str(found.tests), found.effect_words
        table.add_row(*cells, f"{found.claim.minimal_effect:g} points")
    if table.rows:
        console.print(table)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:,.0f} h"


def make_runs(protocol: Protocol, output_dir: Path, **options: Any) -> Counter[str]:
    """Make the runs of a plan, see `run_sweep`."""
    from finetune_reg.sweep.plan import notebooks_of

    with _extras_named():
        _import_dask()
        from finetune_reg.sweep.engine import run_sweep

        keep_protocol(protocol, output_dir)
        return run_sweep(notebooks_of(protocol), output_dir, **options)


def _import_dask() -> None:
    try:
        import dask.config  # noqa: F401
    except ValueError as error:
        raise InputError(f"Dask refuses its configuration: {' '.join(str(error).split())}") from None


def keep_protocol(protocol: Protocol, output_dir: Path) -> None:
    """Keep in the folder which published figures its runs reproduce, for the report."""
    from finetune_reg.sweep.protocol import store_protocol
    from finetune_reg.sweep.worker import storage_errors

    if protocol.scale:
        with storage_errors(output_dir):
            store_protocol(protocol, output_dir)


def make_notebook(run: NotebookRun, output_dir: Path, time_limit: float | None = None) -> Counter[str]:
    """Make the runs of one notebook in this process, without Dask; return the number of runs in each state."""
    from finetune_reg.sweep.plan import prepare
    from finetune_reg.sweep.status import count_states
    from finetune_reg.sweep.worker import execute_job

    with _extras_named():
        prepare([run], output_dir)
        with interrupts_raise(), console.status(Text(f"{run.job.description}, {len(run.run_ids)} runs")):
            outcome = execute_job(run.job, output_dir, time_limit)
    for problem in outcome.problems:
        console.print(problem, style="red", soft_wrap=True)
    return count_states(output_dir, run.run_ids)


@contextmanager
def _extras_named() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed", "papermill", "nbclient"):
            raise
        extra = "sweep" if error.name in ("dask", "distributed") else "notebooks"
        raise InputError(f"This needs {error.name}: install it with `pip install finetune_reg[{extra}]`.") from None


def conclude(states: Counter[str], output_dir: Path) -> None:
    """Leave with exit code 1 and a sentence unless all runs are done."""
    missing = {state: n for state, n in states.items() if state != "done"}
    if missing:
        counts = ", ".join(f"{n} {state}" for state, n in missing.items())
        print_error(
            f"{sum(missing.values())} of {states.total()} runs are not done ({counts}): see `finetune-reg sweep status "
            f"{output_dir}`. `sweep run` makes killed and timed-out runs again, `sweep retry` failed ones, too."
        )
        raise typer.Exit(1)
