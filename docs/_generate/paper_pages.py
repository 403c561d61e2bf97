"""A page for each paper: what it says, the plans that follow its protocol, verdicts, published figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from _generate.markdown import code, plain, table
from _generate.published import published_rows
from _generate.recorded import OUTCOMES, Judged, judged, outcomes, verdicts
from finetune_reg.hyperparameters.paper_card import paper_card
from finetune_reg.hyperparameters.typed_parameters import load_yaml
from finetune_reg.methods import METHODS
from finetune_reg.paths import NOTEBOOKS
from finetune_reg.results.claims import CLAIMS, MECHANISMS, load_claims
from finetune_reg.results.published_results import load_published_results
from finetune_reg.sweep.protocol import read_protocol


@dataclass(frozen=True)
class Plan:
    """A plan of runs that follows a paper's protocol."""

    path: Path
    comment: str
    content: dict[str, Any]

    def is_of(self, paper: str) -> bool:
        """Tell whether its first line names the paper, or runs of it reproduce figures of the paper."""
        keys = [rows["rows"].partition("/")[0] for rows in self.content.get("published", [])]
        return paper in keys or _names(self.comment.partition("\n")[0], paper)


def paper_pages() -> dict[str, str]:
    """Return the pages by name: `index`, and one for each paper with a claim or a published figure."""
    found = _verdicts_by_paper()
    return {"index": _index(found), **{paper: _page(paper, of_paper) for paper, of_paper in found.items()}}


def papers_of(reference: str) -> dict[str, str]:
    """Return key and short title of the papers that a method's reference names."""
    return {paper: short_title(paper) for paper in _papers() if _names(reference, paper)}


def short_title(paper: str) -> str:
    """Return "Lee et al. 2020 (mixout)" for lee2020mixout."""
    parts = re.fullmatch(r"([a-z]+)(\d{4})(\w*)", paper)
    return f"{parts[1].capitalize()} et al. {parts[2]} ({parts[3]})" if parts else paper.replace("_", " ")


def _names(text: str, paper: str) -> bool:
    """Tell whether a paper stands in a text, its first author first: "Lee, Cho, Kang. Mixout: ... ICLR 2020"."""
    parts = re.match(r"([a-z]+)(\d{4})", paper)
    return bool(parts and re.search(rf"(^|[;:(] ?|\bof |\bis ){parts[1].capitalize()}\b[^;]*?{parts[2]}", text))


@cache
def _papers() -> list[str]:
    claimed = [claim.paper for path in (CLAIMS, MECHANISMS) for claim in load_claims(path)]
    return sorted({*claimed, *load_published_results().paper})


def _verdicts_by_paper() -> dict[str, list[Judged]]:
    return {paper: [entry for entry in verdicts() if entry.verdict.claim.paper == paper] for paper in _papers()}


def _index(found: dict[str, list[Judged]]) -> str:
    rows = []
    for paper, of_paper in found.items():
        theirs = list(outcomes([entry for entry in of_paper if entry.verdict.claim.read != "ours"]).values())
        counts = [str(theirs.count(outcome) or "") for outcome in OUTCOMES]
        rows.append([f"[{short_title(paper)}]({paper}.md)", str(len(theirs) or ""), *counts])
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *found, "```"])
    explained = "What papers claim, and what our runs say to it. A claim that was judged at several scales counts once."
    return f"# Papers\n\n{explained}\n\n{table(['paper', 'claims', *OUTCOMES], rows)}\n{toctree}\n"


def _page(paper: str, found: list[Judged]) -> str:
    theirs = [entry for entry in found if entry.verdict.claim.read != "ours"]
    ours = [entry for entry in found if entry.verdict.claim.read == "ours"]
    cards = {name: paper_card(method) for name, method in METHODS.items()}
    methods = {name: card for name, card in cards.items() if _names(card.reference, paper)}
    claims = {entry.verdict.claim.id: entry.verdict.claim for entry in theirs}
    parts = [f"# {short_title(paper)}"]
    parts += list(dict.fromkeys(plain(card.reference) for card in methods.values()))[:1]
    parts += ["## What it says"]
    parts += [
        "\n".join(f"* [{card.class_name}](../methods/{name}.md): {card.summary}" for name, card in methods.items())
    ]
    said = [f"* {plain(claim.statement)} *({plain(f'{claim.source}; {claim.scale}')})*" for claim in claims.values()]
    parts += ["Its claims, in our words:", "\n".join(said)] if said else ["No claim of it is judged here."]
    plans = [plan for plan in _plans() if plan.is_of(paper)]
    parts += ["## Protocol and plan", *map(_plan, plans)] if plans else []
    parts += ["## Verdicts", judged(theirs, with_paper=False)] if theirs else []
    parts += ["## Our own studies of its methods", judged(ours, with_paper=False)] if ours else []
    parts += ["## Published figures", published_rows("paper", paper) or "None could be read."]
    return "\n\n".join(part for part in parts if part) + "\n"


@cache
def _plans() -> list[Plan]:
    plans = []
    for path in sorted((NOTEBOOKS / "parameters").glob("*.yaml")):
        content = load_yaml(path)
        if content.get("scales"):
            lines = path.read_text(encoding="utf-8").splitlines()
            first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
            plans.append(Plan(path, "\n".join(line.removeprefix("#").strip() for line in lines[:first]), content))
    return plans


def _plan(plan: Plan) -> str:
    name = plan.path.stem
    base = [[code(key), code(str(value))] for key, value in plan.content.get("base", {}).items()]
    scales = []
    for scale, changes in plan.content["scales"].items():
        points = read_protocol(plan.path, scale).points
        base_of_scale = changes.get("base", {})
        runs = sum(len(point.get("seeds", [0])) for point in points)
        size = base_of_scale.get("n_train")
        scales.append([scale, code(str(base_of_scale.get("model_name", ""))), str(size or "all"), f"{runs:,}"])
    parts = [
        f"### {name}",
        plain(plan.comment),
        f"The plan is [{plan.path.name}](../../notebooks/parameters/{plan.path.name}); its settings at all scales:",
        table(["setting", "value"], base, 2),
        table(["scale", "model", "rows", "runs"], scales, 2),
        f"```bash\nfinetune-reg sweep plan {name} --scale paper\n```",
    ]
    return "\n\n".join(parts)
