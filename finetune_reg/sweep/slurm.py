"""Workers in Slurm jobs, one per slot, queued by dask-jobqueue."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Security, SpecCluster, Status

from finetune_reg.console import interruptible, shield_children
from finetune_reg.errors import InputError

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

NO_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
SETTINGS = "`jobqueue.slurm` in Dask's configuration"


@contextmanager
def slurm_cluster(slots: int, security: Security, shared_folder: Path) -> Iterator[SpecCluster]:
    """Queue one job per slot; partition, account, memory, time and GPUs come from dask-jobqueue's own configuration.

    Scheduler and workers listen on the network, and let in only who holds the certificate `security`. The jobs read
    it in `jobqueue.slurm.shared-temp-directory`, else in `shared_folder`, in files that only their user can read.

    Raises:
        InputError: dask-jobqueue or `sbatch` is missing, dask-jobqueue refuses its settings, or Slurm the jobs.
    """
    cluster: Any = _cluster(security, shared_folder)
    try:
        for _ in range(slots):
            cluster.worker_spec.update(cluster.new_worker_spec())
        try:
            interruptible(asyncio.run_coroutine_threadsafe(_submit(cluster), cluster.loop.asyncio_loop))
        except BaseException as error:
            for job in cluster.workers.values():
                job.status = Status.failed  # or `close` fails on a job that was never queued
            raise _refusal(error) from None
        yield cluster
    finally:
        cluster.close()
        for part in ("ca_file", "cert", "key"):
            getattr(cluster, f"_job_{part}").close()  # removes the file, which else stays as long as the cluster


def check_jobs(client: Client) -> None:
    """Look whether workers in Slurm jobs are there or may still come.

    Raises:
        InputError: all jobs have ended.
    """
    cluster: Any = client.cluster
    if not hasattr(cluster, "job_script") or client.scheduler_info(n_workers=-1)["workers"]:
        return
    try:
        listed = subprocess.run(["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # Slurm does not answer: it may later
        return
    if {job.job_id for job in cluster.workers.values()}.isdisjoint(listed.stdout.split()):
        raise InputError(
            "All Slurm jobs of this sweep have ended before its runs: their output, slurm-JOB.out, says why. If it was "
            f"the time limit, change {SETTINGS} and repeat the command: finished runs are kept."
        )


def _cluster(security: Security, shared_folder: Path) -> SLURMCluster:
    heard = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "Engine 'slurm' needs dask-jobqueue: install it with `pip install finetune_reg[slurm]`, or write a job "
            "array with `finetune-reg sweep export`."
        ) from None
    finally:
        signal.signal(signal.SIGINT, heard)  # in whose place its import puts an exit without a word
    try:
        folder = _setting("shared-temp-directory")
        if folder is None and shlex.quote(folder := str(shared_folder.absolute())) != folder:
            raise ValueError(f"the jobs' certificate lies in {folder}, whose name a shell takes apart: choose another")
        return SLURMCluster(
            cores=_setting("cores") or 1,
            processes=1,
            memory=_setting("memory") or "8GB",
            job_script_prologue=["export OMP_NUM_THREADS=1", *_setting("job-script-prologue")],
            worker_extra_args=[
                *_setting("worker-extra-args"),
                "--dashboard-address",
                NO_DASHBOARD["dashboard_address"],
            ],
            scheduler_options=NO_DASHBOARD | _setting("scheduler-options"),
            security=security,
            shared_temp_directory=folder,
        )
    except Exception as error:  # whatever a setting can break
        raise InputError(f"dask-jobqueue refuses its settings ({error}): change {SETTINGS}.") from None


def _setting(name: str) -> Any:
    return dask.config.get(f"jobqueue.slurm.{name}")


async def _submit(cluster: SpecCluster) -> None:
    shield_children()  # sbatch and scancel
    await cluster


def _refusal(error: BaseException) -> BaseException:
    """Say in one sentence why jobs could not be queued."""
    if isinstance(error, OSError):
        return InputError(f"Slurm's command `sbatch` cannot be called ({error.strerror}): use a machine that has it.")
    if isinstance(error, RuntimeError | ValueError):
        said = re.findall(r"^sbatch: (?:error: )?(.+)$", str(error), re.MULTILINE) or str(error).splitlines()[:1]
        return InputError(f"Slurm refused the jobs ({'; '.join(said)}): change {SETTINGS}.")
    return error
