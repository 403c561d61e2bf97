"""Models and data that are not a text encoder's with a classifier, small enough to train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tiny_encoders import VOCABULARY, tiny_dataset, tiny_encoder
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    LlamaConfig,
    LongformerConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen2Config,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    XLNetConfig,
)
from transformers.modeling_outputs import SequenceClassifierOutput

BLOCKS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
Data = list[dict[str, torch.Tensor]]
SEQUENCE_TO_SEQUENCE_END = 1


class PlainClassifier(nn.Module):
    """A network that is not of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.classifier = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.classifier(self.table(input_ids).mean(1))
        return SequenceClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


class OwnHead(nn.Module):
    """The commonest code of research: an encoder of transformers under a head of one's own."""

    def __init__(self, answer: Callable[[torch.Tensor, torch.Tensor], Any], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.encoder = tiny_encoder("bert").bert.to(dtype)
        torch.manual_seed(0)
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(self.encoder.config.hidden_size, 2, dtype=dtype)
        self.answer = answer

    def forward(self, input_ids, attention_mask, labels=None):
        first = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        logits = self.head(self.dropout(first))
        return self.answer(nn.functional.cross_entropy(logits, labels), logits)


class Holder(nn.Module):
    """What a Lightning module looks like: the model is an attribute of it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_encoder("bert")

    def forward(self, **batch):
        return self.network(**batch)


def vision_transformer() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4))
    return model, [{"pixel_values": torch.randn(3, 8, 8), "labels": torch.tensor(i % 2)} for i in range(24)]


def embedded_inputs() -> tuple[nn.Module, Data]:
    model = tiny_encoder("bert")
    table = model.get_input_embeddings().weight.detach().clone()
    return model, [{"inputs_embeds": table[example.pop("input_ids")], **example} for example in tiny_dataset()]


def ended(dataset: Data) -> Data:
    """The data with an end token at the end, which classifiers of two stacks read."""
    for example in dataset:
        example["input_ids"][-1] = SEQUENCE_TO_SEQUENCE_END
    return dataset


def t5() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        num_labels=2,
        eos_token_id=SEQUENCE_TO_SEQUENCE_END,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return T5ForSequenceClassification(config), ended(tiny_dataset())


def writing_t5() -> tuple[nn.Module, Data]:
    """A language model, whose head is pretrained with it."""
    config = t5()[0].config
    torch.manual_seed(0)
    examples = [example | {"labels": example["input_ids"][:4].flip(0)} for example in tiny_dataset()]
    return T5ForConditionalGeneration(config), examples


def bart() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    stacks = {
        f"{stack}_{name}": size
        for stack in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 32))
    }
    tokens = {
        f"{name}_token_id": SEQUENCE_TO_SEQUENCE_END for name in ("eos", "bos", "decoder_start", "forced_eos")
    } | {"pad_token_id": 0}
    config = BartConfig(vocab_size=VOCABULARY, d_model=16, max_position_embeddings=24, num_labels=2, **stacks, **tokens)
    return BartForSequenceClassification(config), ended(tiny_dataset())


def big_bird(attention_type: str = "block_sparse", length: int = 62) -> tuple[nn.Module, Data]:
    """Blocks of four tokens, so that inputs of more than 52 are long; they are padded to a multiple of four."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BigBirdConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        block_size=4,
        num_random_blocks=1,
        attention_type=attention_type,
        **sizes,
    )
    examples = [
        {
            "input_ids": torch.randint(5, VOCABULARY, (length,)),
            "attention_mask": torch.ones(length, dtype=torch.long),
            "labels": torch.tensor(i % 2),
        }
        for i in range(24)
    ]
    return BigBirdForSequenceClassification(config), examples


def of_family(config: PreTrainedConfig) -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config), tiny_dataset()


FAMILIES = {
    "modernbert": ModernBertConfig(**BLOCKS, **SPECIAL, classifier_pooling="mean"),
    "albert": AlbertConfig(**BLOCKS, embedding_size=8),
    "mpnet": MPNetConfig(**BLOCKS, max_position_embeddings=24),
    "llama": LlamaConfig(**BLOCKS, **SPECIAL, num_key_value_heads=1),
    "qwen2": Qwen2Config(**BLOCKS, **SPECIAL, num_key_value_heads=1),
    "longformer": LongformerConfig(**BLOCKS, attention_window=4, max_position_embeddings=24),
    "xlnet": XLNetConfig(vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=32),
}
UNUSUAL = {
    **{name: partial(of_family, config) for name, config in FAMILIES.items()},
    "images": vision_transformer,
    "plain": lambda: (PlainClassifier(), tiny_dataset()),
    "own head, dictionary": lambda: (OwnHead(lambda loss, logits: {"loss": loss, "logits": logits}), tiny_dataset()),
    "own head, tuple": lambda: (OwnHead(lambda *outputs: outputs), tiny_dataset()),
    "holder": lambda: (Holder(), tiny_dataset()),
    "tuples": lambda: (tiny_encoder("bert", return_dict=False), tiny_dataset()),
    "inputs_embeds": embedded_inputs,
    "t5": t5,
    "t5, writing": writing_t5,
    "bart": bart,
    "big_bird": big_bird,
    "big_bird, full attention": lambda: big_bird("original_full"),
}
