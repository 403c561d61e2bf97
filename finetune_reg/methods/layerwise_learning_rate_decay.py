r"""Layerwise learning rate decay: the deeper a block lies, the more slowly it moves.

**Idea.** Blocks near the input hold general features worth keeping, blocks near the output are made for the pretraining
task. So the learning rate falls geometrically from the task head down to the embeddings.

**Equation.** With N blocks, block 1 at the input, and learning rate `eta`,

    eta_head = eta,    eta_block(i) = eta xi^(N + 1 - i),    eta_embeddings = eta xi^(N + 1).

`xi` is `decay_factor`. BERT-large (N = 24) at 2e-5 and 0.95 gets 1.90e-5 at the top block, 5.84e-6 at the bottom one
and 5.55e-6 at the embeddings. The schedule multiplies all rates alike.

**Where it acts.** `create_optimizer` builds AdamW with two groups per depth: decayed matrices, undecayed biases and
norms. Pooler, final norms and head have the full rate and come first, so a host that logs one rate logs that one.

**Under adapters.** The adapter's weights have the rate of the block that they stand in. Refused under prompts, which
stand in none.

**Differences from the released code** (`run_glue.py` of asappresearch/revisit-bert-finetuning). (1) It exempts all of
pooler and head from weight decay, in one group, unless the factor is 1; `official()` does the same
(`decay_head_and_pooler=False`). (2) It knows the word "classifier" and three encoders, and leaves out of the optimizer
what neither its blocks nor its embeddings contain (ELECTRA's projection of the embeddings); here depth is position:
what precedes the blocks counts as embeddings, and so does DeBERTa's table of relative positions.

**Reference.** Zhang, Wu, Katiyar, Weinberger, Artzi. Revisiting Few-sample BERT Fine-tuning. ICLR 2021,
arXiv:2006.05987; the idea is Howard, Ruder. Universal Language Model Fine-tuning. ACL 2018, arXiv:1801.06146.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_prompts
from finetune_reg.building_blocks.parameter_groups import parameters_by_depth, split_by_weight_decay
from finetune_reg.hyperparameters.ranges import Fraction
from finetune_reg.method import FineTuningMethod, TrainingContext


def learning_rates_by_depth(learning_rate: float, decay_factor: float, n_blocks: int) -> list[float]:
    """Return the rates of the embeddings, of each block from the bottom up, and of all above: N + 2 numbers."""
    return [learning_rate * decay_factor ** (n_blocks + 1 - depth) for depth in range(n_blocks + 2)]


@dataclass
class LayerwiseLearningRateDecay(FineTuningMethod):
    """Let the learning rate fall geometrically from the head to the embeddings.

    Args:
        decay_factor: the rate of a block relative to the one above it, in (0, 1].
        decay_head_and_pooler: False exempts all parameters above the blocks from weight decay, when `decay_factor` is
            below 1.

    Raises:
        InputError: a factor outside (0, 1]; at `create_optimizer`, a model without a list of blocks.
    """

    decay_factor: Fraction = 0.95
    decay_head_and_pooler: bool = True

    @classmethod
    def official(cls, decay_factor: float = 0.95) -> LayerwiseLearningRateDecay:
        """Return the released code's behaviour: no weight decay on pooler and head."""
        return cls(decay_factor, decay_head_and_pooler=False)

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Build AdamW with one learning rate per depth, the top of the model first."""
        if self.decay_factor == 1.0:
            return super().create_optimizer(model, context)
        refuse_prompts(model, "LayerwiseLearningRateDecay")
        levels = parameters_by_depth(model)
        rates = learning_rates_by_depth(context.learning_rate, self.decay_factor, n_blocks=len(levels) - 2)
        groups = [
            {**group, "lr": rate}
            for level, rate in reversed(list(zip(levels, rates, strict=True)))
            for group in split_by_weight_decay(model, level, context.weight_decay)
        ]
        if not self.decay_head_and_pooler:
            above, vectors = groups[:2]
            groups[:2] = [{**above, "params": above["params"] + vectors["params"], "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], **context.adamw_arguments)
