r"""SAM, sharpness-aware minimization: descend with the gradient at the worst point nearby.

**Idea.** A minimum in a flat valley generalizes better than one in a narrow gorge. SAM minimizes the highest loss in a
small ball around the weights: it climbs to the border of the ball and takes from there the gradient of the update.

**Equation** (Foret et al., section 2). With the gradient `g` of the loss of the whole batch, over all trained weights,

    epsilon = rho g / |g|_2,        theta <- theta - AdamW(gradient of the loss at theta + epsilon).

`rho` is `radius`. With `adaptive=True` (ASAM) the ball has the scale of each weight, `T = |theta| + eta` and 1 for
biases: `epsilon = rho T^2 g / |T g|_2`. `eta` is `scale_offset`.

**Where it acts.** `setup` watches the main passes, `training_loss` keeps the micro-batches of the update, and
`after_backward`, which finds the gradient of all of them, moves the weights, makes all passes again and puts the
weights back, bit for bit. So the ascent is that of the whole batch, however it is cut, and the second passes have the
precision of the first. They also have their dropout masks: the two losses differ by the move alone. In a combination
the second passes contain what the other members add to loss and gradient, with the same noise. The training loss that a
host reports is the one before the ascent.

**Under adapters.** Moves what peft trains, with any adapter; of LoRA the factors `A` and `B`, not the weight that they
change.

**Differences from the released code** (`flax_training.py` of google-research/sam, `asam.py` of SamsungLabs/ASAM).
(1) By default the former ascends on each device with the gradient of the examples there (m-sharpness); its
`sync_perturbations` is ours. The form per device is left out: with it the method would depend on how a batch is cut.
(2) It clips after the second pass, as here, and shares dropout masks, as here; the latter draws them anew
(`dropout="independent"`). (3) The latter scales what has `weight` in its name, norms and embeddings among it, as here;
its `eta` is 0.01 in the class and 0 in the example; `official("asam")` has the class's values. The defaults, 0.05 and
with ASAM 0.5, are those for images; values for encoders of text were not read in a source.

**Reference.** Foret, Kleiner, Mobahi, Neyshabur. Sharpness-Aware Minimization for Efficiently Improving Generalization.
ICLR 2021, arXiv:2010.01412; for language models Bahri, Mobahi, Tay. ACL 2022, arXiv:2110.08529; ASAM: Kwon, Kim, Park,
Choi. ICML 2021, arXiv:2102.11600.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from finetune_reg.building_blocks.module_surgery import weights_kept
from finetune_reg.building_blocks.precomputed_gradient import average_over_processes
from finetune_reg.building_blocks.pretrained_model import device_of, task_loss, unwrapped
from finetune_reg.building_blocks.random_replay import RandomReplay
from finetune_reg.building_blocks.task_outputs import task_outputs
from finetune_reg.errors import InputError, unknown_name
from finetune_reg.hyperparameters.ranges import NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext

Loss = Callable[[nn.Module, Mapping[str, torch.Tensor], Any], torch.Tensor]


@torch.no_grad()
def ascent(
    gradients: Sequence[torch.Tensor], radius: float, scales: Sequence[torch.Tensor | None] | None = None
) -> list[torch.Tensor]:
    """Return `rho T^2 g / |T g|`, the norm being that of all tensors together; zero gradients do not move.

    Args:
        gradients: of each parameter.
        radius: `rho`.
        scales: `T` of each parameter, in its shape; None for 1.
    """
    scales = [None] * len(gradients) if scales is None else scales
    scaled = [g if scale is None else g * scale for g, scale in zip(gradients, scales, strict=True)]
    norm = nn.utils.get_total_norm(scaled)
    step = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    return [(g if scale is None else g * scale) * step for g, scale in zip(scaled, scales, strict=True)]


@dataclass
class SAM(FineTuningMethod):
    """Update with the gradient at the highest point of a small ball around the weights.

    Args:
        radius: the paper's rho, at least 0; 0 makes no second passes.
        adaptive: scale the ball by the size of each weight, as ASAM does.
        scale_offset: ASAM's eta, at least 0, added to the sizes.
        dropout: `"shared"` gives the second passes the masks, and all noise, of the first; `"independent"` draws anew.

    Raises:
        InputError: a value outside its range; at `setup`, weights in less than float32.
    """

    radius: NonNegative = 0.05
    adaptive: bool = False
    scale_offset: NonNegative = 0.01
    dropout: Literal["shared", "independent"] = "shared"
    _whole_loss: Loss | None = field(default=None, init=False, repr=False, compare=False)
    _complete_gradient: Callable[[nn.Module], None] | None = field(default=None, init=False, repr=False, compare=False)
    _losses_again: list[Callable[[], torch.Tensor]] = field(default_factory=list, init=False, repr=False, compare=False)
    _replay: RandomReplay | None = field(default=None, init=False, repr=False, compare=False)
    _in_second_passes: bool = field(default=False, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(cls, form: Literal["sam", "asam"] = "sam") -> SAM:
        """Return the released `"sam"`, which is the default, or `"asam"`.

        Raises:
            InputError: an unknown form.
        """
        forms = {"sam": cls(), "asam": cls(0.5, adaptive=True, dropout="independent")}
        if form not in forms:
            raise unknown_name("form", form, forms)
        return forms[form]

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """Two each, or one at radius 0."""
        return (2, 2) if self.radius > 0 else (1, 1)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Watch the main passes, whose random states the second passes need."""
        if self.radius == 0:
            return
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype.itemsize < 4:
                raise InputError(
                    f"SAM needs weights in float32, in which its small move survives, not {parameter.dtype}: load the "
                    "model in float32, and use autocast (bf16=True)."
                )
        if self.dropout == "shared":
            self._replay = RandomReplay(model, self._undo, first=True)

    def share(self, whole_loss: Loss, complete_gradient: Callable[[nn.Module], None]) -> None:
        """Tell what an update of a combination descends: its whole loss, and what is added to the gradient after it."""
        self._whole_loss, self._complete_gradient = whole_loss, complete_gradient

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the loss as it is; keep what computes it again."""
        if self.radius > 0 and not self._in_second_passes:
            device = device_of(model).type
            dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            # Autocast would take the weights that it has cast already, those before the move.
            autocast = torch.autocast(device, dtype, enabled, cache_enabled=False)
            noise = nullcontext if self._replay is None else self._replay.state.again
            again = partial(self._loss, model, batch, autocast, noise)
            self._losses_again.append(partial(copy_context().run, again))  # the context knows the host's task loss
        return task_loss(outputs)

    def after_backward(self, model: nn.Module) -> None:
        """Replace the gradients by those at the highest point nearby."""
        losses, self._losses_again = self._losses_again, []
        if not losses:
            return
        named = {name: p for name, p in unwrapped(model).named_parameters() if p.grad is not None}
        weights = list(named.values())
        with torch.no_grad(), weights_kept(weights), self._second_passes():
            for weight, move in zip(weights, self._moves(named), strict=True):
                weight.add_(move)
                weight.grad = None
            with torch.enable_grad():
                for loss in losses:
                    (loss() / len(losses)).backward()
            average_over_processes(weights)
            if self._complete_gradient is not None:
                self._complete_gradient(model)

    def finalize(self, model: nn.Module) -> None:
        """Stop watching, and drop what was kept of an update that was not made."""
        self._undo.close()
        self._losses_again.clear()
        self._replay = self._whole_loss = self._complete_gradient = None

    def _loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], autocast: Any, noise: Any) -> torch.Tensor:
        with autocast, noise():
            outputs = task_outputs(model, batch)
            return (self._whole_loss or self.training_loss)(model, batch, outputs)

    def _moves(self, named: Mapping[str, nn.Parameter]) -> list[torch.Tensor]:
        sizes = None
        if self.adaptive:
            sizes = [p.abs() + self.scale_offset if "weight" in name else None for name, p in named.items()]
        return ascent([p.grad for p in named.values() if p.grad is not None], self.radius, sizes)

    @contextmanager
    def _second_passes(self) -> Iterator[None]:
        self._in_second_passes = True
        try:
            yield
        finally:
            self._in_second_passes = False
