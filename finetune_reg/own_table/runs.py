"""The runs of a plan: choose settings inside each split, test with the chosen ones, train on fewer rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.progress import Progress

from finetune_reg.console import console
from finetune_reg.errors import InputError
from finetune_reg.experiment.records import FINISHED, RunRecord, read_record, record_path
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.hyperparameters.ranges import Interval, check_in_range
from finetune_reg.own_table.candidates import Candidate, tried_rate
from finetune_reg.own_table.planning import BATCH_SIZE, Plan
from finetune_reg.sweep.availability import check_engine
from finetune_reg.sweep.plan import NotebookRun
from finetune_reg.sweep.protocol import read_json

HERE = "here"  # the engine that makes one run after another in this process
Try = tuple[float, int]
OPTIONS: dict[str, Any] = {
    "text": list[str],
    "label": str,
    "group": str | None,
    "scores": bool,
    "metric": str | None,
    "rows": Annotated[int, Interval("[30, inf)")] | None,
    "model": str | None,
    "max_length": Annotated[int, Interval("[4, 1000000]")] | None,
    "methods": list[str] | None,
    "budget": Annotated[float, Interval("(0, 525600]")] | None,  # minutes: a year at most
    "encoding": str | None,
    "engine": str,
    "slots": Annotated[int, Interval("[1, inf)")] | None,
}


def check_options(given: Mapping[str, Any]) -> None:
    """Check types and ranges of the options of a comparison.

    Raises:
        InputError: one that cannot be; the sentence names what is allowed.
    """
    for name, declared in OPTIONS.items():
        check_in_range(name, given[name], declared, "compare")
    if given["engine"] != HERE:
        check_engine(given["engine"])


def stored_plan(folder: Path, asked: dict[str, Any]) -> Plan | None:
    """Return the plan of the comparison that a folder holds, None if it holds none.

    Raises:
        InputError: it is that of another question than `asked`, or damaged.
    """
    path = folder / "comparison.json"
    if not path.exists():
        return None
    stored = read_json(path)
    try:
        if stored["asked"] == json.loads(json.dumps(asked)):
            return Plan.restore(stored["plan"])
        differing = [name.replace("_", " ") for name, value in asked.items() if stored["asked"].get(name) != value]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{path} is not the plan of a comparison: move it away, or give --output-dir.") from None
    raise InputError(f"{folder} holds a comparison with another {' and '.join(differing)}: give --output-dir.")


@dataclass(frozen=True)
class RunMaker:
    """Makes the runs of a comparison in its folder, and reads their records.

    Attributes:
        shared: parameters of all runs: task, source, model and the length of inputs.
        width: of the encoder, which the learning rate depends on.
        engine, slots: as of `run_sweep`; `"here"` makes one run after another in this process.
    """

    folder: Path
    shared: dict[str, Any]
    width: int
    engine: str = "local"
    slots: int | None = None

    def parameters(self, candidate: Candidate, tried: Try, **others: Any) -> dict[str, Any]:
        """Return the parameters of the template for a method and a try."""
        factor, epochs = tried
        return {
            **self.shared,
            "method": candidate.method,
            "method_hyperparameters": candidate.hyperparameters,
            "learning_rate": tried_rate(candidate, factor, self.width),
            "epochs": epochs,
            "evaluate_every": epochs,
            "batch_size": BATCH_SIZE,
            "n_train": None,
            "seed_subset": None,  # that of the run: the number of the split
            **others,
        }

    def make(self, what: str, notebooks: list[NotebookRun]) -> dict[str, RunRecord]:
        """Make the runs that are missing, and return the records of all by run id.

        Raises:
            InputError: a run failed; the sentence says where to look.
        """
        console.print(what)
        if self.engine == HERE:
            self._make_here([settings for notebook in notebooks for settings in notebook.settings])
        else:
            from finetune_reg.sweep.engine import run_sweep

            run_sweep(notebooks, self.folder, self.engine, self.slots)
        run_ids = [run_id for notebook in notebooks for run_id in notebook.run_ids]
        paths = [record_path(self.folder, run_id) for run_id in run_ids]
        records = [read_record(path) if path.is_file() else None for path in paths]
        unfinished = [record for record in records if record is None or record.status not in FINISHED]
        if unfinished:
            cause = next((f" ({record.error})" for record in unfinished if record and record.error), "")
            raise InputError(
                f"{len(unfinished)} of {len(records)} runs did not end{cause}: see `finetune-reg sweep status "
                f"{self.folder}`, and repeat the command."
            )
        return {record.run_id: record for record in records if record is not None}

    def _make_here(self, settings: list[RunSettings]) -> None:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for one in progress.track(settings, description="runs"):
                run(one, self.folder)


@dataclass(frozen=True)
class SplitRuns:
    """Records by title of the method and number of the split, and the try that was chosen for each."""

    records: dict[str, dict[int, RunRecord]]
    chosen: dict[str, dict[int, Try]]
    held_out_scores: dict[str, dict[Try, float]]


def counted_score(record: RunRecord) -> float:
    """Return a run's score; a diverged one counts as the best constant answer."""
    return float(record.score if record.score is not None else record.majority_score or 0.0)


