"""The weights that a run ended with, kept beside its record when asked for: one file of safetensors each."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from finetune_reg.errors import InputError
from finetune_reg.experiment.atomic_writing import in_one_step
from finetune_reg.experiment.records import record_path

Weights = dict[str, torch.Tensor]


def weights_path(output_dir: Path | str, run_id: str) -> Path:
    """Return the file of a run's weights."""
    return Path(output_dir) / "weights" / f"{run_id}.safetensors"


def write_weights(model: nn.Module, output_dir: Path | str, run_id: str) -> Path:
    """Write the weights of a model so that readers see all of them or nothing.

    Raises:
        InputError: the folder cannot be written.
    """
    path = weights_path(output_dir, run_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with in_one_step(path) as temporary:
            save_model(model, str(temporary))
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot write {path}: {cause}. Free or choose another folder and run again.") from error
    return path


def read_weights(model: nn.Module, output_dir: Path | str, run_id: str) -> Weights:
    """Give a model the weights of a run, and return copies of them by name.

    Raises:
        InputError: the file is damaged, or of another model.
    """
    path = weights_path(output_dir, run_id)
    try:
        load_model(model, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{path} does not hold the weights of this model ({cause}): make the run again.") from error
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def refuse_lost_weights(output_dir: Path | str, run_id: str) -> None:
    """Refuse a finished run that was made without keeping its weights, which are wanted now.

    Raises:
        InputError: it was.
    """
    if not weights_path(output_dir, run_id).is_file():
        raise InputError(
            f"{record_path(output_dir, run_id)} is of a finished run whose weights were not kept: choose another "
            "folder, or remove the record to make the run again."
        )
