"""Compare methods on a table, and print what the plan said it costs beside what it cost.

    python benchmarks/own_table_budget.py rows.csv --text review --label stars --budget 5

With --clock processor (default) both are seconds of processor time, those of the kernels included, at one run at a
time: what the clock on the wall would show on a machine with one free core, however busy this one is. --clock wall
is for a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from finetune_reg.console import console
from finetune_reg.own_table import comparison as comparison_module
from finetune_reg.own_table import planning
from finetune_reg.own_table.comparison import carry_out, prepare
from finetune_reg.own_table.model import write_model
from finetune_reg.own_table.page import write_page


def processor_seconds() -> float:
    """Return the processor time of this process and of those it started that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--budget", type=float, default=15.0, help="minutes")
    parser.add_argument("--method", action="append")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--clock", choices=["processor", "wall"], default="processor")
    options = parser.parse_args()
    clock = processor_seconds if options.clock == "processor" else time.perf_counter
    for module in (planning, comparison_module):
        module.time = SimpleNamespace(perf_counter=clock, monotonic=clock)  # type: ignore[attr-defined]
    start = clock()
    chosen = {
        "methods": options.method,
        "max_length": options.max_length,
        "rows": options.rows,
        "budget": options.budget,
    }
    with TemporaryDirectory() as made:
        folder = Path(made)
        prepared = prepare(options.table, options.text, options.label, folder, slots=options.slots, **chosen)
        plan = prepared.plan
        names = ", ".join(candidate.title for candidate in plan.candidates)
        console.print(f"{names}; {plan.folds} folds, {plan.repeats} times, {len(plan.tries)} tries")
        comparison = carry_out(prepared, folder, slots=options.slots)
        write_page(comparison)
        write_model(comparison)
        console.print(comparison.recommendation)
    minutes = (clock() - start) / 60
    console.print(
        f"Budget {options.budget:g}, planned {plan.minutes:.2f}, taken {minutes:.2f} minutes of {options.clock} time: "
        f"{minutes / plan.minutes:.2f} times the plan, {minutes / options.budget:.2f} times the budget."
    )


if __name__ == "__main__":
    main()
