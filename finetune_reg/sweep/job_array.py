"""A plan as a Slurm job array: one index, one notebook; for sites that allow no long-lived scheduler."""

from __future__ import annotations

import shlex
from pathlib import Path

from finetune_reg.sweep.plan import NotebookRun
from finetune_reg.sweep.worker import check_time_limit

SCRIPT = """#!/usr/bin/env bash
#SBATCH --job-name=finetune-reg
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1{time}
#SBATCH --output={logs}
# Submit with `sbatch`; partition, account, memory and GPUs are options of sbatch. Finished runs are skipped, so the
# same script may be submitted again; so may single indices: `sbatch --array=3,5`.
set -euo pipefail
export OMP_NUM_THREADS=1
notebooks=(
{names}
)
exec {command} "${{notebooks[${{SLURM_ARRAY_TASK_ID:?is set by sbatch}}]}}" {options}
"""
# Minutes for starting and recording, beside the time limit of the kernel itself.
MARGIN_MINUTES = 5


def job_array_script(
    runs: list[NotebookRun], plan: Path, output_dir: Path, command: Path, time_limit: float | None = None
) -> str:
    """Return a bash script that executes one notebook of a plan.

    Args:
        plan, output_dir: absolute, on a file system that the nodes share.
        command: the installed `finetune-reg`.
        time_limit: minutes that a kernel may run; None leaves time to the partition's default.

    Raises:
        InputError: a time limit out of range.
    """
    check_time_limit(time_limit)
    options = ["--output-dir", str(output_dir), *(["--time-limit", f"{time_limit:g}"] if time_limit else [])]
    minutes = f"\n#SBATCH --time={int(time_limit) + MARGIN_MINUTES}" if time_limit else ""
    return SCRIPT.format(
        last=len(runs) - 1,
        time=minutes,
        logs=shlex.quote(str(output_dir / "slurm-%A_%a.out")),
        names="\n".join(f"    {shlex.quote(run.stem)}" for run in runs),
        command=shlex.join([str(command), "sweep", "run-one", str(plan)]),
        options=shlex.join(options),
    )
