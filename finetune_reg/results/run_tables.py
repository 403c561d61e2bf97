"""From records to one tidy table, and from the table to summaries per setting and over tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd
import pyarrow as pa

from finetune_reg.errors import InputError, shortened
from finetune_reg.experiment.atomic_writing import in_one_step
from finetune_reg.experiment.records import FINISHED, SCHEMA_VERSION, RunRecord, read_records, record_shapes
from finetune_reg.experiment.settings import SEEDS, SETTING_DEFAULTS, SETTING_TYPES
from finetune_reg.paths import existing_folder
from finetune_reg.results.method_labels import method_label, short_method_label  # noqa: F401 (notebooks)
from finetune_reg.results.statistics import (
    compare_paired,
    holm,
    interquartile_mean,
    probability_of_improvement,
    summarize,
)
from finetune_reg.results.table_checks import OWN_SUBSET, comparable, one_row_per_run
from finetune_reg.tasks.row_files import refuse_lfs_pointer

# What two runs must share to be compared: every setting but the method and the seeds of the run.
SETTING = [name for name in SETTING_TYPES if name not in ("method", "method_hyperparameters", *SEEDS)]
RECIPE = [name for name in SETTING if name != "task"]
BASELINE = "Vanilla()"
NEEDED = ["method", "method_hyperparameters", "status", "metric", "subset", "schema_version", "run_id", "method_label"]
NEEDED += ["score", "history", "transfer", "weights_hash"]
NESTED = [
    name
    for name, kind in {**SETTING_TYPES, **get_type_hints(RunRecord)}.items()
    if get_origin(kind) in (dict, list) and name != "settings"  # which become columns
]
AGGREGATES = ["method", "tasks", "runs", "mean_passes", "iqm", "iqm_low", "iqm_high"]
AGGREGATES += ["improvement", "improvement_low", "improvement_high"]


def collect(output_dir: Path | str, out: Path | str | None = None) -> pd.DataFrame:
    """Build the table of all records below a folder, one row per run; with `out`, write it as Parquet.

    Raises:
        InputError: there is no record, one is damaged (see `read_records`), or the table cannot be written.
    """
    table = results_table(read_records(output_dir))
    if out is not None:
        try:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            with in_one_step(Path(out)) as temporary:
                table.to_parquet(temporary, index=False)
        except OSError as error:
            raise InputError(f"Cannot write {out}: {error.strerror or error}.") from error
    return table


def load_results(path: Path | str) -> pd.DataFrame:
    """Load a table written by `collect`, or collect a folder of records.

    Raises:
        InputError: neither exists, the file is damaged, no such table or of another schema, or it holds different
            results of one run.
    """
    path = Path(path)
    if existing_folder(path) is not None:
        return collect(path)
    if not path.is_file():
        raise InputError(f"There is neither a folder of records nor a Parquet file {path}.")
    refuse_lfs_pointer(path)
    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{path} is not a complete Parquet file: {cause}. Collect it again.") from error
    if missing := [name for name in NEEDED if name not in table]:
        raise InputError(f"{path} is not a table of runs, as `collect` writes it: it lacks {', '.join(missing)}.")
    _check_cells(table, path)
    if set(table.schema_version) - {SCHEMA_VERSION}:
        raise InputError(f"{path} has records of another schema than {SCHEMA_VERSION}: collect it again.")
    for name, value in SETTING_DEFAULTS.items():
        default = json.dumps(value) if isinstance(value, dict | list) else value
        if name not in table:  # a setting that is younger than the table
            table[name] = default
        elif type(None) not in get_args(SETTING_TYPES[name]) and table[name].hasnans:  # or than some of its records
            table[name] = table[name].fillna(default)
    return one_row_per_run(table)


def _check_cells(table: pd.DataFrame, path: Path) -> None:
    """Check that every cell, nested values included, is what a record may hold."""
    shapes = {**record_shapes()["settings"].named, **record_shapes()}
    for name in (name for name in shapes if name in table and name != "schema_version"):
        cells = table[name].dropna()
        if not cells.map(pd.api.types.is_hashable).all():
            raise InputError(f"{path} has lists or mappings as {name}, where collect writes text: collect it again.")
        for value in cells.unique().tolist():
            try:
                known = json.loads(value) if name in NESTED else value
            except (ValueError, TypeError, RecursionError):
                raise InputError(f"{path} has a {name} {shortened(value)} that is no JSON: collect it again.") from None
            if type(known) is float and known.is_integer() and shapes[name].holds_integers:  # a column with gaps
                known = int(known)
            shapes[name].check(name, known, f"{path} is damaged, collect it again: a run")


def results_table(records: list[RunRecord]) -> pd.DataFrame:
    """Return one row per run: settings and results in columns; nested values (history, subset) as JSON text.

    Raises:
        InputError: no records, two that hold different results of one run, or one that names an unknown method.
    """
    if not records:
        raise InputError("There are no runs to make a table of: make some, or read a folder that has records.")
    rows = []
    for record in records:
        row: dict[str, Any] = {**record.settings, **vars(record)}
        row.pop("settings")
        row["method_label"] = method_label(row["method"], row["method_hyperparameters"])
        rows.append(row | {name: json.dumps(row[name]) for name in NESTED})
    table = one_row_per_run(pd.DataFrame(rows))
    order = [*SETTING, "method", "method_label", "seed_init"]
    vanilla_first = table.assign(method=table.method.where(table.method != "vanilla", "")).sort_values(order)
    return table.loc[vanilla_first.index].reset_index(drop=True)


def with_best_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the score of each run's best evaluated epoch in place of the last.

    The epoch is chosen on the rows that it is scored on, as SMART and HyPe did: such scores are optimistic.
    """
    best = table.best_score.astype(float)
    beaten = (best <= table.majority_score.astype(float)).astype(object)
    return table.assign(score=best, below_majority=beaten.where(best.notna(), table.below_majority))


