"""Nobody gets in: what a running sweep listens on, who may connect to it, and how a cluster is protected."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Security
from distributed.core import rpc
from sweep_plans import ENVIRONMENT, channels_of, kernels_of, start_sweep, wait_for, workers_of, write_plan

from finetune_reg.errors import InputError
from finetune_reg.sweep import NotebookRun, run_sweep
from finetune_reg.sweep.engines import connect

FOREVER = {"epochs": 100_000, "evaluate_every": 100_000, "n_train": 24, "seeds": [0]}
LOOPBACK = ("127.0.0.1", "::1")
pytestmark = pytest.mark.xdist_group("listening")


@pytest.fixture(scope="module")
def running(tiny_world, tmp_path_factory):
    """A sweep with a kernel at work."""
    folder = tmp_path_factory.mktemp("running")
    plan = write_plan(folder / "plan.yaml", tiny_world, {"task": ["rte"]}, **FOREVER)
    process = start_sweep("run", plan, "--output-dir", folder / "out", "--slots", 1, log=folder / "log")
    try:
        wait_for(lambda: [kernel for kernel in kernels_of(process) if len(channels_of(kernel)) == 5], seconds=240)
        yield process
    finally:
        kernels = kernels_of(process)
        process.kill()
        psutil.wait_procs(kernels, timeout=15)


@pytest.fixture(scope="module")
def ports(running):
    """The TCP ports that the scheduler, the nannies and the workers listen on."""
    listening = [connection for process in _tree(running) for connection in _listening(process)]
    return sorted({connection.laddr.port for connection in listening})


def _tree(process) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def _listening(process: psutil.Process) -> list:
    """TCP sockets that wait for a connection, and UDP sockets, which always hear."""
    sockets = process.net_connections("inet")
    return [s for s in sockets if s.status == psutil.CONN_LISTEN or s.type == socket.SOCK_DGRAM]


def test_every_process_listens_on_loopback_alone(running, ports):
    heard_on = {s.laddr.ip for process in _tree(running) for s in _listening(process)}
    assert heard_on <= set(LOOPBACK)
    assert len(workers_of(running)) == 1
    assert len(ports) >= 3  # the scheduler, the nanny, the worker


@pytest.mark.skipif(os.name != "posix", reason="kernels use TCP on Windows")
def test_the_sockets_of_a_kernel_lie_in_a_folder_of_their_user(running):
    for kernel in kernels_of(running):
        for channel in channels_of(kernel):
            assert not channel.parent.stat().st_mode & 0o077


def test_the_ports_are_closed_at_the_other_addresses_of_the_machine(ports):
    families = {socket.AF_INET: "127.", socket.AF_INET6: "::1"}
    found = [a for interface in psutil.net_if_addrs().values() for a in interface if a.family in families]
    others = [a.address for a in found if not a.address.startswith(families[a.family]) and "%" not in a.address]
    if not others:
        pytest.skip("this machine has no address but loopback")
    for address in others:
        for port in ports:
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=2).close()


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_a_client_without_the_certificate_of_the_sweep_runs_nothing(ports, scheme):
    async def run_code(port: int) -> int:
        security = Security.temporary() if scheme == "tls" else Security()
        async with rpc(f"{scheme}://127.0.0.1:{port}", connection_args=security.get_connection_args("client")) as there:
            await asyncio.wait_for(there.identity(), timeout=2)
        return port

    async def entered() -> list[int]:
        tried = await asyncio.gather(*(run_code(port) for port in ports), return_exceptions=True)
        return [port for port in tried if isinstance(port, int)]

    assert asyncio.run(entered()) == []


def test_no_port_tells_a_browser_anything(ports):
    for port in ports:
        for page in ("/health", "/json/identity.json"):
            with pytest.raises((OSError, http.client.HTTPException)):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=0.5)


def _certificates(folder: Path) -> dict[str, str]:
    """Write a new certificate with its key; return the settings by which Dask finds them."""
    security, certificate, key = Security.temporary(), folder / "certificate.pem", folder / "key.pem"
    certificate.write_text(security.tls_ca_file)
    key.write_text(security.tls_client_key)
    settings = {"ca-file": certificate}
    for role in ("client", "scheduler", "worker"):
        settings |= {f"{role}.cert": certificate, f"{role}.key": key}
    return {f"distributed.comm.tls.{name}": str(path) for name, path in settings.items()}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The address of a scheduler with one worker behind certificates, and the settings that name them."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = _certificates(folder)
    variables = {f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": path for name, path in settings.items()}
    file, log, command = folder / "scheduler.json", (folder / "log").open("w"), Path(sys.executable).with_name("dask")
    options = {"env": ENVIRONMENT | variables, "stdout": log, "stderr": log, "cwd": folder}
    common = ["--scheduler-file", file, "--host", "tls://127.0.0.1", "--no-dashboard", "--dashboard-address", ":0"]
    processes = [subprocess.Popen([command, "scheduler", "--port", "0", *common], **options)]
    try:
        wait_for(file.exists)
        processes.append(subprocess.Popen([command, "worker", "--nthreads", "1", *common], **options))
        yield json.loads(file.read_text())["address"], settings
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def test_a_scheduler_behind_certificates_makes_the_runs(guarded, tiny_world, tmp_path):
    address, settings = guarded
    run = NotebookRun({"task": "rte", "n_train": 8, "epochs": 1, "seeds": [0], **tiny_world})
    with dask.config.set(settings):
        assert address.startswith("tls://")
        assert run_sweep([run], tmp_path, engine=address) == {"done": 1}


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ("no certificate", "answers to the certificates"),
        ("another certificate", "answers to the certificates"),
        ("a certificate that is not there", "certificates that fail: .*No such file"),
    ],
)
def test_a_scheduler_behind_certificates_refuses_others(guarded, tmp_path, monkeypatch, known, sentence):
    monkeypatch.setattr("finetune_reg.sweep.engines.CONNECT_SECONDS", 2)
    settings = {} if known == "no certificate" else _certificates(tmp_path)
    if known == "a certificate that is not there":
        (tmp_path / "certificate.pem").unlink()
    with dask.config.set(settings), pytest.raises(InputError, match=sentence), connect(guarded[0], 1):
        pass
