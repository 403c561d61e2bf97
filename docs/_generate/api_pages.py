"""The API from docstrings: one page for each folder of the package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import finetune_reg

TOP = ("method", "training_loop", "trainer", "errors", "paths")
LEFT_OUT = ("methods", "course")  # methods have pages of their own; the course is read in its notebooks


def api_pages() -> dict[str, str]:
    """Return the pages by name: `index`, the modules at the package's top, and each folder."""
    folders = [
        module.name
        for module in pkgutil.iter_modules(finetune_reg.__path__)
        if module.ispkg and module.name not in LEFT_OUT
    ]
    pages = {"finetune_reg": _page("finetune_reg", "The contract and its two hosts.", TOP)}
    for folder in folders:
        package = importlib.import_module(f"finetune_reg.{folder}")
        modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
        pages[folder] = _page(folder, _first_line(package), [f"{folder}.{name}" for name in modules])
    return {"index": _index(list(pages)), **pages}


def members(module: ModuleType) -> list[tuple[str, object]]:
    """Return the public classes and functions that a module defines, in its order."""
    own = [
        (name, member)
        for name, member in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(member) or inspect.isfunction(inspect.unwrap(member)))
        and getattr(member, "__module__", None) == module.__name__
    ]
    return own


def directive(module: ModuleType, name: str, member: object, index: bool = True) -> str:
    """Return the directive that documents a class with its public members, or a function."""
    kind, option = ("class", "   :members:\n") if inspect.isclass(member) else ("function", "")
    option += "" if index else "   :no-index:\n"
    return f"```{{eval-rst}}\n.. auto{kind}:: {module.__name__}.{name}\n{option}```\n"


def _page(title: str, summary: str, modules: list[str] | tuple[str, ...]) -> str:
    parts = [f"# {title}\n", f"{summary}\n"]
    for name in modules:
        module = importlib.import_module(f"finetune_reg.{name}")
        if found := members(module):
            parts += [f"## {name.rpartition('.')[2]}\n", f"{inspect.getdoc(module) or ''}\n"]
            parts += [directive(module, *member) for member in found]
    return "\n".join(parts)


def _index(pages: list[str]) -> str:
    toctree = "\n".join(["```{toctree}", ":maxdepth: 2", "", *pages, "```"])
    about = "From the docstrings of the package. Methods have [pages of their own](../methods/index.md)."
    return f"# API\n\n{about}\n\n{toctree}\n"


def _first_line(module: ModuleType) -> str:
    return (inspect.getdoc(module) or "").partition("\n")[0]
