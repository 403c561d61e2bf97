"""Recorded runs and their statistics, in short code of its own: pandas, NumPy and SciPy alone."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

MAIN = "glue300_minilm"
BASELINE = "Vanilla()"
LEVEL = 0.05
# What the tasks of another encoder than that of the tables of docs/results.md end with here, and their main recipes.
ENCODERS = {"all-mpnet-base-v2": "-mpnet"}
RECIPES = {"cola-mpnet": {"learning_rate": 2e-4, "epochs": 5, "bias_correction": True}}
# Statistics that are bootstrapped, of scores whose last axis is that of runs.
RESAMPLED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "std": partial(np.std, axis=-1, ddof=1),
    "median": partial(np.median, axis=-1),
    "max": partial(np.max, axis=-1),
}
DEFAULTS = {"mixing=convex", "mix_probability=0.7", "keep_fraction=0.3", "keep_fraction=0.7", "keep_probability=0.3"}
DEFAULTS |= {"strength=0.01", "strength=1.0", "pretrained_strength=0.1", "pretrained_strength=5000.0", "n_layers=3"}
DEFAULTS |= {"noise_intensity=0.15", "n_passes=3", "dropout_rate=0.1", "upper_rate=0.1", "decay_factor=0.95"}
DEFAULTS |= {"smoothness_strength=1.0", "radius=0.05", "average=tail", "alpha=0.5", "penalty=1.0", "rank=8"}
DEFAULTS |= {"noise_alpha=5.0", "noise_scale=1e-05"}
RELEASED_SMART = "ascent_rule=normalize"
METHOD = r"[A-Z]\w+(?:\.official)?\([^)]*\)"
ARM = re.compile(
    rf"(?P<method>{METHOD})(?: at (?P<rate>\S+))?(?P<uncorrected> uncorrected)?(?: for (?P<epochs>\d+) epochs)?"
)


def short(label: str) -> str:
    """Leave out of a method's label what is a default in these runs."""
    name, given = label.rstrip(")").split("(", 1)
    if RELEASED_SMART in given:
        return f"{name}.official()"
    kept = [item for item in re.split(", (?=[a-z_]+=)", given) if item not in DEFAULTS]
    return f"{name}({re.sub('<.*>', '...', ', '.join(kept))})"


def read_runs(folder: Path) -> pd.DataFrame:
    """Read the tables of a folder, one row per run; `points`, `failed`, `accuracy` and `constant` are times 100.

    A diverged run has the points of the best constant answer; `log distance` is 100 times the natural logarithm of
    `distance`, that of the weights from the pretrained ones; the names of tasks end with their encoder's `ENCODERS`.
    """
    files = sorted(folder.glob("*.parquet"))
    tables = [pd.read_parquet(file).assign(plan=f"{folder.name}/{file.stem}") for file in files]
    runs = pd.concat(tables, ignore_index=True)
    assert (runs.score.notna() | (runs.status == "diverged")).all()
    assert runs.status.isin(["ok", "diverged"]).all()
    assert (runs[["seed_init", "seed_order", "seed_noise"]].nunique(axis=1) == 1).all()
    runs["task"] += runs.model_name.map(ENCODERS).fillna("")
    labels = runs.method_label.map(short)
    runs["family"], runs["method"] = runs.method.mask(runs.method == "vanilla", labels), labels
    runs["constant"], runs["failed"] = 100 * runs.majority_score, 100.0 * runs.below_majority
    runs["points"] = (100 * runs.score).fillna(runs.constant)
    last = [(json.loads(history) or [{}])[-1] for history in runs.history]
    runs["accuracy"] = [100 * evaluation.get("accuracy", np.nan) for evaluation in last]
    runs["log distance"] = 100 * np.log(runs.distance_from_pretrained)
    runs = runs.drop(columns=["history", "subset", "environment"])
    names = {"learning_rate": "rate", "seed_init": "seed", "held_out_fold": "fold"}
    return runs.rename(columns=names | {"distance_from_pretrained": "distance"})


@dataclass(frozen=True)
class Effect:
    """A difference on equal seeds with its 95 % interval, and the p-values of the permutation test and the t test.

    `std` is that of the paired differences; it and `t_p` are NaN where the difference is not a mean.
    """

    pairs: int
    value: float
    low: float
    high: float
    std: float
    p: float
    t_p: float

    def times(self, sign: int) -> Effect:
        low, high = sorted((sign * self.low, sign * self.high))
        return Effect(self.pairs, sign * self.value, low, high, self.std, self.p, self.t_p)


