"""Where the workers of a sweep are: on this machine, on a running Dask cluster, or in Slurm jobs.

Whoever reaches a port of Dask runs code as its user. So the workers of this machine listen on loopback and, like those
in Slurm jobs, let in only who holds the certificate that the command draws at its start. A cluster that runs already
is protected by whoever started it: Dask's configuration `distributed.comm.tls` names the certificates of a `tls://`
scheduler, for it, its workers and this command.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster, Status

from finetune_reg.console import interruptible, interrupts_raise, shield_children
from finetune_reg.errors import InputError
from finetune_reg.sweep.availability import check_engine, visible_gpus
from finetune_reg.sweep.slurm import slurm_cluster

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 10
# For Windows, where signals have no mask.
IGNORE_INTERRUPTS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
# What Dask raises of an address that is none, or has no scheduler but a server that speaks otherwise.
REFUSALS = (OSError, ValueError, KeyError, TypeError, AssertionError, MemoryError)
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.worker-saturation": 1.0,  # a worker that dies takes no waiting notebook with it
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.worker-ttl": None,  # a busy machine is not a dead worker
    "distributed.deploy.lost-worker-timeout": "5s",  # until its place is free for another
    "distributed.worker.profile.enabled": False,  # it samples the worker's threads, which only wait for a kernel
    "distributed.scheduler.http.routes": [],  # the progress is in the terminal
    "distributed.worker.http.routes": [],
}


@contextmanager
def connect(engine: str, slots: int, shared_folder: Path = Path()) -> Iterator[Client]:
    """Connect to the workers of an engine, starting them where that is ours to do.

    Args:
        engine: `local`, `slurm`, the address of a scheduler (`tcp://host:port`, `tls://host:port`) or its scheduler
            file.
        slots: workers to start, one notebook each at a time; a running cluster keeps those it has. Workers of
            `local` see one GPU each; if they outnumber the GPUs, they share them in turn.
        shared_folder: where Slurm jobs find their certificate.

    Raises:
        InputError: an unknown engine, no scheduler there, certificates that it refuses, or what `slurm_cluster` raises.
    """
    check_engine(engine)
    if engine in ("local", "slurm"):
        start = _local_cluster if engine == "local" else partial(slurm_cluster, shared_folder=shared_folder)
        with dask.config.set(SETTINGS), start(slots, _new_certificate()) as cluster, Client(cluster) as client:
            yield client
    else:
        with _running_cluster(engine) as client:
            yield client


def replace_lost_workers(client: Client) -> None:
    """Start another worker on this machine for each that ended with its nanny, as after a broken connection.

    Workers that die alone are started again by their nannies, and those of other engines by whoever started them.
    """
    cluster: Any = client.cluster
    if type(cluster) is SpecCluster and len(cluster.workers) < len(cluster.worker_spec):
        cluster.scale(len(cluster.worker_spec))


def _running_cluster(engine: str) -> Client:
    where = {"address": engine} if "://" in engine else {"scheduler_file": engine}
    try:
        security = Security()
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        raise InputError(f"Dask's configuration distributed.comm.tls names certificates that fail: {error}.") from error
    try:
        with interrupts_raise():
            return _ConnectedClient(**where, security=security, timeout=CONNECT_SECONDS)
    except REFUSALS as error:
        raise InputError(
            f"There is no Dask scheduler at {engine} that answers: start one with `dask scheduler`, and workers with "
            "`dask worker ADDRESS --nthreads 1`. One at tls:// answers to the certificates that Dask's configuration "
            "distributed.comm.tls names."
        ) from error


class _ConnectedClient(Client):
    """A client that ends at once if it cannot connect.

    Dask ends it when it is collected as garbage. If that happens while a thread of Dask is being started, both wait for
    each other without end.
    """

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except BaseException:
            self.__del__()
            raise


def _new_certificate() -> Security:
    """Draw a certificate that lives as long as the cluster."""
    try:
        return Security.temporary()
    except ImportError:
        raise InputError("This needs cryptography: install it with `pip install finetune_reg[sweep]`.") from None


@contextmanager
def _local_cluster(slots: int, security: Security) -> Iterator[SpecCluster]:
    """Start one single-threaded worker process per slot, each of which sees one GPU, the next in turn.

    When the block is left by an error or an interrupt, the workers are ended first, so that nothing waits for them.
    """
    gpus: list[str] = visible_gpus()
    nannies: list[Nanny] = []
    here: dict[str, Any] = {
        "host": LOOPBACK,
        "security": security,
        "dashboard": False,
        "dashboard_address": f"{LOOPBACK}:0",
    }
    alone: dict[str, Any] = {
        "nthreads": 1,
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
        "preload": IGNORE_INTERRUPTS,
    }

    def nanny(scheduler: str, **options: Any) -> Nanny:
        nannies.append(Nanny(scheduler, **here, **alone, **options))
        return nannies[-1]

    scheduler = {"cls": Scheduler, "options": here | {"port": 0}}
    cluster = SpecCluster(
        scheduler=scheduler, security=security, silence_logs=logging.CRITICAL, shutdown_on_close=False
    )
    for slot in range(slots):
        environment = {"OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})
        cluster.worker_spec[slot] = {"cls": nanny, "options": {"env": environment}}
    starting = asyncio.run_coroutine_threadsafe(_start(cluster), cast(Any, cluster.loop).asyncio_loop)
    try:
        try:
            interruptible(starting)
        except RuntimeError:
            raise InputError(
                'The workers did not start: a script has to call run_sweep below `if __name__ == "__main__":`, for '
                "each worker runs the script once more; elsewhere, memory or processes may have run out."
            ) from None
        yield cluster
    except BaseException:
        cluster.sync(_end, starting, nannies)
        raise
    finally:
        cluster.close()


async def _start(cluster: SpecCluster) -> None:
    shield_children()  # this process ends its workers
    await cluster


async def _end(starting: Future, nannies: list[Nanny]) -> None:
    """End the worker processes at once, those that are being started, too."""
    ended = (Status.closed, Status.failed)
    while not starting.done() or any(nanny.status not in ended for nanny in nannies):
        for nanny in nannies:
            if nanny.status == Status.running:
                nanny.close_gracefully()  # or it starts another
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGTERM)
        await asyncio.sleep(0.05)
