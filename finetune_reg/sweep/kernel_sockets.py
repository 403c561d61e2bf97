"""Unix sockets for the kernels that notebooks are executed in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from traitlets.config import Config


@contextmanager
def private_kernel_sockets() -> Iterator[Config]:
    """Yield the configuration of one kernel that is reached over Unix sockets; on Windows, Jupyter's default, TCP.

    Over TCP a kernel dies at its start when another process takes a port between its choice and its use: two of 200
    did with four starting at a time.
    """
    with TemporaryDirectory(prefix="kernel-") as folder:
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        yield Config(KernelManager=sockets) if os.name == "posix" else Config()
