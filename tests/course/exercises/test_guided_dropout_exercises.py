from __future__ import annotations

import numpy as np
import pandas as pd
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg.building_blocks.sub_layer_fisher import sub_layer_score
from finetune_reg.course.exercises.guided_dropout import EXERCISES
from finetune_reg.results.statistics import compare_paired

GUIDED, UNIFORM = [0.84, 0.81, 0.83], [0.82, 0.82, 0.80]


def equal_strength_rate(rates):
    strength = np.mean([rate / (1 - rate) for rate in rates])
    return strength / (1 + strength)


def runs(task="acceptability", guided=GUIDED, uniform=UNIFORM):
    rows = [("guided_dropout", seed, score) for seed, score in enumerate(guided)]
    rows += [("uniform_dropout", seed, score) for seed, score in enumerate(uniform)]
    table = pd.DataFrame(rows, columns=["method", "seed_init", "score"])
    return table.assign(task=task, seed_order=table.seed_init, seed_noise=table.seed_init)


def answer(table=None, **changes):
    found = compare_paired(GUIDED, UNIFORM)
    table = runs() if table is None else table
    return {"runs": table, "difference": found.difference, "low": found.low, "high": found.high} | changes


test_the_right_attempt_passes = right_attempts(
    [
        ("equal-strength-rate", equal_strength_rate),
        ("score-from-gradients", lambda gradients: float(np.mean([g.square().mean().item() for g in gradients]))),
        ("score-from-gradients", lambda gradients: sub_layer_score([g.square().mean(0) for g in gradients])),
        ("guided-on-another-task", answer()),
    ]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("equal-strength-rate", lambda rates: float(np.mean(rates)), "is less than the mean strength"),
        ("equal-strength-rate", lambda rates: float(np.mean([r / (1 - r) for r in rates])), "a strength is not a rate"),
        ("equal-strength-rate", lambda rates: float(np.median(rates)), "you have"),
        ("score-from-gradients", lambda gradients: sub_layer_score([g.mean(0) ** 2 for g in gradients]), "sequence"),
        ("score-from-gradients", lambda gradients: sub_layer_score([(g**2).sum(0) for g in gradients]), "their mean"),
        (
            "score-from-gradients",
            lambda gradients: sub_layer_score([(g**2).mean(0) for g in gradients], "parameter"),
            "each tensor counts once",
        ),
        ("score-from-gradients", lambda gradients: 1.0, "take means in this order"),
        ("guided-on-another-task", 0.3, "give a dictionary"),
        ("guided-on-another-task", answer([0.1]), "as from results_table"),
        ("guided-on-another-task", answer(runs("entailment")), "another task than entailment"),
        ("guided-on-another-task", answer(runs(guided=GUIDED[:2])), "only 2 seeds"),
        ("guided-on-another-task", answer(runs().query("method != 'uniform_dropout'")), "no runs of uniform_dropout"),
        ("guided-on-another-task", answer(difference=-answer()["difference"]), "take guided minus uniform"),
        ("guided-on-another-task", answer(low=-0.01), "the t interval"),
    ]
)
test_stubs_are_not_attempted = unattempted(EXERCISES, answers=["guided-on-another-task"])
