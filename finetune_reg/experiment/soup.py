"""Soups: the mean of the weights with which several runs of a sweep ended, as one model.

The uniform soup is the mean of all. The greedy soup begins with the run that is best on held-out rows and takes in the
others, best first, each unless the mean gets worse on these rows; so it is never worse there than the best run. Both
need runs that began at the same weights.

Wortsman et al., Model soups. ICML 2022, arXiv:2203.05482.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from finetune_reg.errors import InputError, unknown_name
from finetune_reg.experiment.atomic_writing import folder_in_one_step
from finetune_reg.experiment.encoders import Encoder, load_encoder, quiet_transformers
from finetune_reg.experiment.inputs import ROWS, check_inputs, load_rows
from finetune_reg.experiment.kept_weights import Weights, read_weights, weights_path
from finetune_reg.experiment.records import RunRecord, read_records
from finetune_reg.experiment.settings import SETTING_DEFAULTS, RunSettings
from finetune_reg.tasks import encode, evaluate_predictions, evaluation_loader
from finetune_reg.tasks.loading import TaskData
from finetune_reg.training_loop import predict

SHARED = (*ROWS, "model_name", "pretrained", "max_length")


def mixed(mean: Weights, other: Weights, n: int) -> Weights:
    """Return the mean of `n` weights from that of the first `n - 1` and the last; integers stay those of the mean."""
    return {
        name: torch.lerp(tensor, other[name], 1 / n) if tensor.is_floating_point() else tensor
        for name, tensor in mean.items()
    }


def uniform_soup(ingredients: Sequence[Callable[[], Weights]]) -> Weights:
    """Return the mean of weights that are read one after another."""
    mean = ingredients[0]()
    for n, read in enumerate(ingredients[1:], start=2):
        mean = mixed(mean, read(), n)
    return mean


def greedy_soup(
    ingredients: Sequence[Callable[[], Weights]], scores: Sequence[float], score: Callable[[Weights], float]
) -> tuple[Weights, list[int]]:
    """Return the greedy soup, and which weights are in it, in the order in which they came in.

    Args:
        scores: of each alone, on the rows on which `score` scores.
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    mean, best, inside = ingredients[order[0]](), scores[order[0]], order[:1]
    for i in order[1:]:
        tried = mixed(mean, ingredients[i](), len(inside) + 1)
        if (found := score(tried)) >= best:
            mean, best, inside = tried, found, [*inside, i]
    return mean, inside


