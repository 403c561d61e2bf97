"""Sweeps: a grid of papermill runs of the template notebook, executed by Dask, resumable at any moment.

protocol.py        a YAML file -> points, at a scale; what they reproduce
grid.py            a grid and its exceptions -> points
plan.py            points -> notebooks of runs
cost.py            what a plan costs, before it starts
availability.py    how many at a time; are its data and models there?
engine.py          plan -> records, with live progress
engines.py         where the workers are: here, on a cluster, on Slurm
slurm.py           workers in Slurm jobs
worker.py          one notebook, in a worker process
kernel_sockets.py  how its kernel is reached
run_locks.py       no run is made twice at a time
status.py          done, failed, running, waiting
job_array.py       the same as a Slurm job array
commands.py        `finetune-reg sweep ...`

A run is identified by the hash of its settings, and what happened to it is its record: nothing else is remembered.
Names are loaded when first used, so that a worker starts without PyTorch, which only its kernels need.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "PLANS": "finetune_reg.sweep.plan",
    "TEMPLATE": "finetune_reg.sweep.worker",
    "NotebookRun": "finetune_reg.sweep.plan",
    "find_plan": "finetune_reg.sweep.plan",
    "read_plan": "finetune_reg.sweep.plan",
    "run_sweep": "finetune_reg.sweep.engine",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'finetune_reg.sweep' has no attribute {name!r}")
