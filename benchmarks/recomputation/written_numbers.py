"""The numbers of the pages and of notebook 14 as they are written: tables as rows of text, sentences as quantities."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

NUMBER = r"[+-]?\d+(?:\.\d+)?"
QUANTITY = re.compile(
    rf"(?<![\w.-])(?P<value>{NUMBER})(?!\.?\w)"
    rf"(?:[^\d\[\]]{{0,50}}\[(?P<low>{NUMBER}), (?P<high>{NUMBER})\]| ± (?P<std>{NUMBER}))?"
)
Row = dict[str, str]
# The columns that say what a row of a notebook's table is about.
KEYS = {"", "task", "method", "method_label", "study", "statistic"}
KEYS |= {"epochs", "learning_rate", "rate", "bias_correction"}


def agrees(written: str, value: float | str) -> bool:
    """Tell whether a value rounds to the digits that are written; a text has to be equal."""
    if isinstance(value, str):
        return written == value
    if math.isnan(value):
        return written in ("", "NaN", "nan", "<NA>")
    try:
        number = Decimal(written)
    except ArithmeticError:
        return False
    if not number.is_finite():
        return False
    return abs(float(number) - value) <= 0.5 * 10.0 ** int(number.as_tuple().exponent) + 1e-9


class Comparisons:
    """What was compared, by place, and what was passed over."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.disagreements: list[str] = []
        self.passed_over: list[str] = []

    def check(self, place: str, what: str, written: str, value: float | str) -> None:
        self.compared[place] += 1
        if not agrees(written, value):
            found = value if isinstance(value, str) else f"{value:.5g}"
            self.disagreements.append(f"{place}: {what} is written {written or 'nothing'}, recomputed {found}")

    def check_row(self, place: str, row: Row, values: Mapping[str, float | str]) -> None:
        """Check the columns of a row that `values` has; others are noted, unless they are `KEYS`."""
        what = " ".join(text for name, text in row.items() if name in KEYS - {""} and text)
        for name in row:
            if name in values:
                self.check(place, f"{what}, {name}", row[name], values[name])
            elif name not in KEYS and (line := f"{place}: column {name}") not in self.passed_over:
                self.passed_over.append(line)

    def report(self) -> str:
        wrong = Counter(line.split(": ")[0] for line in self.disagreements)
        lines = [f"{'place':<48}numbers  agree"]
        lines += [f"{place:<48}{n:>7}{n - wrong[place]:>7}" for place, n in self.compared.items()]
        lines.append(f"{'all':<48}{self.compared.total():>7}{self.compared.total() - len(self.disagreements):>7}")
        lines += ["", f"Disagreements: {len(self.disagreements) or 'none'}", *self.disagreements]
        return "\n".join([*lines, "", f"Passed over: {len(self.passed_over) or 'none'}", *self.passed_over])


@dataclass(frozen=True)
class Quantity:
    """A number of a sentence, `parts` having its `value` and, where they are written, `low` and `high` or `std`."""

    start: int
    end: int
    text: str
    parts: Row


def quantities(text: str, start: int = 0) -> list[Quantity]:
    """Return what a text has from `start` on: numbers with an interval or a deviation, and numbers with a point."""
    found = [(match, {k: v for k, v in match.groupdict().items() if v}) for match in QUANTITY.finditer(text, start)]
    return [Quantity(*m.span(), m.group(), parts) for m, parts in found if len(parts) > 1 or "." in parts["value"]]


def prose(markdown: str) -> str:
    """Return the sentences, on one line, without the lines of tables."""
    return " ".join(" ".join(line for line in markdown.splitlines() if not line.startswith("|")).split())


def markdown_tables(markdown: str) -> dict[str, list[Row]]:
    """Return the rows of each table, by the bold words that stand before it."""
    tables: dict[str, list[Row]] = {}
    for before, table in re.findall(r"\*\*([^*]+)\*\*[^*|]*\n\n((?:\|.*\n)+)", markdown):
        head, _, *lines = ([cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.splitlines())
        tables[before.rstrip(":")] = [dict(zip(head, line, strict=True)) for line in lines]
    return tables


@dataclass(frozen=True)
class Notebook:
    """A notebook as it is committed: the sentences of its pages, and by cell what was printed and shown."""

    prose: str
    printed: dict[str, str]
    html: dict[str, str]
    markdown: dict[str, str]

    def table(self, cell: str) -> list[Row]:
        return _html_table(self.html[cell]) if self.html[cell] else _printed_table(self.printed[cell])


def read_notebook(path: Path) -> Notebook:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pages = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    printed, html, markdown = (defaultdict[str, str](str) for _ in range(3))
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            printed[cell["id"]] += "".join(output.get("text", ""))
            html[cell["id"]] += "".join(data.get("text/html", ""))
            markdown[cell["id"]] += "".join(data.get("text/markdown", ""))
    return Notebook(prose(pages), printed, html, markdown)


def _printed_table(text: str) -> list[Row]:
    """Read a printed data frame, none of whose cells holds a blank."""
    first, *lines = text.rstrip().splitlines()
    head = re.findall(r"held out|\w+, \w+|\S+", first)
    if lines[0].split() == ["method"]:
        head, lines = ["method", *head], lines[1:]
    return [dict(zip(head, line.split(), strict=True)) for line in lines]


def _html_table(text: str) -> list[Row]:
    """Read a data frame shown as HTML.

    The names of its index may stand in a second line of the head, and a cell of the index that spans several lines is
    left out in all but the first of them.
    """
    cells = _Cells(text[text.index("<table") :])
    head = [names[-1] or names[0] for names in zip(*cells.heads, strict=True)]
    rows, line = [], [""] * len(head)
    for shown in cells.lines:
        line = line[: len(head) - len(shown)] + shown
        rows.append(dict(zip(head, line, strict=True)))
    return rows


class _Cells(HTMLParser):
    """The texts of a table's cells, line by line: those of its head, and those below."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.heads: list[list[str]] = []
        self.lines: list[list[str]] = []
        self.current = self.heads
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tbody":
            self.current = self.lines
        elif tag == "tr":
            self.current.append([])
        elif tag in ("td", "th"):
            self.current[-1].append("")
        self.in_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.current[-1][-1] += data.strip()
