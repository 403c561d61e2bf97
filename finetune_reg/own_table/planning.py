"""What is going to be run, what it costs on this machine, and which differences it can show."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from finetune_reg.errors import InputError
from finetune_reg.experiment.encoders import Encoder
from finetune_reg.method import TrainingContext
from finetune_reg.methods import build_method
from finetune_reg.own_table.candidates import CANDIDATES, TRIES, Candidate
from finetune_reg.own_table.selection import OwnTable
from finetune_reg.results.statistics import smallest_decided_effect
from finetune_reg.tasks import encode, evaluation_loader, training_loader
from finetune_reg.tasks.task_table import FOLDS
from finetune_reg.training_loop import predict, train

BATCH_SIZE = 16
# Folds, repetitions, tries: from what is least worth comparing to what a generous budget allows.
DESIGNS = ((3, 1, 1), (5, 1, 1), (5, 1, 2), (5, 2, 2), (5, 2, 3), (5, 4, 3))
FEWEST_METHODS = 2
PART_OF_BUDGET = 0.9  # the rest is for what cannot be measured beforehand
CURVE = (0.25, 0.5)  # parts of the training rows, to see what more rows would bring
TIMED_UPDATES = 3  # and one before them, which also makes room in memory
START = "import ipykernel.kernelapp, finetune_reg.experiment.run, finetune_reg.results.plotting, transformers.models"
DISAGREEMENT = 0.15  # share of rows on which two methods differ, assumed before anything is known


@dataclass(frozen=True)
class Timing:
    """Seconds on one core.

    Attributes:
        update: of an update, by the title of the method; evaluated_row: of the evaluation of a row.
        encoder: of loading the encoder, which each run does; kernel: of starting a kernel, which each notebook does.
        refused: by its title, why a method cannot train the encoder.
    """

    update: dict[str, float]
    evaluated_row: float
    encoder: float = 0.0
    kernel: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        candidates: the methods, vanilla first.
        folds, repeats: each row is tested `repeats` times, by models that did not train on it.
        tries: learning-rate factor and epochs, chosen between on a held-out fifth of the training rows of each split.
        minutes: estimated, of all.
        left_out: titles of methods for which the budget was too small.
        refused: titles of methods that cannot train the encoder, and why.
    """

    candidates: list[Candidate]
    folds: int
    repeats: int
    tries: tuple[tuple[float, int], ...]
    minutes: float
    left_out: list[str]
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def restore(cls, kept: dict[str, Any]) -> Plan:
        """Return the plan that `to_json` wrote."""
        known = {candidate.title: candidate for candidate in CANDIDATES}
        tries = tuple((float(factor), int(epochs)) for factor, epochs in kept["tries"])
        return cls(**kept | {"candidates": [known[title] for title in kept["candidates"]], "tries": tries})

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the plan in its folder, methods by their titles."""
        return asdict(self) | {"candidates": [candidate.title for candidate in self.candidates]}

    @property
    def exclusions(self) -> list[str]:
        """Which methods are left out, and why, a sentence each."""
        too_dear = self.left_out + ["the score by the number of rows"] * (not self.draws_curve)
        sentence = f"{', '.join(too_dear)}: the budget is too small. Give a larger --budget."
        return [f"{title}: {reason}" for title, reason in self.refused.items()] + [sentence] * bool(too_dear)

    @property
    def n_splits(self) -> int:
        """Splits of the rows, each with a seed of its own."""
        return self.folds * self.repeats

    @property
    def draws_curve(self) -> bool:
        """Whether one method is trained on fewer rows, too; the smallest design has no time for it."""
        return (self.folds, self.repeats, len(self.tries)) != DESIGNS[0]

    @property
    def chooses(self) -> bool:
        """Whether there is more than one try to choose from."""
        return len(self.tries) > 1

    def runs_of_a_method(self) -> int:
        """Return how often each method is trained: to choose settings, and to be tested."""
        return self.n_splits * (len(self.tries) * self.chooses + 1)

    def visible_difference(self, n_rows: int) -> float:
        """Return the difference of accuracies that is found in four of five such comparisons, in [0, inf).

        Two methods are assumed to disagree on 15 % of the rows; the variance is that of overlapping training sets.
        """
        n_test = n_rows / self.folds
        spread = math.sqrt(DISAGREEMENT / n_test)
        overlap = math.sqrt(1 + self.n_splits / (self.folds - 1))
        return spread * overlap * smallest_decided_effect(self.n_splits, len(self.candidates) - 1)


def choose_plan(
    candidates: list[Candidate],
    timing: Timing,
    n_rows: int,
    budget: float | None,
    slots: int,
    kernels: bool,
    spent: float = 0.0,
) -> Plan:
    """Return the largest design that fits into the budget: of all methods, else of fewer, and three folds at last.

    Three folds show little: their intervals are twice as wide as those of five, because two degrees of freedom are few.

    Args:
        budget: minutes, None for the largest design.
        slots: runs at a time.
        kernels: each batch of runs starts a kernel.
        spent: minutes of the budget that are gone already.

    Raises:
        InputError: two methods on the smallest design take longer, or vanilla or all others are refused.
    """
    usable, estimates = _usable(candidates, timing), []
    last, *larger = DESIGNS
    fewer = range(len(usable), FEWEST_METHODS - 1, -1)
    choices = [(len(usable), design) for design in reversed(larger)]
    choices += [(n_methods, design) for design in [*larger[:1], last] for n_methods in fewer]
    for n_methods, (folds, repeats, n_tries) in choices:
        left_out = [candidate.title for candidate in usable[n_methods:]]
        plan = Plan(usable[:n_methods], folds, repeats, TRIES[:n_tries], 0.0, left_out, timing.refused)
        minutes = spent + _minutes(plan, timing, n_rows, slots, kernels)
        estimates.append(minutes)
        if budget is None or minutes <= PART_OF_BUDGET * budget:
            return replace(plan, minutes=minutes)
    raise InputError(
        f"The smallest comparison takes about {estimates[-1]:.1f} minutes here, more than the budget of {budget:g}: "
        f"give --budget {math.ceil(estimates[-1] / PART_OF_BUDGET)}m, a smaller encoder, fewer rows with --rows, or "
        "shorter inputs with --max-length."
    )


def _usable(candidates: list[Candidate], timing: Timing) -> list[Candidate]:
    baseline, *others = candidates
    usable = [candidate for candidate in others if candidate.title not in timing.refused]
    if baseline.title in timing.refused:
        raise InputError(f"{baseline.title} has to run, but cannot: {timing.refused[baseline.title]}")
    if not usable:
        reasons = " ".join(f"{title}: {reason}" for title, reason in timing.refused.items())
        raise InputError(f"No method is left to compare with {baseline.title}. {reasons}")
    return [baseline, *usable]


def _minutes(plan: Plan, timing: Timing, n_rows: int, slots: int, kernels: bool) -> float:
    n_train = n_rows * (plan.folds - 1) / plan.folds
    epochs = [epochs for _, epochs in plan.tries]
    start = timing.kernel * kernels

    def run(update: float, n_epochs: float, rows: float, n_tested: float) -> float:
        return timing.encoder + update * n_epochs * math.ceil(rows / BATCH_SIZE) + timing.evaluated_row * n_tested

    stages = []
    updates = [timing.update[candidate.title] for candidate in plan.candidates]
    dearest, n_held_out, mean = max(updates), n_train / FOLDS, sum(epochs) / len(epochs)
    if plan.chooses:
        choosing = [run(update, e, n_train - n_held_out, n_held_out) for update in updates for e in epochs]
        stages.append([start + plan.n_splits * seconds for seconds in choosing])
    testing = [run(update, mean, n_train, n_rows - n_train) for update in updates]
    stages.append([start * min(len(epochs), plan.n_splits) + plan.n_splits * seconds for seconds in testing])
    if plan.draws_curve:
        fewer = [run(dearest, max(epochs), part * n_train, n_rows - n_train) for part in CURVE]
        stages.append([start + plan.folds * seconds for seconds in fewer])
    workers = start * len(stages)  # which take as long to start as kernels do
    final = run(dearest, max(epochs), n_rows, 0)
    return (sum(_side_by_side(stage, slots) for stage in stages) + workers + final) / 60


def _side_by_side(seconds: list[float], slots: int) -> float:
    """Return how long notebooks take that are started one after another, each at the first place that is free."""
    places = [0.0] * slots
    for one in sorted(seconds, reverse=True):
        places[places.index(min(places))] += one
    return max(places)


class _Timed:
    """Batches, and when each was asked for."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = list(batches)
        self.moments: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.moments.append(time.perf_counter())
            yield batch

    def end(self, epoch: int, losses: list[float]) -> None:
        """Note when the last batch was done with."""
        self.moments.append(time.perf_counter())


