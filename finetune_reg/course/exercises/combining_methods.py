"""Exercises of notebook 10: two pulls as one, the order of members, and the interaction of two methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired
from finetune_reg.errors import InputError
from finetune_reg.method import FineTuningMethod
from finetune_reg.methods import L2SP, SMART, ChildTuningD, Combination, Mixout, NoisyTune, RDrop
from finetune_reg.results.statistics import compare_paired

CELLS = ("neither", "L2-SP", "Mixout", "both")


def check_combined_pull(combined_probability: Callable[[float, float, float], float]) -> None:
    """Compare the strengths of the penalties: `combined_probability(p, alpha, m)`."""
    for p, alpha, m in ((0.5, 1.0, 1.0), (0.7, 0.0, 2.0), (0.0, 0.5, 1.0), (0.9, 0.3, 0.1)):
        attempt = float(combined_probability(p, alpha, m))
        where = f"for p = {p:g}, alpha = {alpha:g}, m = {m:g} you have {attempt:.4f}"
        assert 0 <= attempt < 1, f"{where}, which is no probability below 1"
        assert alpha == 0 or attempt > p, f"{where}; a second pull makes the pull stronger"
        strength, wanted = m * attempt / (1 - attempt), m * p / (1 - p) + alpha
        assert math.isclose(strength, wanted, rel_tol=1e-6, abs_tol=1e-9), (
            f"{where}, which pulls with {strength:.4f}; Mixout and L2-SP together pull with {wanted:.4f}"
        )


def check_arrange(arrange: Callable[[list[FineTuningMethod]], Sequence[FineTuningMethod]]) -> None:
    """Try all orders of methods from all stages: `arrange(methods)`."""
    for methods in permutations([SMART(), ChildTuningD(), NoisyTune(), Mixout(0.5), L2SP()]):
        given = list(methods)
        attempt = arrange(list(methods))
        before = ", ".join(type(method).__name__ for method in given)
        assert attempt is not None, "return the list; sorting in place returns None"
        attempt = list(attempt)
        assert sorted(map(id, attempt)) == sorted(map(id, given)), (
            f"for {before} the result does not hold the same methods"
        )
        try:
            Combination(attempt)
        except InputError as refusal:
            raise AssertionError(f"for {before}: {refusal}") from None
    peers = [RDrop(), Mixout(0.5), L2SP(), NoisyTune()]
    for first in (peers, peers[::-1]):
        kept = [method for method in arrange(list(first)) if not isinstance(method, NoisyTune)]
        assert [id(method) for method in kept] == [id(m) for m in first if not isinstance(m, NoisyTune)], (
            "methods of the same stage have changed places; keep the order in which they came"
        )


def check_interaction(interaction_of: Callable[..., tuple[float, float, float]]) -> None:
    """Compare with the package on made-up scores: `interaction_of(neither, a, b, both)`."""
    generator = np.random.default_rng(0)
    for n in (5, 3, 10):
        neither, a, b, both = generator.normal([[0.70], [0.74], [0.77], [0.79]], 0.02, size=(4, n))
        attempt = interaction_of(neither.tolist(), a.tolist(), b.tolist(), both.tolist())
        assert np.shape(attempt) == (3,), "return mean, low and high"
        mean, low, high = (float(value) for value in attempt)
        exact = compare_paired(both - b, a - neither)
        assert not math.isclose(mean, -exact.difference), "the sign is turned: a pair that helps each other is above 0"
        assert not math.isclose(mean, float((both - neither).mean())), (
            "this is the gain of both; the interaction is what goes beyond the sum of the two gains"
        )
        assert math.isclose(mean, exact.difference), f"the mean is not {mean:.4f}; use all four settings, seed by seed"
        width, wanted = high - low, exact.high - exact.low
        assert not math.isclose(width, wanted * math.sqrt((n - 1) / n)), "use the standard deviation with ddof = 1"
        assert np.allclose((low, high), (exact.low, exact.high), rtol=1e-9, atol=0), (
            f"the interval from {low:.4f} to {high:.4f} is not the t interval; its quantile has n - 1 degrees of "
            "freedom, and its spread is that of the interactions per seed"
        )


def check_gentle(answer: Mapping[str, Any]) -> None:
    """Look through the runs and recompute the interaction."""
    keys = set(answer) if isinstance(answer, Mapping) else set()
    assert keys >= {"runs", "interaction", "low", "high"}, "give a dictionary with runs, interaction, low and high"
    runs = answer["runs"]
    columns = set(runs) if isinstance(runs, pd.DataFrame) else set()
    assert columns >= {"method_label", "learning_rate", "seed_init", "score"}, (
        "runs is a table as from results_table, with the settings in method_label"
    )
    for cell in CELLS:
        assert cell in set(runs.method_label), f"the table has no runs with the label {cell!r}"
    runs = runs[runs.method_label.isin(CELLS)]
    assert np.allclose(runs.learning_rate, 3e-4), "run all four settings at the learning rate 3e-4"
    scores = runs.pivot_table(index="seed_init", columns="method_label", values="score").dropna()
    assert len(scores) >= 3, f"only {len(scores)} seeds are there for all four settings; take at least three"
    exact = compare_paired(scores["both"] - scores["L2-SP"], scores["Mixout"] - scores["neither"])
    wanted = {"interaction": exact.difference, "low": exact.low, "high": exact.high}
    for name, value in wanted.items():
        assert math.isclose(answer[name], value, abs_tol=5e-4), (
            f"{name} is not {answer[name]:.4f}; compute it seed by seed from the four settings, "
            "with the t interval of the mean"
        )


EXERCISES: dict[str, Checker] = {
    "combined-pull": check_combined_pull,
    "arrange-members": check_arrange,
    "interaction": check_interaction,
    "interaction-at-a-gentle-rate": check_gentle,
}

PREDICTIONS = {
    "combining-pulls": Prediction(
        "On a quadratic loss L2-SP alone leaves 0.67 of the way to the task's optimum, and Mixout alone leaves 0.5. "
        "Which share is left with both?",
        (
            Choice(
                "0.33: the shares are multiplied",
                "That would be so if each shortened what the other leaves by the same factor. It is the strengths "
                "that are added.",
            ),
            Choice(
                "0.4",
                right="With a curvature of 1, the strengths 0.5 and 1 add up to 1.5, and 1 / (1 + 1.5) is 0.4.",
            ),
            Choice(
                "0.17: the losses of 0.33 and 0.5 are added",
                "Strengths add up. Their effects do not: the second pull finds a shorter way to shorten.",
            ),
        ),
        right="b",
    ),
    "combining-interaction": Prediction(
        "Mixout has a gain without L2-SP, and another one on top of it. Which is larger, seed by seed?",
        (
            Choice(
                "the one on top is smaller: the gains overlap",
                "Both pull toward the same weights, so that is what one would expect. It takes more seeds to show it.",
                "Both pull toward the same weights, and what one has done the other cannot do again.",
            ),
            Choice(
                "the one on top is larger: each helps the other",
                "Two pulls toward the same weights have little reason to.",
                "Here each makes room for the other.",
            ),
            Choice(
                "that cannot be told",
                "Four settings enter, so it often cannot. Here the differences agree from seed to seed.",
                "The interval has zero in it. Four settings enter an interaction, so it needs more seeds than a "
                "comparison.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", factor=100),
    ),
}
