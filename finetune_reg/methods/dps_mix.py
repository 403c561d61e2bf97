r"""DPS Mix: explore random parts of the network as Mixout does, then train the part that mattered, in turns.

**Idea.** As in DPS Dense, training measures in Stage I which weights to train in Stage II. Here Stage I is Mixout:
at every update random input units return to their pretrained weights. A weight is judged by its gradients while it
was active, relative to how often it was active, and a weight that was active often must have better reasons.

**Equation** (as the released code computes it). With reference `B`, active mask `m` and kept fraction `k`,

    W~ = B + m * (W - B) / k,

    Stage I:   B = pretrained weight,  m_j ~ Bernoulli(k) for each input unit j, anew at every update;
    Stage II:  B = weight at the start of the stage,  m = M, the mask chosen from Stage I.

Stage I sums, over its updates, the squared gradient `A += m * (dL/dW~)^2 / 1000` and the activity `f += m`. With stage
length `u` and `F = max(f, 1)`,

    S = A / F * exp(-F / u),        M = [S >= the ceil(k n)-th largest of the n entries of S],

where the factor `exp(-F / u)` is the frequency penalty. `k` is `keep_fraction`, `u = floor(update_ratio * T)`.

**Where it acts.** `setup` replaces all linear layers, head included, and switches dropout off; `finalize` restores
both. `after_backward` measures, `after_step` prepares the next masks; all micro-batches of an update share a mask.
Evaluation uses the plain weights. Weights that are held still move by Adam's momentum and by weight decay.

**Under adapters.** Refused: Stage I scores the entries of whole weight matrices by their gradients, and an adapter
gives no gradient to a whole matrix. `DPSDense` chooses within an adapter.

**Differences from the released code** (`DPSMix` of ZhangHaojie077/DPS). (1) Its backward pass multiplies by `m`, not
by the derivative `m / k` (`rescale_gradient=False`). (2) It leaves the penalty out when a stage is shorter than 50
updates; that is the default here, too (`frequency_penalty="auto"`). (3) Its option `reserve_p` is the fraction that is
dropped. (4) It draws masks and counts stages by training pass, not by optimizer update. (5) It counts in binary numbers
(`exact_counts=False`). (6) One gradient that is not finite spoils its whole cycle; here such updates do not enter the
sums. (7) It scales `(1 - m) B + m W - (1 - k) B` by `1 / k`, equal up to rounding. (8) Its classifier starts from
other random values. (9) Its low-resource script takes one epoch for `T` but trains three: `update_ratio=0.05 / 3` has
its stages.

**Reference.** Zhang, Li, Li, Zhang, Zhu, Jin. Fine-Tuning Pre-Trained Language Models Effectively by Optimizing
Subnetworks Adaptively. NeurIPS 2022, arXiv:2211.01642.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import (
    ReplacementLinear,
    backbone_module_names,
    replace_linears,
    set_dropout,
)
from finetune_reg.building_blocks.parameter_selection import (
    GRADIENT_SCALE,
    add_squares,
    count_kept,
    select_largest,
    stage_length,
    stage_of,
    zeros_for_squares,
)
from finetune_reg.building_blocks.pretrained_model import is_linear, unwrapped
from finetune_reg.hyperparameters.ranges import Fraction
from finetune_reg.method import FineTuningMethod, TrainingContext
from finetune_reg.methods.mixout import mixout

SHORTEST_PENALIZED_STAGE = 50


def mixed_weight(
    weight: torch.Tensor,
    reference: torch.Tensor,
    keep_mask: torch.Tensor,
    keep_fraction: float,
    rescale_gradient: bool = True,
) -> torch.Tensor:
    """Return `W~ = B + m (W - B) / k`: Mixout with another reference and mask.

    Args:
        weight: current weight `W`, shape (out, in).
        reference: `B`, same shape.
        keep_mask: `m`, boolean, broadcastable to `weight`.
        keep_fraction: `k` in (0, 1].
        rescale_gradient: False gives the released code's gradient, `m` in place of `m / k`.
    """
    return mixout(weight, reference, keep_mask, 1.0 - keep_fraction, rescale_gradient)


def selection_scores(
    squares: torch.Tensor, activity: torch.Tensor, stage_length: int, penalize: bool = True
) -> torch.Tensor:
    """Return `A / F`, times `exp(-F / u)` with the frequency penalty, where `F = max(f, 1)`.

    Args:
        squares: summed squared gradients `A`, shape (out, in).
        activity: updates in which a weight was active, `f`, broadcastable to `squares`.
        stage_length: updates of a stage, `u`.
        penalize: False leaves the frequency penalty out.
    """
    activity = activity.clamp(min=1)
    scores = squares / activity
    return scores * torch.exp(-activity / stage_length) if penalize else scores


class SelectiveMixLinear(ReplacementLinear):
    """A linear layer that shows, in training mode only, a reference in place of the weights its mask holds.

    What is shaped like the weight lies as it does: (out, in), or (in, out) in a `Conv1D`.

    Attributes:
        pretrained_weight: the weight at construction, shape (out, in).
        reference: what held weights show, same shape.
        keep_mask: boolean, True where the weight is active; shape (1, in) in Stage I, (out, in) in Stage II.
        squares: summed squared gradients, shape (out, in); empty in Stage II.
        activity: updates in which a weight was active, shape (1, in).
    """

    pretrained_weight: torch.Tensor

    def __init__(self, linear: nn.Linear, keep_fraction: float, rescale_gradient: bool = True) -> None:
        super().__init__(linear)
        self.register_buffer("pretrained_weight", self.weight.detach().clone(), persistent=False)
        self.keep_fraction = keep_fraction
        self.rescale_gradient = rescale_gradient
        self.begin_cycle()

    def begin_cycle(self) -> None:
        """Return to the pretrained reference, with empty statistics."""
        self.reference = self.pretrained_weight
        self.squares = zeros_for_squares(self.weight)
        self.activity = self.turned(self.squares.new_zeros(1, self.in_features))

    def draw_mask(self, generator: torch.Generator) -> None:
        """Activate each input unit with probability `keep_fraction`."""
        mask = torch.empty(1, self.in_features, dtype=torch.bool).bernoulli_(self.keep_fraction, generator=generator)
        self.keep_mask = self.turned(mask.to(self.weight.device))

    def begin_training(self, n_kept: int, stage_length: int, penalize: bool) -> None:
        """Take the current weight as reference and activate the `n_kept` weights that score highest."""
        self.reference = self.weight.detach().clone()
        scores = selection_scores(self.squares, self.activity, stage_length, penalize)
        self.squares = scores.new_empty(0)
        self.keep_mask = select_largest(scores, n_kept)

    def stage(self) -> dict[str, torch.Tensor]:
        """Return what the next update is made with, by attribute; the reference in Stage II only."""
        in_stage_2 = self.reference is not self.pretrained_weight
        names = ["pretrained_weight", "keep_mask", "squares", "activity"] + ["reference"] * in_stage_2
        return {name: getattr(self, name) for name in names}

    def mixed_weight(self) -> torch.Tensor:
        """Return `W~`, shape (out, in)."""
        return mixed_weight(self.weight, self.reference, self.keep_mask, self.keep_fraction, self.rescale_gradient)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        active = self.training and self.keep_fraction < 1.0
        return self.map(input, self.mixed_weight() if active else self.weight)


@dataclass
class DPSMix(FineTuningMethod):
    """Alternate between Mixout and training the weights whose gradients were largest while active.

    Args:
        keep_fraction: probability that an input unit is active in Stage I and share of each weight matrix that
            Stage II trains, in (0, 1]; 1 trains everything.
        update_ratio: length of one stage as a share of all updates, in (0, 1].
        disable_dropout: train without dropout, as the released runs do.
        rescale_gradient: True is the derivative of the equation; False is the released code's.
        frequency_penalty: `"auto"` penalizes frequent activity when a stage has 50 updates or more.
        exact_counts: take fractions for the simple numbers they are written as; False is the released arithmetic.

    Raises:
        InputError: a value outside its range; at `setup`, no linear layer, or stages shorter than one update.
    """

    replaces_linears: ClassVar[bool] = True

    keep_fraction: Fraction = 0.7
    update_ratio: Fraction = 0.05
    disable_dropout: bool = True
    rescale_gradient: bool = True
    frequency_penalty: Literal["auto", "always", "never"] = "auto"
    exact_counts: bool = True
    _layers: list[SelectiveMixLinear] = field(default_factory=list, init=False, repr=False, compare=False)
    _generator: torch.Generator | None = field(default=None, init=False, repr=False, compare=False)
    _stage_length: int = field(default=0, init=False, repr=False, compare=False)
    _update: int = field(default=0, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @property
    def sets_dropout(self) -> bool:
        """True unless `disable_dropout` is off."""
        return self.disable_dropout

    @classmethod
    def official(cls, drop_fraction: float = 0.3, update_ratio: float = 0.05) -> DPSMix:
        """Return the released code's behaviour.

        Args:
            drop_fraction: its `reserve_p`, the share that is held: of the input units in Stage I, of each matrix in
                Stage II; in [0, 1).
            update_ratio: as in the constructor.
        """
        return cls(1 - drop_fraction, update_ratio, rescale_gradient=False, exact_counts=False)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Replace the linear layers, draw the first masks, switch dropout off."""
        self._stage_length = stage_length(self.update_ratio, context.n_updates, self.exact_counts, "DPSMix")
        self._generator = torch.Generator().manual_seed(context.seed)

        def build(linear: nn.Linear) -> SelectiveMixLinear:
            self._layers.append(SelectiveMixLinear(linear, self.keep_fraction, self.rescale_gradient))
            return self._layers[-1]

        model = unwrapped(model)
        inside = backbone_module_names(model)
        replace_linears(model, lambda name: name in inside, build, self._undo, method="DPSMix")
        if any(is_linear(module) for name, module in model.named_modules() if name not in inside):
            replace_linears(model, lambda name: name not in inside, build, self._undo, method="DPSMix")
        if self.disable_dropout:
            set_dropout(model, 0.0, self._undo)
        self._prepare_update(1)

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        """Stage I: sum the squared gradients and the activity."""
        self._update += 1
        if self.keep_fraction == 1.0 or stage_of(self._update, self._stage_length)[0] == 2:
            return
        divisor = GRADIENT_SCALE / self.keep_fraction**2 if self.rescale_gradient else GRADIENT_SCALE
        if add_squares([layer.squares for layer in self._layers], [layer.weight for layer in self._layers], divisor):
            for layer in self._layers:
                layer.activity.add_(layer.keep_mask)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Prepare reference and masks of the next update."""
        self._prepare_update(self._update + 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the number of updates, the state of the masks' generator and the stage of each layer."""
        if self._generator is None or self.keep_fraction == 1.0:
            return {}
        return {
            "update": torch.tensor(self._update),
            "generator": self._generator.get_state(),
            **{f"{i}.{name}": t for i, layer in enumerate(self._layers) for name, t in layer.stage().items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take up the cycle in its stage."""
        self._update = int(state_dict.get("update", 0))
        if stage_of(self._update + 1, self._stage_length)[0] == 2:
            for layer in self._layers:
                layer.begin_training(layer.weight.numel(), self._stage_length, penalize=False)
        super().load_state_dict(state_dict)
        if self._generator is not None and state_dict:
            self._generator.set_state(state_dict["generator"].cpu())

    def finalize(self, model: nn.Module) -> None:
        """Put the plain linear layers and the dropout rates back."""
        self._layers, self._generator = [], None
        self._stage_length = self._update = 0
        self._undo.close()

    def _prepare_update(self, update: int) -> None:
        if self.keep_fraction == 1.0 or self._generator is None:
            return
        stage, place = stage_of(update, self._stage_length)
        penalize = {"auto": self._stage_length >= SHORTEST_PENALIZED_STAGE, "always": True, "never": False}
        for layer in self._layers:
            if stage == 1 and place == 1:
                layer.begin_cycle()
            if stage == 1:
                layer.draw_mask(self._generator)
            elif place == 1:
                n_kept = count_kept(layer.weight.numel(), self.keep_fraction, self.exact_counts)
                layer.begin_training(n_kept, self._stage_length, penalize[self.frequency_penalty])