def by_recipe(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split a table into runs that differ in nothing but task, method and seeds.

    Yields:
        A heading (model, source and whatever else differs between the parts) and the runs.
    """
    varying = [
        name for name in RECIPE if table[name].nunique(dropna=False) > 1 and name not in ("model_name", "source")
    ]
    for values, group in table.groupby(RECIPE, dropna=False, sort=False):
        recipe: dict[str, Any] = dict(zip(RECIPE, values, strict=True))
        parts = [f"Model {short_name(recipe['model_name'])}", f"source {short_name(recipe['source'])}"]
        parts += [f"{name} {'all' if pd.isna(recipe[name]) else recipe[name]}" for name in varying]
        yield ", ".join(parts), group


def by_method(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split a table by `method_label`, in the order of the table."""
    for label, group in table.groupby("method_label", sort=False):
        yield str(label), group


def short_name(name: str) -> str:
    """Return the last part of the path of a folder, any other name as it is."""
    return Path(name).name if Path(name).is_absolute() else name


def pool_fresh_subsets(table: pd.DataFrame) -> pd.DataFrame:
    """Let runs of one recipe that each drew other training rows, by their seed, count as runs of one setting.

    Where `seed_subset` is the seed of every run, it becomes the text "that of the run".
    """
    same = [table[name] for name in RECIPE if name != "seed_subset"]
    is_seed = (table.seed_subset == table.seed_init).groupby(same, dropna=False).transform("all")
    varies = table.seed_subset.groupby(same, dropna=False).transform("nunique") > 1
    return table.assign(seed_subset=table.seed_subset.astype(object).where(~(is_seed & varies), OWN_SUBSET))


def summary_table(table: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Summarize each setting and method over seeds, and compare it with the baseline on equal seeds.

    Runs that each drew other training rows are pooled as by `pool_fresh_subsets`.

    Returns:
        One row per setting and method: the fields of `Summary`, `passes` (forward and backward, mean of the runs) and,
        where the baseline has the same seeds, the paired difference with its interval, its p-value, and `paired_holm`,
        the p-value after Holm's correction over the comparisons with one baseline, that is of one task at one setting.

    Raises:
        InputError: runs that may not be compared, see `comparable`.
    """
    rows = []
    table = comparable(table)
    scored = table.assign(passes=passes_of(table))[
        [*SETTING, *SEEDS, "method", "method_label", "metric", "score", "below_majority", "passes"]
    ]
    for setting, group in pool_fresh_subsets(scored).groupby(SETTING, dropna=False, sort=False):
        seeded = group.set_index(list(SEEDS))
        reference = seeded[seeded.method_label == baseline].score
        for label, runs in by_method(seeded):
            scores = runs.score
            row = dict(zip(SETTING, setting, strict=True)) | {"method": label, "metric": runs.metric.iloc[0]}
            failed = int((runs.below_majority.fillna(True)).astype(bool).sum())
            row |= {"method_name": runs.method.iloc[0], **vars(summarize(scores.dropna(), failed))}
            row |= {"passes": runs.passes.mean()}
            paired = pd.concat([scores, reference], axis=1, keys=["ours", "reference"]).dropna()
            if label != baseline and len(paired):
                row |= {
                    f"paired_{name}": value
                    for name, value in vars(compare_paired(paired.ours, paired.reference)).items()
                }
            rows.append(row)
    summary = pd.DataFrame(rows)
    if "paired_p_value" in summary:
        of_one_baseline = summary.groupby(SETTING, dropna=False).paired_p_value
        summary["paired_holm"] = of_one_baseline.transform(lambda values: pd.Series(holm(values), values.index))
    return summary


def counted_scores(runs: pd.DataFrame) -> pd.Series:
    """Return the scores of finished runs; a diverged run counts as the best constant prediction."""
    return runs.score.astype(float).fillna(runs.majority_score.astype(float))


def score_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Arrange the runs of one method and recipe as a matrix.

    A diverged run counts as the best constant prediction; runs without a result are left out.

    Args:
        table: rows of `results_table` that differ in task and seeds only.

    Returns:
        Shape (runs, tasks), indexed by the seeds that are present for all tasks.

    Raises:
        InputError: several methods or recipes, or no seed that is present for all tasks.
    """
    one, needed = ["method_label", *RECIPE], ["task", *SEEDS, "status", "score", "majority_score"]
    table = table[[*one, *needed]]
    for name in one:
        if len(found := table[name].unique()) > 1:
            raise InputError(
                f"A matrix of scores holds one method and recipe, not {name} {', '.join(map(str, found))}."
            )
    finished = table[table.status.isin(FINISHED)]
    scores = finished.assign(score=counted_scores(finished))
    matrix = scores.pivot(index=list(SEEDS), columns="task", values="score").dropna()
    if matrix.empty:
        raise InputError("No seed has a finished run on all tasks: run the same seeds on each task.")
    return matrix


def aggregate_table(table: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Aggregate each method over tasks.

    Args:
        table: rows of `results_table` of one recipe. Methods without a seed that is finished on all their tasks are
            left out.

    Returns:
        One row per method: `tasks`, `runs` (seeds on each task), `mean_passes` (forward and backward, of one run),
        `iqm` with `iqm_low`, `iqm_high`, and `improvement` with `improvement_low`, `improvement_high`: the probability
        of improvement over the baseline on the tasks both have; NaN for the baseline.

    Raises:
        InputError: several recipes, or runs that may not be compared (see `comparable`).
    """
    table = comparable(table)
    finished = table[table.status.isin(FINISHED)]
    matrices = {
        label: score_matrix(runs)
        for label, runs in by_method(finished)
        if runs.groupby(list(SEEDS)).task.nunique().max() == runs.task.nunique()
    }
    passes = passes_of(finished).groupby(finished.method_label).mean()
    rows = []
    for label, matrix in matrices.items():
        iqm = interquartile_mean(matrix.to_numpy())
        row = {"method": label, "tasks": matrix.shape[1], "runs": len(matrix), "mean_passes": passes[label]}
        row |= {"iqm": iqm.value, "iqm_low": iqm.low, "iqm_high": iqm.high}
        reference = matrices.get(baseline, matrix.iloc[:, :0])
        common = matrix.columns.intersection(reference.columns)
        if label != baseline and len(common):
            found = probability_of_improvement(matrix[common].to_numpy(), reference[common].to_numpy())
            row |= {"improvement": found.value, "improvement_low": found.low, "improvement_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=AGGREGATES)


def passes_of(table: pd.DataFrame) -> pd.Series:
    """Return the forward plus backward passes of each run."""
    return table.forward_passes.astype(float) + table.backward_passes.astype(float)