def run_plan(plan: Plan, maker: RunMaker) -> SplitRuns:
    """Choose each method's try on a held-out fifth of each split's training rows; then train on all and test."""
    splits = list(range(plan.n_splits))
    tried = {
        (candidate.title, one): NotebookRun(maker.parameters(candidate, one, seeds=splits, held_out_fold=0))
        for candidate in reversed(plan.candidates)  # the dearest stand at the end; they start first, to end with all
        for one in plan.tries
    }
    records = {}
    if plan.chooses:
        records = maker.make("Choosing learning rates and epochs inside the training rows.", [*tried.values()])
    chosen: dict[str, dict[int, Try]] = {}
    held_out: dict[str, dict[Try, float]] = {}
    for candidate in plan.candidates:
        of_try = {
            one: [
                counted_score(records[run_id]) if plan.chooses else 0.0
                for run_id in tried[candidate.title, one].run_ids
            ]
            for one in plan.tries
        }
        chosen[candidate.title] = {s: _best(plan, {one: found[s] for one, found in of_try.items()}) for s in splits}
        held_out[candidate.title] = {one: sum(found) / len(found) for one, found in of_try.items()}
    notebooks = {c.title: _by_try(chosen[c.title], c, maker) for c in reversed(plan.candidates)}
    found = maker.make("Testing all methods.", [notebook for group in notebooks.values() for notebook in group])
    return SplitRuns({c.title: _by_split(notebooks[c.title], found) for c in plan.candidates}, chosen, held_out)


def run_curve(
    plan: Plan, maker: RunMaker, candidate: Candidate, chosen: dict[int, Try], n_rows: list[int], stratified: bool
) -> list[dict[int, RunRecord]]:
    """Train a method on fewer rows of each split of the first repetition; one mapping per number of rows."""
    first = {split: chosen[split] for split in range(plan.folds)}
    groups = [_by_try(first, candidate, maker, n_train=n, stratified=stratified) for n in n_rows]
    largest_first = [notebook for group in reversed(groups) for notebook in group]
    found = maker.make("Training on fewer rows.", largest_first) if groups else {}
    return [_by_split(group, found) for group in groups]


def _best(plan: Plan, scores: dict[Try, float]) -> Try:
    return max(plan.tries, key=scores.__getitem__)


def _by_try(chosen: dict[int, Try], candidate: Candidate, maker: RunMaker, **others: Any) -> list[NotebookRun]:
    splits_of: defaultdict[Try, list[int]] = defaultdict(list)
    for split, one in chosen.items():
        splits_of[one].append(split)
    return [
        NotebookRun(maker.parameters(candidate, one, seeds=splits, **others))
        for one, splits in sorted(splits_of.items())
    ]


def _by_split(notebooks: Iterable[NotebookRun], records: dict[str, RunRecord]) -> dict[int, RunRecord]:
    found = [records[run_id] for notebook in notebooks for run_id in notebook.run_ids]
    return {record.settings["seed_subset"]: record for record in sorted(found, key=lambda r: r.settings["seed_subset"])}
