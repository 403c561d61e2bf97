r"""R3F: outputs stay put when random noise is added to the input embeddings.

**Idea.** Fine-tuning degrades representations it does not need for the task. R3F approximates a trust region: the
prediction must not change under a little noise on the word embeddings. It is SMART without the adversary, at half the
price.

**Equation** (paper, section 2). With output `f(x)`, symmetric KL without a factor 1/2 and the batch mean,

    loss + lambda KL_S(f(x), f(x + z)),       z ~ U(-sigma, sigma)  or  z ~ N(0, sigma^2).

`lambda` is `strength`, `sigma` is `noise_scale`. Gradients flow through both passes; the task loss is that of the clean
one. Regression compares by squared error.

**Where it acts.** `training_loss` runs the noised pass. Both passes draw their own dropout, as released, so that the
term is mostly R-Drop's at `sigma = 1e-5`; `dropout="shared"` leaves the noise alone, for which `setup` watches the
passes.

**Under adapters.** The word embeddings get noise under any adapter; the tokens of a prompt do not.

**Differences from the released code** (`sentence_prediction_r3f.py` of facebookresearch/fairseq). (1) Its noised pass
starts from detached embeddings, so that it does not train the embedding matrix (`detach_embeddings=True`). (2) For
regression it computes the term and never adds it (`regression_term=False`). `official()` has both. R4F's spectral
normalization of the head is not offered.

**Reference.** Aghajanyan, Shrivastava, Gupta, Goyal, Zettlemoyer, Gupta. Better Fine-Tuning by Reducing
Representational Collapse. ICLR 2021, arXiv:2008.03156.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.embedding_perturbation import (
    input_embeddings,
    perturbed_embeddings,
    refuse_rounded_move,
    refuse_unfit_embeddings,
)
from finetune_reg.building_blocks.output_divergence import compared_logits, is_regression, output_divergence
from finetune_reg.building_blocks.pretrained_model import precision_of, refuse_tuples, task_loss, unwrapped
from finetune_reg.building_blocks.random_replay import RandomReplay, extra_pass
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.hyperparameters.ranges import NonNegative, Precision
from finetune_reg.method import FineTuningMethod, TrainingContext


def draw_noise(embeddings: torch.Tensor, scale: float, noise: Literal["uniform", "normal"]) -> torch.Tensor:
    """Draw noise shaped like `embeddings`, in float32 at least.

    Args:
        embeddings: shape (batch, length, width).
        scale: bound of the uniform, standard deviation of the normal distribution.
        noise: the distribution.
    """
    drawn = torch.empty_like(embeddings, dtype=torch.promote_types(embeddings.dtype, torch.float32))
    return drawn.uniform_(-scale, scale) if noise == "uniform" else drawn.normal_(0.0, scale)


@dataclass
class R3F(FineTuningMethod):
    """Keep predictions where they are under random noise on the word embeddings.

    Args:
        strength: the paper's lambda, at least 0; 0 leaves the noised pass out.
        noise_scale: the paper's sigma, at least 0, in the embedding's units.
        noise: `"uniform"` in (-noise_scale, noise_scale) or `"normal"` with standard deviation noise_scale.
        dropout: `"independent"` draws anew in the noised pass, `"shared"` repeats the masks of the clean one.
        detach_embeddings: keep the gradient of the noised pass from the embedding matrix.
        regression_term: whether regression models get the term at all.

    Raises:
        InputError: a value outside its range; at `setup`, weights in less than float32, or a model that returns tuples;
            noise that the precision of the passes rounds away.
    """

    strength: NonNegative = 1.0
    noise_scale: NonNegative = 1e-5
    noise: Literal["uniform", "normal"] = "uniform"
    dropout: Literal["independent", "shared"] = "independent"
    detach_embeddings: bool = False
    regression_term: bool = True
    _replay: RandomReplay | None = field(default=None, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(
        cls, strength: float = 1.0, noise_scale: float = 1e-5, noise: Literal["uniform", "normal"] = "uniform"
    ) -> R3F:
        """Return the released criterion: detached embeddings, nothing for regression."""
        return cls(strength, noise_scale, noise, detach_embeddings=True, regression_term=False)

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """Two each, or one at strength 0; also two for a regression without `regression_term`, which makes one."""
        return (2, 2) if self.strength > 0 else (1, 1)

    def check_precision(self, precision: Precision) -> None:
        """Refuse noise that bfloat16 rounds away, even where independent dropout masks would hide that."""
        if precision == "bfloat16" and self.strength > 0:
            refuse_rounded_move("R3F", "noise_scale", self.noise_scale)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Watch the main passes, if their masks are shared."""
        if self.strength > 0:
            refuse_unfit_embeddings(model, "R3F")
            refuse_tuples(model)
            if self.dropout == "shared":
                self._replay = RandomReplay(model, self._undo)

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the task loss and the weighted divergence of the clean and a noised pass."""
        loss, model = task_loss(outputs), unwrapped(model)
        if self.strength == 0:
            return loss
        clean_logits = compared_logits(model, batch, outputs)
        if is_regression(model, clean_logits) and not self.regression_term:
            return loss
        self.check_precision(precision_of(model))
        noise = draw_noise(input_embeddings(model, batch), self.noise_scale, self.noise)
        masks = extra_pass() if self._replay is None else self._replay.again()
        with masks, perturbed_embeddings(model, noise, detach=self.detach_embeddings):
            noised = task_outputs(model, batch)
        noised_logits = compared_logits(model, batch, noised)
        return loss + self.strength * output_divergence(model, clean_logits, noised_logits)

    def finalize(self, model: nn.Module) -> None:
        """Stop watching."""
        self._undo.close()
        self._replay = None