def effect_of(differences: np.ndarray) -> Effect:
    """Return the mean of differences with its t interval, NaN for one difference, the sign-flip test and the t test."""
    n, mean = len(differences), differences.mean()
    std = differences.std(ddof=1) if n > 1 else np.nan
    margin = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n)
    p = sign_flip_p(differences)
    t_p = stats.ttest_1samp(differences, 0).pvalue if std > 0 else p
    return Effect(n, mean, mean - margin, mean + margin, std, p, t_p)


def resampled_effect(statistic: str, ours: np.ndarray, theirs: np.ndarray) -> Effect:
    """Compare a statistic in `RESAMPLED` of scores of shape (tasks, seeds), averaged over tasks.

    The interval is the percentile bootstrap's over seeds, the test exchanges the two methods within seeds, for `std`
    after each sample is centred at its median. Both have 9,999 draws of SciPy's generator 0; the test has all exchanges
    where these are fewer.
    """
    n = ours.shape[1]
    places = np.arange(n), np.arange(n, 2 * n)

    def difference(first: np.ndarray, second: np.ndarray, axis: int, samples: Sequence[np.ndarray]) -> np.ndarray:
        scores = np.hstack(samples)
        of_first, of_second = (RESAMPLED[statistic](scores[:, chosen.astype(int)]) for chosen in (first, second))
        return (of_first - of_second).mean(axis=0).round(9)

    if n < 2:
        value = np.nan if statistic == "std" else (ours - theirs).mean()
        return Effect(n, value, np.nan, np.nan, np.nan, 1.0, np.nan)
    as_scored = partial(difference, samples=[ours, theirs])
    centres = [np.median(sample, axis=1, keepdims=True) * (statistic == "std") for sample in (ours, theirs)]
    exchangeable = partial(difference, samples=[ours - centres[0], theirs - centres[1]])
    first, second = ({"n_resamples": 9_999, "vectorized": True, "rng": np.random.default_rng(0)} for _ in range(2))
    low, high = stats.bootstrap(places, as_scored, paired=True, method="percentile", **first).confidence_interval
    p = stats.permutation_test(places, exchangeable, permutation_type="samples", **second).pvalue
    return Effect(n, float(as_scored(*places, axis=-1)), low, high, np.nan, p, np.nan)


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value over all signs; above 13 pairs, over the 9,999 draws of SciPy's generator 0.

    Means that differ by rounding are ties.
    """
    if len(differences) > 13:
        options = {"n_resamples": 9_999, "permutation_type": "samples", "rng": np.random.default_rng(0)}
        return stats.permutation_test((differences,), lambda x, axis: x.mean(axis=axis).round(9), **options).pvalue
    means, observed = (
        (all_signs(len(differences)) @ differences / len(differences)).round(9),
        differences.mean().round(9),
    )
    return min(1.0, 2 * min((means >= observed).mean(), (means <= observed).mean()))


@cache
def all_signs(pairs: int) -> np.ndarray:
    return np.array(list(itertools.product((1, -1), repeat=pairs)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's step-down correction, in the order given."""
    order = np.argsort(p_values)
    steps = [(len(order) - step) * p_values[i] for step, i in enumerate(order)]
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return list(corrected)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Summarize runs of one task by method, and compare each method with vanilla on equal seeds."""
    rows, points = {}, runs.pivot(index="seed", columns="method", values="points")
    for method, of_method in runs.groupby("method"):
        scores = of_method.points
        row = {"n": len(scores), "failed": (of_method.failed > 0).sum(), "mean": scores.mean(), "std": scores.std()}
        row["median"], row["constant"] = scores.median(), of_method.constant.iloc[0]
        if method != BASELINE:
            effect = effect_of((points[method] - points[BASELINE]).dropna().to_numpy())
            row |= {"pairs": effect.pairs, "difference": effect.value, "from": effect.low, "to": effect.high}
            row["p"] = effect.p
        rows[method] = row
    table = pd.DataFrame(rows).T
    compared = table.index != BASELINE
    table.loc[compared, "holm"] = holm(table.p[compared].to_numpy())
    return table


def interquartile_mean(scores: np.ndarray) -> float:
    cut = len(scores) // 4
    return np.sort(scores)[cut : len(scores) - cut].mean()


def wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return which pair of runs our method wins, a tie being half a win, from scores of shape (tasks, seeds)."""
    return (np.sign(ours[:, :, None] - theirs[:, None, :]) + 1) / 2