@dataclass(frozen=True)
class Soup:
    """A soup and what it scores.

    Attributes:
        inside: runs in it, in the order in which they came in.
        singles: score of each run alone, by run id.
        score: of the soup, on the same rows: those held out, if the runs held any out, else the evaluation split.
        test_score, best_test_score: of the soup, and of the run that is best alone, on the evaluation split, which
            chose nothing; None if the runs held no rows out.
        encoder: the soup and its tokenizer.
    """

    kind: str
    metric: str
    inside: list[str]
    singles: dict[str, float]
    score: float
    test_score: float | None
    best_test_score: float | None
    encoder: Encoder

    @property
    def conclusion(self) -> str:
        """What the soup scores, in one or two sentences."""
        best = max(self.singles.values())
        rows = "evaluation" if self.test_score is None else "held-out"
        runs = f"{len(self.inside)} run{'s' * (len(self.inside) > 1)}"
        said = f"The {self.kind} soup of {runs} has {self.metric} {self.score:.3f} on the {rows} rows"
        said += f", the best run {best:.3f}."
        if self.test_score is None:
            return said
        return f"{said} On the evaluation split: {self.test_score:.3f} and {self.best_test_score:.3f}."

    def save(self, folder: Path) -> None:
        """Write a plain model folder, with `soup.json`, in one step.

        Raises:
            InputError: the folder is there already.
        """
        if folder.exists():
            raise InputError(f"{folder} is there already: choose another folder for the soup, or remove it.")
        about = {name: value for name, value in vars(self).items() if name != "encoder"}
        with folder_in_one_step(folder) as unfinished:
            with quiet_transformers():
                self.encoder.model.save_pretrained(unfinished)
                self.encoder.tokenizer.save_pretrained(unfinished)
            (unfinished / "soup.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def make_soup(folder: Path | str, kind: str = "greedy", only: Mapping[str, Any] | None = None) -> Soup:
    """Mix the kept weights of the runs in a folder.

    Args:
        only: settings that the runs have; others in the folder are left out.

    Raises:
        InputError: another kind, no run with kept weights, runs of other rows or another start than the first, for a
            greedy soup runs without held-out rows, or files that changed since.
    """
    if kind not in ("uniform", "greedy"):
        raise unknown_name("kind of soup", kind, ("uniform", "greedy"))
    records = _with_weights(Path(folder), only or {})
    _refuse_unlike(records)
    settings = RunSettings(**records[0].settings)
    if kind == "greedy" and settings.held_out_fold is None:
        raise InputError(
            "A greedy soup chooses on held-out rows, and these runs held none out: make them with held_out_fold: 0, or "
            "mix a uniform one."
        )
    check_inputs(records, folder)
    scorer = _Scorer(settings)
    read = [lambda record=record: read_weights(scorer.encoder.model, folder, record.run_id) for record in records]
    scores = [scorer.score(weights()) for weights in read]
    if kind == "greedy":
        mean, inside = greedy_soup(read, scores, scorer.score)
    else:
        mean, inside = uniform_soup(read), list(range(len(read)))
    best_test_score = scorer.test_score(read[scores.index(max(scores))]())
    test_score = scorer.test_score(mean)
    return Soup(
        kind=kind,
        metric=scorer.metric,
        inside=[records[i].run_id for i in inside],
        singles={record.run_id: score for record, score in zip(records, scores, strict=True)},
        score=scorer.score(mean),
        test_score=test_score,
        best_test_score=best_test_score,
        encoder=scorer.encoder,
    )


class _Scorer:
    """Scores weights in one model, which has them afterwards."""

    def __init__(self, settings: RunSettings) -> None:
        data = load_rows(settings)
        self._task, self._max_length = data.task, settings.max_length
        self.metric = data.task.metrics[0]
        self.encoder = load_encoder(settings.model_name, data.task, settings.seed_init, settings.pretrained)
        self._evaluated = self._batches(data)
        is_held_out = settings.held_out_fold is not None
        self._tested = self._batches(load_rows(replace(settings, held_out_fold=None))) if is_held_out else None

    def score(self, weights: Weights) -> float:
        """Return the score on the rows that the runs were evaluated on."""
        return self._score(weights, self._evaluated)

    def test_score(self, weights: Weights) -> float | None:
        """Return the score on the evaluation split; None if the runs held no rows out, which were evaluated on it."""
        return None if self._tested is None else self._score(weights, self._tested)

    def _score(self, weights: Weights, batches: DataLoader) -> float:
        self.encoder.model.load_state_dict(weights)
        predictions = predict(self.encoder.model, batches)
        return float(evaluate_predictions(self._task, predictions.logits, predictions.labels)[self.metric])

    def _batches(self, data: TaskData) -> DataLoader:
        tokenizer = self.encoder.tokenizer
        rows = encode(data.task, data.validation, tokenizer, self._max_length, self.encoder.n_positions)
        return evaluation_loader(rows, tokenizer)


def _with_weights(folder: Path, only: Mapping[str, Any]) -> list[RunRecord]:
    for name in only:
        if name not in SETTING_DEFAULTS:
            raise unknown_name("setting", name, SETTING_DEFAULTS)
    records = [record for record in read_records(folder) if record.status == "ok"]
    records = [r for r in records if all(r.settings[name] == value for name, value in only.items())]
    kept = [record for record in records if weights_path(folder, record.run_id).is_file()]
    if not kept:
        raise InputError(
            f"{folder} has no kept weights of such runs: make them in a new folder with keep_weights=true."
        )
    return kept


def _refuse_unlike(records: Sequence[RunRecord]) -> None:
    for name in SHARED:
        found = list(dict.fromkeys(str(record.settings[name]) for record in records))
        if len(found) > 1:
            raise InputError(
                f"These runs differ in {name} ({', '.join(found)}), and a soup needs the same rows and model: choose "
                f"some of them, for example with {name}={found[0]}."
            )
    heads = {record.settings["seed_init"] for record in records}
    if len(heads) > 1 and any(record.head != "kept" for record in records):
        raise InputError(
            f"The heads of these runs began at {len(heads)} places, and a soup needs the same start: vary the order "
            "and the noise alone, with vary: [order, noise]."
        )
