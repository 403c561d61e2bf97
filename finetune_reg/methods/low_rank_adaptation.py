r"""Low-rank adaptation (LoRA): the pretrained matrices stay, and a product of two thin ones is learned beside each.

**Idea.** What fine-tuning changes in a matrix may have a low rank. So the change is learned as a product of two thin
matrices: few weights to train, no optimizer state for the others, and a limit to how the model can move.

**Equation** (paper, section 4.1). With the pretrained `W0` (out x in), `A` (r x in), `B` (out x r),

    W x = W0 x + s B A x,        s = alpha / r,        B = 0 at the start.

`r` is `rank`. The gradient of `A` is 0 at the first update. Dropout, if any, acts on what `A` reads. Variants:

    rsLoRA:  s = alpha / sqrt(r),
    DoRA:    W = m (W0 + s B A) / |W0 + s B A|,        with the norm of each row, and m trained from |W0| on.

**Where it acts.** `setup` freezes the backbone and has peft put its layers in the place of linear layers; a pooler and
the head train in full. Layers that are frozen already, or share their weight with other modules, get no adapter.
`finalize` merges: the model has its plain layers again, with `W` in them. Checkpoints written in training are merged,
too. In a combination it stands first, and the other members act as they do under an adapter: Mixout becomes LoRA
dropout with one coin per input unit, L2-SP and decay pull `s B A` to 0. `training_loss` is the task's; it refuses
checkpointing that would leave the adapters without a gradient.

**Under adapters.** Refused: it brings its own.

**Differences from the released code** (`loralib/layers.py` and `examples/NLU` of microsoft/LoRA). The paper draws `A`
from a Gaussian without saying how wide; the released code draws `U(-1, 1) / sqrt(in)`, as peft does and as is done here
(`config={"init_lora_weights": "gaussian"}` has the standard deviation `1 / r`). The paper sets alpha to the first rank
tried; the released scripts for RoBERTa have 16 at rank 8 (`official()`). For MRPC, RTE and STS-B both begin with the
adapter of MNLI. Other people's recipes of today adapt all linear layers (`targets="all_linear"`). Rates are higher than
those of full fine-tuning: 4e-4 and 5e-4 in the released scripts.

**Reference.** Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen. LoRA: Low-Rank Adaptation of Large Language Models.
ICLR 2022, arXiv:2106.09685. rsLoRA: Kalajdzievski. A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA. 2023,
arXiv:2312.03732. DoRA: Liu, Wang, Yin, Molchanov, Wang, Cheng, Chen. DoRA: Weight-Decomposed Low-Rank Adaptation. ICML
2024, arXiv:2402.09353.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_adapters
from finetune_reg.building_blocks.adapters.insertion import adapter_configuration, insert_adapters
from finetune_reg.building_blocks.module_surgery import (
    backbone_module_names,
    refuse_exchanged_attention,
    refuse_loose_attention,
    refuse_quantized_parts,
    trained_linear_names,
)
from finetune_reg.building_blocks.parameter_groups import named_backbone_parameters, named_head_parameters
from finetune_reg.building_blocks.pretrained_model import device_of, name_of, refuse_reentrant_checkpointing, unwrapped
from finetune_reg.building_blocks.random_replay import random_state_kept
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Count, DropoutRate, Positive
from finetune_reg.method import FineTuningMethod, TrainingContext

NAME = "LowRankAdaptation"
QUERY_OR_VALUE = re.compile(r"(?:^|_)(?:q|v|query|value)(?:_|$)|qkv|c_attn")  # the last two hold the key as well


def adaptable_layers(model: nn.Module, targets: str | list[str]) -> list[str]:
    """Return the names in the unwrapped model of the linear layers that get an adapter, in the model's order.

    Args:
        targets: as in `LowRankAdaptation`.

    Raises:
        InputError: there is none, or none for one of the endings.
    """
    modules = dict(unwrapped(model).named_modules())
    owners = Counter(id(p) for module in modules.values() for p in module.parameters(recurse=False))
    trained, inside = trained_linear_names(model), backbone_module_names(model)
    linear = [n for n in modules if n in trained and n in inside and owners[id(modules[n].weight)] == 1]
    linear = [name for name in linear if not _in_pooler(name)]
    if isinstance(targets, list):
        for ending in targets:
            if not any(_ends(name, ending) for name in linear):
                raise InputError(f"{NAME} found no linear layer of {name_of(model)} whose name ends with {ending!r}.")
        found = [name for name in linear if any(_ends(name, ending) for ending in targets)]
    elif targets == "all_linear":
        found = linear
    else:
        attention = tuple(f"{n}." for n, m in modules.items() if "attention" in type(m).__name__.lower())
        found = [name for name in linear if name.startswith(attention)]
        if targets == "query_value":
            found = [name for name in found if QUERY_OR_VALUE.search(name.rpartition(".")[2].lower())]
    if not found:
        raise InputError(
            f"{NAME} found no layer of {name_of(model)} for targets={targets!r}: choose 'all_linear', or give endings "
            "of the names of its linear layers, some of which must train."
        )
    return found


@dataclass
class LowRankAdaptation(FineTuningMethod):
    """Train adapters of low rank beside frozen pretrained matrices, and merge them at the end.

    Args:
        rank: of the product, at least 1; None leaves the model as it is and trains all weights.
        alpha: the deviation is scaled by `alpha / rank`; above 0.
        dropout: rate on the input of the adapters, in [0, 1).
        targets: `"query_value"` are the layers of these in attention (the paper's; the one layer that holds query, key
            and value where a model has such), `"attention"` all linear layers there, `"all_linear"` all of the
            backbone; or endings of names, as peft takes them.
        config: further arguments of the configuration of peft, which come before those above: `{"use_dora": True}`,
            `{"use_rslora": True}`, or another kind such as `{"peft_type": "OFT", "oft_block_size": 4}`; such a
            configuration itself, too.

    Raises:
        InputError: a value outside its range; at `setup`, peft is not installed or refuses the adapter, the model has
            one already, is quantized or has no such layer.
    """

    setup_stage: ClassVar[Literal["adapter"]] = "adapter"

    rank: Count | None = 8
    alpha: Positive = 8.0
    dropout: DropoutRate = 0.0
    targets: Literal["query_value", "attention", "all_linear"] | list[str] = "query_value"
    config: dict[str, Any] | None = None
    _layers: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(cls) -> LowRankAdaptation:
        """Return the settings of the released scripts for RoBERTa."""
        return cls(rank=8, alpha=16.0)

    def __post_init__(self) -> None:
        if hasattr(self.config, "peft_type"):
            self.config = _arguments(self.config)
        super().__post_init__()

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Put the adapters in place, and freeze what is pretrained."""
        if self.rank is None:
            return
        refuse_adapters(model, NAME, "it brings its own", "merge that one first, or train it with Vanilla()")
        refuse_loose_attention(model, NAME)
        refuse_exchanged_attention(model)
        refuse_quantized_parts(model, NAME)
        refuse_reentrant_checkpointing(model, NAME)
        arguments = {"peft_type": "LORA"} | (self.config or {})
        targets = arguments.pop("target_modules", None) or self.targets
        if arguments["peft_type"] == "LORA":
            plain = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
            arguments = plain | arguments
        configuration = adapter_configuration(arguments, NAME)
        names = adaptable_layers(model, "all_linear" if targets == "all-linear" else targets)
        in_full = [parameter for _, parameter in named_head_parameters(model)]
        in_full += [parameter for name, parameter in named_backbone_parameters(model) if _in_pooler(name)]
        with random_state_kept(device_of(model)):
            torch.manual_seed(context.seed)
            self._layers = insert_adapters(model, configuration, names, self._undo, NAME)
        for parameter in in_full:
            parameter.requires_grad_(True)

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the task's loss, unless checkpointing would give the adapters no gradient."""
        if self._layers:
            refuse_reentrant_checkpointing(model, NAME)
        return super().training_loss(model, batch, outputs)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the frozen weight and the adapter of each layer: a checkpoint of the model has them merged."""
        named = ((i, name, p) for i, layer in enumerate(self._layers) for name, p in layer.named_parameters())
        return {f"{i}.{name}": parameter.detach() for i, name, parameter in named}

    def finalize(self, model: nn.Module) -> None:
        """Merge the adapters, put the plain layers back, and let train what trained before."""
        self._layers = []
        self._undo.close()


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _in_pooler(name: str) -> bool:
    """Return whether a name is that of a pooler or in one: a part of the head, which checkpoints may lack."""
    return "pooler" in name.split(".")


def _arguments(configuration: Any) -> dict[str, Any]:
    """Return what a configuration of peft was built with, ready for JSON, without defaults."""
    defaults = type(configuration)().to_dict()
    given = {name: value for name, value in configuration.to_dict().items() if value != defaults[name]}
    given = {name: sorted(value) if isinstance(value, set) else value for name, value in given.items()}
    given.pop("task_type", None)
    return {"peft_type": str(getattr(configuration.peft_type, "value", configuration.peft_type))} | given