def improvement_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the share of wins, by DeLong's variances and Satterthwaite's degrees of freedom."""
    (tasks, seeds), won = ours.shape, wins(ours, theirs)
    variances = np.array([won.mean(axis).var(axis=1, ddof=1) / seeds for axis in (1, 2)])
    freedom = (seeds - 1) * variances.sum() ** 2 / (variances**2).sum()
    margin = stats.t.ppf(0.975, freedom) * np.sqrt(variances.sum()) / tasks
    return max(won.mean() - margin, 0), min(won.mean() + margin, 1)


def arms_of(runs: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Split runs by task, method, epochs, rate to three digits, and bias correction."""
    rates = runs.rate.map("{:.3g}".format)
    return dict(list(runs.groupby(["task", "method", "epochs", rates, "bias_correction"])))


class Records:
    """The recorded runs: `everything`, those on the encoder of the tables (`runs`), and those on held-out folds.

    `recipes` has the main recipe of each task. An arm is a method with what differs from the main recipe, in words:
    "Vanilla() at 2e-4 uncorrected", that is without Adam's bias correction, or "Vanilla() for 18 epochs".
    """

    def __init__(self, data: Path) -> None:
        self.everything, self.held_out = read_runs(data / "results"), read_runs(data / "selection")
        self.runs = self.everything[self.everything.plan.str.startswith(f"results/{MAIN}")]
        main = self.runs[self.runs.plan == f"results/{MAIN}"]
        self.main_runs = dict(list(main.groupby("task")))
        first = {task: runs.iloc[0] for task, runs in self.main_runs.items()}
        recipes = {task: {"learning_rate": run.rate, "epochs": run.epochs} for task, run in first.items()}
        self.recipes = {task: {**recipe, "bias_correction": True} for task, recipe in recipes.items()} | RECIPES
        self.arms = arms_of(self.everything)
        self.held_out_arms = arms_of(self.held_out[self.held_out.plan != f"selection/{MAIN}"])
        self.main = {task: summary(runs) for task, runs in self.main_runs.items()}
        self.chosen = {task: self._chosen(task) for task in ("sst2", "stsb")}
        self.own_runs = {task: self._at_own_rates(task) for task in self.chosen}
        self.own = {task: summary(runs) for task, runs in self.own_runs.items()}

    def arm(self, task: str, words: str, held_out: bool = False) -> pd.DataFrame:
        """Return the runs of an arm, indexed by seed or by held-out fold."""
        given = ARM.fullmatch(words)
        assert given, words
        recipe = self.recipes[task]
        rate, epochs = float(given["rate"] or recipe["learning_rate"]), int(given["epochs"] or recipe["epochs"])
        arms = self.held_out_arms if held_out else self.arms
        found = arms[task, given["method"], epochs, f"{rate:.3g}", not given["uncorrected"]]
        found = found.set_index("fold" if held_out else "seed")
        assert found.index.is_unique, f"several settings of {words} on {task}"
        return found

    def settings_of(self, task: str, method: str) -> list[dict[str, float]]:
        """Return the recipes at which a method was run on a task, with the keys of `recipes`."""
        found = [key[2:] for key in self.arms if key[:2] == (task, method)]
        return [{"learning_rate": float(rate), "epochs": n, "bias_correction": kept} for n, rate, kept in found]

    def compare(self, tasks: Sequence[str], ours: str, theirs: str, column: str = "points") -> Effect:
        """Compare two arms on the seeds that they share, averaged over tasks.

        `column` is one of the runs', or a statistic of points: one in `RESAMPLED`, or "wins", a seed won being 50.
        """
        score = "points" if column in {"held out", "wins", *RESAMPLED} else column
        arms = [self.arm(task, arm, column == "held out")[score] for arm in (ours, theirs) for task in tasks]
        shared = pd.concat(arms, axis=1, join="inner").dropna().to_numpy(dtype=float)
        of_ours, of_theirs = np.split(shared.T, 2)
        if column in RESAMPLED:
            return resampled_effect(column, of_ours, of_theirs)
        differences = of_ours - of_theirs
        return effect_of((50 * np.sign(differences) if column == "wins" else differences).mean(axis=0))

    def _chosen(self, task: str) -> pd.DataFrame:
        """Return the candidate with the best mean on held-out folds for each method, the first of equal ones."""
        folds = self.held_out[self.held_out.plan.str.endswith("_tuning") & (self.held_out.task == task)]
        means = folds.groupby(["family", "method", "rate"], sort=False).points.mean().round(9).reset_index()
        return means.loc[means.groupby("family").points.idxmax()].set_index("method")

    def _at_own_rates(self, task: str) -> pd.DataFrame:
        arms = [f"{method} at {rate}" for method, rate in self.chosen[task].rate.items()]
        return pd.concat([self.arm(task, arm).reset_index() for arm in arms])