def measure(
    candidates: list[Candidate], table: OwnTable, encoder: Encoder, loading: float, max_length: int, is_here: bool
) -> Timing:
    """Time a few updates of each method, an evaluation and what comes before them; note which methods refuse.

    Args:
        loading: seconds that loading the encoder took.
        is_here: runs are made in this process, with all its threads; else in kernels of one thread, whose start is
            timed, too.
    """
    start = time.perf_counter()
    n_rows = min(len(table.rows), BATCH_SIZE * (TIMED_UPDATES + 1))
    rows = table.rows.sample(n_rows, random_state=0).index
    examples = encode(table.task, [table.records[i] for i in rows], encoder.tokenizer, max_length, encoder.n_positions)
    encoding = (time.perf_counter() - start) * len(table.rows) / n_rows
    loader = training_loader(examples, encoder.tokenizer, BATCH_SIZE, seed=0)
    before = torch.get_num_threads()
    torch.set_num_threads(before if is_here else 1)
    try:
        update, refused = {}, {}
        for candidate in candidates:
            timed = _Timed(loader)
            context = TrainingContext(
                train_dataset=examples,
                collate=loader.collate_fn,
                batch_size=BATCH_SIZE,
                learning_rate=1e-5,
                weight_decay=0.01,
                n_updates=len(timed.batches),
            )
            try:
                method = build_method(candidate.method, **candidate.hyperparameters)
                with torch.random.fork_rng(devices=[]):
                    train(deepcopy(encoder.model), method, timed, context, after_epoch=timed.end)
            except InputError as refusal:
                refused[candidate.title] = str(refusal)
                continue
            update[candidate.title] = float(np.mean(np.diff(timed.moments)[1:]))
        start = time.perf_counter()
        predict(encoder.model, evaluation_loader(examples, encoder.tokenizer))
        evaluated_row = (time.perf_counter() - start) / len(examples)
    finally:
        torch.set_num_threads(before)
    return Timing(update, evaluated_row, loading + encoding, 0.0 if is_here else _kernel_seconds(), refused)


def _kernel_seconds() -> float:
    """Start a Python with what a kernel imports, and return how long that takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", START], check=True)
    return time.perf_counter() - start
