"""The rooms of the package: which folder may import which, and how large a room may grow."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from finetune_reg.paths import ROOT

PACKAGE = ROOT / "finetune_reg"
# A room imports itself and what stands before it; rooms of one line do not know each other.
FLOORS = [
    {"console", "errors", "paths"},
    {"hyperparameters"},
    {"building_blocks"},
    {"method"},
    {"trainer_parts"},
    {"methods", "training_loop", "trainer"},
    {"pocket"},
    {"tasks"},
    {"experiment"},
    {"results"},
    {"report", "sweep"},
    {"own_table"},
    {"course"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    """The folder or file at the package's top that a module belongs to."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(module: Path) -> set[str]:
    """The rooms that a module imports from, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("finetune_reg.")}


def test_every_room_has_its_floor():
    assert {room_of(module) for module in MODULES} == {"__init__", *FLOOR_OF}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_imports_point_down(module):
    room = room_of(module)
    if room == "__init__":  # the names of the public interface, loaded when first used
        return
    for imported in imported_rooms(module) - {room}:
        assert FLOOR_OF[imported] < FLOOR_OF[room], f"{room} must not import {imported}"


def test_rooms_stay_small():
    folders = Counter(module.parent for module in MODULES if module.name != "__init__.py")
    assert folders.pop(PACKAGE) <= 8
    crowded = {str(folder): n for folder, n in folders.items() if n > 14 and folder.name != "methods"}
    assert crowded == {}


def test_modules_stay_small():
    for module in MODULES:
        assert len(module.read_text().splitlines()) <= 300, module


def test_every_folder_says_what_is_in_it():
    for folder in {module.parent for module in MODULES} - {PACKAGE}:
        names = {module.name for module in folder.glob("*.py")} - {"__init__.py"}
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        if folder.name not in ("methods", "exercises"):  # their registries list what they hold
            assert {name for name in names if name not in docstring} == set(), folder


@pytest.mark.xdist_group("a group")
def test_tests_of_a_group_are_known_as_such(request):
    """Under pytest 9.2 xdist no longer sees groups, and what they share is made in every process."""
    if request.config.getoption("loadgroup", False):
        assert request.node.nodeid.endswith("@a group")
