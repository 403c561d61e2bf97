"""Exercises of notebook 07: how far a held weight coasts, DPS Dense on one matrix, and a control for its dropout."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product

import pandas as pd
import torch

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired
from finetune_reg.results.run_tables import SETTING

Gradients = list[torch.Tensor]


def check_coasting(coasting_share: Callable[[int, float], float]) -> None:
    """Sum the steps one by one: `coasting_share(stage_length, beta1)`."""
    for length, beta1 in product((1, 2, 23, 80), (0.9, 0.5)):
        steps = [beta1**i for i in range(1, length + 1)]
        attempt, exact = float(coasting_share(length, beta1)), sum(steps) / length
        where = f"with beta1 = {beta1:g} and {length} updates you have {attempt:.4g}"
        if abs(attempt - exact) < 1e-6:
            continue
        assert attempt >= 0.0, f"{where}, and a share is not negative"
        assert abs(attempt - exact / beta1) > 1e-6, (
            f"{where}: the first gradient of the stage is zero already, so its step has decayed once"
        )
        assert length == 1 or abs(attempt - exact * length) > 1e-6, (
            f"{where}, the coasted distance in steps: divide by the distance of a weight that keeps its step"
        )
        raise AssertionError(f"{where}; the momentum is multiplied by beta1 at every update: sum the series")


def check_dense_by_hand(masked_gradients: Callable[[Gradients, float, int], Gradients]) -> None:
    """Compare with the equations on random gradients: `masked_gradients(gradients, keep_fraction, stage_length)`."""
    generator = torch.Generator().manual_seed(0)
    for keep, length in ((0.5, 2), (0.7, 3), (0.3, 1)):
        gradients = list(torch.randn(6 * length + 1, 4, 5, dtype=torch.float64, generator=generator))
        for i in range(2 * length, 4 * length):
            gradients[i] = 0.01 * gradients[i]  # a second cycle that is quieter than the first
        given = [gradient.clone() for gradient in gradients]
        found = masked_gradients(gradients, keep, length)
        assert len(found) == len(given), f"return one gradient for each of the {len(given)} updates"
        wanted = _masked(given, keep, length)
        for t, (ours, exact) in enumerate(zip(found, wanted, strict=True), start=1):
            stage, cycle = 1 + (t - 1) // length % 2, 1 + (t - 1) // (2 * length)
            where = f"at update {t} (stages of {length}, so Stage {stage} of cycle {cycle})"
            assert ours.shape == exact.shape, f"{where} the gradient has another shape"
            if torch.allclose(ours, exact):
                continue
            assert stage == 2, f"{where} the gradient should pass unchanged: nothing is held in Stage I"
            n_kept, wanted_kept = int((ours != 0).sum()), int((exact != 0).sum())
            assert n_kept == wanted_kept, f"{where} {n_kept} of 20 entries train, not {wanted_kept}"
            kept = ours != 0
            assert torch.allclose(ours[kept], given[t - 1][kept]), (
                f"{where} trained entries should have their own gradient, not rescaled"
            )
            assert cycle == 1, f"{where} other entries should train: are the sums of earlier cycles forgotten?"
            raise AssertionError(
                f"{where} other entries should train: those with the largest sums of squares over Stage I"
            )


def _masked(gradients: Gradients, keep: float, length: int) -> Gradients:
    result: Gradients = []
    for t, gradient in enumerate(gradients):
        place = t % (2 * length)
        if place >= length:
            squares = torch.stack(gradients[t - place : t - place + length]).square().sum(0).flatten()
            mask = torch.zeros_like(squares)
            mask[squares.topk(round(keep * len(squares))).indices] = 1.0
            gradient = gradient * mask.view_as(gradient)
        result.append(gradient)
    return result


def check_control(table: pd.DataFrame) -> None:
    """Check that the table of runs can tell DPS from missing dropout, for two lengths of a stage."""
    assert isinstance(table, pd.DataFrame), "give the table of your runs, as results_table makes it"
    missing = {"method", "method_hyperparameters", "seed_init", "score", *SETTING} - set(table.columns)
    assert not missing, f"the table lacks {', '.join(sorted(missing))}: give it as results_table makes it"
    options = table.method_hyperparameters.map(json.loads)
    ours = table.assign(ratio=options.map(lambda one: one.get("update_ratio")))
    ours = ours[table.method == "dps_dense"]
    assert ours.ratio.nunique() >= 2, "run dps_dense with two or more values of update_ratio"
    control = table[(table.method == "vanilla") & (options.map(lambda one: one.get("dropout")) == 0.0)]
    assert len(control), "DPS switches dropout off: the table lacks vanilla with dropout 0"
    seeds = set(control.seed_init)
    assert len(seeds) >= 3, f"{len(seeds)} seeds show no spread: take three or more"
    for ratio, runs in ours.groupby("ratio"):
        assert set(runs.seed_init) == seeds, f"DPS with update_ratio {ratio:g} needs the same seeds as the control"
    for name in SETTING:
        assert table[name].nunique(dropna=False) == 1, f"the runs differ in {name}, too: change one thing at a time"
    assert table.score.notna().all(), "a run has no score"


EXERCISES: dict[str, Checker] = {
    "coasting-of-held-weights": check_coasting,
    "dps-dense-by-hand": check_dense_by_hand,
    "dps-control": check_control,
}

PREDICTIONS = {
    "dps-held-weight": Prediction(
        "A weight moves steadily through Stage I. In a Stage II of three updates it is held: its gradient is zero. "
        "How far does it go there under Adam, as a share of the way it would go with its gradient?",
        (
            Choice(
                "nowhere: it is held",
                "Its gradient is held. Adam steps along a mean of past gradients, and that is not zero.",
            ),
            Choice(
                "about a quarter of the way",
                "Momentum keeps nine tenths of itself at each update: it takes more than three to fade that far.",
            ),
            Choice(
                "about four fifths of the way",
                right="Momentum is 0.9, 0.81 and 0.73 of itself in the three updates, 0.81 on average.",
            ),
        ),
        right="c",
    ),
    "dps-against-control": Prediction(
        "DPS Dense switches dropout off. Where does it end, compared with vanilla without dropout?",
        (
            Choice(
                "below the control",
                "It trains fewer weights, but in so short stages held weights go most of the way all the same.",
                "To hold back weights costs more here than it brings.",
            ),
            Choice(
                "above the control",
                "Over vanilla with dropout it may well lie. Ask what is left when dropout is off in both.",
                "The choice of weights does more here than the dropout that goes with it.",
            ),
            Choice(
                "that cannot be told",
                "With few seeds it often cannot. Here the differences agree from seed to seed.",
                "The interval has zero in it: beyond the missing dropout the choice of weights has shown nothing.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", factor=100),
    ),
}
