"""Docstrings, written in light Markdown, as the reStructuredText that autodoc reads."""

from __future__ import annotations

import re
from typing import Any

SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")
# Outside of `code` these mean something in reStructuredText; ** is bold in both, and napoleon knows `*args:`.
MARKS = re.compile(
    r"(`+)(?P<code>.+?)\1|^ +\*\w.*?:|(?P<mark>(?<!\*)\*(?!\*)|\||(?<=\w)_(?!\w)|\\)", re.DOTALL | re.MULTILINE
)


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup, and show indented paragraphs as they are written."""
    lines[:] = to_restructured_text(lines)


def to_restructured_text(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText; sections of `Args` and the like stay as they are named."""
    written: list[str] = []
    prose: list[str] = []
    in_section = literal = False
    for line in lines:
        if line.strip() and not line.startswith("    "):
            in_section, literal = line in SECTIONS, False
        elif line.strip() and not in_section and not literal and prose and not prose[-1].strip():
            written += [*_escaped(prose), "::", ""]
            prose, literal = [], True
        (written if literal else prose).append(line)
    return [*written, *_escaped(prose)]


def _escaped(prose: list[str]) -> list[str]:
    return MARKS.sub(_as_written, "\n".join(prose)).split("\n")


def _as_written(found: re.Match[str]) -> str:
    if found["code"]:
        return f"``{found['code']}``"
    return f"\\{found['mark']}" if found["mark"] else found[0].replace(", **", r", \*\*")
