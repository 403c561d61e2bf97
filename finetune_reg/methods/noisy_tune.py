r"""NoisyTune: a little noise on the pretrained weights, once, before fine-tuning.

**Idea.** Pretrained weights may fit the pretraining data and tasks too closely, and few labels do not move them far.
A small random step away from them, measured by the spread of each weight matrix, makes the start less committed.

**Equation** (paper, section 3). For each parameter tensor `W`, with independent entries `u ~ U(0, 1)`,

    W~ = W + (u - 1/2) lambda std(W),

so that the noise is at most `lambda / 2 std(W)` and has standard deviation `lambda / sqrt(12) std(W)`.

`lambda` is `noise_intensity`: 0.15 on GLUE, 0.1 on XTREME, where the multilingual token embeddings are spared
(`include_token_embeddings=False`). `std` is the unbiased one, over all entries of the tensor. Constant tensors stay as
they are; so do tensors of one entry, which have no spread. Biases, norms and padding rows get noise like the rest.

**Where it acts.** `setup`, once; `finalize` leaves the weights where training took them. The draws come from a
generator of their own, seeded with the run's seed. In a `Combination` the noise must come before any snapshot, so that
L2-SP, RecAdam and Mixout pull toward the noised weights; an order that would anchor them at the clean ones is refused.
The paper does not say which anchor it means.

**Under adapters.** Refused: an adapter keeps the pretrained weights frozen, and its file would not hold the noise.

**Differences from the released code.** None was released; the paper prints a recipe of three lines, which perturbs
every parameter, so also a task head that is already there, and turns tensors of one entry into NaN. Here the head stays
as it is; `official()` perturbs it too (`include_head=True`) and draws what the recipe draws after
`torch.manual_seed(seed)`, without the NaN. The paper's ablations are `distribution="gaussian"`, with the variance of
the uniform noise, and `scale="global"`, one spread for all tensors, taken here over all their entries together: both
do worse there.

**Reference.** Wu, Wu, Qi, Huang, Xie. NoisyTune: A Little Noise Can Help You Finetune Pretrained Language Models
Better. ACL 2022, arXiv:2202.12024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_adapters
from finetune_reg.building_blocks.module_surgery import refuse_quantized_parts
from finetune_reg.building_blocks.parameter_groups import backbone
from finetune_reg.building_blocks.pretrained_model import token_embeddings
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext


def spread(weight: torch.Tensor) -> torch.Tensor:
    """Return the unbiased standard deviation of all entries, a scalar in float32 at least; 0 where all are equal."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return weight.std() if weight.numel() > 1 and weight.min() < weight.max() else weight.new_zeros(())


def joint_spread(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the unbiased standard deviation over the entries of several tensors together, a float64 scalar."""
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for weight in weights:
        weight = weight.double()
        count, total, squares = count + weight.numel(), total + weight.sum(), squares + weight.square().sum()
    return ((squares - total**2 / count) / (count - 1)).clamp(min=0.0).sqrt()


def noise(
    weight: torch.Tensor, draws: torch.Tensor, intensity: float, scale: torch.Tensor | float | None = None
) -> torch.Tensor:
    """Return `(u - 1/2) lambda s`, of the shape of `weight`.

    Args:
        weight: the tensor to perturb, any shape.
        draws: `u`, of the same shape, with mean 1/2 and variance 1/12.
        intensity: `lambda`.
        scale: `s`; None is the spread of `weight`.
    """
    return (draws - 0.5) * intensity * (spread(weight) if scale is None else scale)


def draw(shape: torch.Size, distribution: Literal["uniform", "gaussian"], generator: torch.Generator) -> torch.Tensor:
    """Draw float32 entries of mean 1/2 and variance 1/12: uniform on [0, 1), or normal."""
    if distribution == "uniform":
        return torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator).div_(math.sqrt(12.0)).add_(0.5)


@dataclass
class NoisyTune(FineTuningMethod):
    """Add noise to the pretrained weights, relative to the spread of each tensor.

    Args:
        noise_intensity: the paper's lambda, at least 0; the paper tries 0 to 0.3.
        distribution: `"uniform"`, or `"gaussian"` of the same variance.
        scale: `"matrix"` measures the noise by the spread of each tensor, `"global"` by that of all perturbed entries.
        include_head: also perturb the task head.
        include_token_embeddings: False spares the token embeddings (the paper's XTREME runs).

    Raises:
        InputError: a negative intensity, an unknown distribution or scale; at `setup`, a model without a backbone.
    """

    setup_stage: ClassVar[Literal["initialization"]] = "initialization"

    noise_intensity: NonNegative = 0.15
    distribution: Literal["uniform", "gaussian"] = "uniform"
    scale: Literal["matrix", "global"] = "matrix"
    include_head: bool = False
    include_token_embeddings: bool = True

    @classmethod
    def official(cls, noise_intensity: float = 0.15) -> NoisyTune:
        """Return the paper's printed recipe: every parameter, the task head too."""
        return cls(noise_intensity, include_head=True)

    @torch.no_grad()
    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Perturb the weights in place, frozen ones too, tied ones once."""
        if self.noise_intensity == 0.0:
            return
        refuse_adapters(
            model,
            "NoisyTune",
            "it changes pretrained weights, which the adapter's file does not hold",
            "do it before get_peft_model and save that base model, or train all weights",
        )
        refuse_quantized_parts(model, "NoisyTune")
        perturbed = list(model.parameters() if self.include_head else backbone(model).parameters())
        if not self.include_token_embeddings:
            spared = token_embeddings(model).weight
            perturbed = [weight for weight in perturbed if weight is not spared]
        scale = joint_spread(perturbed) if self.scale == "global" else None
        generator = torch.Generator().manual_seed(context.seed)
        for weight in perturbed:
            draws = draw(weight.shape, self.distribution, generator).to(weight.device)
            weight.add_(noise(weight, draws, self.noise_intensity, scale))
