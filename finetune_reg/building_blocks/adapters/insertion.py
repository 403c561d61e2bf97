"""Adapters of peft put into a model in place: the checkpoint stays that of a plain model, and the way back merges them.

peft puts a layer of its own in the place of each linear layer, which stays inside it, frozen. While it is there,
`state_dict` of the model holds the merged weight under the plain name, and `load_state_dict` gives the layer the plain
weight that it reads and lets the adapter begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import is_adapter_layer
from finetune_reg.building_blocks.pretrained_model import is_transposed, unwrapped
from finetune_reg.errors import InputError, shortened

KINDS = ("LORA", "OFT", "IA3", "LOHA", "LOKR")  # they begin at the pretrained weights, layer by layer, and merge
_LEFT_OUT = ("bias", "modules_to_save", "layer_replication", "target_parameters", "trainable_token_indices")


def adapter_configuration(values: Mapping[str, Any], method: str) -> Any:
    """Return the configuration of peft with these arguments; `peft_type` is its kind.

    Args:
        values: arguments of that kind's configuration, without the layers.
        method: begins a refusal.

    Raises:
        InputError: peft is not installed or refuses an argument, another kind, or an adapter that begins elsewhere than
            at the pretrained weights or trains something else than linear layers.
    """
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ModuleNotFoundError:
        raise InputError(f"{method} needs peft: install it with `pip install finetune_reg[peft]`.") from None
    kind = values["peft_type"]
    if kind not in KINDS:
        raise InputError(f"{method} needs peft_type to be one of {', '.join(KINDS)}, not {shortened(kind)}.")
    build: Any = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    try:
        configuration = build(**{name: value for name, value in values.items() if name != "peft_type"})
    except (TypeError, ValueError) as error:
        raise _refusal(method, error) from error
    for name, value in vars(configuration).items():
        if name.startswith("init_") and name.endswith("weights") and value not in (True, "gaussian"):
            raise InputError(
                f"{method} begins at the pretrained weights, and an adapter with {name}={value!r} elsewhere: leave it "
                "at True."
            )
        if name in _LEFT_OUT and value not in (None, "none"):
            raise InputError(
                f"{method} puts adapters into linear layers, and trains the head besides: leave {name} out."
            )
    return configuration


def insert_adapters(model: nn.Module, configuration: Any, names: list[str], undo: ExitStack, method: str) -> list[Any]:
    """Put an adapter into each of the named linear layers and freeze all other parameters.

    Closing `undo` merges the adapters into the layers, puts these back, and lets train what trained before.

    Args:
        configuration: of peft; its `target_modules` become the names.
        names: in the unwrapped model.
        method: begins a refusal.

    Returns:
        The layers of peft, in the model's order.

    Raises:
        InputError: peft refuses the adapter.
    """
    from peft import inject_adapter_in_model

    whole = unwrapped(model)
    configuration.target_modules = names
    if hasattr(configuration, "fan_in_fan_out"):
        configuration.fan_in_fan_out = any(is_transposed(whole.get_submodule(name)) for name in names)
    for parameter in whole.parameters():
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
    undo.callback(lambda: vars(whole).pop("peft_config", None))
    try:
        inject_adapter_in_model(configuration, whole)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise _refusal(method, error) from error
    finally:
        layers = _replace_everywhere(whole, undo)
    for layer in layers:
        layer.train(layer.get_base_layer().training)
        _keep_plain_names(layer)
    return layers


@torch.no_grad()
def merged_weights(layer: Any) -> dict[str, torch.Tensor]:
    """Return the weights of the plain layer that computes what a layer of peft does, by their names in it."""
    copied = deepcopy(layer)
    copied.merge()
    return copied.get_base_layer().state_dict()


def _replace_everywhere(whole: nn.Module, undo: ExitStack) -> list[Any]:
    """Put each layer of peft into all places of the layer inside it, which several modules may share."""
    layers: dict[int, Any] = {id(m.get_submodule("base_layer")): m for m in whole.modules() if is_adapter_layer(m)}
    for module in list(whole.modules()):
        for name, child in module.named_children():
            if id(child) in layers and not is_adapter_layer(module):
                setattr(module, name, layers[id(child)])
                child = layers[id(child)]
            if is_adapter_layer(child):
                undo.callback(setattr, module, name, child.get_submodule("base_layer"))
    for layer in layers.values():
        undo.callback(layer.merge)
    return list(layers.values())


def _keep_plain_names(layer: Any) -> None:
    initial = {n: t.clone() for n, t in layer.state_dict().items() if not n.startswith("base_layer.")}
    layer.register_state_dict_post_hook(_show_plain_weights)
    layer.register_load_state_dict_pre_hook(partial(_take_plain_weights, initial=initial))


def _show_plain_weights(layer: Any, state: dict[str, torch.Tensor], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]
    state.update({f"{prefix}{name}": weight for name, weight in merged_weights(layer).items()})


def _take_plain_weights(
    layer: Any, state: dict[str, torch.Tensor], prefix: str, *arguments: Any, initial: dict[str, torch.Tensor]
) -> None:
    plain = layer.get_base_layer().state_dict().keys() & {name.removeprefix(prefix) for name in state}
    for name in plain:
        state[f"{prefix}base_layer.{name}"] = state.pop(f"{prefix}{name}")
    state.update({f"{prefix}{name}": tensor for name, tensor in initial.items()})
    if plain:  # the magnitudes of DoRA begin at the norms of the rows
        weight = state[f"{prefix}base_layer.weight"]
        norms = torch.linalg.vector_norm(weight, dim=0 if getattr(layer, "fan_in_fan_out", False) else 1)
        state.update({f"{prefix}{name}": norms for name in initial if "magnitude" in name})


def _refusal(method: str, error: Exception) -> InputError:
    return InputError(f"{method} cannot use this adapter, because peft says: {shortened(str(error))}.")
