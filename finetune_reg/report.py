"""Records in, a page out: the table of all settings and one figure, with counts and intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from finetune_reg.plotting import save, scores_figure, use_style
from finetune_reg.results import collect, summary_table

TOY = "Pocket is a toy, an embedded world with its own small language: no claim of a paper is settled on it."
LEGEND = """*n*: finished seeds. *failed*: seeds that diverged or do not beat the best constant prediction (dashed
line). Scores are of the last epoch on the development set, times 100. *std* has ddof 1; intervals are 95 % bootstrap
intervals of the mean; *minus vanilla* is the mean paired difference on equal seeds with its interval, *p* the two-sided
sign-flip permutation test, not corrected for the number of comparisons."""
HEADERS = ["task", "method", "n", "failed", "mean ± std", "95 % interval", "median", "max", "minus vanilla", "p"]


def write_report(output_dir: Path | str) -> tuple[Path, dict[str, list[list[str]]]]:
    """Summarize the records below a folder in `report.md`, `scores_*.png` and `results.parquet`.

    Returns:
        The path of the page, and the rows of its tables (see `table_rows`) by heading.

    Raises:
        InputError: there are no records.
    """
    output_dir = Path(output_dir)
    table = collect(output_dir, output_dir / "results.parquet")
    use_style()
    parts, tables = ["# Report", ""], {}
    for (source, model), group in table.groupby(["source", "model_name"], sort=False):
        figure = save(scores_figure(group), output_dir / f"scores_{_slug(source)}_{_slug(model)}.png")
        heading = f"Model {model}, source {source}"
        tables[heading] = table_rows(summary_table(group))
        parts += [f"## {heading}", ""]
        parts += [TOY, ""] if source == "pocket" else []
        parts += [_settings_line(group), "", markdown_table(tables[heading]), ""]
        parts += [f"![Scores by task and method, one point per seed]({figure.name})", ""]
    parts += [LEGEND, ""]
    page = output_dir / "report.md"
    page.write_text("\n".join(parts))
    return page, tables


def markdown_table(rows: list[list[str]]) -> str:
    """Format rows under `HEADERS`, numbers to the right."""
    alignment = ["---", "---", *["---:"] * (len(HEADERS) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [HEADERS, alignment, *rows])


def table_rows(summary: pd.DataFrame) -> list[list[str]]:
    """Format `summary_table` for people, one list of `HEADERS` per row, scores times 100."""
    rows = []
    for row in summary.itertuples():
        paired = getattr(row, "paired_difference", math.nan)
        rows.append(
            [
                f"{row.task} ({row.metric})",
                row.method,
                str(row.n),
                str(row.failed),
                f"{_percent(row.mean)} ± {_percent(row.std)}",
                _interval(row.low, row.high),
                _percent(row.median),
                _percent(row.max),
                "" if math.isnan(paired) else f"{100 * paired:+.1f} {_interval(row.paired_low, row.paired_high)}",
                "" if math.isnan(paired) else f"{row.paired_p_value:.3f}",
            ]
        )
    return rows


def _settings_line(group: pd.DataFrame) -> str:
    names = ["n_train", "epochs", "batch_size", "learning_rate", "warmup_fraction", "weight_decay", "pretrained"]
    values = (f"{name} {', '.join(str(value) for value in group[name].unique())}" for name in names)
    devices = ", ".join(sorted({json.loads(text)["device"] for text in group.environment}))
    minutes = group.wall_seconds.sum() / 60
    cost = f"{len(group)} runs, {minutes:.1f} minutes of training and evaluation on {devices}"
    return f"Settings: {'; '.join(values)}. {cost}."


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{_percent(low)}, {_percent(high)}]"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text).strip("-")
