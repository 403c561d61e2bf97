"""Call `finetune-reg` in this process: the same `main`, without a new interpreter that imports everything again."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from finetune_reg.cli import main

COMMAND = Path(sys.executable).with_name("finetune-reg")


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


def call(*arguments: Any) -> Finished:
    """Run the command to its end; the exit code and both outputs are those that a shell gets."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["finetune-reg", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            return Finished(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("The command ended without an exit code.")
