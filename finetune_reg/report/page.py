"""Records in, one page out: tables with counts and intervals, figures, published figures, claims, and what is missing.

The page, `report.html`, needs no other file and no network; `page.html.jinja` is its template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from finetune_reg.errors import InputError
from finetune_reg.experiment.atomic_writing import write_atomically
from finetune_reg.experiment.records import FINISHED
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.report.at_a_glance import at_a_glance
from finetune_reg.report.checklist import checklist, checklist_items
from finetune_reg.report.layout import PageFigure, page_figure, render
from finetune_reg.report.page_tables import (
    HEADERS,
    PageTable,
    aggregates_table,
    equal_passes_rows,
    number,
    published_table,
    scores_table,
    unfinished_table,
    waiting_table,
)
from finetune_reg.results import plotting
from finetune_reg.results.claims import CLAIMS, MECHANISMS, load_claims
from finetune_reg.results.comparable_runs import SCALE
from finetune_reg.results.costs.equal_passes import at_chosen_rates, equal_passes_table
from finetune_reg.results.costs.figures import passes_figure
from finetune_reg.results.published_comparison import beside_published, beside_rows, summarize_as_published
from finetune_reg.results.published_results import PublishedRows, load_published_results
from finetune_reg.results.run_tables import (
    BASELINE,
    RECIPE,
    aggregate_table,
    by_recipe,
    collect,
    pool_fresh_subsets,
    short_name,
    summary_table,
)
from finetune_reg.results.verdicts import Verdict, judge_all
from finetune_reg.tasks import get_task

__all__ = ["HEADERS", "checklist", "write_report"]

TOY = "Pocket is a toy, an embedded world with its own small language: no claim of a paper is settled on it."
TEMPLATE = Path(__file__).with_name("page.html.jinja")
# Runs on which claims are judged together; a control may train for more epochs than the method.


@dataclass
class Section:
    """The part of a page about runs that differ in task, method and seeds only."""

    heading: str
    is_toy: bool
    settings: str
    scores: PageTable
    transfer: PageTable
    aggregates: PageTable
    published: PageTable | None
    figures: list[PageFigure]


@dataclass
class EqualCost:
    """Methods beside vanilla of as many passes, at one scale; `refusal` says why there is no such table."""

    heading: str
    is_toy: bool
    scores: PageTable | None = None
    figure: PageFigure | None = None
    refusal: str = ""


@dataclass
class Reproduction:
    """Published figures beside the runs of a plan that reproduce them."""

    heading: str
    is_toy: bool
    published: PageTable


@dataclass
class JudgedClaims:
    """Verdicts on all claims by the runs of one scale; `refusal` says why there are none."""

    heading: str
    judged: list[Verdict] = field(default_factory=list)
    not_run: list[Verdict] = field(default_factory=list)
    refusal: str = ""


def write_report(
    output_dir: Path | str,
    planned: Sequence[RunSettings] | None = None,
    published: pd.DataFrame | None = None,
    reproduced: Mapping[str, Sequence[PublishedRows]] | None = None,
) -> tuple[Path, dict[str, list[list[str]]]]:
    """Write `report.html` about the records below a folder, and beside it its figures (PNG) and `results.parquet`.

    Args:
        output_dir: a folder with records.
        planned: the runs of the plan, to tell which left no record; None if there is no plan.
        published: figures of papers, see `beside_published`; None takes those that come with the package.
        reproduced: by the name of a plan, which of these figures its runs reproduce, on whatever model; see
            `beside_rows`. Without it, figures stand beside runs of the same method and model.

    Returns:
        The path of the page, and the rows of its tables of scores (under `HEADERS`) by heading.

    Raises:
        InputError: there are no records.
    """
    output_dir = Path(output_dir)
    table = collect(output_dir, output_dir / "results.parquet")
    published = load_published_results() if published is None else published
    plotting.use_style()
    reported = table[table.held_out_fold.isna()]
    pooled = pool_fresh_subsets(table if reported.empty else reported)  # beside others, held-out runs only choose
    sections = [
        _section(heading, runs, output_dir, None if reproduced else published) for heading, runs in by_recipe(pooled)
    ]
    costs = [
        cost for _, runs in table.groupby(SCALE, dropna=False, sort=False) if (cost := _equal_cost(runs, output_dir))
    ]
    claims = [judged_claims(runs) for _, runs in table.groupby(SCALE, dropna=False, sort=False)]
    recorded = set(table.run_id)
    page = output_dir / "report.html"
    text = render(
        TEMPLATE,
        title=f"Report: {', '.join(dict.fromkeys(table.model_name.map(short_name)))}",
        header=at_a_glance(table, [verdict for scale in claims for verdict in (*scale.judged, *scale.not_run)]),
        reproductions=_reproductions(pooled, published, reproduced, planned or ()) if reproduced else [],
        sections=sections,
        costs=costs,
        toy=TOY,
        claims=claims,
        n_planned=None if planned is None else len(planned),
        waiting=waiting_table(run for run in planned or () if run.run_id not in recorded),
        unfinished=unfinished_table(table),
        checklist=checklist_items(table),
    )
    write_atomically(page, text)
    return page, {section.heading: section.scores.rows for section in sections}


def _reproductions(
    table: pd.DataFrame,
    published: pd.DataFrame,
    reproduced: Mapping[str, Sequence[PublishedRows]],
    planned: Sequence[RunSettings],
) -> list[Reproduction]:
    summary = summarize_as_published(table)
    is_toy = bool((table.source == "pocket").any())
    return [
        Reproduction(
            f"Published beside ours: {name}", is_toy, published_table(beside_rows(summary, published, rows, planned))
        )
        for name, rows in reproduced.items()
    ]


def judged_claims(table: pd.DataFrame) -> JudgedClaims:
    """Judge the papers' claims and our own studies on the runs of one scale, or tell why they cannot be."""
    claims = JudgedClaims(_scale_words(table))
    try:
        verdicts = judge_all([*load_claims(CLAIMS), *load_claims(MECHANISMS)], table)
    except InputError as error:
        claims.refusal = str(error)
        return claims
    claims.judged = [verdict for verdict in verdicts if verdict.outcome != "not run"]
    claims.not_run = [verdict for verdict in verdicts if verdict.outcome == "not run"]
    return claims


