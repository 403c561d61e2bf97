"""The methods that are compared on a user's own rows, and the settings that each may choose from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune_reg.errors import InputError, unknown_name

# Factor of the learning rate, and epochs: as many tries as the budget allows, from the left. Of all-MiniLM-L6-v2 on 300
# rows of five GLUE tasks, vanilla reached 0.58 on held-out fifths with the first and 0.48 with the second
# (data/selection/glue300_minilm.parquet); which is better depends on the task.
TRIES = ((1.0, 10), (2.0, 3), (0.3, 10))
RATE_TIMES_WIDTH = 0.0384  # 3e-4 for pocket (width 128), 1e-4 for MiniLM (384), 5e-5 for BERT-base (768)


@dataclass(frozen=True)
class Candidate:
    """A method to compare.

    Attributes:
        title: what it is called in options and tables.
        method, hyperparameters: see `build_method`.
        reason: why it is in the list, a sentence.
        rate_factor: of the learning rate of full fine-tuning.
    """

    title: str
    method: str
    reason: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    rate_factor: float = 1.0


CANDIDATES = (
    Candidate("vanilla", "vanilla", "What everybody does: AdamW on all weights. The others have to beat it."),
    Candidate(
        "head only",
        "top_k_layers",
        "Trains the head on a frozen encoder: cheap, and hard to beat on very few rows.",
        {"n_layers": 0},
        rate_factor=10.0,
    ),
    Candidate("mixout", "mixout", "Mixes pretrained weights in while training, against forgetting."),
    Candidate("head first", "head_first", "Fits the head on frozen features, then trains all weights from there."),
    Candidate(
        "no dropout",
        "vanilla",
        "Vanilla without dropout: the control of all methods that change it.",
        {"dropout": 0.0},
    ),
    Candidate(
        "averaging", "weight_averaging", "Delivers the mean of the last quarter of the weights, at no cost in time."
    ),
    Candidate(
        "lora",
        "low_rank_adaptation",
        "Trains thin matrices beside frozen ones, which limits how far the model moves; needs peft.",
        {"rank": 8, "alpha": 16.0, "targets": "all_linear"},
        rate_factor=10.0,
    ),
    Candidate("r-drop", "r_drop", "Asks for equal answers under two dropout masks; an update costs twice as much."),
)


def chosen_candidates(titles: list[str] | None) -> list[Candidate]:
    """Return candidates by title, all for None; vanilla, the baseline, is always the first.

    Raises:
        InputError: an unknown title, or none but vanilla.
    """
    known = {candidate.title: candidate for candidate in CANDIDATES}
    for title in titles or ():
        if title not in known:
            raise unknown_name("method to compare", title, known)
    chosen = list(dict.fromkeys(["vanilla", *(known if titles is None else titles)]))
    if len(chosen) == 1:
        raise InputError(f"Vanilla alone is no comparison: name another method, {', '.join(list(known)[1:])}.")
    return [known[title] for title in chosen]


def tried_rate(candidate: Candidate, factor: float, width: int) -> float:
    """Return the learning rate of a try, to two digits; full fine-tuning takes it inverse to the encoder's width."""
    return float(f"{RATE_TIMES_WIDTH / width * candidate.rate_factor * factor:.2g}")
