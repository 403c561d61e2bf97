"""What fine-tuning made the encoder forget, beside how far it moved and what it learned."""

from __future__ import annotations

import pandas as pd

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import FINISHED
from finetune_reg.results.run_tables import SETTING, by_method, counted_scores, pool_fresh_subsets
from finetune_reg.results.statistics import summarize
from finetune_reg.results.table_checks import comparable


def forgetting_table(table: pd.DataFrame) -> pd.DataFrame:
    """Summarize by setting and method the rise of the masked-token loss, the distance and the score.

    Args:
        table: as from `results_table`; runs that did not measure it (see `RunRecord`) are left out.

    Returns:
        One row per setting and method: the setting, `method`, `metric`, `n`, `loss_before`, and of `forgotten` (the
        loss after minus that before, in nats), `distance` and `score` the mean, named so, with the bounds of its 95 % t
        interval, `forgotten_low` and so on.

    Raises:
        InputError: no run measured it, or runs that may not be compared (see `comparable`).
    """
    table = comparable(table)
    if "masked_token_loss_after" in table:
        table = table[table.status.isin(FINISHED) & table.masked_token_loss_after.notna()]
    if "masked_token_loss_after" not in table or table.empty:
        raise InputError("No run measured its masked-token loss: those of the encoder pocket do.")
    runs = table.assign(
        forgotten=table.masked_token_loss_after.astype(float) - table.masked_token_loss_before.astype(float),
        distance=table.distance_from_pretrained.astype(float),
        score=counted_scores(table),
    )
    rows = []
    for setting, group in pool_fresh_subsets(runs).groupby(SETTING, dropna=False, sort=False):
        for label, of_method in by_method(group):
            row = dict(zip(SETTING, setting, strict=True)) | {"method": label, "metric": of_method.metric.iloc[0]}
            row |= {"n": len(of_method), "loss_before": of_method.masked_token_loss_before.astype(float).mean()}
            for name in ("forgotten", "distance", "score"):
                found = summarize(of_method[name])
                row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append(row)
    return pd.DataFrame(rows)
