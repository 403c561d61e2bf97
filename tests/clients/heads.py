"""Tiny models with other heads than a sequence classifier's, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tiny_encoders import ENCODERS, VOCABULARY, without_dropout
from torch import nn

Batch = dict[str, torch.Tensor]
LENGTH, N_TOKEN_LABELS = 7, 5


def text_batch(n: int = 4, padded_from: int = 5, seed: int = 0) -> Batch:
    """Token sequences; the first half has padding at its end."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (n, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[: n // 2, padded_from:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def sequence_labels(batch: Batch) -> Batch:
    return batch | {"labels": (batch["input_ids"][:, 1] >= VOCABULARY // 2).long()}


def token_labels(batch: Batch) -> Batch:
    """A label for each real token but the first."""
    labels = (batch["input_ids"] % N_TOKEN_LABELS).masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, 0] = -100
    return batch | {"labels": labels}


def spans(batch: Batch) -> Batch:
    n = len(batch["input_ids"])
    return batch | {"start_positions": torch.full((n,), 1), "end_positions": torch.full((n,), 3)}


def choices(batch: Batch) -> Batch:
    """Three choices for each example."""
    stacked = {name: torch.stack([tensor, tensor.flip(0), tensor.roll(1, 0)], 1) for name, tensor in batch.items()}
    return stacked | {"labels": torch.arange(len(batch["input_ids"])) % 3}


def next_tokens(batch: Batch) -> Batch:
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@dataclass(frozen=True)
class Head:
    auto_class: type
    labelled: Callable[[Batch], Batch]
    overrides: dict[str, Any]


HEADS = {
    "tokens": Head(transformers.AutoModelForTokenClassification, token_labels, {"num_labels": N_TOKEN_LABELS}),
    "question answering": Head(transformers.AutoModelForQuestionAnswering, spans, {}),
    "multiple choice": Head(transformers.AutoModelForMultipleChoice, choices, {}),
    "masked tokens": Head(transformers.AutoModelForMaskedLM, token_labels, {}),
    "next tokens": Head(transformers.AutoModelForCausalLM, next_tokens, {"is_decoder": True}),
}


def with_head(head: str, dropout: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A tiny BERT with a head, in training mode."""
    overrides = HEADS[head].overrides | ({} if dropout else without_dropout("bert"))
    config = type(ENCODERS["bert"]).from_dict(ENCODERS["bert"].to_dict() | overrides)
    torch.manual_seed(0)
    return HEADS[head].auto_class.from_config(config).to(dtype).train()


def more_padding(batch: Batch, n_columns: int = 8) -> Batch:
    """The batch with columns of padding at the end of all that has a length."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    length = batch["input_ids"].shape[-1]
    return {
        name: nn.functional.pad(tensor, (0, n_columns), value=fill[name])
        if name in fill and tensor.shape[-1] == length
        else tensor
        for name, tensor in batch.items()
    }
