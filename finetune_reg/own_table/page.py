"""The answer as one page, in the form of the report, and the plan as it is shown before anything starts."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from finetune_reg.experiment.atomic_writing import write_atomically
from finetune_reg.own_table.answer import MOST_SHOWN, MethodResult, words
from finetune_reg.own_table.candidates import tried_rate
from finetune_reg.own_table.comparison import Comparison, Prepared, encoder_width
from finetune_reg.report.layout import PageFigure, page_figure, render
from finetune_reg.report.page_tables import PageTable
from finetune_reg.results import plotting

TEMPLATE = Path(__file__).with_name("page.html.jinja")
TOY = "The pocket encoder is a toy that knows a small English of its own: with a real encoder, scores will be others."
SCORES_LEGEND = """Scores times 100, means over all splits, on rows that were not trained on. Brackets: 95 % t
intervals, with the variance corrected for overlapping training sets (Nadeau and Bengio 2003). Minus vanilla: on equal
splits. p: of no difference, corrected for all comparisons (Holm). Rate, epochs: those with the best mean on held-out
training rows; each split has its own choice. Failed: runs that diverged or are not above the best
constant answer. Seconds: of one training with its evaluation."""
SUSPECTS_LEGEND = """Each was tested several times, by models of all methods that had not seen it, and answered wrongly
each time; the surest answers come first. Often it is the label that is wrong."""
LONGEST_TEXT = 300


def plan_facts(prepared: Prepared) -> list[tuple[str, str]]:
    """Return the plan in sentences, by heading."""
    plan, n_rows = prepared.plan, len(prepared.table.rows)
    tries = ", ".join(f"{factor:g} times the usual rate for {epochs} epochs" for factor, epochs in plan.tries)
    chosen = (
        "A fifth of the rows trained on is held out to choose between them, for each split anew."
        if plan.chooses
        else "The budget leaves nothing to choose between."
    )
    facts = [
        ("Encoder", f"{prepared.model_name}, inputs of at most {prepared.max_length} tokens."),
        (
            "Splits",
            f"{plan.folds} folds, {plan.repeats} time{'s' * (plan.repeats > 1)}: each row is tested {plan.repeats} "
            f"time{'s' * (plan.repeats > 1)} by models that did not train on it. Each split has a seed of its own.",
        ),
        ("Settings", f"The same {len(plan.tries)} for all methods: {tries}. {chosen}"),
        (
            "Cost",
            f"{plan.runs_of_a_method()} trainings of each method, about {plan.minutes:.1f} minutes here.",
        ),
        (
            "Visible",
            f"Differences in accuracy from about {100 * plan.visible_difference(n_rows):.0f} points on will be seen "
            "if two methods answer 15 % of the rows differently.",
        ),
    ]
    return facts + [("Left out", exclusion) for exclusion in plan.exclusions]


def methods_rows(prepared: Prepared) -> list[list[str]]:
    """Return the methods of the plan with their reasons and learning rates."""
    width = encoder_width(prepared.encoder)
    return [
        [c.title, c.reason, ", ".join(f"{tried_rate(c, factor, width):g}" for factor, _ in prepared.plan.tries)]
        for c in prepared.plan.candidates
    ]


def write_page(comparison: Comparison) -> Path:
    """Write `answer.html` into the folder of the comparison; its figures lie beside it."""
    prepared, folder = comparison.prepared, comparison.folder
    plotting.use_style()
    curve = _curve_figure(comparison)
    text = render(
        TEMPLATE,
        title=f"Which method for {prepared.table.task.name}?",
        header=[("Table", prepared.account.facts[0][1]), ("Encoder", prepared.model_name)],
        lines=comparison.lines,
        toy=TOY if prepared.model_name == "pocket" else "",
        scores=_scores_table(comparison),
        scores_figure=page_figure(
            _scores_figure(comparison),
            folder / "scores.png",
            "Score of each method with its interval; the table above has the numbers.",
            "Points are splits, bars the means with their corrected 95 % intervals; the dashed line is the best "
            "constant answer.",
        ),
        curve_figure=None if curve is None else _curve_on_page(curve, comparison),
        suspects=_suspects_table(comparison),
        calibration=_calibration_words(comparison),
        account=prepared.account.facts,
        warnings=prepared.account.warnings,
        methods=PageTable(["method", "why", "learning rates"], methods_rows(prepared), 3),
        plan=plan_facts(prepared),
    )
    write_atomically(folder / "answer.html", text)
    return folder / "answer.html"


def scores_rows(comparison: Comparison) -> list[list[str]]:
    """Return score, difference, p, setting, failures and seconds of each method, formatted."""
    return [
        [
            result.candidate.title,
            words(result.score, sign=False),
            words(result.difference),
            "" if math.isnan(result.p_value) else f"{result.p_value:.3f}",
            "" if math.isnan(result.second) else f"{100 * result.second:.1f}",
            _setting(comparison.prepared, result),
            f"{result.failed} of {len(result.scores)}",
            f"{result.seconds:.1f}",
        ]
        for result in comparison.results
    ]


def scores_headers(comparison: Comparison) -> list[str]:
    """Return what the columns of `scores_rows` are."""
    first, second = comparison.prepared.table.task.metrics[:2]
    labels = plotting.METRIC_LABELS
    return ["method", labels[first], "minus vanilla", "p (Holm)", labels[second], "rate, epochs", "failed", "seconds"]


def _setting(prepared: Prepared, result: MethodResult) -> str:
    factor, epochs = result.setting
    return f"{tried_rate(result.candidate, factor, encoder_width(prepared.encoder)):g}, {epochs}"


def _scores_table(comparison: Comparison) -> PageTable:
    best = comparison.best.candidate.title
    rows = scores_rows(comparison)
    return PageTable(scores_headers(comparison), rows, 1, f"{SCORES_LEGEND} Recommended: {best}.")


def _suspects_table(comparison: Comparison) -> PageTable:
    names = comparison.prepared.table.columns
    rows = [
        [str(suspect.row), suspect.text[:LONGEST_TEXT], suspect.label, suspect.answer, str(suspect.n_runs)]
        for suspect in comparison.suspects[:MOST_SHOWN]
    ]
    headers = ["row, from 0", " | ".join(names["text"]), names["label"], "answer of the runs", "runs"]
    shown = f" The first {MOST_SHOWN} of {len(comparison.suspects)}." if len(comparison.suspects) > MOST_SHOWN else ""
    return PageTable(headers, rows, 4, SUSPECTS_LEGEND + shown)


def _calibration_words(comparison: Comparison) -> str:
    found = comparison.calibration
    if found is None:
        return "Not measured: scores have no probabilities, or all runs diverged."
    return (
        f"On rows not trained on, the probability of {comparison.best.candidate.title}'s answers is off by "
        f"{100 * found.error:.1f} points on average (expected calibration error, ten bins). Dividing the logits by the "
        f"temperature {found.temperature:.2f} leaves {100 * found.error_scaled:.1f} points, on the rows that it was "
        "fitted to. `finetune-reg predict` uses it."
    )


def _scores_figure(comparison: Comparison) -> Figure:
    results = comparison.results[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.55 * len(results) + 1))
    for height, result in enumerate(results):
        axes.plot(result.scores, [height] * len(result.scores), "o", color="0.6", markersize=4, alpha=0.6)
        color = plotting.PALETTE[0] if result is comparison.best else plotting.PALETTE[7]
        axes.plot([result.score.low, result.score.high], [height] * 2, color=color, linewidth=3)
        axes.plot(result.score.value, height, "D", color=color)
    axes.axvline(comparison.prepared.account.best_constant, color="0.35", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(results)), [result.candidate.title for result in results])
    axes.set_ylim(-0.5, len(results) - 0.5)
    axes.set(xlabel=plotting.METRIC_LABELS[comparison.prepared.table.task.metrics[0]])
    return figure


def _curve_figure(comparison: Comparison) -> Figure | None:
    if comparison.last_doubling is None:
        return None
    figure, axes = plt.subplots(figsize=(5, 3))
    axes.plot(comparison.curve_rows, comparison.curve_scores, color="0.6", linewidth=0.8, marker=".")
    axes.plot(comparison.curve_rows, comparison.curve_scores.mean(axis=1), color=plotting.PALETTE[0], marker="D")
    axes.set_xscale("log", base=2)
    axes.set_xticks(comparison.curve_rows, list(map(str, comparison.curve_rows)))
    metric = plotting.METRIC_LABELS[comparison.prepared.table.task.metrics[0]]
    axes.set(xlabel="rows trained on", ylabel=metric)
    return figure


def _curve_on_page(figure: Figure, comparison: Comparison) -> PageFigure:
    means = comparison.curve_scores.mean(axis=1)
    points = ", ".join(f"{100 * m:.1f} with {n}" for n, m in zip(comparison.curve_rows, means, strict=True))
    return page_figure(
        figure,
        comparison.folder / "learning_curve.png",
        f"Score of {comparison.best.candidate.title} by the number of rows trained on: {points}.",
        f"{comparison.best.candidate.title}, trained on a part of the rows: one thin line is one split, the thick line "
        f"their mean. The last doubling brought {words(comparison.last_doubling)} points; the next seldom brings more.",
    )
