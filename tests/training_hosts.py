"""Train a tiny encoder with a method in each host, on the same batches in the same order."""

from __future__ import annotations

from copy import copy
from types import SimpleNamespace

import torch
from tiny_encoders import collate
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from finetune_reg.method import FineTuningMethod, TrainingContext
from finetune_reg.trainer import MethodTrainer
from finetune_reg.training_loop import train

LEARNING_RATE, EPOCHS, BATCH_SIZE, SEED = 1e-3, 2, 8, 3


def context(dataset, weight_decay: float = 0.01, batch_size: int = BATCH_SIZE, seed: int = SEED) -> TrainingContext:
    return TrainingContext(
        train_dataset=dataset,
        collate=collate,
        batch_size=batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=weight_decay,
        n_updates=max(EPOCHS * -(-len(dataset) // batch_size), 1),
        seed=seed,
    )


def train_in_loop(
    model, method: FineTuningMethod, dataset, accumulation_steps: int = 1, weight_decay: float = 0.01, **options
) -> list[float]:
    loader = DataLoader(dataset, BATCH_SIZE // accumulation_steps, collate_fn=collate)
    run_context = context(dataset, weight_decay, seed=options.pop("seed", SEED))
    return train(model, method, loader, run_context, accumulation_steps=accumulation_steps, **options)


def updates_by_hand(model, method: FineTuningMethod, optimizer, dataset) -> None:
    """Make the updates of one epoch by the calls of the contract, without the checks of the loop."""
    for batch in DataLoader(dataset, BATCH_SIZE, collate_fn=collate):
        method.training_loss(model, batch, model(**batch)).backward()
        method.after_backward(model)
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        method.after_step(model, optimizer)
        optimizer.zero_grad()


def train_by_hand(model, method: FineTuningMethod, dataset) -> None:
    """Train one epoch by the six calls alone, dropout seeded; the method is undone also when it refuses."""
    model.train()
    run_context = context(dataset)
    try:
        method.setup(model, run_context)
        torch.manual_seed(0)
        updates_by_hand(model, method, method.create_optimizer(model, run_context), dataset)
    finally:
        method.finalize(model)


def method_trainer(
    model,
    method: FineTuningMethod,
    dataset,
    folder,
    accumulation_steps: int = 1,
    trainer_class=MethodTrainer,
    collator=collate,
    eval_dataset=None,
    **arguments,
):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH_SIZE // accumulation_steps,
        "gradient_accumulation_steps": accumulation_steps,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": EPOCHS,
        "weight_decay": 0.01,
        "warmup_steps": 0.1,
        "max_grad_norm": 1.0,
        "seed": SEED,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "optim": "adamw_torch_fused",  # the default of the plain Trainer from PyTorch 2.8 on
    }
    return trainer_class(
        model=model,
        args=TrainingArguments(**settings | arguments),
        method=method,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        data_collator=collator,
    )


def added_loss(method: FineTuningMethod, model, batch, outputs=None) -> torch.Tensor:
    """What a method adds to the task loss: its training loss where the task's loss is 0."""
    outputs = SimpleNamespace() if outputs is None else copy(outputs)
    outputs.loss = torch.zeros_like(getattr(outputs, "loss", torch.zeros(())))
    return method.training_loss(model, batch, outputs)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def checkpoint_activations(model: torch.nn.Module) -> None:
    """Compute activations again in the backward pass, by the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
