"""Move the input embeddings of any encoder by a given amount.

The perturbed quantity is the word embedding, before positions, token types and LayerNorm are added: the one place that
`get_input_embeddings` names on every architecture, and the one that `inputs_embeds` means. In an encoder with a decoder
the encoder's are moved, and the decoder reads its tokens as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.module_surgery import refuse_loose_attention
from finetune_reg.building_blocks.pretrained_model import name_of, token_embeddings
from finetune_reg.errors import InputError

SMALLEST_ROUNDED_MOVE = 1e-3
"""From here on a divergence under bfloat16 is float32's within a third; at 1e-4 it is 1.5 to 17 times as large."""


def refuse_half_precision(model: nn.Module, method: str) -> None:
    """Refuse weights in which a small perturbation, or a slow average, would be rounded away.

    Raises:
        InputError: the input embeddings are stored in less than float32.
    """
    dtype = token_embeddings(model).weight.dtype
    if dtype.itemsize < 4:
        raise InputError(
            f"{method} needs weights in float32, where small perturbations survive, not {dtype}: load the model in "
            f"float32, and use autocast (bf16=True) only for moves of {SMALLEST_ROUNDED_MOVE:g} or more."
        )


def refuse_rounded_move(method: str, option: str, size: float, what: str = "embeddings") -> None:
    """Refuse a move of the embeddings that activations in bfloat16 do not show; 0 asks for none and is right.

    Args:
        method: begins the sentence.
        option: its hyperparameter.
        size: of the move.
        what: is moved.

    Raises:
        InputError: it is smaller than `SMALLEST_ROUNDED_MOVE`.
    """
    if 0 < size < SMALLEST_ROUNDED_MOVE:
        raise InputError(
            f"{method} moves {what} by {option}={size:g}, which activations in bfloat16 round away: use float32, "
            f"or {option} of at least {SMALLEST_ROUNDED_MOVE:g}."
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
    """Return the word embeddings of a batch, shape (sequences, length, width), detached.

    An example of multiple choice brings one sequence per choice. What hooks add in a pass, as the noise of NEFTune, is
    not in them.
    """
    return token_embeddings(model).forward(_token_ids(batch)).detach()


def token_mask(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return 1 for tokens and 0 for padding, shape (sequences, length, 1)."""
    ids = _token_ids(batch)
    return batch.get("attention_mask", torch.ones_like(ids)).reshape(*ids.shape, 1)


@contextmanager
def perturbed_embeddings(model: nn.Module, perturbation: torch.Tensor, detach: bool = False) -> Iterator[None]:
    """Add `perturbation` to the word embeddings of every pass in the block, in float32 at least.

    Padding that the model itself appends, as BigBird does, stays put.

    Args:
        perturbation: shape (sequences, length, width); gradients flow into it.
        detach: keep the gradient of these passes from the embedding matrix.

    Raises:
        InputError: no pass in the block looked up word embeddings.
    """
    n_lookups = 0

    def add(module: nn.Module, inputs: object, embeddings: torch.Tensor) -> torch.Tensor:
        nonlocal n_lookups
        n_lookups += 1
        if detach:
            embeddings = embeddings.detach()
        move = perturbation.to(torch.promote_types(embeddings.dtype, torch.float32))
        if move.ndim == embeddings.ndim and (appended := embeddings.shape[-2] - move.shape[-2]) > 0:
            move = F.pad(move, (0, 0, 0, appended))
        return embeddings + move

    handle = token_embeddings(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if n_lookups == 0:
        raise InputError(
            f"The word embeddings of {name_of(model)} were not moved, because the pass did not look them up: give it "
            "input_ids, and do not compile it in place."
        )


def _token_ids(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the token ids of a batch, shape (sequences, length).

    Raises:
        InputError: the batch brings embeddings or nothing.
    """
    ids = batch.get("input_ids")
    if ids is None:
        raise InputError(
            f"A batch with {', '.join(batch)} has no input_ids, whose word embeddings are to be moved: give it "
            "input_ids, not inputs_embeds, by name."
        )
    return ids.flatten(0, -2)
