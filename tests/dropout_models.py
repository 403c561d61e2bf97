"""Tiny models that place their dropouts differently: every encoder, a decoder, other kinds of attention."""

from __future__ import annotations

import copy
from functools import cache

import torch
from tiny_encoders import ENCODERS, VOCABULARY, tiny_encoder
from torch import nn
from transformers import AutoModelForSequenceClassification, GPT2Config

RELATIVE = {"relative_attention": True, "position_buckets": 4, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "none"}
MODELS = [*ENCODERS, "gpt2", "deberta-v2 with relative positions", "bert, eager attention"]


@cache
def model_to_copy(name: str) -> nn.Module:
    if name == "gpt2":
        torch.manual_seed(0)
        tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = GPT2Config(**tokens, n_embd=16, n_layer=2, n_head=2, n_positions=24)
        return AutoModelForSequenceClassification.from_config(config)
    if name == "deberta-v2 with relative positions":
        return tiny_encoder("deberta-v2", **RELATIVE)
    model = tiny_encoder(name.split(",")[0])
    if "eager" in name:
        model.set_attn_implementation("eager")
    return model


def tiny_model(name: str) -> nn.Module:
    return copy.deepcopy(model_to_copy(name))
