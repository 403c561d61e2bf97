"""What a notebook says before it is executed: its cells, the exercises it checks, and how it checks them."""

from __future__ import annotations

import ast
import re
import stat
import symtable
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.inputtransformer2 import TransformerManager

from finetune_reg.errors import InputError
from finetune_reg.paths import NOTEBOOKS

if TYPE_CHECKING:
    import nbformat

LARGEST_NOTEBOOK = 50 * 2**20
CHECK = re.compile(r"""^[^#\n]*\bcheck\(\s*["']([\w-]+)["']""", re.MULTILINE)


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook, which may be anything.

    Raises:
        InputError: it is no file, too large, or no notebook.
    """
    import nbformat  # a second, which each process of a submission would pay

    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError("It is no file.")
        if found.st_size > LARGEST_NOTEBOOK:
            raise InputError(f"It is larger than {LARGEST_NOTEBOOK // 2**20} MB.")
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        for cell in notebook.cells:
            if not (isinstance(cell.cell_type, str) and isinstance(cell.source, str)):
                raise InputError("A cell of it has no text.")
            cell.source.encode()
        return notebook
    except InputError:
        raise
    except Exception as error:  # nbformat has no common error for what is no notebook
        raise InputError(f"It cannot be read as a notebook ({type(error).__name__}).") from error


def code_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the sources of the code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def checked_exercises(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the exercises that a notebook checks, in order: the texts in its calls `check("name", ...)`."""
    return list(dict.fromkeys(name for cell in code_cells(notebook) for name in CHECK.findall(cell)))


def as_python(cell: str) -> str:
    """Return a cell with the commands of IPython, `%...` and `!...`, as the calls that they stand for."""
    return TransformerManager().transform_cell(cell)


def parsed(cell: str) -> ast.Module | None:
    """Return the syntax of a cell, or None if it cannot be executed."""
    try:
        symtable.symtable(python := as_python(cell), "cell", "exec")
        return ast.parse(python)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def changed_checks(cells: list[str], course: dict[str, str]) -> list[str]:
    """Return the exercises that a submission does not check as the course's notebook does.

    Args:
        cells: of the submission.
        course: the statement with the check of each exercise, as `course_checks` has it.
    """
    trees = [tree for cell in cells if (tree := parsed(cell)) is not None]
    if any(_touches_checks(node) for tree in trees for node in ast.walk(tree)):
        return list(course)
    found = [pair for tree in trees for pair in _checks(tree)]
    return [name for name, statement in course.items() if [text for one, text in found if one == name] != [statement]]


@cache
def course_checks() -> dict[str, str]:
    """Return the statement that checks each exercise in the course's notebooks; nothing where there are none."""
    trees = (parsed(cell) for notebook in _course_notebooks() for cell in code_cells(notebook))
    return {name: text for tree in trees if tree is not None for name, text in _checks(tree)}


@cache
def hand_read_tasks() -> dict[str, list[str]]:
    """Return, for each exercise with a check, the headings of its notebook's exercises that have none."""
    tasks: dict[str, list[str]] = {}
    for notebook in _course_notebooks():
        tasks |= dict.fromkeys(checked_exercises(notebook), unchecked_tasks(notebook))
    return tasks


def unchecked_tasks(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the headings of a notebook's exercises that no check follows."""
    unchecked: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            unchecked += re.findall(r"^### (\d+\. .+)$", cell.source, re.MULTILINE)
        elif unchecked and CHECK.search(cell.source):
            unchecked.pop()
    return unchecked


def _course_notebooks() -> Iterator[nbformat.NotebookNode]:
    return (read_notebook(path) for path in sorted(NOTEBOOKS.glob("*.ipynb")))


def _checks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the exercise and the text of each check that is a statement of its own, and "" for other checks."""
    plain = {id(statement.value): statement for statement in tree.body if isinstance(statement, ast.Expr | ast.Assign)}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="check"), args=[ast.Constant(value=str(name)), *_]):
                yield name, ast.unparse(node) if id(node) in plain else ""


def _touches_checks(node: ast.AST) -> bool:
    """Tell whether a part of a cell gives `check` another meaning, or reaches for the modules behind it."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name == "check"
        case ast.ImportFrom(module="finetune_reg.course.exercises", names=[ast.alias(name="check", asname=None)]):
            return False
        case ast.ImportFrom(module=module, names=names):
            bound = {one.asname or one.name for one in names}
            return f"{module}.".startswith("finetune_reg.course.") or bool(bound & {"check", "course"})
        case ast.Import(names=names):
            return any(one.name.startswith("finetune_reg.course") or one.asname == "check" for one in names)
        case ast.Attribute(attr=name):
            return name in ("course", "exercises")
        case ast.Constant(value=str(text)):
            return "finetune_reg.course" in text
    return False
