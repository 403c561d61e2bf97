r"""Child-Tuning D: fine-tune only the weights that carry most Fisher information about the task.

**Idea.** Before training, measure how much the likelihood of the training data depends on each pretrained weight.
Train the child network of the most informative weights; all others keep their pretrained values.

**Equation.** With the empirical Fisher information at the pretrained weights `w`,

    F_i = 1/n sum_j (d log p(y_j | x_j; w) / d w_i)^2,
    M   = [F >= the (1 - p) quantile of all entries of F],        g <- M * g,

where one quantile, interpolated linearly, serves all tensors together: a tensor that matters little is held almost
entirely. `p` is `keep_fraction`. The mask is fixed, and gradients are not rescaled.

**Where it acts.** `setup` measures, over the whole training set, the parameters of the transformer blocks, biases and
norms included; `after_backward` masks their gradients. Embeddings, pooler and head always train. Weights that are held
are exempt from weight decay: `create_optimizer` takes it out of AdamW for the masked matrices, and `after_step` decays
their trained entries.

**Under adapters.** Measures and masks the adapter's weights in the blocks. Of a fresh LoRA, where `B` is 0, the Fisher
information of `A` is 0: `A` is held, and the choice is among the entries of `B`. Refused under prompts, which lie in no
block.

**Differences from the released code** (`ChildTuningD.py` and `ChildTuningOptimizer.py` of AliceMind). (1) It squares
the gradients of shuffled batches, with dropout on and each tensor clipped to norm 1 (`fisher="clipped_batches"`).
(2) Its held weights decay toward zero (`decay_held_weights=True`). (3) It masks inside the optimizer, so that clipping
sees the unmasked gradients (`mask_after_clipping=True`). (4) Its AdamW decays weights after Adam's move; with
`decay_held_weights` the decay comes before it. (5) It finds the blocks by `layer` in the names of parameters. (6) Its
trainer ignores the warm-up ratio.

**Reference.** Xu, Luo, Zhang, Tan, Chang, Huang, Huang. Raise a Child in Large Language Model: Towards Effective and
Generalizable Fine-tuning. EMNLP 2021, arXiv:2109.05687.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from finetune_reg.building_blocks.adapters.adapted_models import refuse_prompts
from finetune_reg.building_blocks.fisher_information import fisher_information
from finetune_reg.building_blocks.module_surgery import in_mode
from finetune_reg.building_blocks.parameter_groups import learning_rates, transformer_blocks
from finetune_reg.building_blocks.pretrained_model import device_of, unwrapped
from finetune_reg.building_blocks.random_replay import extra_pass, random_state_kept
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Fraction
from finetune_reg.method import FineTuningMethod, TrainingContext


def child_threshold(fisher: Iterable[torch.Tensor], keep_fraction: float) -> float:
    """Return the `1 - keep_fraction` quantile of the entries of all tensors together, interpolated linearly.

    Args:
        fisher: tensors of any shapes.
        keep_fraction: in (0, 1].
    """
    entries = torch.cat([values.flatten() for values in fisher]).cpu().numpy()
    return float(np.percentile(entries, (1 - keep_fraction) * 100, overwrite_input=True))


def child_masks(fisher: Mapping[str, torch.Tensor], keep_fraction: float) -> dict[str, torch.Tensor]:
    """Return the masks of the entries at or above `child_threshold`, by the names of the tensors."""
    threshold = child_threshold(fisher.values(), keep_fraction)
    return {name: values >= threshold for name, values in fisher.items()}


@dataclass
class ChildTuningD(FineTuningMethod):
    """Train only the weights of the transformer blocks with the largest Fisher information.

    Args:
        keep_fraction: the paper's `p_D`, share of the blocks' parameters that train, in (0, 1]; 1 trains everything
            and measures nothing. Published runs try 0.1, 0.2 and 0.3.
        fisher: `"examples"` squares the gradient of each example, without dropout (the paper's equation);
            `"clipped_batches"` is the released estimate.
        decay_held_weights: let weight decay act on held weights.
        mask_after_clipping: mask between clipping and the optimizer's step.

    Raises:
        InputError: a value outside its range; at `setup`, no transformer blocks, no training examples, or information
            in fewer weights than are to be kept.
    """

    setup_stage: ClassVar[Literal["search"]] = "search"

    keep_fraction: Fraction = 0.3
    fisher: Literal["examples", "clipped_batches"] = "examples"
    decay_held_weights: bool = False
    mask_after_clipping: bool = False
    _masks: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _decayed_by_hand: set[int] = field(default_factory=set, init=False, repr=False, compare=False)
    _weight_decay: float = field(default=0.0, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, keep_fraction: float = 0.3) -> ChildTuningD:
        """Return the released code's behaviour: clipped batches, held weights decay, masks after clipping."""
        return cls(keep_fraction, "clipped_batches", decay_held_weights=True, mask_after_clipping=True)

    @property
    def brings_optimizer(self) -> bool:
        """True when the optimizer masks, or leaves the decay of masked matrices out."""
        return self.mask_after_clipping or not self.decay_held_weights

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Measure the Fisher information and choose the child network."""
        if self.keep_fraction == 1.0:
            return
        refuse_prompts(model, "ChildTuningD")
        model = unwrapped(model)
        in_blocks = {id(parameter) for parameter in transformer_blocks(model).parameters()}
        measured = {n: p for n, p in model.named_parameters() if id(p) in in_blocks and p.requires_grad}
        if context.resumes:
            self._masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in measured.items()}
            return
        released = self.fisher == "clipped_batches"
        with in_mode(model, training=released), extra_pass(), random_state_kept(device_of(model)):
            torch.manual_seed(context.seed)
            batches = context.batches(device_of(model), batch_size=1)
            if released:
                generator = torch.Generator().manual_seed(context.seed)
                shuffled = torch.randperm(len(context.train_dataset), generator=generator)
                batches = context.batches(device_of(model), shuffled.tolist())
            fisher = fisher_information(model, batches, measured, clip_each_tensor=1.0 if released else None)
        self._masks = child_masks(fisher, self.keep_fraction)
        if all(mask.all() for mask in self._masks.values()):
            raise InputError(
                f"ChildTuningD cannot choose a share of {self.keep_fraction:g} by Fisher information, because fewer "
                "weights have any, as before LoRA has moved: lower keep_fraction."
            )

    def create_optimizer(self, model: nn.Module, context: TrainingContext) -> torch.optim.Optimizer:
        """Build the ordinary optimizer, without decay of the masked matrices unless held weights decay."""
        optimizer = super().create_optimizer(model, context)
        if self.mask_after_clipping:
            self._undo.callback(optimizer.register_step_pre_hook(lambda *_: self._mask_gradients(model)).remove)
        if self._masks and not self.decay_held_weights:
            self._weight_decay = context.weight_decay
            decayed, masked = optimizer.param_groups[0], {id(p) for p, _ in self._masked_parameters(model)}
            by_hand = [p for p in decayed["params"] if id(p) in masked]
            self._decayed_by_hand = {id(p) for p in by_hand}
            decayed["params"] = [p for p in decayed["params"] if id(p) not in masked]
            optimizer.add_param_group({"params": by_hand, "weight_decay": 0.0})
        return optimizer

    def after_backward(self, model: nn.Module) -> None:
        """Mask the gradients, unless that comes after clipping."""
        if not self.mask_after_clipping:
            self._mask_gradients(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Decay the trained entries of the masked matrices."""
        if self._weight_decay == 0.0:
            return
        rates = learning_rates(optimizer)
        for parameter, mask in self._masked_parameters(model):
            if id(parameter) in self._decayed_by_hand:
                decay = rates[id(parameter)] * self._weight_decay
                parameter.addcmul_(parameter, mask.view(torch.uint8), value=-decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the masks."""
        return self._masks

    def finalize(self, model: nn.Module) -> None:
        """Drop the masks and take them out of the optimizer."""
        self._masks, self._decayed_by_hand, self._weight_decay = {}, set(), 0.0
        self._undo.close()

    @torch.no_grad()
    def _mask_gradients(self, model: nn.Module) -> None:
        for parameter, mask in self._masked_parameters(model):
            if parameter.grad is not None:
                parameter.grad.mul_(mask.view(torch.uint8))

    def _masked_parameters(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        return ((p, self._masks[name]) for name, p in unwrapped(model).named_parameters() if name in self._masks)
