"""Whether a checkpoint is what its folder says: its weights, its tokenizer and its head, checked before training."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune_reg.building_blocks.parameter_groups import backbone
from finetune_reg.building_blocks.pretrained_model import token_embeddings
from finetune_reg.errors import InputError
from finetune_reg.tasks.row_files import refuse_lfs_pointer
from finetune_reg.tasks.task_table import Task

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
GENERIC_LABEL = r"LABEL_\d+"
POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")


def check_architecture(config: PreTrainedConfig, model_name: str) -> None:
    """Check that a configuration is of the architecture that it says the weights were saved from.

    Raises:
        InputError: it is of another.
    """
    for name in config.architectures or ():
        saved_as = getattr(getattr(transformers, name, None), "config_class", None)
        if saved_as is not None and saved_as.model_type != config.model_type:
            raise InputError(
                f"The config.json of the model {model_name!r} says model_type {config.model_type!r}, but its "
                f"architecture {name} is {saved_as.model_type!r}: restore the one it was saved with."
            )


def check_files(folder: Path, needs_weights: bool) -> None:
    """Check the files of a model folder before any is parsed.

    Raises:
        InputError: one is a Git LFS pointer or cannot be read, or the only weights are pickled.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    for path in files:
        refuse_lfs_pointer(path)
    pickled = sorted(path.name for path in files if path.suffix in PICKLES)
    if needs_weights and pickled and not any(path.suffix == ".safetensors" for path in files):
        raise InputError(
            f"{folder} has its weights only as a pickle ({pickled[0]}), which can run code when it is read: save them "
            "as safetensors."
        )


def check_weights(
    model: PreTrainedModel, report: Mapping[str, Any], model_name: str
) -> tuple[set[str], Literal["kept", "drawn"]]:
    """Check that a checkpoint fills the backbone and has nothing left over for it.

    A pooler is a part of the head here: masked-language models are saved without.

    Args:
        report: what `from_pretrained` returns with `output_loading_info`.

    Returns:
        The names of the weights that were drawn, and whether the head was kept or drawn, in whole or in part.

    Raises:
        InputError: weights of the backbone are missing or of another shape, the checkpoint has further ones for its
            layers, or a loaded weight is not finite.
    """
    prefix = f"{model.base_model_prefix}."
    shapes = {name: (tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched_keys"]}
    drawn = {*report["missing_keys"], *shapes}
    in_backbone = {name for name in drawn if name.startswith(prefix)}
    unfit = sorted(name for name in in_backbone if not name.removeprefix(prefix).startswith("pooler"))
    if wrong := [name for name in unfit if name in shapes]:
        found, wanted = shapes[wrong[0]]
        raise _does_not_fit(
            model_name,
            f"{len(wrong)} of its weights have other shapes than the model's, such as {wrong[0]} {found}, not {wanted}",
        )
    if unfit:
        raise _does_not_fit(model_name, f"it lacks {len(unfit)} weights of the model, such as {unfit[0]}")
    if left_over := _left_over(model, report["unexpected_keys"], prefix):
        raise _does_not_fit(
            model_name, f"the model has no place for {len(left_over)} of its weights, such as {left_over[0]}"
        )
    for name, weight in model.state_dict().items():
        if name not in drawn and not torch.isfinite(weight).all():
            raise _does_not_fit(model_name, f"not all numbers of {name} are finite")
    return drawn, "drawn" if drawn - in_backbone else "kept"


def check_labels(found: Mapping[int, str], task: Task, model_name: str) -> None:
    """Check that a head that is kept answers with the task's labels, in their order; `LABEL_0` stands for any.

    Raises:
        InputError: it has others.
    """
    labels = [str(found[index]) for index in sorted(found)]
    if task.is_regression or all(re.fullmatch(GENERIC_LABEL, label) for label in labels):
        return
    if [label.casefold() for label in labels] != [label.casefold() for label in task.label_names]:
        raise InputError(
            f"The head of the model {model_name!r} answers {', '.join(labels)}, but {task.name} asks for "
            f"{', '.join(task.label_names)}: save its backbone alone, with `model.base_model.save_pretrained`."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, model_name: str) -> None:
    """Check that the tokenizer has words and the model a vector for each, and see to its padding.

    A tokenizer without a padding token gets its end token in its place. A model that looks up which token is padding
    is told. Inputs that the model does not take are left out.

    Raises:
        InputError: the folder has no tokenizer, one of another model, or one that cannot pad.
    """
    vocabulary = tokenizer.get_vocab()
    words = set(vocabulary) - set(tokenizer.all_special_tokens)
    if not any(character.isalnum() for word in words for character in word):
        raise InputError(
            f"The model {model_name!r} has no tokenizer, or one without words: save it beside the weights, with "
            "`tokenizer.save_pretrained`."
        )
    embeddings = token_embeddings(model)
    if (largest := max(vocabulary.values())) >= embeddings.num_embeddings:
        raise InputError(
            f"The tokenizer of the model {model_name!r} counts to {largest}, but the model embeds "
            f"{embeddings.num_embeddings} tokens: it is the tokenizer of another model."
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"The tokenizer of the model {model_name!r} has neither a padding nor an end token, so that no batch "
                "can be padded: set its pad_token and save it again."
            )
        tokenizer.pad_token = tokenizer.eos_token
    positions = _position_table(model)
    if positions is not None and positions.padding_idx not in (None, tokenizer.pad_token_id):
        raise InputError(
            f"The model {model_name!r} counts positions from its padding token {positions.padding_idx}, but the "
            f"tokenizer pads with token {tokenizer.pad_token_id}: config.json or tokenizer is that of another model."
        )
    if embeddings.padding_idx is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    taken = set(inspect.signature(model.forward).parameters)
    if getattr(model.config, "type_vocab_size", None) == 1:
        taken.discard("token_type_ids")
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in taken]


def count_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens the model has positions for; None if it has no table of them."""
    table = _position_table(model)
    if table is None:
        return None
    reserved = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - getattr(table, "offset", reserved)


def _position_table(model: PreTrainedModel) -> nn.Embedding | None:
    for name, module in backbone(model).named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            return module
    return None


def _left_over(model: PreTrainedModel, unexpected: Iterable[str], prefix: str) -> list[str]:
    """Return weights in the checkpoint for the backbone's lists of layers; old versions saved buffers, too."""
    base = backbone(model)
    lists = tuple(f"{name}." for name, module in base.named_modules() if isinstance(module, nn.ModuleList))
    buffers = {name for name, _ in base.named_buffers()}
    names = {name.removeprefix(prefix): name for name in unexpected}
    return sorted(full for name, full in names.items() if name.startswith(lists) and name not in buffers)


def _does_not_fit(model_name: str, what: str) -> InputError:
    return InputError(
        f"The checkpoint of the model {model_name!r} does not fit its config.json: {what}. Save both again, together."
    )
