"""A page for each method: card, hyperparameters, cost, claims with verdicts, our rows, published rows, signature."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache

import nbformat

from _generate.api_pages import directive, members
from _generate.markdown import code, table
from _generate.notebooks import LESSONS
from _generate.paper_pages import papers_of
from _generate.published import published_rows
from _generate.recorded import judged, methods_in, our_rows, verdicts
from finetune_reg.hyperparameters.paper_card import PaperCard, paper_card
from finetune_reg.methods import METHODS


def method_pages() -> dict[str, str]:
    """Return the pages by name: `index`, and one for each of `METHODS`."""
    cards = {name: paper_card(method) for name, method in METHODS.items()}
    documented: set[str] = set()
    pages = {}
    for name, card in cards.items():
        module = METHODS[name].__module__
        pages[name] = _page(name, card, indexed=module not in documented)
        documented.add(module)
    return {"index": _index(cards), **pages}


def _index(cards: dict[str, PaperCard]) -> str:
    rows = [
        [f"[{card.class_name}]({name}.md)", card.summary, passes(card), ", ".join(papers_of(card.reference).values())]
        for name, card in cards.items()
    ]
    listed = table(["method", "what it does", "passes", "paper"], rows, 4)
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *cards, "```"])
    return (
        f"# Methods\n\nPasses are forward + backward for each update at the default settings.\n\n{listed}\n{toctree}\n"
    )


def passes(card: PaperCard) -> str:
    """Return forward and backward passes in words."""
    return "{} + {}".format(*card.passes) if card.passes else "as its members"


def _page(name: str, card: PaperCard, indexed: bool) -> str:
    module = sys.modules[METHODS[name].__module__]
    found = [entry for entry in verdicts() if name in methods_in(entry.verdict.claim.method)]
    papers = [f"[{title}](../papers/{key}.md)" for key, title in papers_of(card.reference).items()]
    path = f"{module.__name__.replace('.', '/')}.py"
    known = {
        "Import": code(f"from finetune_reg import {card.class_name}"),
        "Name in plans": code(name),
        "Passes for each update": f"{passes(card)} (vanilla: 1 + 1)",
        "Acts in": ", ".join(map(code, card.acts_in)) or "no call",
        "Taught in": _lesson(card),
        "Paper": ", ".join(papers),
        "File": f"[{path}](../../{path})",
    }
    facts = [[fact, text] for fact, text in known.items() if text]
    hyperparameters = [[code(key), code(default), allowed] for key, (default, allowed) in card.hyperparameters.items()]
    parts = [
        f"# {card.class_name}",
        card.summary,
        table(facts[0], facts[1:], 2),
        *(["## Hyperparameters", table(["name", "default", "allowed"], hyperparameters, 3)] if hyperparameters else []),
        "## Paper card",
        inspect.getdoc(module) or "",
        "## Claims and verdicts",
        judged(found) or "No claim of a paper, and no study of ours, is about this method.",
        "## Our runs",
        our_rows(name) or "No run of this method is recorded.",
        "## Published figures",
        published_rows("method_name", name) or "No published figure of this method is known here.",
        "## Signature",
    ]
    parts += [directive(module, *member, index=indexed) for member in members(module)]
    return "\n\n".join(parts) + "\n"


@cache
def _lessons() -> dict[str, list[str]]:
    """Return the texts of the cells of each lesson about methods."""
    return {
        lesson.name: [cell.source for cell in nbformat.read(lesson, as_version=4).cells]
        for lesson in LESSONS
        if "03" <= lesson.name < "13"
    }


def _lesson(card: PaperCard) -> str:
    """Return a link to the lesson that names the method's paper in its first cell, or else the class most often."""
    papers = re.findall(r"arXiv:[\d.]+\d", card.reference)
    own = [name for name, cells in _lessons().items() if any(paper in cells[0] for paper in papers)]
    counts = {name: "\n".join(cells).count(card.class_name) for name, cells in _lessons().items()}
    lesson = own[0] if own else max(counts, key=lambda name: counts[name])
    title = _lessons()[lesson][0].partition("\n")[0].lstrip("# ")
    return f"[{title}](../../notebooks/{lesson})" if own or counts[lesson] else ""
