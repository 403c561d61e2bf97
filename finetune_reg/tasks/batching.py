"""From rows to padded batches: tokenization, length bucketing, dynamic padding."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

from finetune_reg.errors import InputError
from finetune_reg.tasks.row_files import Row
from finetune_reg.tasks.task_table import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Example = dict[str, Any]
BUCKET = 8  # batches that are sorted by length together


def encode(
    task: Task,
    rows: list[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    n_positions: int | None = None,
) -> list[Example]:
    """Tokenize rows to unpadded examples of at most `max_length` tokens, with `labels`.

    Args:
        n_positions: most tokens that the model can read; None is no limit.

    Raises:
        InputError: `max_length` leaves no room for text beside the special tokens, or so much that a row is longer
            than the model can read.
    """
    smallest = tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2) + 1
    if max_length < smallest:
        largest = "" if n_positions is None else f" to {n_positions}"
        raise InputError(
            f"max_length {max_length} has no room for text beside the {smallest - 1} special tokens of {task.name}: "
            f"choose from {smallest}{largest}."
        )
    texts = [[row[column] for row in rows] for column in task.text_columns]
    encoding = tokenizer(*texts, truncation=True, max_length=max_length)
    longest = max(map(len, encoding["input_ids"]))
    if n_positions is not None and longest > n_positions:
        raise InputError(
            f"max_length {max_length} lets a row of {task.name} have {longest} tokens, but the model can read "
            f"{n_positions}: choose from {smallest} to {n_positions}."
        )
    label = float if task.is_regression else int
    return [
        {**{name: encoding[name][i] for name in encoding}, "labels": label(row["label"])} for i, row in enumerate(rows)
    ]


class LengthBucketedBatches(Sampler[list[int]]):
    """Shuffled batches of examples of similar length.

    Each epoch shuffles all examples, sorts within buckets of 8 batches by length, and shuffles the batches. Which
    examples meet in a batch stays random; padding shrinks.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size = lengths, batch_size
        self._random = random.Random(seed)

    def __len__(self) -> int:
        """Batches in an epoch, the last smaller one included."""
        return -(-len(self._lengths) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of one epoch's batches."""
        order = self._random.sample(range(len(self._lengths)), len(self._lengths))
        bucket = BUCKET * self._batch_size
        batches = []
        for start in range(0, len(order), bucket):
            by_length = sorted(order[start : start + bucket], key=self._lengths.__getitem__)
            batches += [by_length[i : i + self._batch_size] for i in range(0, len(by_length), self._batch_size)]
        self._random.shuffle(batches)
        return iter(batches)


def training_loader(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, batch_size: int, seed: int
) -> DataLoader:
    """Batches for training: bucketed by length, padded to their longest example, order drawn from `seed`."""
    sampler = LengthBucketedBatches([len(example["input_ids"]) for example in examples], batch_size, seed)
    return _loader(examples, tokenizer, batch_sampler=sampler)


def evaluation_loader(examples: list[Example], tokenizer: PreTrainedTokenizerBase, batch_size: int = 64) -> DataLoader:
    """Batches for evaluation: sorted by length, padded to their longest example."""
    return _loader([examples[i] for i in evaluation_order(examples)], tokenizer, batch_size=batch_size)


def evaluation_order(examples: list[Example]) -> list[int]:
    """Return the positions of examples in the order in which `evaluation_loader` gives them."""
    return sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))


def _loader(examples: list[Example], tokenizer: PreTrainedTokenizerBase, **options: Any) -> DataLoader:
    from transformers import DataCollatorWithPadding

    # A DataLoader draws a number each time it is iterated: from a generator of its own, so that evaluating more or
    # less often does not shift the dropout of the training steps that follow.
    return DataLoader(
        examples,  # type: ignore[arg-type]  # any sequence will do, though torch declares its own class only
        collate_fn=DataCollatorWithPadding(tokenizer),
        generator=torch.Generator().manual_seed(0),
        **options,
    )
