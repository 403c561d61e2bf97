"""GLUE's metrics, from scikit-learn and SciPy, with constant predictions defined as 0 and flagged."""

from __future__ import annotations

import warnings

import numpy as np

from finetune_reg.errors import InputError
from finetune_reg.tasks.task_table import MetricName, Task

ENTAILING = ("entailment", "entails", "equivalent")


def compute_metric(name: MetricName, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Compare predictions with labels, both of shape (examples,).

    Correlations and Matthews lie in [-1, 1], accuracy, F1 (of class 1) and macro F1 (the mean of the F1 of all classes
    in labels or predictions) in [0, 1]; a correlation with a constant is 0.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    match name:
        case "accuracy":
            return float(accuracy_score(labels, predictions))
        case "f1":
            return float(f1_score(labels, predictions, zero_division=0.0))
        case "macro_f1":
            return float(f1_score(labels, predictions, average="macro", zero_division=0.0))
        case "matthews":
            return float(matthews_corrcoef(labels, predictions))
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="An input array is nearly constant")
        correlation = pearsonr if name == "pearson" else spearmanr
        return float(correlation(labels, predictions).statistic)


def evaluate_predictions(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float | bool]:
    """Score logits of shape (examples, outputs) by the task's metrics.

    Returns:
        Each metric by name, and `constant_prediction`: whether all examples got the same answer.
    """
    return _scores(task, labels, logits[:, 0] if task.is_regression else logits.argmax(axis=1))


def evaluate_transfer(trained: Task, target: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float | bool]:
    """Score a classifier of one task on the examples of another, by the metrics of that one; see `label_map`.

    Args:
        logits: of shape (examples, labels of the trained task).
        labels: of the other task, of shape (examples,).

    Raises:
        InputError: the labels do not correspond.
    """
    return _scores(target, labels, np.array(label_map(trained, target))[logits.argmax(axis=1)])


def label_map(trained: Task, target: Task) -> list[int]:
    """Return, for each label of the task trained on, the label of another task that it stands for.

    Equal label names correspond. Where the other task only asks whether the first sentence entails the second, all
    other answers are its second one: a contradiction counts as not entailed (released DPS code, `run_trainer.py`).
    Paraphrases entail each other.

    Raises:
        InputError: the labels do not correspond.
    """
    if trained.label_names and trained.label_names == target.label_names:
        return list(range(trained.n_outputs))
    found = [[name in ENTAILING for name in task.label_names] for task in (trained, target)]
    if any(sum(entails) != 1 for entails in found) or target.n_outputs != 2:
        names = [", ".join(task.label_names) or "scores" for task in (trained, target)]
        raise InputError(f"A model of {trained.name} ({names[0]}) cannot be scored on {target.name} ({names[1]}).")
    yes = found[1].index(True)
    return [yes if entails else 1 - yes for entails in found[0]]


def _scores(task: Task, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float | bool]:
    scores: dict[str, float | bool] = {name: compute_metric(name, labels, predictions) for name in task.metrics}
    scores["constant_prediction"] = bool(np.ptp(predictions) == 0)
    return scores


def majority_score(task: Task, labels: np.ndarray) -> float:
    """Return the best primary metric of a constant prediction on these labels: what a collapsed run reaches."""
    if task.is_regression:
        return 0.0
    return max(
        compute_metric(task.metrics[0], labels, np.full(len(labels), constant)) for constant in range(task.n_outputs)
    )
