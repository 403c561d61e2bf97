"""The tables of docs/toy_costs.md, computed again from the records of the toy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from recomputation.recorded_scores import BASELINE, Effect, effect_of, holm, read_runs
from recomputation.written_numbers import Comparisons, Row, markdown_tables, quantities

AS_MANY = 1.25  # passes are called equal up to this factor


def check_toy(page: str, folder: Path, comparisons: Comparisons) -> None:
    """Check each cell of the three tables."""
    runs = read_runs(folder)
    runs["passes"] = runs.forward_passes + runs.backward_passes
    of_plan = {plan.removeprefix("toy/"): found for plan, found in runs.groupby("plan")}
    tables = markdown_tables(page)
    check: dict[str, Callable[[Row], dict[str, float | str]]] = {
        "At equal cost": EqualCost(of_plan["equal-budget-pocket"], of_plan["equal-budget-selection-pocket"]).row,
        "Forgotten at equal cost": lambda row: forgotten(of_plan["equal-budget-pocket"], row),
        "What each method forgets": lambda row: forgotten(of_plan["forgetting"], row),
        "Few rows": lambda row: few_rows(of_plan["few-shot"], row),
    }
    for place, values_of in check.items():
        for row in tables[place]:
            values = values_of(row)
            for column, written in row.items():
                check_cell(
                    f"toy_costs, {place}", f"{list(row.values())[:2]}, {column}", written, values[column], comparisons
                )


def check_cell(place: str, what: str, written: str, value: float | str | Effect, comparisons: Comparisons) -> None:
    """Compare a text, a number, or a mean with its interval."""
    if not isinstance(value, Effect):
        return comparisons.check(place, what, written, value)
    parts = quantities(written)[0].parts if written else {}
    if count := re.search(r"\((\d+)\)$", written):
        comparisons.check(place, f"{what}, runs", count[1], value.pairs)
    for part in ("value", "low", "high"):
        comparisons.check(place, f"{what}, {part}", parts.get(part, ""), getattr(value, part))


class EqualCost:
    """The rows of the first table: each method and number of epochs at the rate that is best on held-out rows."""

    def __init__(self, runs: pd.DataFrame, held_out: pd.DataFrame) -> None:
        self.settings, self.search = {}, {}
        for key, found in runs.groupby(["method", "epochs"]):
            tried = held_out[(held_out.method == key[0]) & (held_out.epochs == key[1])]
            best = tried.groupby("rate", sort=False).points.mean().round(9).idxmax()
            self.settings[key] = found[found.rate == best].set_index("seed")
            self.search[key] = tried.passes.sum()
        self.vanilla = {key[1]: found for key, found in self.settings.items() if key[0] == BASELINE}
        self.beside = {key: self._beside(found) for key, found in self.settings.items() if key[0] != BASELINE}
        compared = {key: effect for key, effect in self.beside.items() if effect is not None}
        self.holm = dict(zip(compared, holm([effect.p for effect in compared.values()]), strict=True))

    def _beside(self, found: pd.DataFrame) -> Effect | None:
        passes = found.passes.mean()
        factors = {epochs: abs(math.log(of.passes.mean() / passes)) for epochs, of in self.vanilla.items()}
        epochs = min(factors, key=lambda of: factors[of])
        if factors[epochs] > math.log(AS_MANY):
            return None
        return effect_of((found.points - self.vanilla[epochs].points).dropna().to_numpy())

    def row(self, written: Row) -> dict[str, float | str | Effect]:
        key = (written["method"], int(written["epochs"]))
        found, effect = self.settings[key], self.beside.get(key)
        cost = {k: of.passes.mean() + self.search[k] for k, of in self.settings.items()}
        means = {k: of.points.mean() for k, of in self.settings.items()}
        beaten = [k for k in cost if k != key and cost[k] <= cost[key] and means[k] >= means[key]]
        return {
            **dict(zip(("method", "epochs"), map(str, key), strict=True)),
            "rate": f"{found.rate.iloc[0]:g}",
            "passes": found.passes.mean(),
            "of the search": self.search[key],
            "runs": len(found),
            "accuracy": effect_of(found.points.to_numpy()),
            "minus vanilla": "" if effect is None else effect,
            "p": self.holm[key] if effect is not None else "",
            "efficient": "" if beaten else "yes",
        }


def forgotten(runs: pd.DataFrame, written: Row) -> dict[str, float | str | Effect]:
    found = runs[(runs.method == written["method"]) & (runs.epochs.astype(str) == written.get("epochs", "6"))]
    rise = found.masked_token_loss_after - found.masked_token_loss_before
    columns = {"rise of the loss": rise, "distance": found.distance, "accuracy": found.points}
    means: dict[str, float | str | Effect] = {name: effect_of(np.asarray(of)) for name, of in columns.items()}
    return {"method": written["method"], "epochs": written.get("epochs", ""), "runs": len(found), **means}


def few_rows(runs: pd.DataFrame, written: Row) -> dict[str, float | str | Effect]:
    found = runs[runs.method == written["training rows"]]
    by_size = {f"{n:,}": effect_of(of.points.to_numpy()) for n, of in found.groupby("n_train")}
    return {name: by_size.get(name, "") for name in written} | {"training rows": written["training rows"]}
