r"""Guided dropout: less dropout where the pretraining loss is sensitive.

**Idea.** Regularizers treat all parameters alike, but a small part of a pretrained model carries most of the Fisher
information of the pretraining loss. Sub-layers with little of it keep the usual dropout, those with much get less,
down to none. The rates are set once, from pretraining data alone, and serve every task at no cost.

**Equation** (paper, equations 3, 9 and 10). With `loss(x_k)` the masked-token loss of ONE sequence in evaluation mode,

    F_i = 1/n sum_k (d loss(x_k) / d theta_i)^2                      Fisher information of a parameter,
    S_g = mean over the tensors t of sub-layer g of mean_{i in t} F_i            score of a sub-layer,
    p_g = p_upper - r_g (p_upper - p_lower) / (K - 1)                                 its dropout rate,

where `r_g` in {0, ..., K-1} ranks the `K` sub-layers by increasing score. Rates depend on the scores through ranks
only. Why dropout is a strength: for linear regression with weights `w` on inputs `X` under dropout `p`,

    E |y - X~ w|^2 = |y - X w|^2 + p / (1 - p) w' diag(X'X) w,

an L2 penalty, which is thus weaker where the Fisher information is high.

**Where it acts.** `setup` gives every dropout of the backbone (`dropout_sites`: 37 in BERT-base) one rate, `finalize`
restores them. The dropout before the classifier is not touched, nor is DeBERTa's dropout of relative positions.

**Confound.** The mean rate halves, from 0.1 to 0.05: a gain may only show that 0.1 is too much. Compare with
`UniformDropout`, `PermutedDropout`, `ReversedDropout` and `Vanilla(dropout=0.0)`.

**Under adapters.** Sets the dropouts of the frozen model, under any adapter; the adapter's own dropout stays as it is.

**Differences from the released code.** (1) Its rates start at 0.099, in steps of 0.00275 (`official()`); the paper
says 0.1. (2) It sets them by index in `model.modules()`: 37 of 37 reach the dropout they mean on transformers 4.22.2, 6
on 4.24.0 and later; here positions are found by module type and order. (3) Its Fisher scripts drop up to 99 sequences
that fill no group of 100 and still divide by all of them, which leaves the ranks nearly unchanged; not reproduced.
(4) A bias counts as much as a matrix in `S_g`, and key biases have no gradient at all (the softmax ignores a shift),
so part of the ranking is structural; `pretraining_fisher_scores(..., weighting="parameter")` gives the other mean.
(5) Its notebook and a box of the paper read as if rates rose with the score; text and training script, as here, give
the lowest score the highest rate.

**Reference.** Sharma, Muralidhar, Xu, Yousuf, Ramakrishnan. Information Guided Regularization for Fine-tuning Language
Models. COLM 2024, arXiv:2406.14005.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from finetune_reg.building_blocks.dropout_sites import SUB_LAYERS, DropoutSite, dropout_sites, dropout_variance
from finetune_reg.building_blocks.pretrained_model import name_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import DropoutRate
from finetune_reg.method import FineTuningMethod, TrainingContext

BERT_BASE_RANKING: tuple[str, ...] = (
    *(f"layer.{i}.attention_probabilities" for i in (7, 10, 9, 8, 1, 6, 11, 2, 0, 5, 3, 4)),
    *(f"layer.{i}.attention_output" for i in (11, 0, 9, 10, 7, 1, 6, 8, 2, 5, 4, 3)),
    *(f"layer.{i}.feed_forward_output" for i in (11, 9, 6, 5, 2, 0, 10, 8, 7, 1, 4, 3)),
    "embeddings",
)
"""Sub-layers of bert-base-uncased by increasing Fisher score, as published with the released code."""


def linear_rank_schedule(scores: Mapping[str, float], upper_rate: float, lower_rate: float) -> dict[str, float]:
    """Return `p_g` for each sub-layer, lowest score first, from `upper_rate` down to exactly `lower_rate`.

    Equal scores rank in the order of the mapping. A single sub-layer gets `upper_rate`.
    """
    ranked = sorted(scores, key=scores.__getitem__)
    last = len(ranked) - 1
    if last == 0:
        return {ranked[0]: upper_rate}
    return {g: lower_rate + (upper_rate - lower_rate) * (last - rank) / last for rank, g in enumerate(ranked)}


def expected_dropout_penalty(inputs: torch.Tensor, weight: torch.Tensor, dropout_rate: float) -> torch.Tensor:
    """Return what dropout on the inputs adds to the squared error of linear regression: p / (1 - p) w' diag(X'X) w.

    Args:
        inputs: `X`, shape (examples, features).
        weight: `w`, shape (features,).
        dropout_rate: `p` in [0, 1).
    """
    return dropout_variance(dropout_rate) * (inputs * weight).square().sum()


@dataclass
class GuidedDropout(FineTuningMethod):
    """Give each sub-layer a dropout rate by its Fisher rank: the more information, the less dropout.

    Args:
        upper_rate: rate of the sub-layer with the lowest score, in [0, 1).
        lower_rate: rate of the one with the highest score, in [0, upper_rate].
        scores: Fisher score by position (`"embeddings"`, `"layer.0.attention_output"`, ...), measured with
            `sub_layer_fisher.pretraining_fisher_scores`, for every dropout of the backbone and no other block; None
            takes the published ranking of bert-base-uncased, for 12 blocks.

    Raises:
        InputError: a rate outside its range, a score that is no finite number or has an unknown position; at `setup`,
            scores that do not fit the blocks of the model.
    """

    upper_rate: DropoutRate = 0.1
    lower_rate: DropoutRate = 0.0
    scores: dict[str, float] | None = None
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.lower_rate > self.upper_rate:
            raise InputError(f"{name} needs lower_rate in [0, {self.upper_rate}] (upper_rate), not {self.lower_rate}.")
        for position, score in (self.scores or {}).items():
            if not re.fullmatch(rf"embeddings|layer\.\d+\.({'|'.join(SUB_LAYERS)})", position):
                raise InputError(
                    f"{name} has a score for {position!r}: use 'embeddings' or 'layer.0.' with {', '.join(SUB_LAYERS)}."
                )
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise InputError(f"{name} needs each score to be a finite number, not {score!r} ({position}).")

    @property
    def sets_dropout(self) -> bool:
        """True."""
        return True

    @classmethod
    def official(cls, scores: dict[str, float] | None = None) -> GuidedDropout:
        """Return the released schedule: 0.099 down to 0, for bert-base-uncased in steps of 0.00275."""
        return cls(upper_rate=0.099, scores=scores)

    def assign_rates(self, scores: Mapping[str, float], seed: int) -> dict[str, float]:
        """Return the rate of each position: `linear_rank_schedule`. The controls override this; `seed` is theirs."""
        return linear_rank_schedule(scores, self.upper_rate, self.lower_rate)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Set the dropout rates of the backbone."""
        sites = dropout_sites(model)
        rates = self.assign_rates(self._scores_of(sites, name_of(model)), context.seed)
        for site in sites:
            site.set_rate(rates[site.position], self._undo)

    def finalize(self, model: nn.Module) -> None:
        """Put the dropout rates back."""
        self._undo.close()

    def _scores_of(self, sites: list[DropoutSite], model_name: str) -> dict[str, float]:
        known, origin = self.scores, "scores"
        if known is None:
            known = {position: rank for rank, position in enumerate(BERT_BASE_RANKING)}
            origin = "the published ranking of bert-base-uncased"
        positions = [site.position for site in sites]
        if _n_blocks(known) != _n_blocks(positions) or not known.keys() >= set(positions):
            raise InputError(
                f"{type(self).__name__}: {origin} ({_n_blocks(known)} blocks) does not fit {model_name} with "
                f"{_n_blocks(positions)} blocks. Measure the model's own and pass them as scores: "
                "pretraining_fisher_scores(masked_language_model, batches) of "
                "finetune_reg.building_blocks.sub_layer_fisher."
            )
        return {position: known[position] for position in positions}


def _n_blocks(positions: Iterable[str]) -> int:
    return len({position.split(".")[1] for position in positions if position.startswith("layer.")})
