r"""HyPe: a little noise on the hidden states between the blocks of the transformer.

**Idea.** Noise on the input embeddings reaches the upper blocks changed or damped. HyPe disturbs what each block reads,
so that every block learns to bear it.

**Equation** (paper, section 3). In training, for the input `h` of each transformer block, that of the first among them,

    h~ = h + z,        z ~ N(0, sigma^2)  or  z ~ U(-sigma, sigma)  for each coordinate.

`sigma` is `noise_scale`. At the 1e-5 of the released script the noise is far smaller than what dropout does.

**Where it acts.** `setup` hooks the noise onto the blocks. It acts in all passes in training mode, those that other
methods add among them, as dropout does: drawn anew where their masks are, the same where these are shared.

**Under adapters.** What the blocks read gets noise under any adapter, the tokens of a prompt among it.

**Differences from the released code** (`main.py` and `hype_modeling_bert.py` of Yuanhy1997/HyPe). (1) Its uniform noise
is one-sided, `U(0, sigma)`, with mean `sigma / 2`: `official()`. (2) The command of its README sets the dropout of
hidden states to 0 and trains on 1,000 rows; in a combination, `Vanilla(dropout=0.0)` switches all dropout off. (3) Its
options for noise between attention and feed-forward, and in the top or the bottom blocks alone, are left out.

**Reference.** Yuan, Yuan, Tan, Huang, Huang. HyPe: Better Pre-trained Language Model Fine-tuning with Hidden
Representation Perturbation. ACL 2023, arXiv:2212.08853.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.embedding_perturbation import refuse_rounded_move
from finetune_reg.building_blocks.parameter_groups import transformer_blocks
from finetune_reg.building_blocks.pretrained_model import precision_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import NonNegative, Precision
from finetune_reg.method import FineTuningMethod, TrainingContext

Noise = Literal["normal", "uniform", "one_sided_uniform"]


def hidden_noise(hidden_states: torch.Tensor, scale: float, noise: Noise) -> torch.Tensor:
    """Draw noise shaped like `hidden_states`, in float32 at least.

    Args:
        hidden_states: of any shape.
        scale: standard deviation of the normal, bound of the uniform distributions.
        noise: the distribution; `"one_sided_uniform"` is U(0, scale).
    """
    drawn = torch.empty_like(hidden_states, dtype=torch.promote_types(hidden_states.dtype, torch.float32))
    if noise == "normal":
        return drawn.normal_(0.0, scale)
    return drawn.uniform_(0.0 if noise == "one_sided_uniform" else -scale, scale)


@dataclass
class HyPe(FineTuningMethod):
    """Add noise to the hidden states that each transformer block reads.

    Args:
        noise_scale: the paper's sigma, at least 0; 0 draws nothing.
        noise: `"normal"` with standard deviation noise_scale (HyPe-N), `"uniform"` in (-noise_scale, noise_scale)
            (HyPe-U), or `"one_sided_uniform"` in (0, noise_scale) (released code).

    Raises:
        InputError: a value outside its range; at `setup`, a model without one stack of blocks; noise that the precision
            of weights or passes rounds away.
    """

    noise_scale: NonNegative = 1e-5
    noise: Noise = "normal"
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, noise_scale: float = 1e-5, noise: Literal["normal", "uniform"] = "uniform") -> HyPe:
        """Return the released code's noise: what it calls uniform is one-sided."""
        return cls(noise_scale, "one_sided_uniform" if noise == "uniform" else noise)

    def check_precision(self, precision: Precision) -> None:
        """Refuse noise that bfloat16 rounds away."""
        if precision == "bfloat16":
            refuse_rounded_move("HyPe", "noise_scale", self.noise_scale, "hidden states")

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Hook the noise onto the blocks."""
        if self.noise_scale == 0:
            return
        if any(parameter.dtype.itemsize < 4 for parameter in model.parameters()):
            self.check_precision("bfloat16")
        for block in transformer_blocks(model):
            self._undo.callback(block.register_forward_pre_hook(self._add_noise, with_kwargs=True).remove)

    def finalize(self, model: nn.Module) -> None:
        """Remove the noise."""
        self._undo.close()

    def _add_noise(self, block: nn.Module, arguments: tuple, named: dict[str, Any]) -> tuple | None:
        if not block.training:
            return None
        self.check_precision(precision_of(block))
        if arguments:
            return (self._noised(arguments[0]), *arguments[1:]), named
        if "hidden_states" in named:
            return arguments, named | {"hidden_states": self._noised(named["hidden_states"])}
        raise InputError(f"HyPe finds no hidden states among what {type(block).__name__} reads: {', '.join(named)}.")

    def _noised(self, hidden_states: torch.Tensor) -> torch.Tensor:
        noise = hidden_noise(hidden_states, self.noise_scale, self.noise)
        return (hidden_states + noise).to(hidden_states.dtype)
