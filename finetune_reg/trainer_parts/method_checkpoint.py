"""The state of a method in a checkpoint of the Trainer: `method.safetensors`, beside the weights and the optimizer."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_reg.errors import InputError
from finetune_reg.method import FineTuningMethod

METHOD_FILE = "method.safetensors"


def checkpoint_to_resume(resume_from_checkpoint: str | bool | None, output_dir: str | None) -> str | None:
    """Return the folder that a run goes on from, or None; True is the latest whole one in `output_dir`.

    A process that was killed while it wrote a checkpoint has left one without the file that the Trainer writes last.

    Raises:
        InputError: there is none.
    """
    if not resume_from_checkpoint or resume_from_checkpoint is not True:
        return resume_from_checkpoint or None
    whole = {
        int(number): path.parent
        for path in Path(output_dir or ".").glob("checkpoint-*/trainer_state.json")
        if (number := path.parent.name.removeprefix("checkpoint-")).isdecimal()
    }
    if not whole:
        raise InputError(f"{output_dir} has no whole checkpoint to resume: name a folder, or train anew.")
    return str(whole[max(whole)])


def save_method(method: FineTuningMethod, folder: str) -> None:
    """Write the state of a method into a checkpoint, in one step."""
    state = {name: tensor.contiguous() for name, tensor in method.state_dict().items()}
    path = Path(folder, METHOD_FILE)
    temporary = path.with_suffix(".tmp")
    save_file(state, temporary, metadata={"method": repr(method)})
    os.replace(temporary, path)


def read_method_state(method: FineTuningMethod, folder: str) -> dict[str, torch.Tensor]:
    """Return the state of such a method from a checkpoint.

    Raises:
        InputError: there is none, or it is that of another method or of other hyperparameters.
    """
    path = Path(folder, METHOD_FILE)
    if not path.is_file():
        raise InputError(
            f"{folder} cannot be resumed, because it has no {METHOD_FILE}: MethodTrainer writes one into each "
            "checkpoint, unless save_only_model is on."
        )
    with safe_open(path, framework="pt") as file:
        written_by = file.metadata()["method"]
        if written_by != repr(method):
            raise InputError(
                f"{folder} was written by {written_by} and cannot be resumed by {method!r}: use the same method with "
                "the same hyperparameters, or train anew."
            )
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
