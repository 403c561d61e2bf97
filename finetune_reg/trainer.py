"""MethodTrainer: the six calls of a method inside `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, set_seed

from finetune_reg.building_blocks.pretrained_model import name_backbone, named_outputs, refuse_untrainable
from finetune_reg.building_blocks.task_outputs import divides_by_count, task_outputs_from
from finetune_reg.errors import InputError
from finetune_reg.method import FineTuningMethod
from finetune_reg.trainer_parts.loss_parts import LossParts
from finetune_reg.trainer_parts.method_checkpoint import checkpoint_to_resume, read_method_state, save_method
from finetune_reg.trainer_parts.processes import agree_on_state, agree_on_weights
from finetune_reg.trainer_parts.refusals import asks_for_other_optimizer, refuse_arguments, refuse_method
from finetune_reg.trainer_parts.run_context import first_batch, refuse_other_length, training_context


class MethodTrainer(Trainer):
    """A Trainer that fine-tunes with a method; everything else is as in `transformers.Trainer`.

    The class has no `compute_loss` of its own: whatever computes the loss of its subclass, or of the Trainer beside it
    (`compute_loss`, `compute_loss_func`, `label_smoothing_factor`, the model), computes the task's loss. The attribute
    `compute_loss` of an object, which the training step calls, hands the task's loss to the method.

    Args:
        method: the method, one object for one training run at a time; or a function that makes one for each run from
            the trial of a `hyperparameter_search`, None in a plain `train`.
        backbone: name of the pretrained part of a module of one's own, see `name_backbone`; by default it is found.
        *args, **kwargs: those of `transformers.Trainer`.

    Raises:
        InputError: the arguments ask for something a method cannot do right (see `trainer_parts/refusals.py`).
    """

    model: nn.Module  # always there, for a Trainer without one is refused

    def __init__(
        self,
        *args: Any,
        method: FineTuningMethod | Callable[[Any], FineTuningMethod],
        backbone: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._backbone = backbone
        if backbone is not None:
            name_backbone(self.model, backbone)
        self._method_factory = method if callable(method) and not isinstance(method, type) else None
        self.method: Any = method if self._method_factory is None else FineTuningMethod()
        self.compute_loss = self._loss_with_method  # type: ignore[method-assign]  # the class's stays the task's
        self._checkpoint: str | None = None
        self._resumed_state: dict[str, torch.Tensor] | None = None
        self._loss_divides_by_count = False
        self._loss_parts = LossParts()
        self._calls_made: set[str] = set()
        refuse_arguments(self)
        refuse_method(self.method, self)
        self.add_callback(_AfterStep(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Set up the method, train, finalize the method.

        Args:
            resume_from_checkpoint: folder of a checkpoint, or True for the latest whole one in `output_dir`. The run
                ends bit for bit as one that was not interrupted, whatever weights the model has now.
            *args, **kwargs: those of `transformers.Trainer.train`.

        Raises:
            InputError: no such checkpoint, or one of another method; no parameter to train; a warm-up that takes all
                updates, the first of which has the rate 0; or, at the first step, a subclass whose loss or step leaves
                the method out.
        """
        self._checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        try:
            return super().train(self._checkpoint, *args, **kwargs)
        finally:
            self.method.finalize(self.model)

    def _hp_search_setup(self, trial: Any) -> None:
        """Set up the method: here the model and the arguments of this run are there, and the weights are pretrained.

        `train` has called `model_init`, the class has just put a trial into the arguments, and the weights of a
        checkpoint are loaded next.
        """
        super()._hp_search_setup(trial)
        if not self.is_in_train:  # how a search tells the other processes of its trial, which train then loses
            raise InputError("MethodTrainer cannot search with several processes: start one, and one search for each.")
        if self._method_factory is not None:
            self.method = self._method_factory(trial)
        refuse_method(self.method, self)
        if self._backbone is not None:
            name_backbone(self.model, self._backbone)
        refuse_untrainable(self.model)
        context = training_context(self, resumes=self._checkpoint is not None)
        if self.args.learning_rate > 0 and self.args.get_warmup_steps(context.n_updates) >= context.n_updates:
            raise InputError(
                f"MethodTrainer cannot warm up for all of its {context.n_updates} updates, which would not reach the "
                "learning rate: train longer or lower warmup_steps."
            )
        if self._checkpoint is not None:
            self._resumed_state = read_method_state(self.method, self._checkpoint)
        # An earlier `train` leaves the model wrapped in its autocast, which would round what `setup` measures.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        agree_on_weights(self.model)
        if self.args.gradient_accumulation_steps * self.args.world_size > 1:
            self._loss_divides_by_count = divides_by_count(self.model, first_batch(self, context), self._task_outputs)
        self._loss_parts = LossParts()
        self._calls_made.clear()
        with task_outputs_from(self._task_outputs):
            self.method.setup(self.model, context)
        agree_on_state(self.method)
        set_seed(self.args.seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Let the method build the optimizer, or the Trainer if the arguments ask for another one."""
        if self._resumed_state is not None:
            self.method.load_state_dict(self._resumed_state)
            self._resumed_state = None
        if not asks_for_other_optimizer(self):
            self.optimizer = self.method.create_optimizer(self.model, training_context(self))
            return self.optimizer
        self.optimizer = None
        optimizer = super().create_optimizer(self.model)
        for group in optimizer.param_groups if self.method.replaces_weight_decay else ():
            group["weight_decay"] = 0.0
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the state of the method, too."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            save_method(self.method, output_dir)

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
            logs |= self._loss_parts.means(self.accelerator)
            self._loss_parts = LossParts()
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
        if self.args.world_size > 1 and not self._loss_divides_by_count:
            num_items_in_batch = None  # or the class multiplies the loss by the number of processes
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


class _AfterStep(TrainerCallback):
    """`on_optimizer_step` is the one place between the optimizer's step and the scheduler's."""

    def __init__(self, trainer: MethodTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, *others: Any, **kwargs: Any) -> None:
        refuse_other_length(training_context(self._trainer), state.max_steps)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._trainer._end_update()
