"""The contract: a fine-tuning method is six calls, named after lines of an ordinary training loop.

    method.setup(model, context)                          # once, before the optimizer exists
    optimizer = method.create_optimizer(model, context)
    for batch in loader:
        outputs = model(**batch)
        loss = method.training_loss(model, batch, outputs)    # the whole loss: the task's and what the method adds
        loss.backward()
        method.after_backward(model)                      # gradients complete, not yet clipped
        clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        method.after_step(model, optimizer)               # weights just moved
        scheduler.step()
        optimizer.zero_grad()
    method.finalize(model)                                # a plain architecture again, with the weights to deliver

A method may deliver other weights than those trained, such as their average. Evaluation and checkpoints in mid-run are
of what would be delivered:

    with method.delivering(model):
        predict(model, evaluation_loader)

`training_loop.train` is this loop; `trainer.MethodTrainer` makes the same six calls inside `transformers.Trainer`.
A method overrides the calls it needs and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import other_weights, set_weights
from finetune_reg.building_blocks.parameter_groups import weight_decay_groups
from finetune_reg.building_blocks.pretrained_model import task_loss
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Count, NonNegative, Precision, Seed, check_hyperparameters, check_ranges

SetupStage = Literal["adapter", "initialization", "head", "preparation", "search", "reference"]
CALLS = ("setup", "create_optimizer", "training_loss", "after_backward", "after_step", "finalize")


@dataclass(frozen=True)
class TrainingContext:
    """What a method may need to know about the run, and nothing it may change.

    Attributes:
        train_dataset: encoded training examples, as the collate function takes them.
        collate: builds a padded batch of tensors, with `labels`, from a list of examples.
        batch_size: examples per optimizer update (micro-batch size times accumulation steps); methods that search or
            measure in `setup` pass so many at once.
        learning_rate: peak learning rate.
        weight_decay: decoupled decay toward zero on weight matrices; biases and norms are exempt.
        n_updates: optimizer updates in the whole run, at least 1.
        seed: seed of the noise (dropout, masks) drawn while training.
        betas, epsilon: Adam's constants.
        bias_correction: of Adam's moments; without it as in BertAdam (see `bias_correction.py`).
        resumes: an interrupted run goes on: `load_state_dict` follows `setup`, which need not search or measure.

    Raises:
        InputError: a number of the wrong type or outside its range.
    """

    train_dataset: Sequence[Mapping[str, Any]]
    collate: Callable[[list[Mapping[str, Any]]], Mapping[str, torch.Tensor]]
    batch_size: Count
    learning_rate: NonNegative
    weight_decay: NonNegative
    n_updates: Count
    seed: Seed = 0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: NonNegative = 1e-8
    bias_correction: bool = True
    resumes: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "TrainingContext")

    def batches(
        self, device: torch.device, positions: Sequence[int] | None = None, batch_size: int | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the training examples in collated batches on `device`.

        Args:
            positions: of the examples, in the order wanted; all in the order of `train_dataset` if None.
            batch_size: that of the run if None.
        """
        order = range(len(self.train_dataset)) if positions is None else positions
        size = self.batch_size if batch_size is None else batch_size
        for start in range(0, len(order), size):
            batch = self.collate([self.train_dataset[i] for i in order[start : start + size]])
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    @property
    def adamw_arguments(self) -> dict[str, Any]:
        """What AdamW is built with, besides its parameter groups and their weight decay."""
        return {"lr": self.learning_rate, "betas": self.betas, "eps": self.epsilon, "fused": True}


