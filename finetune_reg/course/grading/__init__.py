"""Grade notebooks that students filled in: `grade(folder, out)` executes each and counts the exercises that are right.

points.py              the table, and a page of feedback per student
examiners.py           the grader's side: processes that judge, each with one submission at a time
examination.py         such a process: tries the attempts of a submission
remote_attempts.py     an attempt that lives in another process, as its checker sees it
plain_data.py          what may come from there: numbers, texts, arrays, tables
submission_process.py  the process of a submission: executes its cells, answers calls
sandbox.py             what keeps that process in its place
submission_cells.py    what a notebook says before it is executed
needed_cells.py        the cells that its checks need
rubrics.py             what a teacher looks for in answers that no check can judge

A submission is a stranger's program. It runs in a process of its own, and each of its attempts is called from another
process, which alone holds the checkers and finds the verdict. What it prints, writes, patches or leaves running changes
no point, and costs no row but its own. Every exercise gives one point. If it is checked several times, the last time
counts. A cell that fails costs what needs it; the cells after it are executed. Submissions are graded on all exercises
of their notebook, so that nobody gains by deleting one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pandas as pd

from finetune_reg.course.exercises import topics
from finetune_reg.course.grading.examiners import Examiner, Findings
from finetune_reg.course.grading.points import feedback, row, write_table
from finetune_reg.course.grading.submission_cells import checked_exercises, code_cells, read_notebook
from finetune_reg.errors import InputError

__all__ = ["checked_exercises", "grade"]

if TYPE_CHECKING:
    import nbformat

    Submission = nbformat.NotebookNode | InputError  # what was handed in, or why it cannot be read


def grade(
    folder: Path | str, out: Path | str, time_limit: float = 10.0, jobs: int = 1, memory: float = 4.0
) -> pd.DataFrame:
    """Execute the notebooks of a folder and write a table of points, anew after each of them.

    Args:
        folder: with the submissions, one notebook each; folders in it are not read.
        out: CSV file; a page of feedback for each submission goes to a folder beside it, named like it with
            `_feedback`.
        time_limit: minutes for one submission.
        jobs: how many submissions run at a time, 1 or more.
        memory: GB that the processes of one submission may hold together.

    Returns:
        One row per submission, in order of their names: `submission` (the file's name), a column of 0 or 1 for each
        exercise, `total`, `error` (what ended it, or the first cell that fails) and `changed_checks` (the exercises
        whose check is not the course's: read these).

    Raises:
        InputError: no notebooks, none that checks an exercise, or `out` is a folder.
    """
    folder, out = Path(folder), Path(out)
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a CSV file for the points.")
    paths = sorted(folder.glob("*.ipynb")) if folder.is_dir() else []
    if not paths:
        raise InputError(f"There are no notebooks to grade in {folder}.")
    submissions = {path.name: _read(path) for path in paths}
    names = _assigned(submissions.values())
    if not names:
        raise InputError(f"No notebook in {folder} checks an exercise of the course: hand in notebooks with exercises.")
    pages = out.with_name(f"{out.stem}_feedback")
    pages.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, str | int]] = {}
    for name, found in _examined(submissions, time_limit, jobs, int(memory * 2**30)):
        rows[name] = row(name, found, names)
        table = write_table([rows[name] for name in submissions if name in rows], out)
        page = pages / f"{name.removesuffix('.ipynb')}.md"
        page.write_text(feedback(name, found, _assigned([submissions[name]]) or names), encoding="utf-8")
    return table


def _examined(
    submissions: dict[str, Submission], minutes: float, jobs: int, n_bytes: int
) -> Iterator[tuple[str, Findings]]:
    """Yield the name of each submission, and what is found out about it, as soon as it is."""
    free: SimpleQueue[Examiner] = SimpleQueue()

    def examine(submission: Submission) -> Findings:
        if isinstance(submission, InputError):
            return Findings(error=str(submission))
        examiner = free.get()
        try:
            return examiner.examine(code_cells(submission), _assigned([submission]), minutes, n_bytes)
        finally:
            free.put(examiner)

    with ThreadPoolExecutor(jobs) as threads, ExitStack() as stack:
        for _ in range(jobs):
            free.put(stack.enter_context(Examiner()))
        waiting = {threads.submit(examine, submission): name for name, submission in submissions.items()}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _read(path: Path) -> Submission:
    try:
        return read_notebook(path)
    except InputError as error:  # in its row
        return error


def _assigned(submissions: Iterable[Submission]) -> list[str]:
    """Return all exercises of the topics that any submission checks."""
    notebooks = (one for one in submissions if not isinstance(one, InputError))
    checked = {name for notebook in notebooks for name in checked_exercises(notebook)}
    return [name for topic in topics().values() if checked & topic.keys() for name in topic]
