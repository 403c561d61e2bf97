"""What the commands cost in a folder with many records: processor time and memory, start of Python included.

    python benchmarks/many_records.py [--runs 20000] [--recipes 1] [--folder FOLDER]

The records are made up: four tasks, 25 variants of methods and as many seeds as it takes, at one or several numbers of
training rows, five seeds to a notebook. A folder that is given is kept, and its records are used again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from finetune_reg.experiment.records import RunRecord, record_path
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.sweep.plan import read_plan, store_plan
from finetune_reg.tasks import TASKS

COMMAND = Path(sys.executable).with_name("finetune-reg")
EMBEDDED = [task.name for task in TASKS.values() if task.embedded]
METHODS: list = ["vanilla", *({"mixout": {"mix_probability": round(0.04 * i, 2)}} for i in range(1, 25))]
SEEDS_PER_NOTEBOOK, EVALUATIONS, ROWS = 5, 10, 200


def write_plan(path: Path, n_runs: int, n_recipes: int) -> Path:
    """Write a plan of about so many runs, with one number of training rows per recipe."""
    n_seeds = n_runs // (len(EMBEDDED) * len(METHODS) * n_recipes)
    seeds = [list(range(i, i + SEEDS_PER_NOTEBOOK)) for i in range(0, n_seeds, SEEDS_PER_NOTEBOOK)]
    n_train = [ROWS + i for i in range(n_recipes)]
    grid = {"task": EMBEDDED, "method": METHODS, "n_train": n_train, "seeds": seeds}
    path.write_text(yaml.dump({"grid": grid}))
    return path


def made_up(settings: RunSettings, run_id: str, noise: random.Random) -> RunRecord:
    """Return the record of a run that was never made, as long as that of a real one."""
    metric = TASKS[settings.task].metrics[0]
    curve = [0.5 + 0.03 * epoch + noise.gauss(0.0, 0.03) for epoch in range(EVALUATIONS)]
    return RunRecord(
        run_id,
        asdict(settings),
        "ok",
        metric,
        score=curve[-1],
        best_score=max(curve),
        below_majority=curve[-1] <= 0.5,
        majority_score=0.5,
        history=[
            {"epoch": i + 1, "update": 13 * (i + 1), "train_loss": 1.0 / (i + 1), metric: score}
            for i, score in enumerate(curve)
        ],
        subset={"row_ids": list(range(ROWS)), "content_hash": f"{settings.task}-{settings.n_train}"},
        weights_hash="0123456789abcdef",
        n_parameters=950_000,
        n_updates=130,
        forward_passes=130,
        backward_passes=130,
        wall_seconds=5.0 + noise.random(),
        peak_memory_mb=900.0,
        environment={
            **dict.fromkeys(("python", "platform", "torch", "transformers", "numpy", "finetune_reg"), "made up"),
            **{"commit": "0" * 40, "uncommitted_changes": False, "device": "cpu", "dtype": "float32", "threads": 1},
        },
        finished_at="2026-01-02T03:04:05+00:00",
    )


def fill(folder: Path, plan: Path) -> int:
    """Write the records of a plan's runs, and the plan as a sweep keeps it; return their number."""
    noise, notebooks = random.Random(0), read_plan(plan)
    store_plan(notebooks, folder)
    (folder / "records").mkdir(exist_ok=True)
    for notebook in notebooks:
        for run_id, settings in zip(notebook.run_ids, notebook.settings, strict=True):
            record_path(folder, run_id).write_text(json.dumps(asdict(made_up(settings, run_id, noise)), indent=1))
    return sum(len(notebook.run_ids) for notebook in notebooks)


def measure(*arguments: object) -> tuple[float, float]:
    """Return processor seconds and peak memory in GB of a command that ends well."""
    process = subprocess.Popen([COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"finetune-reg {arguments[0]} ended with {os.waitstatus_to_exitcode(status)}.")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--recipes", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        plan = write_plan(folder / "plan.yaml", arguments.runs, arguments.recipes)
        n_runs = len(list((folder / "records").glob("*.json"))) or fill(folder, plan)
        table = Table("command", "processor time", "memory", title=f"{n_runs} records", title_justify="left")
        for command in (
            ("--help",),
            ("methods", "vanilla"),
            ("sweep", "plan", "pocket", "--output-dir", folder / "none"),
            ("sweep", "plan", plan, "--output-dir", folder),
            ("sweep", "status", folder),
            ("collect", folder, "--out", folder / "collected.parquet"),
            ("report", folder),
        ):
            seconds, memory = measure(*command)
            table.add_row(" ".join(map(str, command[:2])).partition("/")[0], f"{seconds:.1f} s", f"{memory:.2f} GB")
        Console().print(table)


if __name__ == "__main__":
    main()
