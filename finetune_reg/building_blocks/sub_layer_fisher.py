r"""Fisher scores of sub-layers under the pretraining loss: which of them pretraining is sensitive to.

    S_g = mean over the tensors t of sub-layer g of mean_{i in t} F_i,    F_i = 1/n sum_k (d loss(x_k) / d theta_i)^2

with `loss(x_k)` the mean masked-token loss of ONE sequence in evaluation mode. Sharma et al., COLM 2024,
arXiv:2406.14005, equation 3; `methods/guided_dropout.py` turns the ranks of the scores into dropout rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Literal

import torch
from torch import nn

from finetune_reg.building_blocks.dropout_sites import dropout_sites
from finetune_reg.building_blocks.fisher_information import fisher_information
from finetune_reg.building_blocks.module_surgery import in_mode
from finetune_reg.errors import InputError


def sub_layer_score(fisher: Iterable[torch.Tensor], weighting: Literal["tensor", "parameter"] = "tensor") -> float:
    """Return `S_g` from the Fisher information of a sub-layer's tensors.

    Args:
        weighting: `"tensor"` averages the means of the tensors, whatever their sizes; `"parameter"` averages over
            all parameters.
    """
    fisher = [tensor.double() for tensor in fisher]
    if weighting == "tensor":
        return sum(tensor.mean().item() for tensor in fisher) / len(fisher)
    return sum(tensor.sum().item() for tensor in fisher) / sum(tensor.numel() for tensor in fisher)


def pretraining_fisher_scores(
    language_model: nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    weighting: Literal["tensor", "parameter"] = "tensor",
) -> dict[str, float]:
    """Return the Fisher score of each sub-layer under the pretraining loss, ready for `GuidedDropout(scores=...)`.

    Args:
        language_model: the pretrained encoder with its language-modeling head, for example from
            `AutoModelForMaskedLM`; measured in evaluation mode, and left in the mode it was in.
        batches: masked batches of any size with `labels` (-100 where nothing is asked), as
            `DataCollatorForLanguageModeling` makes them. They are cut into single sequences, because squares are
            taken per sequence; a sequence with nothing asked is skipped. The paper uses 15 % masking and finds 1 % of
            the corpus enough.
        weighting: see `sub_layer_score`.

    Raises:
        InputError: no sequence asks for a token, or a parameter is frozen.
    """
    sites = dropout_sites(language_model)
    parameters = {name: parameter for site in sites for name, parameter in site.parameters.items()}
    sequences = _asking_sequences(batches)
    first = list(islice(sequences, 1))
    if not first:
        raise InputError("pretraining_fisher_scores needs at least one sequence with a masked token.")
    with in_mode(language_model, training=False):
        fisher = fisher_information(language_model, chain(first, sequences), parameters)
    return {site.position: sub_layer_score((fisher[name] for name in site.parameters), weighting) for site in sites}


def _asking_sequences(batches: Iterable[Mapping[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    for batch in batches:
        for i in range(len(batch["labels"])):
            if (batch["labels"][i] != -100).any():
                yield {name: tensor[i : i + 1] for name, tensor in batch.items()}
