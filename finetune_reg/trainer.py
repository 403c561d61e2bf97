"""MethodTrainer: the six calls of a method inside `transformers.Trainer`."""

from __future__ import annotations

import math
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from finetune_reg.building_blocks.pretrained_model import name_backbone, named_outputs, refuse_untrainable
from finetune_reg.building_blocks.task_outputs import divides_by_count, task_outputs_from
from finetune_reg.errors import InputError, shortened
from finetune_reg.method import FineTuningMethod, TrainingContext


class MethodTrainer(Trainer):
    """A Trainer that fine-tunes with a method; everything else is as in `transformers.Trainer`.

    The class has no `compute_loss` of its own: whatever computes the loss of its subclass, or of the Trainer beside it
    (`compute_loss`, `compute_loss_func`, `label_smoothing_factor`, the model), computes the task's loss. The attribute
    `compute_loss` of an object, which the training step calls, hands the task's loss to the method.

    Args:
        method: the method; one object serves one training run at a time.
        backbone: name of the pretrained part of a module of one's own, see `name_backbone`; by default it is found.
        *args, **kwargs: those of `transformers.Trainer`.

    Raises:
        InputError: the arguments ask for something a method cannot do right (see `refusals`).
    """

    model: nn.Module  # always there, because model_init is refused

    def __init__(self, *args: Any, method: FineTuningMethod, backbone: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if backbone is not None:
            name_backbone(self.model, backbone)
        self.method = method
        self.compute_loss = self._loss_with_method  # type: ignore[method-assign]  # the class's stays the task's
        self._loss_divides_by_count = False
        self._loss_parts = _LossParts()
        self._calls_made: set[str] = set()
        for refused, sentence in refusals(self):
            if refused:
                raise InputError(f"MethodTrainer cannot {sentence}")
        self.add_callback(_AfterStep(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Set up the method, train, finalize the method.

        Raises:
            InputError: asked to resume, because a method's state is not in the checkpoint; no parameter to train; a
                warm-up that takes all updates, the first of which has the rate 0; or, at the first step, a subclass
                whose loss or step leaves the method out.
        """
        if resume_from_checkpoint:
            raise InputError("MethodTrainer cannot resume: a method's state is not in the checkpoint. Train anew.")
        self.method.check_precision("bfloat16" if self.args.bf16 else "float32")
        refuse_untrainable(self.model)
        context = self._training_context()
        if self.args.learning_rate > 0 and self.args.get_warmup_steps(context.n_updates) >= context.n_updates:
            raise InputError(
                f"MethodTrainer cannot warm up for all of its {context.n_updates} updates, which would not reach the "
                "learning rate: train longer or lower warmup_steps."
            )
        # An earlier `train` leaves the model wrapped in its autocast, which would round what `setup` measures.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        try:
            if self.args.gradient_accumulation_steps > 1:
                self._loss_divides_by_count = divides_by_count(
                    self.model, self._first_batch(context), self._task_outputs
                )
            self._loss_parts = _LossParts()
            self._calls_made.clear()
            with task_outputs_from(self._task_outputs):
                self.method.setup(self.model, context)
            set_seed(self.args.seed)
            return super().train(None, *args, **kwargs)
        finally:
            self.method.finalize(self.model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Let the method build the optimizer."""
        self.optimizer = self.method.create_optimizer(self.model, self._training_context())
        return self.optimizer

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call `after_backward` once per update, when the last micro-batch has been added."""
        loss = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self.method.after_backward(model)
            self._calls_made.add("after_backward")
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, or predict with, the weights that the method would deliver."""
        with self.method.delivering(self.model):
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save the weights that the method would deliver, those that were evaluated."""
        with self.method.delivering(self.model):
            super().save_model(*args, **kwargs)

    def _load_best_model(self) -> None:
        """Finalize first: the best checkpoint holds weights to deliver, of which the method must not make others."""
        self.method.finalize(self.model)
        super()._load_best_model()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the parts of the training loss beside it: `task_loss`, and what the method adds as `method_loss`."""
        if "loss" in logs and self._loss_parts.n_updates > 0:
            logs |= self._loss_parts.means()
            self._loss_parts = _LossParts()
        super().log(logs, *args, **kwargs)

    def _loss_with_method(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return what the method makes of the task's loss; in evaluation, the task's loss.

        The method sees the mean loss of the micro-batch. A loss divided by the count of the whole update is brought to
        that scale, so that the method's part is averaged over the micro-batches as well.
        """
        if not model.training:
            arguments: Any = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
            return type(self).compute_loss(self, model, inputs, **arguments)
        n_micro_batches = self.current_gradient_accumulation_steps
        divided, divided_by_trainer = self._division_of_loss(num_items_in_batch)
        scale = n_micro_batches if divided else 1
        task_pass = partial(self._task_outputs, num_items_in_batch=num_items_in_batch, scale=scale)
        with task_outputs_from(task_pass):
            outputs = task_pass(model, inputs)
            loss = self.method.training_loss(model, inputs, outputs)
        self._calls_made.add("training_loss")
        self._loss_parts.add(outputs.loss / n_micro_batches, loss / n_micro_batches)
        if not divided_by_trainer:
            loss = loss / n_micro_batches
        return (loss, outputs) if return_outputs else loss

    def _task_outputs(
        self,
        model: nn.Module,
        batch: Any,
        num_items_in_batch: torch.Tensor | int | None = None,
        scale: int = 1,
    ) -> Any:
        """Return the outputs of a pass, their `loss` being what the class's `compute_loss` returns, times `scale`."""
        arguments: Any = {"return_outputs": True, "num_items_in_batch": num_items_in_batch}
        match type(self).compute_loss(self, model, copy(batch), **arguments):
            case torch.Tensor() as loss, outputs:
                outputs = copy(named_outputs(outputs))
                outputs.loss = loss if scale == 1 else loss * scale
                return outputs
        raise InputError(
            f"{type(self).__name__} cannot hand the task's loss to its method: when return_outputs is true, "
            "compute_loss must return the loss, a tensor, and the outputs of the model."
        )

    def _division_of_loss(self, num_items_in_batch: torch.Tensor | int | None) -> tuple[bool, bool]:
        """Return whether the task's loss is divided over the whole update, and whether the Trainer divides it after."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)  # newer than the oldest transformers supported
        if declared is not None:
            return declared, not declared
        has_count = num_items_in_batch is not None
        left_as_it_is = (self.model_accepts_loss_kwargs and has_count) or self.compute_loss_func is not None
        return has_count and self._loss_divides_by_count, not left_as_it_is

    def _end_update(self) -> None:
        """Let the method act on the moved weights, if it has had its part in the update."""
        for call, place in (("training_loss", "self.compute_loss"), ("after_backward", "super().training_step")):
            if call not in self._calls_made:
                raise InputError(
                    f"{type(self).__name__} has updated the weights without the {call} of its method: "
                    f"its training_step must call {place}, and nothing may replace what that is."
                )
        self._calls_made.clear()
        self._loss_parts.n_updates += 1
        optimizer: Any = self.optimizer  # built by now
        self.method.after_step(self.model, optimizer)

    def _first_batch(self, context: TrainingContext) -> Any:
        n_examples = min(self.args.train_batch_size, len(context.train_dataset))
        return self._prepare_inputs(dict(context.collate([context.train_dataset[i] for i in range(n_examples)])))

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
            arguments.optim not in ("adamw_torch", "adamw_torch_fused") or bool(arguments.optim_args),
            "use another optimizer, because the method builds it: leave optim and optim_args at their defaults.",
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


class _LossParts:
    """Sums of the task's loss and of the whole loss since the last log, left on the device until then."""

    def __init__(self) -> None:
        self.n_updates = 0
        self._task, self._whole = torch.zeros(()), torch.zeros(())

    def add(self, task_loss: torch.Tensor, whole_loss: torch.Tensor) -> None:
        """Add those of a micro-batch, each divided by the number of micro-batches."""
        self._task = self._task.to(task_loss.device) + task_loss.detach()
        self._whole = self._whole.to(whole_loss.device) + whole_loss.detach()

    def means(self) -> dict[str, float]:
        """Return the means over the updates."""
        task, whole = torch.stack([self._task, self._whole]).div(self.n_updates).tolist()
        return {"task_loss": task, "method_loss": whole - task}


class _AfterStep(TrainerCallback):
    """`on_optimizer_step` is the one place between the optimizer's step and the scheduler's."""

    def __init__(self, trainer: MethodTrainer) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._trainer._end_update()
