"""Five encoder families, and one decoder, with random weights, small enough to train in milliseconds."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    RobertaConfig,
)

VOCABULARY, LENGTH = 50, 7
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
}
ENCODERS = {
    "bert": BertConfig(**_SMALL),
    "roberta": RobertaConfig(**_SMALL),
    "electra": ElectraConfig(**_SMALL, embedding_size=8),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=24
    ),
    "deberta-v2": DebertaV2Config(**_SMALL),
}
DECODERS = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
}


def tiny_encoder(architecture: str, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides):
    """Build a two-label classifier with random weights; `overrides` change its configuration."""
    configuration = (ENCODERS | DECODERS)[architecture]
    config = type(configuration).from_dict(configuration.to_dict() | overrides)
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config).to(dtype)


def without_dropout(architecture: str) -> dict[str, float]:
    """Return the configuration overrides that switch dropout off."""
    config = ENCODERS[architecture].to_dict()
    return {key: 0.0 for key in config if "dropout" in key}


def tiny_dataset(n: int = 24, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Draw token sequences whose label is whether the second token is in the upper half of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(n):
        tokens = torch.randint(5, VOCABULARY, (LENGTH,), generator=generator)
        examples.append(
            {
                "input_ids": tokens,
                "attention_mask": torch.ones(LENGTH, dtype=torch.long),
                "labels": (tokens[1] >= VOCABULARY // 2).long(),
            }
        )
    return examples


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack examples of one length."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def batches(dataset: list[dict[str, torch.Tensor]], size: int) -> list[dict[str, torch.Tensor]]:
    """Cut a data set into batches, in order."""
    return [collate(dataset[i : i + size]) for i in range(0, len(dataset), size)]
