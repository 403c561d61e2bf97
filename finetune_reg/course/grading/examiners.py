"""The grader's side of the processes that judge: each takes one submission at a time; another follows a lost one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic

from finetune_reg.course.grading import sandbox

START_SECONDS = 300
GRACE_SECONDS = 15  # beyond what an examiner allows, before it is ended itself


@dataclass
class Findings:
    """What is found out about a submission.

    Attributes:
        verdicts: what is wrong, by exercise; empty for a right attempt.
        error: what ended it early, or the first cell that fails.
        changed: exercises that it checks in another way than the course does.
    """

    verdicts: dict[str, str] = field(default_factory=dict)
    error: str = ""
    changed: list[str] = field(default_factory=list)


class Examiner:
    """A process that judges; use it as a context, from one thread."""

    def __enter__(self) -> Examiner:
        self._process: subprocess.Popen | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def examine(self, cells: list[str], assigned: list[str], minutes: float, n_bytes: int) -> Findings:
        """Execute a submission's cells and judge its attempts.

        Args:
            cells: sources of its code cells.
            assigned: exercises whose checks should be those of the course.
            minutes: that it may take.
            n_bytes: of memory that all its processes may hold together.
        """
        found, deadline = Findings(), monotonic() + START_SECONDS
        try:
            connection = self._connection()
            request = {"cells": cells, "assigned": assigned, "minutes": minutes, "n_bytes": n_bytes}
            connection.send_bytes(json.dumps(request).encode())
            while "error" not in (finding := _receive(connection, deadline)):
                if "seconds" in finding:
                    deadline = monotonic() + finding["seconds"] + GRACE_SECONDS
                else:
                    found.verdicts[finding["exercise"]] = finding["verdict"]
            found.error, found.changed = finding["error"], finding["changed"]
        except TimeoutError:
            found.error = f"It did not end in the {minutes:g} minutes it was given."
            self._end()
        except (EOFError, OSError):
            found.error = "It ended the process that judges it."
            self._end()
        return found

    def _connection(self) -> Connection:
        if self._process is None:
            self._here, there = Pipe()
            module = "finetune_reg.course.grading.examination"
            command = [sys.executable, "-P", "-m", module, str(there.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=(there.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
            )
            there.close()
            try:
                _receive(self._here, monotonic() + START_SECONDS)
            except (EOFError, OSError) as error:
                self._end()
                raise RuntimeError("The process that judges submissions does not start.") from error
        return self._here

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            sandbox.end_tree(process.pid)
            process.wait()
            self._here.close()


def _receive(connection: Connection, deadline: float) -> dict:
    if not connection.poll(max(0.0, deadline - monotonic())):
        raise TimeoutError
    return json.loads(connection.recv_bytes())
