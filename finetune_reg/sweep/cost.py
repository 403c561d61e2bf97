"""What a plan costs, told before anything runs: passes through the model, and time from the runs there are already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from finetune_reg.experiment import RunSettings
from finetune_reg.methods import build_method
from finetune_reg.records import FINISHED, RunRecord, read_record
from finetune_reg.sweep.plan import NotebookRun
from finetune_reg.tasks import get_task
from finetune_reg.tasks.loading import load_split

# One core of a 2-core cloud machine, the pocket encoder, batch 16, evaluations included.
SECONDS_PER_PASS = 0.017
# Kernel start, and import of PyTorch and transformers, on the same machine.
SECONDS_PER_NOTEBOOK = 5.0


@dataclass(frozen=True)
class NotebookCost:
    """The estimated cost of the runs of a notebook that are left.

    Attributes:
        left: how many; `done`: how many are finished.
        passes: forward and backward passes in training, as the method declares them per update; preparations
            before the first update are not counted.
        seconds: on one slot, kernel start included; 0 when nothing is left.
        basis: finished runs the time is taken from: of the same task and method, of the same model, or none.
    """

    left: int
    done: int
    passes: int
    seconds: float
    basis: str


def estimate_costs(runs: Iterable[NotebookRun], output_dir: Path) -> list[NotebookCost]:
    """Estimate the cost of each notebook from the finished records in the folder, without starting anything.

    Raises:
        InputError: the training rows must be counted (`n_train` is None) and the data is not there.
    """
    paths = sorted((output_dir / "records").glob("*.json"))
    records = {record.run_id: record for record in map(read_record, paths) if record.status in FINISHED}
    return [_notebook_cost(run, records) for run in runs]


def count_passes(settings: RunSettings) -> int:
    """Return the forward and backward passes that training with these settings declares."""
    n_train = settings.n_train
    if n_train is None:
        n_train = len(load_split(get_task(settings.task), "train", settings.source))
    n_updates = settings.epochs * -(-n_train // settings.batch_size)
    return n_updates * sum(build_method(settings.method, **settings.method_hyperparameters).passes_per_update)


def _notebook_cost(run: NotebookRun, records: dict[str, RunRecord]) -> NotebookCost:
    left = [settings for settings in run.settings if settings.run_id not in records]
    passes = sum(count_passes(settings) for settings in left)
    seconds_per_pass, basis = _seconds_per_pass(run.settings[0], records.values())
    seconds = SECONDS_PER_NOTEBOOK + passes * seconds_per_pass if left else 0.0
    return NotebookCost(len(left), len(run.settings) - len(left), passes, seconds, basis)


def _seconds_per_pass(settings: RunSettings, records: Iterable[RunRecord]) -> tuple[float, str]:
    same_model = [r for r in records if r.settings["model_name"] == settings.model_name and r.forward_passes]
    alike = [r for r in same_model if all(r.settings[name] == getattr(settings, name) for name in ("task", "method"))]
    for basis, known in (("same task and method", alike), ("same model", same_model)):
        if known:
            return median(r.wall_seconds / (r.forward_passes + r.backward_passes) for r in known), basis
    return SECONDS_PER_PASS, "default"
