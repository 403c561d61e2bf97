"""What the runs say: scores with intervals that know of overlapping training sets, a recommendation, and more.

Nadeau and Bengio (Inference for the Generalization Error, Machine Learning 2003): scores of J splits whose training
sets overlap are not independent. The variance of their mean is taken as `(1/J + n_test/n_train)` times their variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from finetune_reg.experiment.records import RunRecord
from finetune_reg.own_table.candidates import Candidate
from finetune_reg.own_table.planning import Plan
from finetune_reg.own_table.runs import SplitRuns, Try, counted_score
from finetune_reg.own_table.selection import OwnTable
from finetune_reg.results.statistics import CONFIDENCE, LEVEL, Estimate, holm

CALIBRATION_BINS = 10
LARGE_ERROR = 0.25  # of the range of scores
FEWEST_WRONG, MOST_SHOWN = 3, 20


@dataclass(frozen=True)
class MethodResult:
    """A method on all splits.

    Attributes:
        scores: by split, by the first metric, shape (splits,).
        score: mean with its corrected interval; `difference`: from vanilla, None for vanilla; `p_value`: of no
            difference, after Holm's correction over the methods.
        second: mean of the second metric, NaN for diverged runs only.
        failed: runs that diverged or are not above the best constant answer.
        seconds: of training and evaluation, mean of a run.
        setting: the try with the best mean on the held-out rows.
    """

    candidate: Candidate
    scores: np.ndarray
    score: Estimate
    difference: Estimate | None
    p_value: float
    second: float
    failed: int
    seconds: float
    setting: Try


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be trusted, on rows that the model did not train on.

    Attributes:
        temperature: divides the logits; above 1 the model is too sure of itself.
        error, error_scaled: expected calibration error in ten bins, in [0, 1], without and with the temperature, which
            was fitted on the same rows.
    """

    temperature: float
    error: float
    error_scaled: float


@dataclass(frozen=True)
class SuspectRow:
    """A row that all runs get wrong: its place in the file, its text, its label, and the usual answer."""

    row: int
    text: str
    label: str
    answer: str
    n_runs: int


def corrected_mean(values: np.ndarray, test_share: float) -> tuple[Estimate, float]:
    """Return the mean of values of splits, its corrected 95 % t interval, and the p-value of a mean of zero.

    Args:
        values: shape (splits,), at least 2.
        test_share: rows tested on per row trained on.
    """
    mean, n = float(values.mean()), len(values)
    error = math.sqrt((1 / n + test_share) * values.var(ddof=1))
    if error == 0:
        return Estimate(mean, mean, mean), float(mean == 0)
    margin = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(mean, mean - margin, mean + margin), float(2 * stats.t.sf(abs(mean) / error, n - 1))


def judge_methods(plan: Plan, runs: SplitRuns) -> list[MethodResult]:
    """Compare all methods with vanilla, split by split."""
    share = 1 / (plan.folds - 1)
    scores = {title: np.array([counted_score(r) for r in found.values()]) for title, found in runs.records.items()}
    vanilla = scores[plan.candidates[0].title]
    compared = {c.title: corrected_mean(scores[c.title] - vanilla, share) for c in plan.candidates[1:]}
    adjusted = dict(zip(compared, holm([p for _, p in compared.values()]), strict=True))
    results = []
    for candidate in plan.candidates:
        title, records = candidate.title, list(runs.records[candidate.title].values())
        tried = runs.held_out_scores[title]
        results.append(
            MethodResult(
                candidate,
                scores[title],
                _bounded(corrected_mean(scores[title], share)[0]),
                compared[title][0] if title in compared else None,
                float(adjusted.get(title, math.nan)),
                _second_metric(records),
                sum(bool(record.below_majority) for record in records),
                float(np.mean([record.wall_seconds or 0.0 for record in records])),
                max(plan.tries, key=tried.__getitem__),
            )
        )
    return results


