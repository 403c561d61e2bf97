"""Move the input embeddings of any encoder by a given amount.

The perturbed quantity is the word embedding, before positions, token types and LayerNorm are added: the one place that
`get_input_embeddings` names on every architecture, and the one that `inputs_embeds` means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import refuse_loose_attention
from finetune_reg.building_blocks.pretrained_model import token_embeddings
from finetune_reg.errors import InputError


def refuse_half_precision(model: nn.Module, method: str) -> None:
    """Refuse weights in which a small perturbation, or a slow average, would be rounded away.

    Raises:
        InputError: the input embeddings are stored in less than float32.
    """
    dtype = token_embeddings(model).weight.dtype
    if dtype.itemsize < 4:
        raise InputError(
            f"{method} needs weights in float32, where small perturbations survive, not {dtype}: "
            "load the model in float32 and use autocast (bf16=True)."
        )


def refuse_unfit_embeddings(model: nn.Module, method: str) -> None:
    """Refuse a model whose word embeddings cannot be perturbed: too coarse, or of another layout.

    Raises:
        InputError: as `refuse_half_precision` and `refuse_loose_attention`.
    """
    refuse_half_precision(model, method)
    refuse_loose_attention(model, method)


@torch.no_grad()
def input_embeddings(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the word embeddings of a batch, shape (batch, length, width), detached."""
    return token_embeddings(model)(batch["input_ids"]).detach()


def token_mask(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return 1 for tokens and 0 for padding, shape (batch, length, 1)."""
    return batch.get("attention_mask", torch.ones_like(batch["input_ids"])).unsqueeze(-1)


@contextmanager
def perturbed_embeddings(model: nn.Module, perturbation: torch.Tensor, detach: bool = False) -> Iterator[None]:
    """Add `perturbation` to the word embeddings of every pass in the block, in float32 at least.

    Args:
        perturbation: shape (batch, length, width); gradients flow into it.
        detach: keep the gradient of these passes from the embedding matrix.
    """

    def add(module: nn.Module, inputs: object, embeddings: torch.Tensor) -> torch.Tensor:
        if detach:
            embeddings = embeddings.detach()
        return embeddings + perturbation.to(torch.promote_types(embeddings.dtype, torch.float32))

    handle = token_embeddings(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
