"""Workers in Slurm jobs, one per slot, queued by dask-jobqueue."""

from __future__ import annotations

from pathlib import Path

import dask
from distributed import Security, SpecCluster

from finetune_reg.errors import InputError

NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


def slurm_cluster(slots: int, security: Security, shared_folder: Path) -> SpecCluster:
    """Queue one job per slot; partition, account, memory, time and GPUs come from dask-jobqueue's own configuration.

    Scheduler and workers listen on the network, and let in only who holds the certificate `security`. The jobs
    read it in `jobqueue.slurm.shared-temp-directory`, else in `shared_folder`, in files that only their user can read.

    Raises:
        InputError: dask-jobqueue is missing.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "Engine 'slurm' needs dask-jobqueue: install it with `pip install finetune_reg[slurm]`, or write a job "
            "array with `finetune-reg sweep export`."
        ) from None
    configured = dask.config.get("jobqueue.slurm")
    cluster = SLURMCluster(
        cores=configured["cores"] or 1,
        processes=1,
        memory=configured["memory"] or "8GB",
        job_script_prologue=["export OMP_NUM_THREADS=1", *configured["job-script-prologue"]],
        worker_extra_args=[*configured["worker-extra-args"], "--dashboard-address", NO_DASHBOARD["dashboard_address"]],
        scheduler_options=NO_DASHBOARD | configured["scheduler-options"],
        security=security,
        shared_temp_directory=configured["shared-temp-directory"] or str(shared_folder.absolute()),
    )
    cluster.scale(jobs=slots)
    return cluster
