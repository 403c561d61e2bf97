"""Change modules of a loaded model, and change them back.

Every function records its way back in a `contextlib.ExitStack`; closing the stack undoes all changes in
reverse order. Replacements keep the very parameters of what they replace, so optimizers, tied weights and
state-dict keys do not notice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.adapters.adapted_models import modules_without_adapters, refuse_adapters
from finetune_reg.building_blocks.parameter_groups import backbone
from finetune_reg.building_blocks.pretrained_model import is_linear, is_transposed, name_of, unwrapped
from finetune_reg.errors import InputError


class ReplacementLinear(nn.Linear):
    """A linear layer around the very parameters of another one.

    Attributes:
        transposed: whether the weight has shape (in, out), as in the `Conv1D` of GPT-2, in place of (out, in).
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = linear.weight, linear.bias
        self.transposed = is_transposed(linear)
        self.out_features, self.in_features = self.turned(self.weight).shape

    def turned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Turn the weight, or what is shaped like it, to (out, in); or what has that shape to the weight's."""
        return tensor.T if self.transposed else tensor

    def map(self, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out) by a weight shaped like the layer's own, with the very product of that layer."""
        if not self.transposed:
            return F.linear(input, weight, self.bias)
        return torch.addmm(self.bias, input.view(-1, input.shape[-1]), weight).view(*input.shape[:-1], -1)


def replace_linears(
    model: nn.Module,
    select: Callable[[str], bool],
    build: Callable[[nn.Linear], ReplacementLinear],
    undo: ExitStack,
    *,
    method: str,
) -> list[str]:
    """Replace each plain linear layer, `nn.Linear` or `Conv1D`, whose name in the model `select` accepts.

    A layer shared by several parents is replaced once, everywhere.

    Returns:
        The names of the replaced layers, in the model's order.

    Raises:
        InputError: nothing was selected, a selected layer is quantized, was already replaced by another method or is
            frozen by an adapter, or the attention has weights outside of layers or is exchanged in mid-run.
    """
    model = unwrapped(model)
    refuse_loose_attention(model, method)
    refuse_exchanged_attention(model)
    replacements: dict[int, ReplacementLinear] = {}
    names = []
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            name = f"{parent_name}.{child_name}" if parent_name else child_name
            if not is_linear(child) or not select(name):
                continue
            if not child.weight.requires_grad:
                reason = "it replaces layers whose weights the adapter keeps as they are"
                refuse_adapters(model, method, reason, "train all weights")
            refuse_quantized(child, name, method)
            if type(child) is not nn.Linear and not is_transposed(child):
                raise InputError(
                    f"{method} cannot replace {name}: it is already a {type(child).__name__}. "
                    "Use one method that replaces linear layers at a time."
                )
            if id(child) not in replacements:
                replacements[id(child)] = build(child).train(child.training)
            setattr(parent, child_name, replacements[id(child)])
            undo.callback(setattr, parent, child_name, child)
            names.append(name)
    if not names:
        raise InputError(
            f"{method} found no linear layer to replace in {name_of(model)}: it works on models built "
            "from nn.Linear or Conv1D, and only before another method has replaced the layers."
        )
    return names


def refuse_loose_attention(model: nn.Module, user: str) -> None:
    """Refuse a model whose attention keeps matrices outside of layers, as XLNet's does: a method would pass them over.

    XLNet also has its word embeddings the other way round, (length, batch, width).

    Args:
        user: who cannot use the model; begins the sentence.

    Raises:
        InputError: it is such a model.
    """
    for name, module in unwrapped(model).named_modules():
        if "attention" not in type(module).__name__.lower() or isinstance(module, nn.Linear):
            continue
        if loose := [key for key, weight in module.named_parameters(recurse=False) if weight.ndim > 1]:
            raise InputError(
                f"{user} cannot use {name_of(model)}, whose attention keeps weights outside of layers "
                f"({name}.{loose[0]}): choose an encoder such as BERT, RoBERTa or DeBERTa."
            )


def refuse_exchanged_attention(model: nn.Module) -> None:
    """Refuse a model that builds other attention modules when a batch is short: changes to the old ones would be lost.

    Raises:
        InputError: it is such a model, as BigBird with sparse attention.
    """
    if any(getattr(module, "attention_type", None) == "block_sparse" for module in model.modules()):
        raise InputError(
            f"{name_of(model)} exchanges its attention modules in mid-run, and with them what was changed there: load "
            "it with attention_type='original_full'."
        )


