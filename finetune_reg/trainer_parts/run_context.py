"""What the arguments of a Trainer say about the run, as methods are told."""

from __future__ import annotations

import math
from typing import Any

from transformers import Trainer

from finetune_reg.errors import InputError
from finetune_reg.method import TrainingContext


def training_context(trainer: Trainer, resumes: bool = False) -> TrainingContext:
    """Return the context of the run that the trainer's arguments describe; `resumes` as in `TrainingContext`."""
    arguments = trainer.args
    dataset: Any = trainer.train_dataset  # any that has a length
    batch_size = arguments.train_batch_size * arguments.world_size
    n_batches = len(dataset) / batch_size
    n_batches = math.floor(n_batches) if arguments.dataloader_drop_last else math.ceil(n_batches)
    updates_per_epoch = max(math.ceil(n_batches / arguments.gradient_accumulation_steps), 1)
    n_updates = math.ceil(arguments.num_train_epochs * updates_per_epoch)
    return TrainingContext(
        train_dataset=dataset,
        collate=trainer._get_collator_with_removed_columns(trainer.data_collator),
        batch_size=batch_size * arguments.gradient_accumulation_steps,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        n_updates=arguments.max_steps if arguments.max_steps > 0 else n_updates,
        seed=arguments.seed,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        epsilon=arguments.adam_epsilon,
        resumes=resumes,
    )


def refuse_other_length(context: TrainingContext, n_updates: int) -> None:
    """Refuse a run that has not the length that its method was set up for.

    Raises:
        InputError: the Trainer counts its updates otherwise, as with batches that it splits over processes.
    """
    if n_updates != context.n_updates:
        raise InputError(
            f"MethodTrainer has set up its method for {context.n_updates} updates, and the Trainer will make "
            f"{n_updates}: leave split_batches off and the data loader as it is, or set max_steps."
        )


def first_batch(trainer: Trainer, context: TrainingContext) -> Any:
    """Return a micro-batch of the first examples, on the device of the model."""
    n_examples = min(trainer.args.train_batch_size, len(context.train_dataset))
    return trainer._prepare_inputs(dict(context.collate([context.train_dataset[i] for i in range(n_examples)])))
