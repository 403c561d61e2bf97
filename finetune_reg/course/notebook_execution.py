"""Execute the course's notebooks in place, so that they are committed with fresh outputs.

Run as `python -m finetune_reg.course.notebook_execution [NOTEBOOK ...]`; it prints the seconds that each notebook took.
A hash over the sources of the cells is stored in the notebook's metadata; a test compares it, so that no output is
older than its source. Notebooks read finished runs from `runs/`: remove that folder first for fresh results and honest
times.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from time import perf_counter

import nbformat
from nbclient import NotebookClient

from finetune_reg.course.sliders import without_widgets
from finetune_reg.experiment.atomic_writing import write_atomically
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.sweep.kernel_sockets import private_kernel_sockets

# Far more than any cell takes on a free machine; a loaded one is slower.
CELL_SECONDS = 1800


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash (SHA-256, 16 hex digits) type, id and source of all cells."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        digest.update(f"{cell.cell_type}\0{cell.id}\0{cell.source}\0".encode())
    return digest.hexdigest()[:16]


def course_notebooks() -> list[Path]:
    """All notebooks of the course and their solutions, in order."""
    return sorted([*NOTEBOOKS.glob("*.ipynb"), *(NOTEBOOKS / "solutions").glob("*.ipynb")], key=lambda path: path.name)


def execute(path: Path) -> None:
    """Execute a notebook in a fresh kernel and store outputs without machine-dependent metadata.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file is left as it was.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # models are small: more threads would wait for each other
    notebook = nbformat.read(path, as_version=4)
    with private_kernel_sockets() as sockets:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": path.parent}},
            coalesce_streams=True,  # or a busy machine tears one print into two outputs
            config=sockets,
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data = without_widgets(output.data)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "source_hash": source_hash(notebook),
    }
    write_atomically(path, f"{nbformat.writes(notebook)}\n")


def _processor_seconds() -> float:
    """Return the processor time of the kernels that have ended; 0 on Windows, which does not count it."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    for path in [Path(argument) for argument in sys.argv[1:]] or course_notebooks():
        print(f"{path} ...", end=" ", flush=True)
        wall, processor = perf_counter(), _processor_seconds()
        execute(path)
        wall, processor = perf_counter() - wall, _processor_seconds() - processor
        print(f"{wall:.0f} s, {processor:.0f} s of processor time")
