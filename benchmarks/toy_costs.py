"""The tables and figures of docs/toy_costs.md, from the records in data/results/toy.

    python benchmarks/toy_costs.py

prints the tables and draws the figures. `tests/results/test_recorded_results.py` checks that the page has the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from results_tables import markdown, relabelled

from finetune_reg.paths import RESULTS, ROOT
from finetune_reg.results.costs.equal_passes import at_chosen_rates, equal_passes_table
from finetune_reg.results.costs.figures import forgetting_figure, passes_figure, rows_figure
from finetune_reg.results.costs.forgetting import forgetting_table
from finetune_reg.results.plotting import save, use_style
from finetune_reg.results.run_tables import load_results, summary_table

TOY = RESULTS / "toy"
NAMES = {"TopKLayers(n_layers=0)": "head only"}


def recorded(*plans: str) -> pd.DataFrame:
    return relabelled(pd.concat([load_results(TOY / f"{plan}.parquet") for plan in plans], ignore_index=True))


def with_interval(row: Any, name: str, factor: float = 100.0, digits: int = 1, sign: str = "") -> str:
    """Return the mean and its interval; the columns of a mean are `mean`, `low` and `high`, of others named so."""
    bounds = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    value, low, high = (factor * getattr(row, column) for column in (name, *bounds))
    if pd.isna(low):
        return f"{value:{sign}z.{digits}f}"
    return f"{value:{sign}z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def equal_passes() -> pd.DataFrame:
    return equal_passes_table(at_chosen_rates(recorded("equal-budget-selection-pocket", "equal-budget-pocket")))


def at_equal_cost() -> str:
    """Scores against passes, and each method minus vanilla of as many passes."""
    head = [
        "method",
        "epochs",
        "rate",
        "passes",
        "of the search",
        "runs",
        "accuracy",
        "minus vanilla",
        "p",
        "efficient",
    ]
    rows = []
    row: Any
    for row in equal_passes().itertuples():
        compared = not pd.isna(row.difference)
        difference = with_interval(row, "difference", sign="+") if compared else ""
        cells = [f"`{row.method}`", str(row.epochs), f"{row.learning_rate:g}", f"{row.passes:.0f}"]
        cells += [f"{row.search_passes:.0f}", str(row.n), with_interval(row, "mean"), difference]
        rows.append([*cells, f"{row.p_holm:.2f}" if compared else "", "yes" if row.efficient else ""])
    return markdown(head, rows)


def by_forgetting(plan: str) -> pd.DataFrame:
    return forgetting_table(recorded(plan)).sort_values("forgotten", ignore_index=True)


def forgotten() -> str:
    """What each method makes the encoder forget, how far it moves, and what it scores."""
    found = by_forgetting("forgetting")
    head = ["method", "runs", "rise of the loss", "distance", "accuracy"]
    return markdown(head, [[f"`{row.method}`", *_of_forgetting(row)] for row in found.itertuples()])


def forgotten_at_equal_cost() -> str:
    """What the runs at equal cost make the encoder forget, how far it moves, and what they score."""
    found = by_forgetting("equal-budget-pocket")
    head = ["method", "epochs", "runs", "rise of the loss", "distance", "accuracy"]
    return markdown(head, [[f"`{row.method}`", str(row.epochs), *_of_forgetting(row)] for row in found.itertuples()])


def _of_forgetting(row: Any) -> list[str]:
    means = with_interval(row, "forgotten", 1.0, 2), with_interval(row, "distance", 1.0), with_interval(row, "score")
    return [str(row.n), *means]


def few_rows() -> str:
    """Scores against training rows; in brackets the runs."""
    summary = summary_table(recorded("few-shot"))
    sizes: Sequence[int] = sorted(summary.n_train.unique())
    cells = {(row.method, row.n_train): f"{with_interval(row, 'mean')} ({row.n})" for row in summary.itertuples()}
    methods = list(dict.fromkeys(summary.method))
    rows = [[f"`{method}`", *(cells.get((method, n), "") for n in sizes)] for method in methods]
    return markdown(["training rows", *(f"{n:,}" for n in sizes)], rows)


TABLES = [at_equal_cost, forgotten_at_equal_cost, forgotten, few_rows]


def draw() -> None:
    use_style()
    few, of_budgets = summary_table(recorded("few-shot")), by_forgetting("equal-budget-pocket")
    few.loc[few.n < 3, ["low", "high"]] = float("nan")  # the interval of two runs would fill the figure
    epochs = of_budgets.epochs.map(", {} epochs".format)
    figures = {
        "toy_equal_cost": passes_figure(equal_passes()),
        "toy_few_rows": rows_figure(few.assign(method=few.method.replace(NAMES))),
        "toy_forgetting": forgetting_figure(of_budgets.assign(method=of_budgets.method + epochs)),
    }
    for name, figure in figures.items():
        save(figure, ROOT / "docs" / f"{name}.png")


if __name__ == "__main__":
    for table in TABLES:
        print(f"{table.__doc__}\n\n{table()}\n")
    draw()
