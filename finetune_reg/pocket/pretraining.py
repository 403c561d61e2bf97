"""Pretrain the pocket encoder by masked-token prediction and write it as a Hugging Face folder."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from uuid import uuid4

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertForMaskedLM, get_linear_schedule_with_warmup

from finetune_reg.errors import InputError, shortened
from finetune_reg.pocket.corpus import generate_documents
from finetune_reg.pocket.encoder import pocket_config
from finetune_reg.pocket.masking import Corpus, MaskedBatch, endless_batches, mask_batch, masking_rates, tokenize_corpus
from finetune_reg.pocket.tokenizer import build_tokenizer

HELD_OUT_DOCUMENTS = 2_000
HELD_OUT_SEED = 999_983
HASHED_FILES = ("model.safetensors", "tokenizer.json", "config.json")


def pretrain_pocket(
    folder: Path,
    *,
    updates: int = 20_000,
    seed: int = 0,
    documents: int = 400_000,
    batch_size: int = 96,
    learning_rate: float = 1.5e-3,
    bfloat16: bool = True,
    on_progress: Callable[[int, BertForMaskedLM], None] | None = None,
) -> dict:
    """Pretrain from random weights and write encoder, tokenizer and ``pretraining.json`` into ``folder``.

    Args:
        folder: Created or replaced as a whole once the run is complete.
        updates: Steps of the optimizer, with linear warm-up over the first twentieth and linear decay.
        seed: Fixes the corpus, the initial weights, the masks and the order of the documents.
        documents: Size of the corpus; it is masked afresh every time it is read.
        batch_size: Documents per update.
        learning_rate: The highest of the schedule.
        bfloat16: Compute in bfloat16, as the shipped weights were; on a processor without native support float32 is
            faster. Weights stay float32.
        on_progress: Called every 50 updates with the number of updates done and the model.

    Returns:
        What ``pretraining.json`` holds: settings, held-out losses, hashes, wall time.

    Raises:
        InputError: fewer than one update, document or document per update, or a seed outside 0 to 2^32 - 1.
    """
    for name, value in (("updates", updates), ("documents", documents), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"Pretraining needs {name} of at least 1, not {value}.")
    if not 0 <= seed < 2**32:
        raise InputError(f"Pretraining needs a seed from 0 to {2**32 - 1}, not {shortened(seed)}.")
    started = time.perf_counter()
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = BertForMaskedLM(pocket_config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, updates // 20, updates)
    rates = masking_rates()

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        drawn = progress.track(generate_documents(documents, seed), documents, description="drawing the corpus")
        corpus = tokenize_corpus(drawn)
        bar = progress.add_task("pretraining", total=updates)
        batches = endless_batches(corpus, batch_size, generator)
        for update, rows in zip(range(1, updates + 1), batches, strict=False):
            batch = mask_batch(corpus, rows, rates, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = cross_entropy(masked_logits(model, batch), batch.labels[batch.asked])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.advance(bar)
            if update % 50 == 0:
                progress.update(bar, description=f"pretraining, loss {loss.item():.2f}")
                if on_progress:
                    on_progress(update, model)

    record = {
        "seed": seed,
        "updates": updates,
        "documents": documents,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "bfloat16": bfloat16,
        "parameters": model.num_parameters(),
        **evaluate_masked_prediction(model),
        "wall_time_s": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return write_folder(folder, model, record)


def masked_logits(model: BertForMaskedLM, batch: MaskedBatch) -> Tensor:
    """Logits at the asked positions only, shape ``(asked, vocabulary)``."""
    states = model.bert(batch.input_ids, batch.attention_mask, batch.token_type_ids).last_hidden_state
    return model.cls(states[batch.asked])


@torch.no_grad()
def evaluate_masked_prediction(model: BertForMaskedLM, documents: int = HELD_OUT_DOCUMENTS) -> dict[str, float]:
    """Loss and accuracy on the first held-out documents with fixed masks, and the accuracy of the relation word."""
    corpus = _held_out(documents)
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    rates = masking_rates()
    was_training = model.training
    model.eval()
    losses, correct, relation = [], [], []
    for rows in torch.arange(len(corpus)).split(250):
        batch = mask_batch(corpus, rows, rates, generator)
        logits, target = masked_logits(model, batch), batch.labels[batch.asked]
        losses.append(cross_entropy(logits, target, reduction="none"))
        correct.append(logits.argmax(-1) == target)
        relation.append(batch.relation_asked[batch.asked])
    model.train(was_training)
    right, is_relation = torch.cat(correct).float(), torch.cat(relation)
    return {
        "masked_token_loss": torch.cat(losses).mean().item(),
        "masked_token_accuracy": right.mean().item(),
        "relation_word_accuracy": right[is_relation].mean().item(),
    }


@cache
def _held_out(documents: int) -> Corpus:
    return tokenize_corpus(generate_documents(documents, HELD_OUT_SEED))


def write_folder(folder: Path, model: BertForMaskedLM, record: dict) -> dict:
    """Write weights, tokenizer and record side by side, by the umask, then move them into place at once."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}-{uuid4().hex}")
    staging.mkdir()
    model.save_pretrained(staging)
    build_tokenizer().save_pretrained(staging)
    record = record | {"sha256": {name: sha256_of(staging / name) for name in HASHED_FILES}}
    (staging / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
    for path in staging.iterdir():
        path.chmod(staging.stat().st_mode & 0o666)  # weights are written for their owner alone
    if folder.exists():
        retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        os.replace(folder, retired)
        os.replace(staging, folder)
        shutil.rmtree(retired)
    else:
        os.replace(staging, folder)
    return record


def sha256_of(path: Path) -> str:
    """The hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
