r"""NEFTune: uniform noise on the word embeddings in training.

**Idea.** A model that reads slightly different embeddings of the same words at every update cannot fit the exact ones.

**Equation** (paper, Algorithm 1). In training, with `L` the length of the sequence, `d` the width of the embeddings,

    x~ = x + alpha / sqrt(L d) u,        u ~ U(-1, 1) for each coordinate.

`alpha` is `noise_alpha`. The noise of a sequence has a norm of about `alpha / sqrt(3)`, whatever its length. The paper
tries 5, 10 and 15 on language models that follow instructions; values for encoders were not read in a source.

**Where it acts.** `setup` hooks the noise onto the table of word embeddings, before positions and norms. It acts in all
passes in training mode, those that other methods add among them, as dropout does: drawn anew where their masks are, the
same where these are shared. A pass that is given embeddings in place of tokens is refused.

**Under adapters.** The word embeddings get noise under any adapter; the tokens of a prompt do not.

**Differences from the released code** (`train.py` of the experiments and README of neelsjain/NEFTune). The paper does
not speak of padding. The experiments count and move the tokens of each sequence alone, as here. The function of the
README, and after it `neftune_noise_alpha` of transformers, take the padded length of the batch and move padding, too
(`length="padded"`, `official()`): with much padding their noise on the tokens is weaker, and depends on the batch.
`neftune_noise_alpha` of a Trainer goes together with every method but this one, whose noise it would double.

**Reference.** Jain, Chiang, Wen, Kirchenbauer, Chu, Somepalli, Bartoldson, Kailkhura, Schwarzschild, Saha, Goldblum,
Geiping, Goldstein. NEFTune: Noisy Embeddings Improve Instruction Finetuning. ICLR 2024, arXiv:2310.05914.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.embedding_perturbation import token_mask
from finetune_reg.building_blocks.module_surgery import refuse_loose_attention
from finetune_reg.building_blocks.pretrained_model import token_embeddings, unwrapped
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext


def embedding_noise(embeddings: torch.Tensor, mask: torch.Tensor, noise_alpha: float) -> torch.Tensor:
    """Draw `alpha / sqrt(L d) u` for the marked positions, 0 for the others.

    Args:
        embeddings: shape (sequences, length, d).
        mask: 1 for positions that count and move, 0 for others, shape (sequences, length, 1).
        noise_alpha: `alpha`.

    Returns:
        Shaped like `embeddings`, in float32 at least.
    """
    noise = torch.empty_like(embeddings, dtype=torch.promote_types(embeddings.dtype, torch.float32)).uniform_(-1, 1)
    n_coordinates = mask.sum(dim=1, keepdim=True).clamp_min(1) * embeddings.shape[-1]
    return noise.mul_(mask).mul_(noise_alpha / n_coordinates.to(noise.dtype).sqrt())


@dataclass
class NEFTune(FineTuningMethod):
    """Add uniform noise to the word embeddings in training.

    Args:
        noise_alpha: the paper's alpha, at least 0; 0 draws nothing.
        length: `"tokens"` counts and moves the tokens of each sequence, `"padded"` all positions of the batch.

    Raises:
        InputError: a value outside its range; at `setup`, a model without a table of word embeddings or of another
            layout; at a pass, no `input_ids`, or the noise of `neftune_noise_alpha` besides.
    """

    noise_alpha: NonNegative = 5.0
    length: Literal["tokens", "padded"] = "tokens"
    _mask: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, noise_alpha: float = 5.0) -> NEFTune:
        """Return the function of the released README: the length is that of the padded batch, and padding moves."""
        return cls(noise_alpha, length="padded")

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Hook the noise onto the table."""
        if self.noise_alpha == 0:
            return
        refuse_loose_attention(model, "NEFTune")
        table, model = token_embeddings(model), unwrapped(model)
        for hook in (
            model.register_forward_pre_hook(self._begin_pass, with_kwargs=True),
            table.register_forward_hook(self._add_noise),
            model.register_forward_hook(self._end_pass, always_call=True),
        ):
            self._undo.callback(hook.remove)

    def finalize(self, model: nn.Module) -> None:
        """Remove the noise."""
        self._undo.close()
        self._mask = None

    def _begin_pass(self, model: nn.Module, arguments: tuple, batch: Mapping[str, torch.Tensor]) -> None:
        if model.training:
            mask = token_mask(batch)
            self._mask = mask if self.length == "tokens" else torch.ones_like(mask)

    def _end_pass(self, model: nn.Module, arguments: tuple, outputs: Any) -> None:
        self._mask = None

    def _add_noise(self, table: nn.Module, ids: Any, embeddings: torch.Tensor) -> torch.Tensor | None:
        if self._mask is None:  # a look-up of its own, not of a pass in training
            return None
        if hasattr(table, "neftune_noise_alpha"):
            raise InputError("NEFTune would add its noise to that of neftune_noise_alpha: leave one of the two out.")
        appended = embeddings.shape[-2] - self._mask.shape[-2]  # padding, by the model itself
        noise = embedding_noise(embeddings, F.pad(self._mask, (0, 0, 0, appended)), self.noise_alpha)
        return (embeddings + noise).to(embeddings.dtype)
