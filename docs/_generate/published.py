"""The figures that papers report, as tables of a page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from _generate.markdown import folded, plain, table
from finetune_reg.results.published_comparison import figures_by_statistic
from finetune_reg.results.published_results import load_published_results

READ = {"second_hand": "second hand", "digitized": "read off the figure"}
STATISTICS = ["mean", "std", "median", "max", "value", "failed_fraction"]
HEADERS = [
    "method as printed",
    "task",
    "model",
    "rows",
    "runs",
    "mean",
    "std",
    "median",
    "max",
    "not stated",
    "failed %",
]


def published_rows(column: str, value: str) -> str:
    """Return the published figures of a `paper` or of a `method_name`, folded by source; empty if there are none."""
    published = load_published_results()
    figures = figures_by_statistic(published[published[column] == value])
    parts = []
    for (paper, source), part in figures.groupby(["published_paper", "published_source"], sort=False):
        read = READ.get(part.published_read.iloc[0])
        title = f"{source} ({read})" if read else source
        where = "" if column == "paper" else f" [Page of the paper](../papers/{paper}.md)."
        rows = [_cells(row) for row in part.itertuples()]
        n = f"{len(rows)} row{'s' if len(rows) > 1 else ''}"
        parts.append(folded(f"{title}, {n}", f"Scores times 100, as printed.{where}\n\n{table(HEADERS, rows, 3)}"))
    return "\n".join(parts)


def _cells(row: Any) -> list[str]:
    method = ", ".join(filter(None, (row.published_method, row.published_setting)))
    task = f"{row.published_task} ({row.published_metric})"
    sizes = [_number(row.published_n_train), _number(row.published_n_runs)]
    statistics = [_number(getattr(row, f"published_{name}")) for name in STATISTICS]
    return [plain(method), plain(task), plain(row.published_model), *sizes, *statistics]


def _number(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:g}"
