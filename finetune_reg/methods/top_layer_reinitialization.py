r"""Top-layer re-initialization: the last pretrained blocks start afresh.

**Idea.** The top blocks are the most specialized to the pretraining task and a poor start for another one: runs that
begin from them learn slowly, or fail. Drawing them anew makes few-sample fine-tuning faster and more stable.

**Equation.** For the pooler and the top L blocks,

    W ~ N(0, 0.02^2),    b = 0,    norms: scale 1, shift 0,

and everything below keeps its pretrained value to the bit. L is `n_layers`, 0.02 is BERT's own `initializer_range`.

**Where it acts.** `setup`, once, before any other method takes a snapshot; the draws come from a generator of their
own, seeded with the run's seed, so that data order and dropout are those of the plain run. A pooler is what the
backbone keeps above its blocks as linear layers; ELECTRA, DistilBERT, DeBERTa and GPT-2 keep none there.

**Under adapters.** Refused: an adapter keeps the pretrained weights frozen, and its file would not hold those drawn
anew.

**Differences from the released code** (`run_glue.py` of asappresearch/revisit-bert-finetuning). None in what is drawn:
its standard deviation is the configuration's `initializer_range`, 0.02 for the encoders it knows. It demands the
pooler wherever there is one, which is the default here; it takes all blocks when asked for more than there are, which
is refused here. Its runs on RTE use L = 5 of BERT-large's 24 blocks; the paper tries 1 to 6.

**Reference.** Zhang, Wu, Katiyar, Weinberger, Artzi. Revisiting Few-sample BERT Fine-tuning. ICLR 2021,
arXiv:2006.05987.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_adapters
from finetune_reg.building_blocks.module_surgery import refuse_quantized_parts
from finetune_reg.building_blocks.parameter_groups import backbone, transformer_blocks
from finetune_reg.building_blocks.pretrained_model import name_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import CountOrZero, NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext


@torch.no_grad()
def reinitialize(module: nn.Module, initializer_range: float, generator: torch.Generator) -> None:
    """Draw all parameters of a module anew, in place: matrices normal, norm scales 1, everything else 0.

    Args:
        module: any tree of linear, convolution, embedding and norm layers; a padding row becomes 0.
        initializer_range: standard deviation of matrices, at least 0.
        generator: on the CPU, so that every device gets the same weights; draws are float32 at least.
    """
    for layer in module.modules():
        is_norm = "norm" in type(layer).__name__.lower()
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                dtype = torch.promote_types(parameter.dtype, torch.float32)
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * initializer_range)
            else:
                parameter.fill_(float(is_norm and name == "weight"))
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
            layer.weight[layer.padding_idx] = 0.0


def pooler_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers that the backbone keeps above its blocks."""
    blocks = transformer_blocks(model)
    inside = set(blocks.modules())
    modules = list(backbone(model).modules())
    return [m for m in modules[modules.index(blocks) :] if isinstance(m, nn.Linear) and m not in inside]


@dataclass
class TopLayerReinitialization(FineTuningMethod):
    """Draw the pooler and the top blocks anew before training.

    Args:
        n_layers: the paper's L, number of blocks drawn anew from the top; 0 and more.
        reinitialize_pooler: also the backbone's pooler, where there is one.
        initializer_range: standard deviation of the drawn weights.

    Raises:
        InputError: a negative value; at `setup`, more layers than the model has, or nothing to draw although asked.
    """

    setup_stage: ClassVar[Literal["initialization"]] = "initialization"

    n_layers: CountOrZero = 5
    reinitialize_pooler: bool = True
    initializer_range: NonNegative = 0.02

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Draw the chosen layers anew, bottom block first, then the pooler."""
        if not (self.n_layers or self.reinitialize_pooler):
            return
        refuse_adapters(
            model,
            "TopLayerReinitialization",
            "it changes pretrained weights, which the adapter's file does not hold",
            "do it before get_peft_model and save that base model, or train all weights",
        )
        refuse_quantized_parts(model, "TopLayerReinitialization")
        blocks = transformer_blocks(model)
        if self.n_layers > len(blocks):
            raise InputError(
                f"TopLayerReinitialization needs n_layers of at most {len(blocks)}, the blocks of this "
                f"{name_of(model)}, not {self.n_layers}."
            )
        chosen = list(blocks)[len(blocks) - self.n_layers :]
        if self.reinitialize_pooler:
            chosen += pooler_layers(model)
        if not chosen:
            raise InputError(
                f"TopLayerReinitialization finds no pooler in the backbone of {name_of(model)}: set n_layers."
            )
        generator = torch.Generator().manual_seed(context.seed)
        for module in chosen:
            reinitialize(module, self.initializer_range, generator)
