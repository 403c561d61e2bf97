"""MethodTrainer: the six calls of a method inside `transformers.Trainer`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from finetune_reg.building_blocks.pretrained_model import refuse_frozen
from finetune_reg.errors import InputError, shortened
from finetune_reg.method import FineTuningMethod, TrainingContext


class MethodTrainer(Trainer):
    """A Trainer that fine-tunes with a method; everything else is as in `transformers.Trainer`.

    Args:
        method: the method; one object serves one training run at a time.
        *args, **kwargs: those of `transformers.Trainer`.

    Raises:
        InputError: the arguments ask for something a method cannot do right (see `refusals`).
    """

    model: nn.Module  # always there, because model_init is refused

    def __init__(self, *args: Any, method: FineTuningMethod, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The sequence-classification heads of transformers v5 accept `num_items_in_batch` but do not normalize by it;
        # with True, gradients would grow with the number of accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.method = method
        for refused, sentence in refusals(self):
            if refused:
                raise InputError(f"MethodTrainer cannot {sentence}")
        self.add_callback(_AfterStep(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Set up the method, train, finalize the method.

        Raises:
            InputError: asked to resume, because a method's state is not in the checkpoint; no parameter to train; or a
                warm-up that takes all updates, the first of which has the rate 0.
        """
        if resume_from_checkpoint:
            raise InputError("MethodTrainer cannot resume: a method's state is not in the checkpoint. Train anew.")
        refuse_frozen(self.model)
        context = self._training_context()
        if self.args.learning_rate > 0 and self.args.get_warmup_steps(context.n_updates) >= context.n_updates:
            raise InputError(
                f"MethodTrainer cannot warm up for all of its {context.n_updates} updates, which would not reach the "
                "learning rate: train longer or lower warmup_steps."
            )
        # An earlier `train` leaves the model wrapped in its autocast, which would round what `setup` measures.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        try:
            self.method.setup(self.model, context)
            set_seed(self.args.seed)
            return super().train(None, *args, **kwargs)
        finally:
            self.method.finalize(self.model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Let the method build the optimizer."""
        self.optimizer = self.method.create_optimizer(self.model, self._training_context())
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Let the method make the training loss of the task's loss; in evaluation it is the task's."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            loss = self.method.training_loss(model, inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call `after_backward` once per update, when the last micro-batch has been added."""
        loss = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self.method.after_backward(model)
        return loss

    def _training_context(self) -> TrainingContext:
        arguments = self.args
        dataset: Any = self.train_dataset  # any that has a length
        n_batches = len(dataset) / arguments.train_batch_size
        n_batches = math.floor(n_batches) if arguments.dataloader_drop_last else math.ceil(n_batches)
        updates_per_epoch = max(math.ceil(n_batches / arguments.gradient_accumulation_steps), 1)
        n_updates = math.ceil(arguments.num_train_epochs * updates_per_epoch)
        return TrainingContext(
            train_dataset=dataset,
            collate=self._get_collator_with_removed_columns(self.data_collator),
            batch_size=arguments.train_batch_size * arguments.gradient_accumulation_steps,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            n_updates=arguments.max_steps if arguments.max_steps > 0 else n_updates,
            seed=arguments.seed,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            epsilon=arguments.adam_epsilon,
        )


def refusals(trainer: MethodTrainer) -> list[tuple[bool, str]]:
    """List what MethodTrainer refuses: whether the trainer asks for it, and the end of the sentence that says so."""
    arguments: TrainingArguments = trainer.args
    return [
        (
            not isinstance(trainer.method, FineTuningMethod),
            f"use {shortened(trainer.method)} as a method: give it an object such as Mixout(0.9).",
        ),
        (trainer.model_init is not None, "use model_init, which would replace the model after set-up: pass model."),
        (trainer.optimizer is not None, "use a ready optimizer: the method builds it from the training arguments."),
        (arguments.fp16, "scale fp16 losses, because methods read true gradients: use bf16=True or float32."),
        (
            arguments.world_size > 1 or arguments.n_gpu > 1,
            "use several devices: make one visible (CUDA_VISIBLE_DEVICES) and run one seed on each.",
        ),
        (
            arguments.label_smoothing_factor > 0,
            "smooth labels, which takes them from the model whose loss methods read: set label_smoothing_factor=0.",
        ),
        (
            arguments.optim not in ("adamw_torch", "adamw_torch_fused") or bool(arguments.optim_args),
            "use another optimizer, because the method builds it: leave optim and optim_args at their defaults.",
        ),
        (
            trainer.compute_loss_func is not None,
            "use compute_loss_func, which takes the labels from the batch that methods read: leave it out.",
        ),
        (arguments.torch_compile, "compile a model whose parameters methods find by name: set torch_compile=False."),
        (arguments.auto_find_batch_size, "restart with smaller batches after set-up: fix the batch size."),
        (
            bool(arguments.deepspeed or arguments.fsdp),
            "train a sharded model: leave deepspeed and fsdp off.",
        ),
        (
            trainer.train_dataset is not None and not hasattr(trainer.train_dataset, "__len__"),
            "train on a data set of unknown length: give it one with a length.",
        ),
    ]


class _AfterStep(TrainerCallback):
    """`on_optimizer_step` is the one place between the optimizer's step and the scheduler's."""

    def __init__(self, trainer: MethodTrainer) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        optimizer: Any = self._trainer.optimizer  # built by now
        self._trainer.method.after_step(self._trainer.model, optimizer)
