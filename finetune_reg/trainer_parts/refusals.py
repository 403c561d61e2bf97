"""What MethodTrainer refuses, in a sentence each."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from finetune_reg.errors import InputError, shortened
from finetune_reg.method import FineTuningMethod

STEPS_IN_BACKWARD = ("lomo", "adalomo", "galore", "apollo")


def asks_for_other_optimizer(trainer: Trainer) -> bool:
    """Return whether the arguments ask for another optimizer than AdamW as methods build it."""
    arguments = trainer.args
    plain = arguments.optim in ("adamw_torch", "adamw_torch_fused") and not arguments.optim_args
    return not plain or trainer.optimizer_cls_and_kwargs is not None


def refuse_arguments(trainer: Trainer) -> None:
    """Refuse what no method can be trained with; the variables of Accelerate's launcher count as arguments do.

    Raises:
        InputError: the trainer asks for it.
    """
    arguments, accelerator, dataset = trainer.args, trainer.accelerator, trainer.train_dataset
    compiles = accelerator.state.dynamo_plugin.backend.value != "NO"
    shards = [name for name in ("fsdp", "deepspeed") if getattr(trainer, f"is_{name}_enabled")]
    if getattr(trainer, "is_distributed_loading_by_transformers", False):
        shards.append("distributed_config")
    if not accelerator.distributed_type.value.startswith(("NO", "MULTI_")):  # where each process has the whole model
        shards.append(accelerator.distributed_type.value)
    for refused, sentence in (
        (trainer.optimizer is not None, "use a ready optimizer: the method builds it from the training arguments."),
        (
            accelerator.mixed_precision not in ("no", "bf16"),
            f"scale {accelerator.mixed_precision} losses, because methods read true gradients: use bf16=True or "
            "float32.",
        ),
        (
            compiles,
            "compile a model whose parameters methods find by name: set torch_compile=False.",
        ),
        (
            bool(shards),
            f"train a sharded model ({', '.join(shards)}), because methods compare and change whole "
            "weights: leave deepspeed, fsdp and tensor parallelism off.",
        ),
        (
            arguments.n_gpu > 1 or trainer.is_model_parallel,
            "use several devices in one process: start one process for each with torchrun or accelerate launch.",
        ),
        (arguments.auto_find_batch_size, "restart with smaller batches after set-up: fix the batch size."),
        (
            dataset is not None and not hasattr(dataset, "__len__"),
            "train on a data set of unknown length: give it one with a length.",
        ),
    ):
        if refused:
            raise InputError(f"MethodTrainer cannot {sentence}")


def refuse_method(method: Any, trainer: Trainer) -> None:
    """Refuse something that is no method, or one that does not go with the arguments.

    Raises:
        InputError: it is such a one.
    """
    if not isinstance(method, FineTuningMethod):
        raise InputError(
            f"MethodTrainer cannot use {shortened(method)} as a method: give it an object such as Mixout(0.9)."
        )
    method.check_precision("bfloat16" if trainer.accelerator.mixed_precision == "bf16" else "float32")
    if not asks_for_other_optimizer(trainer):
        return
    name, optim = type(method).__name__, str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if method.brings_optimizer:
        raise InputError(f"{name} brings its own optimizer: leave optim and optim_args at their defaults.")
    if optim.startswith(STEPS_IN_BACKWARD):
        raise InputError(
            f"MethodTrainer cannot use {optim}, which does not take whole gradients when the backward pass is over: "
            "choose adamw_torch, adafactor or sgd."
        )
    if optim.startswith("schedule_free") and "after_step" in method.overridden_calls():
        raise InputError(
            f"{name} acts on the weights between updates, which {optim} keeps between two sequences: choose "
            "adamw_torch, adafactor or sgd."
        )
