"""How long a sweep takes, and what a second slot is worth.

    python benchmarks/sweep_throughput.py [--slots 1 2] [--seeds 5] [--part 24] [--output-dir FOLDER]

The sweep: 6 methods on the 4 tasks of the toy world, five seeds each, in 24 notebooks, with the settings of
`make reproduce`. It is made once per number of slots, each time in a fresh folder. `--part` takes the first notebooks
only. For each: wall time of the command, runs per minute, the share of time in which a slot was training or evaluating
(the rest is kernel start, imports, figures), and throughput relative to the first. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from finetune_reg.experiment.records import read_records
from finetune_reg.hyperparameters.typed_parameters import load_yaml
from finetune_reg.sweep import PLANS

METHODS = [
    "vanilla",
    {"vanilla": {"dropout": 0.0}},
    {"mixout": {"mix_probability": 0.7}},
    {"mixout": {"mix_probability": 0.9}},
    "l2_sp",
    "pretrained_weight_decay",
]


def write_plan(path: Path, seeds: int, part: int) -> Path:
    """Write the plan, cut to its first `part` notebooks: whole tasks, and the first methods of the next one."""
    plan = load_yaml(PLANS / "pocket.yaml")
    plan["base"]["seeds"] = list(range(seeds))
    tasks = plan["grid"]["task"]
    points = [(task, method) for task in tasks for method in METHODS]
    plan["grid"] = {"task": tasks, "method": METHODS}
    plan["exclude"] = [{"task": task, "method": method} for task, method in points[part:]]
    path.write_text(yaml.safe_dump(plan))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", type=int, default=24)
    parser.add_argument("--output-dir", type=Path)
    arguments = parser.parse_args()
    folder = arguments.output_dir or Path(tempfile.mkdtemp(prefix="sweep_throughput_"))
    folder.mkdir(parents=True, exist_ok=True)
    plan = write_plan(folder / "plan.yaml", arguments.seeds, arguments.part)
    command = [Path(sys.executable).with_name("finetune-reg"), "sweep", "run", plan]
    table = Table("slots", "runs", "seconds", "runs per minute", "training", "throughput")
    first = None
    for slots in arguments.slots:
        output_dir = folder / f"slots_{slots}"
        if output_dir.exists():
            raise SystemExit(f"{output_dir} exists, and finished runs would be skipped: choose another --output-dir.")
        start = time.perf_counter()
        subprocess.run([*command, "--slots", str(slots), "--output-dir", output_dir], check=True)
        seconds = time.perf_counter() - start
        records = read_records(output_dir)
        pace = len(records) / seconds
        first = first or pace
        busy = sum(record.wall_seconds for record in records) / (slots * seconds)
        table.add_row(
            str(slots), str(len(records)), f"{seconds:.0f}", f"{60 * pace:.1f}", f"{busy:.0%}", f"{pace / first:.2f}"
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