def _scale_words(table: pd.DataFrame) -> str:
    source, model_name, n_train = table[SCALE].iloc[0]
    return f"Model {short_name(model_name)}, source {short_name(source)}, {number(n_train)} training rows"


def _equal_cost(table: pd.DataFrame, output_dir: Path) -> EqualCost | None:
    """Compare methods at equal passes on the runs of one scale; None where vanilla has one number of epochs."""
    reported = table[table.held_out_fold.isna()]
    of_baseline = reported[reported.method_label == BASELINE]
    if (of_baseline.groupby("task").epochs.nunique() < 2).all() or reported.method_label.nunique() < 2:
        return None
    cost = EqualCost(f"At equal cost: {_scale_words(table)}", bool((table.source == "pocket").all()))
    try:
        found = equal_passes_table(at_chosen_rates(table) if len(reported) < len(table) else table)
    except InputError as error:
        cost.refusal = str(error)
        return cost
    if found.difference.isna().all():
        return None
    cost.scores = equal_passes_rows(found)
    cost.figure = page_figure(
        passes_figure(found),
        output_dir / f"equal_cost_{_slug(cost.heading)}.png",
        "Scores against passes, and differences to vanilla of as many passes. The table above has the numbers.",
        "Left: mean scores with 95 % t intervals; what nothing cheaper beats is ringed and joined by a broad line. "
        "Right: mean paired differences to vanilla of as many passes, with 95 % t intervals.",
    )
    return cost


def _section(heading: str, runs: pd.DataFrame, output_dir: Path, published: pd.DataFrame | None) -> Section:
    summary, aggregates = summary_table(runs), aggregate_table(runs)
    return Section(
        heading=heading,
        is_toy=bool((runs.source == "pocket").all()),
        settings=", ".join(_setting(name, runs[name].iloc[0]) for name in RECIPE[2:]),
        scores=scores_table(summary),
        transfer=_transfer_table(runs),
        aggregates=aggregates_table(aggregates),
        published=None if published is None else published_table(beside_published(summary, published)),
        figures=[
            page_figure(figure, output_dir / f"{name}_{_slug(heading)}.png", alt, caption)
            for name, figure, alt, caption in _figures(runs, aggregates)
        ],
    )


def _setting(name: str, value: Any) -> str:
    return "no held-out fold" if name == "held_out_fold" and pd.isna(value) else f"{name} {number(value)}"


def _transfer_table(runs: pd.DataFrame) -> PageTable:
    """Compare methods on the tasks that runs were scored on beside their own, by primary metric."""
    tables = []
    for trained_on, of_task in runs.groupby("task", sort=False):
        transfer = of_task.transfer.map(json.loads)
        for name in dict.fromkeys(name for scores in transfer for name in scores):
            metric = get_task(name, of_task.source.iloc[0]).metrics[0]
            score = transfer.map(lambda scores, name=name, metric=metric: scores.get(name, {}).get(metric))
            tables.append(of_task.assign(task=f"{name}, trained on {trained_on}", metric=metric, score=score))
    return scores_table(summary_table(pd.concat(tables))) if tables else PageTable(HEADERS, [], 2)


def _figures(runs: pd.DataFrame, aggregates: pd.DataFrame) -> list[tuple[str, Figure, str, str]]:
    """Return name, figure, text for those who cannot see it, and caption."""
    what = f"{', '.join(dict.fromkeys(runs.task))}; methods: {', '.join(dict.fromkeys(runs.method_label))}"
    figures = [
        (
            "scores",
            plotting.scores_figure(runs),
            f"Score of each seed after the last epoch on {what}. The table above has the numbers.",
            "Scores of the last epoch, not times 100. One point is one seed; from five seeds on a box shows the "
            "quartiles; the dashed line is the best constant prediction.",
        ),
        (
            "learning_curves",
            plotting.learning_curves_figure(runs),
            f"Score after each evaluated epoch on {what}.",
            "Learning curves on the development set: faint lines are runs, bold lines the means of methods.",
        ),
    ]
    if runs.status.isin(FINISHED).any():
        figures.append(
            (
                "expected_performance",
                plotting.expected_performance_figure(runs),
                f"Expected best score against the cost in passes on {what}.",
                "Expected validation performance: the best of k runs, drawn with replacement from those made, in "
                "expectation, against the passes of k runs. The best is chosen on the development set, hence "
                "optimistic. A diverged run counts as the best constant prediction.",
            )
        )
    if aggregates.improvement.notna().any():
        figures.append(
            (
                "improvement",
                plotting.improvement_figure(aggregates),
                f"Probability of improvement over vanilla with intervals, across {what}.",
                "Probability that a run beats one of vanilla on a task drawn at random, with its 95 % interval. "
                "On the dashed line both win equally often.",
            )
        )
    return figures


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in text).split())
