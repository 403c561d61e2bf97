"""Which statements of a notebook its checks need: those that make what is checked, and what these use in turn.

A statement makes the names that it binds, and those whose values it may change: by an assignment to a part, or by a
call whose result is dropped. What a function uses may be made after it. Commands of IPython are always needed. What is
hidden from this view (`exec`, `globals()`, an output `_`, a check in a function) makes all statements needed.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune_reg.course.grading.submission_cells import CHECK, parsed

HIDING = {"exec", "eval", "globals", "locals", "__import__", "In", "Out"}
LAST_OUTPUT = re.compile(r"_+(i|\d+|i\d+)?|_[io]h")
ONLY_SHOWS = {"print", "display", "show", "check", "ask", "play"}
CERTAIN = ast.Assign | ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
COMPREHENSIONS = {"listcomp", "setcomp", "dictcomp", "genexpr"}


@dataclass
class Reading:
    """The names of a notebook that a statement makes, changes, uses, or uses when a function of it is called."""

    makes: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    uses_later: set[str] = field(default_factory=set)
    is_certain: bool = False
    is_needed: bool = False
    hides: bool = False


def needed_cells(cells: list[str]) -> list[str]:
    """Return the cells without the statements that no check needs; all, if that cannot be told."""
    trees = [parsed(cell) for cell in cells]
    statements = [(i, statement) for i, tree in enumerate(trees) if tree is not None for statement in tree.body]
    readings = [_read(statement) for _, statement in statements]
    if any(reading.hides for reading in readings):
        return cells
    while _mark(readings):
        continue
    kept: dict[int, list[ast.stmt]] = {}
    for (i, statement), reading in zip(statements, readings, strict=True):
        if reading.is_needed:
            kept.setdefault(i, []).append(statement)
    needed = []
    for i, (cell, tree) in enumerate(zip(cells, trees, strict=True)):
        if tree is None or kept.get(i) == tree.body:  # what cannot be executed makes nothing, but an error
            needed.append(cell)
        elif i in kept:
            needed.append(ast.unparse(ast.Module(kept[i], type_ignores=[])))
    return needed


def _mark(readings: list[Reading]) -> bool:
    """Go back from the needed statements to those that make what they use; return whether there were any."""
    later = {name for reading in readings if reading.is_needed for name in reading.uses_later}
    wanted: set[str] = set()
    found = False
    for reading in reversed(readings):
        if not reading.is_needed and (reading.makes | reading.changes) & (wanted | later):
            reading.is_needed = found = True
        if reading.is_needed:
            wanted = (wanted - reading.makes if reading.is_certain else wanted) | reading.uses
    return found


def _read(statement: ast.stmt) -> Reading:
    source = ast.unparse(statement)
    reading = Reading(is_certain=isinstance(statement, CERTAIN))
    _read_names(symtable.symtable(source, "cell", "exec"), reading, later=False)
    used = reading.uses | reading.uses_later
    for node in ast.walk(statement):
        match node:
            case ast.ImportFrom(module="__future__") | ast.ImportFrom(names=[ast.alias(name="*")]):
                reading.is_needed = True
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                reading.changes |= {_root(node)} & used
            case ast.Expr(value=ast.Call() as call) | ast.Assign(targets=[ast.Name(id="_")], value=ast.Call() as call):
                reading.changes |= set(_changed(call)) & used
            case ast.Call(func=ast.Name(id="check")):
                reading.is_needed = True
            case ast.FunctionDef() | ast.Lambda():
                reading.hides |= CHECK.search(ast.unparse(node)) is not None
            case ast.Call(func=ast.Name(id="vars"), args=[]):
                reading.hides = True
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")))):
                _read_command(node, reading)
    reading.hides |= any(name in HIDING or LAST_OUTPUT.fullmatch(name) for name in used)
    return reading


def _read_names(scope: symtable.SymbolTable, reading: Reading, later: bool) -> None:
    is_top = scope.get_type() == "module"
    later |= scope.get_type() == "function" and scope.get_name() not in COMPREHENSIONS
    for symbol in scope.get_symbols():
        if is_top or symbol.is_global():
            if symbol.is_assigned() or symbol.is_imported():
                reading.makes.add(symbol.get_name())
            if symbol.is_referenced():
                (reading.uses_later if later else reading.uses).add(symbol.get_name())
    for inner in scope.get_children():
        _read_names(inner, reading, later)


def _read_command(call: ast.Call, reading: Reading) -> None:
    """Read the Python in a command of IPython, such as `%time x = f()`."""
    reading.is_needed, reading.is_certain = True, False
    for argument in call.args:
        tree = (
            parsed(argument.value) if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None
        )
        for inner in map(_read, tree.body if tree else []):
            reading.makes |= inner.makes | inner.changes
            reading.uses |= inner.uses
            reading.uses_later |= inner.uses_later


def _changed(call: ast.Call) -> Iterator[str]:
    """Yield the names whose values a call may change: its object and its arguments."""
    if isinstance(call.func, ast.Name) and call.func.id in ONLY_SHOWS:
        return
    arguments = (*call.args, *(keyword.value for keyword in call.keywords))
    for part in (call.func, *(one for one in arguments if not isinstance(one, ast.Call))):
        yield _root(part)


def _root(node: ast.AST) -> str:
    """Return the name at the start of an expression such as `name.part[0]`, or nothing."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
