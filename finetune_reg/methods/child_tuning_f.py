r"""Child-Tuning F: update a random part of the weights at every step.

**Idea.** The forward pass uses the whole network, but each update reaches only a "child" of it, drawn anew every time.
The noise of the masked gradient is meant to help training out of sharp minima.

**Equation.** For every entry of every gradient `g`,

    g <- g * m / p,        m ~ Bernoulli(p),        E[g m / p] = g,
    Var[g m / p] = s^2 + (1 - p) / p (mu^2 + s^2)

for a gradient of mean `mu` and variance `s^2`. `p` is `keep_probability`. Under Adam masked weights still move by their
momentum, and the step shrinks to about `sqrt(p)` of its length, because Adam divides by the root of the second moment.

**Where it acts.** `after_backward` masks the gradients of all parameters, embeddings, biases, norms and head included.
The equation knows no clipping: masks come before it, so that clipping sees the gradients that are used. With
`mask_after_clipping`, `create_optimizer` puts them into the optimizer instead.

**Under adapters.** Masks the gradients of all that peft trains, adapter and head, with any adapter.

**Differences from the released code** (`ChildTuningOptimizer.py` and `ChildTuningF.py` of AliceMind). (1) It masks
inside the optimizer, so that clipping sees the unmasked gradients (`mask_after_clipping=True`). (2) Its AdamW decays
weights after Adam's move, here before it; the two differ by learning rate times decay times the move. (3) Its trainer
ignores the warm-up ratio. (4) Here `keep_probability` is rounded to a multiple of 1/65536 and gradients are divided by
the rounded number, so that their expectation is exact.

**Reference.** Xu, Luo, Zhang, Tan, Chang, Huang, Huang. Raise a Child in Large Language Model: Towards Effective and
Generalizable Fine-tuning. EMNLP 2021, arXiv:2109.05687.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import nn

from finetune_reg.building_blocks.pretrained_model import device_of
from finetune_reg.building_blocks.random_replay import drawing_alike
from finetune_reg.hyperparameters.ranges import Fraction
from finetune_reg.method import FineTuningMethod, TrainingContext

_RESOLUTION = 2**16


def rounded_probability(keep_probability: float) -> float:
    """Return the nearest positive multiple of 1/65536."""
    return max(round(keep_probability * _RESOLUTION), 1) / _RESOLUTION


def kept_entries(draws: torch.Tensor, keep_probability: float, dtype: torch.dtype) -> torch.Tensor:
    """Return the masks `m` of draws: 1 for the upper `p 2^16` of their 2^16 values, 0 for the others.

    Args:
        draws: int16, uniform over all its values, of any shape.
        keep_probability: `p` in (0, 1], rounded to a multiple of 1/65536.
        dtype: of the masks.
    """
    threshold = _RESOLUTION // 2 - round(rounded_probability(keep_probability) * _RESOLUTION)
    return torch.ge(draws, threshold, out=torch.empty(draws.shape, dtype=dtype, device=draws.device))


@torch.no_grad()
def mask_gradient(gradient: torch.Tensor, keep_probability: float) -> None:
    """Multiply each entry, in place, by `m / p` with `m ~ Bernoulli(p)`.

    Args:
        gradient: of any shape.
        keep_probability: `p` in (0, 1], rounded to a multiple of 1/65536; 1 draws nothing.
    """
    keep_probability = rounded_probability(keep_probability)
    if keep_probability == 1.0:
        return
    # Each random 64-bit word serves four entries: a fifth of the time of `bernoulli_` on a CPU.
    words = torch.empty(-(-gradient.numel() // 4), dtype=torch.int64, device=gradient.device).random_(-(2**63), None)
    draws = words.view(torch.int16)[: gradient.numel()].view(gradient.shape)
    gradient.mul_(kept_entries(draws, keep_probability, gradient.dtype)).mul_(1.0 / keep_probability)


@torch.no_grad()
def mask_gradient_rows(gradient: torch.Tensor, keep_probability: float) -> None:
    """Do as `mask_gradient`, drawing only for rows that are not zero: those of the tokens that occurred.

    Args:
        gradient: shape (vocabulary, width).
        keep_probability: as in `mask_gradient`.
    """
    rows = gradient.any(dim=1).nonzero().squeeze(1)
    masked = gradient[rows]
    mask_gradient(masked, keep_probability)
    gradient[rows] = masked


@dataclass
class ChildTuningF(FineTuningMethod):
    """Mask every gradient entry at random, with a fresh mask at every update.

    Args:
        keep_probability: the paper's `p_F`, in (0, 1]; 1 is plain fine-tuning. Published runs try 0.2, 0.3 and 0.4.
        mask_after_clipping: mask between clipping and the optimizer's step, as the released code does.

    Raises:
        InputError: a probability outside (0, 1].
    """

    keep_probability: Fraction = 0.3
    mask_after_clipping: bool = False
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, keep_probability: float = 0.3) -> ChildTuningF:
        """Return the released code's behaviour: clipping sees the unmasked gradients."""
        return cls(keep_probability, mask_after_clipping=True)

    @property
    def brings_optimizer(self) -> bool:
        """True when the mask acts inside the optimizer."""
        return self.mask_after_clipping

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Build the ordinary optimizer; with `mask_after_clipping`, it masks the gradients before each step."""
        optimizer = super().create_optimizer(model, context)
        if self.mask_after_clipping:
            self._undo.callback(optimizer.register_step_pre_hook(lambda *_: self._mask_gradients(model)).remove)
        return optimizer

    def after_backward(self, model: nn.Module) -> None:
        """Mask the gradients, unless that comes after clipping."""
        if not self.mask_after_clipping:
            self._mask_gradients(model)

    def finalize(self, model: nn.Module) -> None:
        """Take the mask out of the optimizer."""
        self._undo.close()

    def _mask_gradients(self, model: nn.Module) -> None:
        if self.keep_probability == 1.0:
            return
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        with drawing_alike(device_of(model)):
            for parameter in model.parameters():
                if parameter.grad is not None:
                    mask = mask_gradient_rows if id(parameter) in embeddings else mask_gradient
                    mask(parameter.grad, self.keep_probability)
