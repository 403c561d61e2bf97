"""Exercises of notebook 06: Adam's steps under random masks, a random child, and a control for the learning rate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import product

import pandas as pd
import torch

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired
from finetune_reg.results.run_tables import SETTING

Masks = Mapping[str, torch.Tensor]


def check_step_length(rms_step: Callable[[float, float, float], float]) -> None:
    """Compare with the moments of Adam's momentum: `rms_step(ratio, keep_probability, beta1)`."""
    for p, ratio, beta1 in product((1.0, 0.25, 0.5), (1e4, 0.0, 0.5, 2.0), (0.9, 0.0)):
        attempt = float(rms_step(ratio, p, beta1))
        where = f"for mean / standard deviation {ratio:g}, p = {p:g} and beta1 = {beta1:g} you have {attempt:.4g}"
        exact, unmasked = _rms_step(ratio, p, beta1), _rms_step(ratio, 1.0, beta1)
        if abs(attempt - exact) < 1e-4 * exact:
            continue
        assert p == 1.0 or abs(attempt - math.sqrt(p) * unmasked) > 1e-4 * exact, (
            f"{where}, the root of p times the step without a mask: that is the mean; what do masks do to the variance "
            "of the momentum, relative to the second moment?"
        )
        assert p < 1.0, f"{where}; without a mask already the step is another: start from the variance of the momentum"
        assert beta1 > 0.0, f"{where}; without momentum the step is the masked gradient over a root: take its square"
        raise AssertionError(f"{where}, and the root mean square is another: add squared mean and variance")


def _rms_step(ratio: float, p: float, beta1: float) -> float:
    squared_mean = p * ratio**2 / (1 + ratio**2)
    return math.sqrt(squared_mean + (1 - beta1) / (1 + beta1) * (1 - squared_mean))


def check_random_child(random_child: Callable[[Masks, torch.Generator], Masks]) -> None:
    """Draw often for two small masks: `random_child(masks, generator)`."""
    masks = {
        "a": torch.tensor([[True, True, True, False], [False, False, False, False]]),
        "b": torch.tensor([True, False, False, False]),
    }
    before = {name: mask.clone() for name, mask in masks.items()}
    totals = {name: torch.zeros(mask.shape) for name, mask in masks.items()}
    n_draws = 400
    for seed in range(n_draws):
        drawn = random_child(masks, torch.Generator().manual_seed(seed))
        assert isinstance(drawn, Mapping), "return a dictionary of masks by name"
        assert drawn.keys() == masks.keys(), "return one mask for each tensor, under the same names"
        for name, mask in masks.items():
            assert drawn[name].shape == mask.shape, f"the mask of {name!r} has lost the shape {tuple(mask.shape)}"
            assert drawn[name].dtype == torch.bool, "masks are boolean"
            wanted, found = int(mask.sum()), int(drawn[name].sum())
            assert found == wanted, (
                f"tensor {name!r} keeps {found} entries in place of {wanted}: draw exactly as many as the given child "
                "has in this tensor, so that only the choice within it differs"
            )
            totals[name] += drawn[name]
    assert all(torch.equal(masks[name], before[name]) for name in masks), "leave the given masks alone"
    for name, mask in masks.items():
        share = mask.float().mean()
        spread = 5 * math.sqrt(share * (1 - share) / n_draws)
        assert ((totals[name] / n_draws - share).abs() < spread).all(), (
            "over many draws some entries are kept more often than others: all should have the same chance"
        )
    for seed in range(5):
        first, second = (random_child(masks, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in masks), (
            "two generators of equal seed give different children: draw from the generator alone"
        )


def check_control(table: pd.DataFrame) -> None:
    """Check that the table of runs can tell Child-Tuning F from a smaller learning rate."""
    assert isinstance(table, pd.DataFrame), "give the table of your runs, as results_table makes it"
    missing = {"method", "method_hyperparameters", "seed_init", "score", *SETTING} - set(table.columns)
    assert not missing, f"the table lacks {', '.join(sorted(missing))}: give it as results_table makes it"
    ours, vanilla = (table[table.method == name] for name in ("child_tuning_f", "vanilla"))
    assert len(ours), "there is no run of child_tuning_f in the table"
    probabilities = {json.loads(text)["keep_probability"] for text in ours.method_hyperparameters}
    rates = set(ours.learning_rate)
    assert len(probabilities) == len(rates) == 1, "run Child-Tuning F with one probability and one learning rate"
    (p,), (rate,) = probabilities, rates
    assert p < 1.0, "with a keep probability of 1 Child-Tuning F is vanilla"
    assert p != 0.3, "the notebook has answered for 0.3: take another keep probability"
    seeds = set(ours.seed_init)
    assert len(seeds) >= 3, f"{len(seeds)} seeds show no spread: take three or more"
    for wanted, name in ((rate, "F's own learning rate"), (rate * math.sqrt(p), "F's learning rate times root p")):
        runs = vanilla[(vanilla.learning_rate / wanted - 1).abs() < 0.01]
        assert len(runs), f"there is no vanilla run at {name}, {wanted:.3g}"
        assert set(runs.seed_init) == seeds, f"vanilla at {name} needs the same seeds as Child-Tuning F"
    for name in SETTING:
        if name != "learning_rate":
            assert table[name].nunique(dropna=False) == 1, f"the runs differ in {name}, too: change one thing at a time"
    assert table.score.notna().all(), "a run has no score"


EXERCISES: dict[str, Checker] = {
    "adam-step-under-masks": check_step_length,
    "random-child": check_random_child,
    "child-tuning-control": check_control,
}

PREDICTIONS = {
    "child-noise-step": Prediction(
        "Child-Tuning F keeps each entry of a gradient with probability 0.3. The gradient of one weight is pure noise"
        " around zero. How long are its steps under Adam, compared with vanilla's?",
        (
            Choice(
                "0.3 times as long",
                "Fewer gradients arrive, but Adam divides by the root of their mean square, which falls with them.",
            ),
            Choice(
                "0.55 times as long, the root of 0.3",
                "That holds for a gradient that always points the same way. Noise has no direction to lose.",
            ),
            Choice(
                "as long",
                right="Momentum and the root of the second moment shrink by the same factor, so that the noise keeps "
                "its steps.",
            ),
        ),
        right="c",
    ),
    "child-against-control": Prediction(
        "At the hot rate, F is compared with a control: vanilla at the learning rate times the root of 0.3. Where "
        "does F end?",
        (
            Choice(
                "below the control",
                "F keeps the noise and shrinks the mean step, as the control does. Why should it be worse?",
                "The control shrinks the noise of the steps as well, and F does not.",
            ),
            Choice(
                "above the control",
                "F reaches other weights at each update, but it is a smaller step on average, and so is the control.",
                "The masks do more here than the smaller step of the control.",
            ),
            Choice(
                "that cannot be told",
                "With few seeds it often cannot. Here the differences agree from seed to seed.",
                "The interval has zero in it. So F has shown nothing that a smaller learning rate does not.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", factor=100),
    ),
}
