"""Grade notebooks that students filled in: execute each in a fresh kernel and count the exercises that are right.

remote_attempts.py     an attempt that lives in another process, as its checker sees it
plain_data.py          what may come from there: numbers, texts, arrays, tables
submission_process.py  the process of a submission: executes its cells, answers calls
sandbox.py             what keeps that process in its place

Nothing is kept but what the notebook's own `check(name, attempt)` found, which it also writes to a log (see
`exercises`). Every exercise gives one point. If it is checked several times, the last time counts; checks before a
crash or the end of the time limit count, those after it cannot. Submissions are graded on all exercises of their
notebook, so that nobody gains by deleting one.

The submissions are programs and run with your rights: grade those of people you do not trust in a container or on
another account. A program can also write points to the log, as it can print "right": the executed notebooks are kept
beside the table, to be read.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import nbformat
import pandas as pd

from finetune_reg.course.exercises import CHECK_LOG, topics
from finetune_reg.errors import InputError
from finetune_reg.sweep.kernel_sockets import private_kernel_sockets

START_SECONDS = 120


def grade(folder: Path | str, out: Path | str, time_limit: float = 10.0) -> pd.DataFrame:
    """Execute the notebooks of a folder, in order of their names, and write a table of points.

    Args:
        folder: with the submissions, one notebook each; folders in it are not read.
        out: CSV file; executed copies go to a folder beside it, named like it with `_executed`.
        time_limit: minutes for one submission.

    Returns:
        One row per submission: `submission` (the file's name), a column of 0 or 1 for each exercise, `total`, and
        `error`, empty if the notebook ran to its end.

    Raises:
        InputError: no notebooks, or none that checks an exercise.
    """
    folder, out = Path(folder), Path(out)
    submissions = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
    if not submissions:
        raise InputError(f"There are no notebooks to grade in {folder}.")
    names = _assigned(submissions)
    if not names:
        raise InputError(f"No notebook in {folder} checks an exercise of the course: hand in notebooks with exercises.")
    executed = out.with_name(f"{out.stem}_executed")
    executed.mkdir(parents=True, exist_ok=True)
    rows = []
    for submission in submissions:
        right, error = _run(submission, executed / submission.name, time_limit)
        points = {name: int(right.get(name, False)) for name in names}
        rows.append({"submission": submission.name, **points, "total": sum(points.values()), "error": error})
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False)
    return table


def checked_exercises(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the exercises that a notebook checks, in order: the texts in its calls `check("name", ...)`."""
    calls = (node for tree in _parsed(notebook) for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (_checked_exercise(call) for call in calls)
    return list(dict.fromkeys(name for name in named if name is not None))


def _assigned(submissions: Iterable[Path]) -> list[str]:
    """Return all exercises of the topics that any submission checks."""
    checked: set[str] = set()
    for submission in submissions:
        try:
            checked |= set(checked_exercises(nbformat.read(submission, as_version=4)))
        except Exception:  # not a notebook: `_run` says so in its row
            continue
    return [name for topic in topics().values() if checked & topic.keys() for name in topic]


def _run(submission: Path, executed: Path, time_limit: float) -> tuple[dict[str, bool], str]:
    """Execute one submission; return what its checks found, and what ended it early."""
    import papermill
    from nbclient.exceptions import CellTimeoutError

    logging.getLogger("papermill").addHandler(logging.NullHandler())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    error, deadline = "", monotonic() + 60 * time_limit
    with (
        private_kernel_sockets() as sockets,
        tempfile.TemporaryDirectory() as scratch,
        _environment(CHECK_LOG, log := Path(scratch, "checks.jsonl")),
    ):
        try:
            papermill.execute_notebook(
                submission,
                executed,
                parameters={"strict_exercises": False, "output_dir": str(Path(scratch, "runs"))},
                kernel_name="python3",
                language="python",
                cwd=scratch,
                progress_bar=False,
                start_timeout=START_SECONDS,
                timeout_func=lambda cell: max(deadline - monotonic(), 0.1),
                shutdown_kernel="immediate",
                config=sockets,
            )
        except papermill.PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
        except CellTimeoutError:
            error = f"It did not end in the {time_limit:g} minutes it was given."
        except Exception as failure:  # not a notebook, or its kernel died: the others are graded all the same
            error = f"{type(failure).__name__}: {failure}"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    found = [json.loads(line) for line in lines]
    return {entry["exercise"]: entry["right"] for entry in found}, error.strip().partition("\n")[0]


@contextmanager
def _environment(name: str, value: Path) -> Iterator[None]:
    """Set an environment variable, which kernels inherit, for a while."""
    before = os.environ.get(name)
    os.environ[name] = str(value)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _parsed(notebook: nbformat.NotebookNode) -> Iterator[ast.AST]:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            try:
                yield ast.parse(cell.source)
            except SyntaxError:  # a student's slip, or a command of IPython
                continue


def _checked_exercise(call: ast.Call) -> str | None:
    match call:
        case ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=str(name)), *_]):
            return name
    return None
