r"""Top-K tuning: only the top blocks and the task head are trained.

**Idea.** The simplest way to keep what pretraining learned is not to touch it: freeze the embeddings and the lower
blocks, train what is close to the task.

**Equation.** With N blocks, block 1 at the input,

    w <- w - eta u    for blocks i > N - K and everything above (pooler, final norms, head),    u AdamW's direction,
    w  = w0           for the embeddings and blocks i <= N - K.

K is `n_layers`. K = 0 trains the head and the pooler on frozen features; K = N still freezes the embeddings.

**Where it acts.** `setup` takes the gradient from frozen parameters, before other methods list what they act on, so
the optimizer, snapshots and masks leave them alone; `finalize` gives it back.

**Under adapters.** Freezes the adapter's weights outside the top blocks as well. Refused under prompts, which lie in no
block.

**Differences from the released code.** None was released. Child-Tuning (arXiv:2109.05687) reports Top-K as a baseline
without code; its choice of K was not found, so 3 is a choice made here, as is freezing the embeddings at K = N. Frozen
weights do not decay either.

**Reference.** Houlsby et al. Parameter-Efficient Transfer Learning for NLP. ICML 2019, arXiv:1902.00751.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_prompts
from finetune_reg.building_blocks.parameter_groups import parameters_by_depth
from finetune_reg.building_blocks.pretrained_model import name_of
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import CountOrZero
from finetune_reg.method import FineTuningMethod, TrainingContext


@dataclass
class TopKLayers(FineTuningMethod):
    """Freeze the embeddings and all but the top blocks.

    Args:
        n_layers: K, number of trained blocks from the top; 0 and more. None freezes nothing.

    Raises:
        InputError: a negative number; at `setup`, more layers than the model has.
    """

    setup_stage: ClassVar[Literal["initialization"]] = "initialization"

    n_layers: CountOrZero | None = 3
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Freeze what lies below the trained blocks."""
        if self.n_layers is None:
            return
        refuse_prompts(model, "TopKLayers")
        levels = parameters_by_depth(model)
        n_blocks = len(levels) - 2
        if self.n_layers > n_blocks:
            raise InputError(
                f"TopKLayers needs n_layers of at most {n_blocks}, the blocks of this {name_of(model)}, "
                f"not {self.n_layers}."
            )
        for level in levels[: n_blocks - self.n_layers + 1]:
            for parameter in level:
                self._undo.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)

    def finalize(self, model: nn.Module) -> None:
        """Make the frozen parameters trainable again."""
        self._undo.close()
