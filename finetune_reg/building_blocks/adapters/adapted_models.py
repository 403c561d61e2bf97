"""Which adapter of peft a model has, and methods that it leaves without a meaning.

The pretrained model is the one with the adapter off. The adapter belongs to the backbone; the head is what the task
model has beside its backbone, in the copy that peft trains (`modules_to_save`).

peft is not imported: its layers and configurations are told by the attributes that all of them have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from finetune_reg.building_blocks.pretrained_model import task_model, unwrapped
from finetune_reg.errors import InputError


def adapter_kinds(model: nn.Module) -> list[str]:
    """Return the kinds of the adapters that the model has, as peft names them: `["LORA"]`; none for a plain model.

    LoRA with trained magnitudes is `"DORA"`.
    """
    return sorted({_kind(configuration) for configuration in configurations(model)})


def configurations(model: nn.Module) -> list[Any]:
    """Return the configurations of the model's adapters; none for a plain model."""
    for module in unwrapped(model).modules():
        configurations = getattr(module, "peft_config", None)
        if isinstance(configurations, dict) and configurations:
            return list(configurations.values())
    return []


def prompt_parameters(model: nn.Module) -> set[int]:
    """Return the `id` of each parameter that peft keeps beside the model it adapts, as the tokens of a prompt."""
    found: set[int] = set()
    for module in unwrapped(model).modules():
        if hasattr(module, "get_base_model"):
            found |= {id(p) for p in module.parameters()} - {id(p) for p in task_model(module).parameters()}
    return found


def refuse_adapters(model: nn.Module, method: str, reason: str, remedy: str, but: Collection[str] = ()) -> None:
    """Refuse a model with an adapter under which the method has no meaning.

    Args:
        method: begins the sentence.
        reason: follows "because".
        remedy: what to do, without a full stop.
        but: kinds of adapters under which it has one.

    Raises:
        InputError: the model has an adapter of another kind.
    """
    for kind in adapter_kinds(model):
        if kind not in but:
            raise InputError(f"{method} has no meaning under {kind} of peft, because {reason}: {remedy}.")


def refuse_prompts(model: nn.Module, method: str) -> None:
    """Refuse an adapter that is tokens before the text, for a method that tells weights by their blocks.

    Raises:
        InputError: the model has one.
    """
    in_blocks = [_kind(config) for config in configurations(model) if not config.is_prompt_learning]
    refuse_adapters(model, method, "a prompt stands in no block", "use an adapter such as LoRA", but=in_blocks)


def is_adapter_layer(module: nn.Module) -> bool:
    """Return whether a module is what peft has put in a layer's place, with that layer inside it as `base_layer`."""
    return hasattr(module, "adapter_layer_names") and "base_layer" in module._modules


def modules_without_adapters(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what `module.modules()` yields, without what belongs to adapters."""
    added = set()
    for layer in module.modules():
        if layer in added:
            continue
        if is_adapter_layer(layer):
            added |= set(layer.modules()) - {layer, *layer.get_submodule("base_layer").modules()}
        yield layer


def _kind(configuration: Any) -> str:
    kind = getattr(configuration.peft_type, "value", str(configuration.peft_type))
    return "DORA" if kind == "LORA" and configuration.use_dora else kind
