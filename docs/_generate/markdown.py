"""Markdown that says what a text says: escaped, in tables, folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def plain(text: str) -> str:
    """Return a text in which nothing is taken for markup."""
    return re.sub(r"([\\`*_$<|\[\]#~])", r"\\\1", text)


def code(text: str) -> str:
    """Return a text as code, in a table too."""
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], n_texts: int = 1) -> str:
    """Return a table, its first columns texts and the others numbers; a column without a text is left out."""
    rows = list(rows)
    used = [i for i in range(len(headers)) if any(row[i] for row in rows)]
    lines = [[headers[i] for i in used], [":--" if i < n_texts else "--:" for i in used]]
    lines += [[row[i] for i in used] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def folded(summary: str, text: str) -> str:
    """Return a text that the reader unfolds."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>\n"
