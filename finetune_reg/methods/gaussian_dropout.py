r"""Gaussian dropout: activations times Gaussian noise in place of a Bernoulli mask.

**Idea.** Dropout multiplies each activation by a random factor of mean 1 and variance `p / (1 - p)`. A Gaussian
factor with the same two moments regularizes alike, and nothing is ever switched off.

**Equation.** In training, for each activation `h`,

    h~ = h (1 + sigma eps),        eps ~ N(0, 1),        sigma^2 = p / (1 - p),

so that E[h~] = h; in evaluation h~ = h. `p` is `dropout_rate`; 0.1 gives `sigma` = 1/3.

**Where it acts.** `setup` switches dropout off and hooks noise onto the output of every dropout module: embeddings,
attention probabilities, the outputs of attention and feed-forward blocks, DeBERTa's relative positions and the task
head. Attention kernels take a rate and not a module, so the noisy passes go through an attention function that calls
the module; other passes keep the model's own. `finalize` undoes all.

**Under adapters.** The adapter's own dropout, where it has one, becomes noise as well; any adapter.

**Differences from the released code** (the Gaussian baseline of the guided-dropout paper). (1) It multiplies the normal
noise by `p / (1 - p)`, the variance, where the standard deviation belongs: 0.111 and not 0.333 at 0.1
(`variance_as_standard_deviation`). (2) Its test for training mode is always true, so the noise also acts at evaluation
(`noise_at_evaluation`), until `finalize`. `official()` has both.

**Reference.** Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov. Dropout: A Simple Way to Prevent Neural
Networks from Overfitting. JMLR 2014, section 10. Baseline of Sharma et al., COLM 2024, arXiv:2406.14005.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.dropout_sites import dropout_sites, dropout_variance
from finetune_reg.building_blocks.module_surgery import set_dropout
from finetune_reg.building_blocks.parameter_groups import backbone
from finetune_reg.building_blocks.pretrained_model import config_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import DropoutRate
from finetune_reg.method import FineTuningMethod, TrainingContext

_ATTENTION = "eager_through_dropout_module"


def noise_standard_deviation(dropout_rate: float, variance_as_standard_deviation: bool = False) -> float:
    """Return `sigma`: the root of p / (1 - p), or p / (1 - p) itself as in the released code."""
    variance = dropout_variance(dropout_rate)
    return variance if variance_as_standard_deviation else variance**0.5


def gaussian_dropout(activations: torch.Tensor, standard_deviation: float) -> torch.Tensor:
    """Multiply by `1 + sigma eps`; the noise is drawn, and applied, in float32 at least.

    Returns:
        Same shape and type as `activations`.
    """
    precise = activations.to(torch.promote_types(activations.dtype, torch.float32))
    noise = torch.randn_like(precise)
    return torch.addcmul(precise, precise, noise, value=standard_deviation).to(activations.dtype)


def attention_through_dropout_module(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention whose probabilities pass through the first dropout module that `module` owns.

    Args:
        query, key, value: shape (batch, heads, length, head width).
        attention_mask: added to the scores.

    Returns:
        Outputs, shape (batch, length, heads, head width), and probabilities, shape (batch, heads, length, length).
    """
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    precision = torch.promote_types(scores.dtype, torch.float32)
    probabilities = scores.softmax(-1, dtype=precision).to(value.dtype)
    probabilities = next(child for child in module.children() if isinstance(child, nn.Dropout))(probabilities)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_ATTENTION, attention_through_dropout_module)
    AttentionMaskInterface.register(_ATTENTION, eager_mask)


@dataclass
class GaussianDropout(FineTuningMethod):
    """Multiply activations by Gaussian noise where the model has dropout.

    Args:
        dropout_rate: `p` in [0, 1): the noise has the variance of dropout at this rate; 0 draws none.
        disable_dropout: the noise takes the place of the model's dropout; False adds it on top.
        variance_as_standard_deviation: use p / (1 - p) as standard deviation (released code).
        noise_at_evaluation: draw noise in evaluation mode too (released code).

    Raises:
        InputError: a rate outside [0, 1); at `setup`, a model without dropout modules, or one that keeps the rate of
            its attention as a number only.
    """

    dropout_rate: DropoutRate = 0.1
    disable_dropout: bool = True
    variance_as_standard_deviation: bool = False
    noise_at_evaluation: bool = False
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @property
    def sets_dropout(self) -> bool:
        """True unless `disable_dropout` is off."""
        return self.disable_dropout

    @classmethod
    def official(cls, dropout_rate: float = 0.1) -> GaussianDropout:
        """Return the released baseline: standard deviation p / (1 - p), noise at evaluation too."""
        return cls(dropout_rate, variance_as_standard_deviation=True, noise_at_evaluation=True)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Switch dropout off and hook the noise onto the dropout modules."""
        if self.dropout_rate > 0.0:
            self._hook_noise(model)
        if self.disable_dropout:
            set_dropout(model, 0.0, self._undo)

    def finalize(self, model: nn.Module) -> None:
        """Remove the noise; put attention and dropout rates back."""
        self._undo.close()

    def _hook_noise(self, model: nn.Module) -> None:
        for site in dropout_sites(model):
            if not any(isinstance(module, nn.Dropout) for module, _ in site.holders):
                raise InputError(
                    f"GaussianDropout needs a dropout module at {site.position}, not only a rate: use a model that has "
                    "one, such as BERT or RoBERTa."
                )
        _register_attention()
        sigma = noise_standard_deviation(self.dropout_rate, self.variance_as_standard_deviation)
        noise_at_evaluation = self.noise_at_evaluation

        def add_noise(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            return gaussian_dropout(output, sigma) if module.training or noise_at_evaluation else None

        def choose_attention(module: nn.Module, inputs: Any) -> None:
            noisy = module.training or noise_at_evaluation
            config_of(module)._attn_implementation = _ATTENTION if noisy else own_attention

        base = backbone(model)
        own_attention = config_of(base)._attn_implementation
        self._undo.callback(setattr, config_of(base), "_attn_implementation", own_attention)
        self._undo.callback(base.register_forward_pre_hook(choose_attention).remove)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                self._undo.callback(module.register_forward_hook(add_noise).remove)