def refuse_quantized(module: nn.Module, name: str, user: str) -> None:
    """Refuse a layer that keeps its weight in 4 or 8 bits, of bitsandbytes, Quanto or TorchAO.

    Args:
        name: of the layer.
        user: who cannot use it; begins the sentence.

    Raises:
        InputError: it is such a layer.
    """
    kinds = (type(module), type(getattr(module, "weight", None)))
    if any(re.search(r"4bit|8bit|bitsandbytes|quanto|torchao", f"{kind.__module__}.{kind.__name__}") for kind in kinds):
        raise InputError(
            f"{user} cannot change {name}, a {type(module).__name__}, because quantized weights cannot be mixed or "
            "drawn anew: load the model without quantization."
        )


def refuse_quantized_parts(model: nn.Module, user: str) -> None:
    """Refuse a model with a layer that `refuse_quantized` refuses.

    Raises:
        InputError: it has one.
    """
    for name, module in unwrapped(model).named_modules():
        refuse_quantized(module, name, user)


def set_dropout(model: nn.Module, probability: float, undo: ExitStack) -> None:
    """Set every dropout rate of the model, attention probabilities and head included.

    Modules stay in place and change their rate `p`, because attention kernels read the rate as a number;
    rates that an attention module keeps as a plain float (`attention_dropout`) are set as well.

    Raises:
        InputError: the model exchanges its attention modules in mid-run.
    """
    refuse_exchanged_attention(model)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            undo.callback(setattr, module, "p", module.p)
            module.p = probability
        for attribute, value in list(vars(module).items()):
            if "dropout" in attribute and isinstance(value, float):
                undo.callback(setattr, module, attribute, value)
                setattr(module, attribute, probability)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the whole model into training or evaluation mode; afterwards each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@torch.no_grad()
def set_weights(values: Mapping[nn.Parameter, torch.Tensor]) -> None:
    """Write each value into its parameter."""
    for parameter, value in values.items():
        parameter.copy_(value)


@contextmanager
def weights_kept(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters move in the block; afterwards they have the values from before, bit for bit."""
    before = {parameter: parameter.detach().clone() for parameter in parameters}
    try:
        yield
    finally:
        set_weights(before)


@contextmanager
def other_weights(values: Mapping[nn.Parameter, torch.Tensor]) -> Iterator[None]:
    """Give parameters other values in the block; afterwards they have their own again, bit for bit."""
    with weights_kept(values):
        set_weights(values)
        yield


def backbone_module_names(model: nn.Module) -> set[str]:
    """Return the names in `model` of all modules inside the pretrained backbone."""
    inside = {id(module) for module in backbone(model).modules()}
    return {name for name, module in unwrapped(model).named_modules() if id(module) in inside}


def trained_linear_names(model: nn.Module) -> set[str]:
    """Return the names in `model` of the linear layers whose weights train, without the factors of adapters."""
    own = set(modules_without_adapters(unwrapped(model)))
    named = unwrapped(model).named_modules()
    return {name for name, module in named if module in own and is_linear(module) and module.weight.requires_grad}


def feed_forward_expansion_names(model: nn.Module) -> set[str]:
    """Return the names of the layers that widen their input outside attention: the first half of each MLP block.

    Only what stands in a list of modules counts: ELECTRA and ALBERT widen their embeddings before their lists.
    """
    modules = dict(unwrapped(model).named_modules())
    stacks = tuple(f"{name}." for name, module in modules.items() if isinstance(module, nn.ModuleList))
    attention = tuple(f"{name}." for name, module in modules.items() if "attention" in type(module).__name__.lower())
    return {
        name
        for name, module in modules.items()
        if name.startswith(stacks) and not name.startswith(attention) and is_linear(module) and _widens(module)
    }


def _widens(linear: nn.Linear) -> bool:
    """Return whether a linear layer has more outputs than inputs."""
    n_rows, n_columns = linear.weight.shape
    return n_rows < n_columns if is_transposed(linear) else n_rows > n_columns
