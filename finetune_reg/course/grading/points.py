"""What the teacher gets: a table of points for a spreadsheet, and a page of feedback for each student."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from finetune_reg.console import printable
from finetune_reg.course.grading.examiners import Findings
from finetune_reg.course.grading.rubrics import RUBRICS
from finetune_reg.course.grading.submission_cells import hand_read_tasks
from finetune_reg.experiment.atomic_writing import in_one_step

LONGEST_CELL = 200
FORMULA = tuple("=+-@＝＋－＠")


def cell(text: str) -> str:
    """Return a text for a cell: printable, on one line, cut, and no formula whatever program opens the table."""
    text = printable(text)
    text = text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}..."
    return f"'{text}" if text.startswith(FORMULA) else text


def row(name: str, found: Findings, exercises: list[str]) -> dict[str, str | int]:
    """Return a submission's row: its name, 0 or 1 for each exercise, their sum, its error, and changed checks."""
    points = {exercise: int(found.verdicts.get(exercise) == "") for exercise in exercises}
    remarks = {"error": cell(found.error), "changed_checks": cell(", ".join(found.changed))}
    return {"submission": cell(name), **points, "total": sum(points.values()), **remarks}


def write_table(rows: list[dict[str, str | int]], out: Path) -> pd.DataFrame:
    """Write rows as CSV; who reads the file meanwhile sees the table before or after."""
    table = pd.DataFrame(rows)
    with in_one_step(out) as file:
        table.to_csv(file, index=False)
    return table


def feedback(name: str, found: Findings, exercises: list[str]) -> str:
    """Return a student's page, in Markdown: what each check said, and what no check can say."""
    lines = [f"# {_literal(name)}", ""]
    for exercise in exercises:
        verdict = found.verdicts.get(exercise, "its check was not reached")
        lines.append(f"* **{exercise}**: {_literal(verdict) or 'right'}.")
    if found.error:
        lines += ["", f"Execution met an error: {_literal(found.error)}"]
    if found.changed:
        lines += ["", f"The course checks in another way: {', '.join(found.changed)}."]
    unchecked = dict.fromkeys(task for exercise in exercises for task in hand_read_tasks().get(exercise, []))
    if unchecked:
        lines += ["", "Ungraded, to be read; a line of the rubric is a point:", ""]
        for task in unchecked:
            lines += [f"* {task}", *(f"    * [ ] {line}" for line in RUBRICS.get(task, []))]
    return "\n".join([*lines, ""])


def _literal(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{one}" if one in r"\`*_{}[]<>()#+!|~&" else one for one in printable(text)).rstrip(".")
