"""What a student gets: the course's notebooks with a cell for each answer that is read, and without the solutions."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from finetune_reg.course.grading.submission_cells import read_notebook, unchecked_tasks
from finetune_reg.errors import InputError
from finetune_reg.paths import NOTEBOOKS

SENTENCE_END = re.compile(r"((?<=[.!?])\s+|\n{2,})")
OF_SOLUTIONS = re.compile(r"solutions/|`solutions`")
ANSWER = "*Your answer to “{task}”. A person reads it:*"


def write_student_bundle(out: Path | str) -> list[Path]:
    """Write the student's notebooks to a new or empty folder, and return their paths.

    Raises:
        InputError: the folder has something in it, or cannot be written.
    """
    folder = new_folder(out)
    written = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        written.append(folder / path.name)
        nbformat.write(students_notebook(read_notebook(path)), written[-1])
    return written


def new_folder(out: Path | str) -> Path:
    """Return a folder that is made if need be.

    Raises:
        InputError: it has something in it, or cannot be made.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise InputError(f"Cannot use {folder} as a folder: {error.strerror}. Name another.") from error
    if not is_empty:
        raise InputError(f"{folder} is not empty: name a new folder, so that nothing in it is lost.")
    return folder


def students_notebook(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook of the course without sentences about the solutions, and with cells for answers."""
    unchecked, cells = unchecked_tasks(notebook), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_solutions(cell.source)
        if cell.source or cell.cell_type == "code":
            cells.append(cell)
        for number, task in enumerate(unchecked, start=1):
            if cell.cell_type == "markdown" and f"### {task}" in cell.source.splitlines():
                answer = nbformat.v4.new_markdown_cell(ANSWER.format(task=task), metadata={"tags": ["answer"]})
                cells.append(answer | {"id": f"answer-{number}"})
    notebook.cells = [nbformat.from_dict(cell) for cell in cells]
    notebook.metadata.pop("source_hash", None)
    return notebook


def without_solutions(text: str) -> str:
    """Return Markdown without the sentences that name the folder of the solutions."""
    pieces = SENTENCE_END.split(text)
    kept = "".join(
        sentence + end
        for sentence, end in zip(pieces[::2], [*pieces[1::2], ""], strict=True)
        if not OF_SOLUTIONS.search(sentence)
    )
    return kept.strip() if kept != text else text