@dataclass
class FineTuningMethod:
    """Base of all methods. Its fields are the hyperparameters; every call does nothing by default.

    Class attributes tell `Combination` what a method does:

    Attributes:
        replaces_linears: `setup` replaces linear layers.
        replaces_task_loss: `training_loss` uses the task's loss for something else than to add to it.
        completes_gradient: `after_backward` adds the gradient of a part of the loss.

    Raises:
        InputError: a hyperparameter of the wrong type or outside its range.
    """

    replaces_linears: ClassVar[bool] = False
    replaces_task_loss: ClassVar[bool] = False
    completes_gradient: ClassVar[bool] = False
    _delivering = False  # inside `delivering`

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def check_precision(self, precision: Precision) -> None:
        """Refuse a precision of the passes that rounds away what the method adds. Hosts ask before `setup`.

        Raises:
            InputError: the method needs another precision, or other hyperparameters.
        """

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Prepare the model: snapshots, surgery, statistics. Called once, before the optimizer exists."""

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Build the optimizer: fused AdamW with bias correction, weight decay on matrices only."""
        decay = 0.0 if self.replaces_weight_decay else context.weight_decay
        return torch.optim.AdamW(weight_decay_groups(model, decay), **context.adamw_arguments)

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the whole loss of a micro-batch, a scalar: the task's, and what the method adds or puts in its place.

        Called in training only, after each main pass.

        Args:
            outputs: of the main pass; `outputs.loss` is the task's loss, or in a combination the loss so far. The host
                may compute it by another rule than the model's: further passes are made by
                `task_outputs(model, batch)` of `task_outputs.py`, whose `loss` follows the same rule.
        """
        return task_loss(outputs)

    def after_backward(self, model: nn.Module) -> None:
        """Read or change the gradients: complete (all micro-batches), not yet clipped."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Act on weights that have just moved; `optimizer` still holds the learning rate of that step."""

    def finalize(self, model: nn.Module) -> None:
        """Leave the weights to deliver, and undo all surgery, so that `save_pretrained` writes a plain checkpoint.

        Called after a `setup` that failed, too. Once more changes nothing.
        """
        set_weights(self.delivered_weights(model))

    def delivered_weights(self, model: nn.Module) -> Mapping[nn.Parameter, torch.Tensor]:
        """Return the values that `finalize` would now give to parameters; those that are missing stay as trained."""
        return {}

    @contextmanager
    def delivering(self, model: nn.Module) -> Iterator[None]:
        """Give the model in the block the weights that would be delivered; afterwards training goes on, bit for bit."""
        inside, self._delivering = self._delivering, True
        try:
            with other_weights({} if inside else self.delivered_weights(model)):
                yield
        finally:
            self._delivering = inside

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what the method knows between updates, by name; a number is a tensor without dimensions.

        The tensors are the method's own, share no memory with one another and are the same in all processes. What the
        hyperparameters, the model's weights, the optimizer or the global random state hold does not appear: the base
        has nothing to say. Only a method that delivers other weights has those trained, too, which a checkpoint lacks.
        """
        return {}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state: after `setup` and after the model has its weights back, before `create_optimizer`.

        Here the tensors of `state_dict()` are overwritten in place.

        Raises:
            InputError: the state is not that of such a method on such a model.
        """
        shapes, stored = ({n: tuple(t.shape) for n, t in state.items()} for state in (self.state_dict(), state_dict))
        if shapes != stored:
            differing = sorted(n for n in shapes.keys() | stored.keys() if shapes.get(n) != stored.get(n))
            raise InputError(
                f"The state does not fit {type(self).__name__}, it differs in {differing[0]}: set the method up as "
                "before, on a model of the same architecture with the same trainable parameters."
            )
        for name, tensor in self.state_dict().items():
            tensor.copy_(state_dict[name])

    @classmethod
    def overridden_calls(cls) -> tuple[str, ...]:
        """Return which of the six calls the method overrides, in the loop's order."""
        return tuple(call for call in CALLS if getattr(cls, call) is not getattr(FineTuningMethod, call))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    @property
    def setup_stage(self) -> SetupStage:
        """What `setup` does, in the only order that is right.

        `"adapter"` puts adapters into the model, `"initialization"` changes the weights, `"head"` trains those of the
        head, `"preparation"` takes snapshots or changes modules, `"search"` trains or measures on the training data,
        `"reference"` copies the whole model.
        """
        return "preparation"

    @property
    def replaces_weight_decay(self) -> bool:
        """Whether the method decays elsewhere, so that AdamW's decay toward zero is off."""
        return False

    @property
    def sets_dropout(self) -> bool:
        """Whether `setup` changes dropout rates."""
        return False

    @property
    def brings_optimizer(self) -> bool:
        """Whether `create_optimizer` builds something of the method's own, so that it must be called."""
        return "create_optimizer" in self.overridden_calls()

    @property
    def delivers_other_weights(self) -> bool:
        """Whether the weights delivered are not those trained."""
        return type(self).delivered_weights is not FineTuningMethod.delivered_weights

    def search_passes(self, n_examples: int, batch_size: int, n_updates: int) -> tuple[int, int]:
        """Return the forward and backward passes that `setup` makes to search; those of other preparations are few."""
        return 0, 0

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """Forward passes of the model and backward passes through its outputs, per micro-batch of training."""
        return 1, 1