def recommend(results: list[MethodResult]) -> tuple[MethodResult, str]:
    """Return the recommended method, and one sentence that says why.

    Another method than vanilla is recommended if its scores are higher beyond chance, after Holm's correction.
    """
    vanilla, others = results[0], results[1:]
    better = [r for r in others if r.difference is not None and r.difference.value > 0 and r.p_value < LEVEL]
    best = max(better, key=lambda result: result.score.value) if better else vanilla
    if best.failed > len(best.scores) / 2:
        return best, (
            "Do not use a model yet: no method is reliably better than the best constant answer. More rows, another "
            "encoder or clearer labels are needed."
        )
    if better:
        return best, (
            f"Use {best.candidate.title}: it scores {words(best.difference)} points more than vanilla, beyond chance "
            f"(p = {best.p_value:.2g} after correction for {len(others)} comparisons)."
        )
    largest = max(others, key=lambda result: abs(result.difference.value if result.difference else 0.0))
    width = np.median([(r.difference.high - r.difference.low) / 2 for r in others if r.difference])
    return vanilla, (
        f"Keep vanilla: no method differs beyond chance (the largest difference is {largest.candidate.title}'s, "
        f"{words(largest.difference)} points); your rows show differences from about {100 * width:.0f} points on."
    )


def words(estimate: Estimate | None, sign: bool = True) -> str:
    """Return an estimate times 100 with its interval, for a sentence."""
    if estimate is None:
        return ""
    value = f"{100 * estimate.value:{'+' if sign else ''}.1f}"
    return f"{value} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def last_doubling(plan: Plan, scores: np.ndarray) -> Estimate | None:
    """Return what the last doubling of the rows trained on brought, None where no fewer rows were tried.

    Args:
        scores: shape (numbers of rows, splits); of the last two, the second is twice the first.
    """
    return corrected_mean(scores[-1] - scores[-2], 1 / (plan.folds - 1))[0] if len(scores) > 1 else None


def calibrate(table: OwnTable, records: dict[int, RunRecord], tests: list[list[int]]) -> Calibration | None:
    """Fit a temperature to the answers on test rows; None for scores and where all runs diverged."""
    if table.task.is_regression:
        return None
    labels = table.rows.label.to_numpy()
    known = [
        (np.array(record.logits), labels[tests[split]]) for split, record in records.items() if record.score is not None
    ]
    if not known:
        return None
    logits, truth = (np.concatenate(parts) for parts in zip(*known, strict=True))

    def loss(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / math.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(truth)), truth].mean())

    temperature = math.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
    errors = [_calibration_error(special.softmax(logits / t, axis=1), truth) for t in (1.0, temperature)]
    return Calibration(temperature, *errors)


def _calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    sure, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.minimum((sure * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs((is_right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean()) for b in np.unique(bins)]
    return float(sum(gaps))


def find_suspects(table: OwnTable, runs: SplitRuns, tests: list[list[int]]) -> list[SuspectRow]:
    """Return the rows that every run that tested them gets wrong, the surest of their answer first."""
    labels, names = table.rows.label.to_numpy(), table.task.label_names
    answers: dict[int, list[np.ndarray]] = {}
    for found in runs.records.values():
        for split, record in found.items():
            if record.score is not None:
                for position, logits in zip(tests[split], np.array(record.logits), strict=True):
                    answers.setdefault(position, []).append(logits)
    span = np.ptp(table.task.label_range)
    suspects = []
    for position, found_logits in answers.items():
        logits, label = np.array(found_logits), labels[position]
        if names:
            wrong = logits.argmax(axis=1) != label
            mean = special.softmax(logits, axis=1).mean(axis=0)
            sureness, answer, truth = float(mean.max()), names[int(mean.argmax())], names[int(label)]
        else:
            wrong = np.abs(logits[:, 0] - label) > LARGE_ERROR * span
            sureness = float(np.abs(logits[:, 0] - label).min())
            answer, truth = f"{np.median(logits[:, 0]):.3g}", f"{label:g}"
        if wrong.all() and len(logits) >= FEWEST_WRONG:
            row = table.rows.iloc[position]
            text = " | ".join(str(row[column]) for column in table.task.text_columns)
            suspects.append((sureness, SuspectRow(int(row.row), text, truth, answer, len(logits))))
    return [suspect for _, suspect in sorted(suspects, key=lambda pair: -pair[0])]


def _bounded(score: Estimate) -> Estimate:
    """Return a score whose interval ends at 1, which no metric exceeds."""
    return Estimate(score.value, score.low, min(score.high, 1.0))


def _second_metric(records: list[RunRecord]) -> float:
    found = []
    for record in records:
        names = [name for name in (record.history or [{}])[-1] if name not in ("epoch", "update", "train_loss")]
        if record.score is not None and len(names) > 1:
            second = next(name for name in names if name not in (record.metric, "constant_prediction"))
            found.append(record.history[-1][second])
    return float(np.mean(found)) if found else math.nan
