"""A model folder and a task folder small enough to run a whole experiment in a second."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_encoders import tiny_encoder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

WORDS = ["red", "green", "blue", "dog", "cat", "bird", "runs", "sleeps", "sings"]


def write_model(folder: Path) -> Path:
    """Save a tiny BERT with its tokenizer, as `save_pretrained` lays them out."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    tiny_encoder("bert").base_model.save_pretrained(folder)
    return folder


def write_tasks(folder: Path, n: int = 24) -> Path:
    """Write rte, mrpc, cola and stsb in GLUE's columns."""
    for name in ("rte", "mrpc", "cola", "stsb"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "validation"):
            rows = [_row(name, i) for i in range(n)]
            (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def _row(name: str, i: int) -> dict:
    first = f"{WORDS[i % 3]} {WORDS[3 + i % 3]} {WORDS[6 + i // 3 % 3]}"
    second = f"{WORDS[i % 3]} {WORDS[3 + i // 2 % 3]} {WORDS[6 + i % 3]}"
    label = float(i % 6) if name == "stsb" else i % 2
    texts = {"sentence": first} if name == "cola" else {"sentence1": first, "sentence2": second}
    return {**texts, "label": label, "idx": i}
