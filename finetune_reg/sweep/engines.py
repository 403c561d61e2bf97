"""Where the workers of a sweep are: on this machine, on a running Dask cluster, or in Slurm jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.sweep.availability import visible_gpus

CONNECT_SECONDS = 10
# Ctrl-C reaches every process of the terminal; the command stops its workers itself.
IGNORE_INTERRUPTS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,  # a worker that dies takes no waiting notebook with it
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.worker-ttl": None,  # a busy machine is not a dead worker
    "distributed.worker.profile.enabled": False,  # it samples the worker's threads, which only wait for a kernel
}


@contextmanager
def connect(engine: str, slots: int) -> Iterator[Client]:
    """Connect to the workers of an engine, starting them where that is ours to do.

    Args:
        engine: `local`, `slurm`, the address of a scheduler (`tcp://host:port`) or its scheduler file.
        slots: workers to start, one notebook each at a time; a running cluster keeps those it has. Workers of
            `local` see one GPU each; if they outnumber the GPUs, they share them in turn.

    Raises:
        InputError: an unknown engine, no scheduler there, or `slurm` without dask-jobqueue.
    """
    if engine == "local":
        with dask.config.set(SETTINGS), _local_cluster(slots) as cluster, Client(cluster) as client:
            yield client
    elif engine == "slurm":
        with dask.config.set(SETTINGS), _slurm_cluster(slots) as cluster, Client(cluster) as client:
            yield client
    elif "://" in engine or Path(engine).is_file():
        where = {"address": engine} if "://" in engine else {"scheduler_file": engine}
        try:
            client = Client(**where, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise InputError(
                f"There is no Dask scheduler at {engine}: start one with `dask scheduler`, and workers with "
                "`dask worker ADDRESS --nthreads 1`."
            ) from error
        with client:
            yield client
    else:
        raise unknown_name("engine or scheduler file", engine, ["local", "slurm", "tcp://HOST:PORT"])


def _local_cluster(slots: int) -> SpecCluster:
    """Start one single-threaded worker process per slot, each of which sees one GPU, the next in turn."""
    gpus = visible_gpus()
    workers = {}
    for slot in range(slots):
        environment = {"OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
        options = {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL, "preload": IGNORE_INTERRUPTS}
        workers[slot] = {"cls": Nanny, "options": options | {"env": environment, "dashboard": False}}
    here = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": here}
    return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)


def _slurm_cluster(slots: int):
    """Queue one job per slot; partition, account, memory, time and GPUs come from dask-jobqueue's own configuration."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "Engine 'slurm' needs dask-jobqueue: install it with `pip install finetune_reg[slurm]`, or write a job "
            "array with `finetune-reg sweep export`."
        ) from None
    memory = dask.config.get("jobqueue.slurm.memory", None) or "8GB"
    cores = dask.config.get("jobqueue.slurm.cores", None) or 1
    prologue = ["export OMP_NUM_THREADS=1", *dask.config.get("jobqueue.slurm.job-script-prologue", [])]
    cluster = SLURMCluster(cores=cores, processes=1, memory=memory, job_script_prologue=prologue)
    cluster.scale(jobs=slots)
    return cluster
