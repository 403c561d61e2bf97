"""Exercises of notebook 09: rates of equal strength, scores from gradients, and the guided rates on another task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired
from finetune_reg.experiment.settings import SEEDS
from finetune_reg.results.statistics import compare_paired

RATES = ([0.1, 0.0], [0.099 - 0.00275 * rank for rank in range(37)], [0.3, 0.3, 0.3], [0.9, 0.5, 0.0, 0.2])


def check_equal_strength(equal_strength_rate: Callable[[Sequence[float]], float]) -> None:
    """Compare mean strengths: `equal_strength_rate(rates)`."""
    for rates in RATES:
        attempt = float(equal_strength_rate(list(rates)))
        where = f"for {len(rates)} rates from {max(rates):g} to {min(rates):g}"
        strength = float(np.mean([rate / (1 - rate) for rate in rates]))
        assert strength == 0 or not math.isclose(attempt, strength, rel_tol=1e-6), (
            f"{where} you have the mean strength {attempt:.4f}; a strength is not a rate"
        )
        assert 0 <= attempt < 1, f"{where} you have {attempt:.4f}, which is no dropout rate"
        if len(set(rates)) > 1:
            assert not math.isclose(attempt, float(np.mean(rates)), rel_tol=1e-6), (
                f"{where} you have their mean {attempt:.4f}; its strength is less than the mean strength"
            )
        assert math.isclose(attempt / (1 - attempt), strength, rel_tol=1e-6, abs_tol=1e-9), (
            f"{where} you have {attempt:.5f}, whose strength p / (1 - p) is {attempt / (1 - attempt):.5f} "
            "and not the mean of the strengths"
        )


def check_score(score_from_gradients: Callable[[list[torch.Tensor]], float]) -> None:
    """Try gradients that tell the usual mistakes apart: `score_from_gradients(gradients)`."""
    generator = torch.Generator().manual_seed(0)
    for shapes in (((3,), (4, 3)), ((5,),), ((2,), (2,), (6, 2))):
        gradients = [torch.randn(7, *shape, dtype=torch.float64, generator=generator) for shape in shapes]
        attempt = float(score_from_gradients([gradient.clone() for gradient in gradients]))
        squares = [gradient.square().mean(0) for gradient in gradients]
        mistakes = {
            "you square the mean gradient; square per sequence first, then take the mean": [
                gradient.mean(0).square() for gradient in gradients
            ],
            "you add over the sequences; take their mean": [square * 7 for square in squares],
        }
        for mistake, values in mistakes.items():
            wrong = sum(value.mean().item() for value in values) / len(values)
            assert not math.isclose(attempt, wrong, rel_tol=1e-6), mistake
        over_all = torch.cat([square.flatten() for square in squares]).mean().item()
        exact = sum(square.mean().item() for square in squares) / len(squares)
        assert math.isclose(exact, over_all) or not math.isclose(attempt, over_all, rel_tol=1e-6), (
            "you take the mean over all entries; in the paper each tensor counts once, whatever its size"
        )
        assert math.isclose(attempt, exact, rel_tol=1e-6), (
            f"for tensors of the shapes {list(shapes)} the score is another; "
            "take means in this order: sequences, entries of a tensor, tensors"
        )


def check_another_task(answer: Mapping[str, Any]) -> None:
    """Look through the runs and recompute the paired difference."""
    keys = set(answer) if isinstance(answer, Mapping) else set()
    assert keys >= {"runs", "difference", "low", "high"}, "give a dictionary with runs, difference, low and high"
    runs = answer["runs"]
    columns = set(runs) if isinstance(runs, pd.DataFrame) else set()
    assert columns >= {"method", "task", "score", *SEEDS}, "runs is a table as from results_table"
    assert runs.task.nunique() == 1, "take one task"
    assert "entailment" not in set(runs.task), "take another task than entailment"
    scores = {name: runs[runs.method == name].set_index(list(SEEDS)).score for name in runs.method.unique()}
    for name in ("guided_dropout", "uniform_dropout"):
        assert name in scores, f"the table has no runs of {name}"
    pairs = pd.concat([scores["guided_dropout"], scores["uniform_dropout"]], axis=1, keys=["ours", "other"]).dropna()
    assert len(pairs) >= 3, f"only {len(pairs)} seeds are there for both settings; take at least three"
    exact = compare_paired(pairs.ours, pairs.other)
    assert math.isclose(answer["difference"], exact.difference, abs_tol=5e-4), (
        f"the difference is not {answer['difference']:.4f}: take guided minus uniform, seed by seed"
    )
    for name in ("low", "high"):
        assert math.isclose(answer[name], getattr(exact, name), abs_tol=5e-4), (
            f"{name} is not {answer[name]:.4f}: take the t interval of the mean of the paired differences"
        )


EXERCISES: dict[str, Checker] = {
    "equal-strength-rate": check_equal_strength,
    "score-from-gradients": check_score,
    "guided-on-another-task": check_another_task,
}

PREDICTIONS = {
    "guided-mean-rate": Prediction(
        "A model has dropout 0.1 everywhere. Guided dropout gives its places rates from 0.1 down to 0, evenly by "
        "rank. How much dropout is there now, on average over the places?",
        (
            Choice(
                "as much as before: it is only placed better",
                "That would need rates above 0.1 somewhere. The schedule starts at 0.1 and goes down.",
            ),
            Choice(
                "half as much",
                right="Ranks are evenly spaced, so the mean lies in the middle of 0.1 and 0. Any comparison needs a "
                "control at that mean.",
            ),
            Choice(
                "next to none",
                "Only the place with the highest score gets no dropout at all.",
            ),
        ),
        right="b",
    ),
    "guided-against-uniform": Prediction(
        "The control *uniform* has the mean of the guided rates everywhere. Where does guided dropout end?",
        (
            Choice(
                "below uniform",
                "It spares the sub-layers that pretraining needs. There is a reason why it should not be worse.",
                "The placement does harm here, at an equal amount of dropout.",
            ),
            Choice(
                "above uniform",
                "It lies above the usual rate, perhaps. At an equal amount of dropout only the placement is left.",
                "The placement does something here. Look at the permuted and the reversed rates before you credit the"
                " scores.",
            ),
            Choice(
                "that cannot be told",
                "With few seeds it often cannot. Here the differences agree from seed to seed.",
                "The interval has zero in it: at an equal amount of dropout the placement has shown nothing.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", factor=100),
    ),
}
