"""The process that judges: it starts a process for each submission and tries the attempts that come from there.

Run as `python -m finetune_reg.course.grading.examination DESCRIPTOR`. Requests and findings are JSON, one request after
the other; the checkers are loaded once. Whoever starts it may kill it at any time, with all that is below it: what a
submission gives to a checker can make that one run for ever, too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from finetune_reg.course.exercises import exercises, judge
from finetune_reg.course.grading import sandbox
from finetune_reg.course.grading.needed_cells import needed_cells
from finetune_reg.course.grading.remote_attempts import NO_MESSAGE, Conversation, SubmissionEndedError
from finetune_reg.course.grading.submission_cells import changed_checks, course_checks

START_SECONDS = 120
LONGEST_SENTENCE = 2000
NEVER_FOR_WANT_OF_CELLS = (  # beginnings of errors that a missing statement does not cause
    *("SyntaxError", "IndentationError", "UsageError", "NotImplementedError", "MemoryError"),
    *("SystemExit", "ZeroDivisionError"),
)

Finding = dict[str, Any]


def examine(cells: list[str], assigned: list[str], minutes: float, n_bytes: int) -> Iterator[Finding]:
    """Execute the cells that the checks need, and all cells if one of those may miss another; yield what is found.

    Args:
        cells: sources of the code cells.
        assigned: exercises whose checks should be those of the course.
        minutes: for the submission, each time.
        n_bytes: of memory, for all its processes together.

    Yields:
        `{"seconds": number}`, how long the next step may take; `{"exercise": name, "verdict": sentence}`, the
        sentence empty for a right attempt; in the end `{"error": sentence, "changed": names}`, the exercises that the
        submission checks in another way than the course.
    """
    course = {name: text for name, text in course_checks().items() if name in assigned}
    needed = needed_cells(cells)
    error, is_of_a_cell = yield from _execute(needed, minutes, n_bytes)
    if is_of_a_cell and needed != cells and not error.startswith(NEVER_FOR_WANT_OF_CELLS):
        of_all, _ = yield from _execute(cells, minutes, n_bytes)
        error = of_all and error
    yield {"error": error, "changed": changed_checks(cells, course)}


def _execute(cells: list[str], minutes: float, n_bytes: int) -> Generator[Finding, None, tuple[str, bool]]:
    """Execute cells in a process of their own; yield verdicts; return the first error, and whether a cell raised it."""
    checkers = exercises()
    yield {"seconds": START_SECONDS}
    with _submission_process(n_bytes) as (connection, look):
        talk = Conversation(connection, monotonic() + START_SECONDS, "It could not be started.", look)
        try:
            talk.receive()
            talk.deadline = monotonic() + 60 * minutes
            talk.time_is_up = f"It did not end in the {minutes:g} minutes it was given."
            yield {"seconds": 60 * minutes}
            talk.send(cells)
            while "ended" not in (message := talk.receive()):
                name = message.get("check")
                if not isinstance(name, str):
                    raise SubmissionEndedError(NO_MESSAGE)
                if name not in checkers:
                    talk.send("verdict", "there is no exercise of this name")
                    continue
                try:
                    verdict = judge(checkers[name], talk.attempt(message.get("attempt")))
                except Exception as error:  # of any kind that reading what a submission wrote may raise
                    verdict = f"the attempt cannot be read: {error}"
                yield {"exercise": name, "verdict": verdict[:LONGEST_SENTENCE]}
                talk.send("verdict", verdict[:LONGEST_SENTENCE])
        except SubmissionEndedError as end:
            return str(end), False
    ended = str(message["ended"])[:LONGEST_SENTENCE]
    return ended, bool(ended)


@contextmanager
def _submission_process(n_bytes: int) -> Iterator[tuple[Connection, Callable[[], None]]]:
    """Start a process for a submission; yield the connection to it, and a function that looks after its size."""
    here, there = Pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        module = "finetune_reg.course.grading.submission_process"
        command = [sys.executable, "-P", "-m", module, str(there.fileno()), folder, str(n_bytes)]
        process = sandbox.start_apart(command, folder, (there.fileno(),))
        there.close()

        def look() -> None:
            n_processes, size = sandbox.size_of_tree(process.pid)
            if n_processes > sandbox.MOST_PROCESSES:
                raise SubmissionEndedError(f"It started more than {sandbox.MOST_PROCESSES} processes.")
            if size > n_bytes:
                raise SubmissionEndedError(f"It used more than {n_bytes / 2**30:g} GB of memory.")

        try:
            yield here, look
        finally:
            here.close()
            sandbox.end_tree(process.pid)
            process.wait()
            sandbox.end_tree(os.getpid(), itself=False)


def main(connection: Connection) -> None:
    """Answer requests until there are no more."""
    sandbox.adopt_orphans()
    exercises()
    connection.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        sandbox.limit_memory(request["n_bytes"])
        for finding in examine(**request):
            connection.send_bytes(json.dumps(finding).encode())


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
