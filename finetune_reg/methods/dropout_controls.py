r"""Controls of guided dropout: the same rates, in other places.

**Idea.** Guided dropout halves the mean dropout rate and decides where the rest acts. Only a comparison at equal mean
tells the two apart. The controls keep the rates of `GuidedDropout` and change their places: one mean rate everywhere,
the rates permuted at random, the rates in reverse (most dropout where the Fisher information is high). The fourth
control is no dropout at all, `Vanilla(dropout=0.0)`.

**Equation.** With the guided rates `p_0 >= ... >= p_{K-1}` of the sub-layers ranked by increasing Fisher score, the
sub-layer of rank `r` gets

    uniform: 1/K sum_k p_k        permuted: p_{pi(r)}        reversed: p_{K-1-r},

where `pi` is a permutation drawn once per run.

**Where it acts.** As `GuidedDropout`: `setup` sets the rates of the backbone's dropouts, `finalize` restores them.

**Under adapters.** As `GuidedDropout`: the adapter's own dropout stays as it is.

**Differences from the released code.** None was released; the paper compares with uniform dropout at 0.1 only.

**Reference.** Rates and ranking: Sharma, Muralidhar, Xu, Yousuf, Ramakrishnan. Information Guided Regularization for
Fine-tuning Language Models. COLM 2024, arXiv:2406.14005.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

import torch

from finetune_reg.methods.guided_dropout import GuidedDropout


class UniformDropout(GuidedDropout):
    """Give every sub-layer the mean of the guided rates.

    Args and errors are those of `GuidedDropout`.
    """

    def assign_rates(self, scores: Mapping[str, float], seed: int) -> dict[str, float]:
        """Return the mean guided rate for each position."""
        rates = super().assign_rates(scores, seed)
        return dict.fromkeys(rates, mean(rates.values()))


class PermutedDropout(GuidedDropout):
    """Give each sub-layer the guided rate of another, drawn at random.

    The permutation comes from a generator of its own, seeded with the run's seed: each seed has another one, and the
    noise of training is not shifted. Args and errors are those of `GuidedDropout`.
    """

    def assign_rates(self, scores: Mapping[str, float], seed: int) -> dict[str, float]:
        """Return the guided rates in a random order."""
        rates = super().assign_rates(scores, seed)
        values = list(rates.values())
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        return {position: values[i] for position, i in zip(rates, order.tolist(), strict=True)}


class ReversedDropout(GuidedDropout):
    """Give the sub-layers with the highest Fisher scores the highest rates.

    Args and errors are those of `GuidedDropout`.
    """

    def assign_rates(self, scores: Mapping[str, float], seed: int) -> dict[str, float]:
        """Return the guided rates in reverse."""
        rates = super().assign_rates(scores, seed)
        return dict(zip(rates, reversed(rates.values()), strict=True))
