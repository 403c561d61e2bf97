"""A tiny classifier with each kind of adapter of peft."""

from __future__ import annotations

import pytest
from tiny_encoders import tiny_encoder

peft = pytest.importorskip("peft", reason="Adapters need peft: install the extra finetune-reg[peft].")

_LAYERS = {"target_modules": ["query", "value", "dense"]}
ADAPTERS = {
    "LORA": lambda **options: peft.LoraConfig(r=4, lora_alpha=8, **_LAYERS | {"lora_dropout": 0.1} | options),
    "DORA": lambda **options: peft.LoraConfig(r=4, use_dora=True, **_LAYERS | options),
    "ADALORA": lambda **options: peft.AdaLoraConfig(init_r=4, target_r=2, total_step=6, tinit=1, **_LAYERS | options),
    "OFT": lambda **options: peft.OFTConfig(r=0, oft_block_size=4, **_LAYERS | options),
    "IA3": lambda **options: peft.IA3Config(
        target_modules=["value", "output.dense"], feedforward_modules=["output.dense"], **options
    ),
    "PROMPT_TUNING": lambda **options: peft.PromptTuningConfig(num_virtual_tokens=3, **options),
    "PREFIX_TUNING": lambda **options: peft.PrefixTuningConfig(num_virtual_tokens=3, **options),
}


def adapted(kind: str, architecture: str = "bert", seed: int = 0, overrides: dict | None = None, **options):
    """Return a tiny classifier with an adapter, in training mode; `options` are those of the adapter."""
    model = tiny_encoder(architecture, seed, **overrides or {})
    return peft.get_peft_model(model, ADAPTERS[kind](task_type="SEQ_CLS", **options)).train()


def frozen(model) -> dict:
    """Return copies of the weights that do not train."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
