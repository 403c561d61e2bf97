"""What fine-tuning on pocket gives: pretrained against random weights, spread over seeds, time of a run.

    python benchmarks/pocket_fine_tuning.py [--seeds 20] [--output-dir runs/pocket_benchmark]

For each of the four tasks, with 200 examples and the default settings: vanilla from pretrained weights, from random
weights (also at learning rate 1e-3, so that they get their chance), and without dropout. Runs are records; what is
finished is not redone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.results.statistics import summarize
from finetune_reg.tasks import TASKS

VARIANTS = {
    "pretrained": ({}, None),
    "random weights": ({"pretrained": False}, 5),
    "random weights, 1e-3": ({"pretrained": False, "learning_rate": 1e-3}, 5),
    "pretrained, dropout 0": ({"method_hyperparameters": {"dropout": 0.0}}, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/pocket_benchmark"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [
        (task.name, variant, replace(RunSettings(task=task.name), **changes).with_seed(seed))
        for task in TASKS.values()
        if task.embedded
        for variant, (changes, n_seeds) in VARIANTS.items()
        for seed in range(min(n_seeds or arguments.seeds, arguments.seeds))
    ]
    records: dict[tuple[str, str], list] = {}
    for task, variant, settings in track(jobs, "fine-tuning"):
        records.setdefault((task, variant), []).append(run(settings, arguments.output_dir))
    table = Table("task", "weights", "n", "failed", "mean", "std", "min", "max", "seconds, median (max)")
    for (task, variant), runs in records.items():
        scores = [record.score for record in runs]
        summary = summarize(scores, failed=sum(record.below_majority for record in runs))
        seconds = sorted(record.wall_seconds for record in runs)
        table.add_row(
            f"{task} ({runs[0].metric})",
            variant,
            str(summary.n),
            str(summary.failed),
            f"{summary.mean:.3f}",
            f"{summary.std:.3f}",
            f"{min(scores):.3f}",
            f"{summary.max:.3f}",
            f"{seconds[len(seconds) // 2]:.1f} ({seconds[-1]:.1f})",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
