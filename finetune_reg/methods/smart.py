r"""SMART: outputs stay put under a small adversarial move of the input, and near those of an averaged teacher.

**Idea.** With little data a large model fits in a few aggressive steps and forgets. SMART asks for smoothness, so that
the worst tiny move of the word embeddings does not change the prediction, and for small steps, so that predictions stay
near those of a moving average of the weights (the momentum Bregman proximal point method, or mean teacher).

**Equation** (paper, section 3). With output `f(x; theta)`, symmetric KL or squared error `l`, and batch means,

    loss + lambda l(f(x + delta*), f(x)) + mu l(f(x; theta), f(x; teacher)),
    delta* ~ argmax_{|delta|_inf <= epsilon} l(f(x + delta), f(x)),
    delta <- clamp(delta + eta g / |g|_inf, -epsilon, epsilon)   from   delta ~ N(0, sigma^2),
    teacher <- beta teacher + (1 - beta) theta                   after each update.

`lambda` is `smoothness_strength`, `mu` is `proximal_strength`, `eta` is `ascent_step_size`, `sigma` is `noise_std`,
`beta` is `teacher_momentum` in the first tenth of the updates and `late_teacher_momentum` from then on. The paper does
not say over what `|g|_inf` is taken; here it is each token, as released: the box limits each coordinate by itself, so
its worst point is a corner, which no token should miss for having a smaller gradient than another. Padding stays put.

**Where it acts.** `setup` copies the weights as the teacher, `training_loss` makes the further passes, `after_step`
moves the teacher. The teacher runs without dropout. The model that is left is the student. With independent dropout the
smoothness term is mostly the difference of two masks; shared masks make it 0 at `delta = 0`, see `smoothness`. At
`epsilon = 1e-5` it is of order 1e-10, and bfloat16 activations, which round it away, are refused: train in float32.

**Under adapters.** The teacher copies trainable weights only, those of adapter and head; any adapter. The tokens of a
prompt are not moved.

**Differences from the released code** (`perturbation.py` and `loss.py` of namisan/mt-dnn). `official()` has all of
these: (1) it has no teacher (`proximal_strength=0`). (2) Gradient and noise are normalized together, per token, by
`|delta + eta g|_inf + 1e-6`, without projection (`ascent_rule="normalize"`): moves are of size 1, not 1e-5. (3) Its
step size is 1e-5, so that the direction is mostly the noise. (4) The ascent follows `stable_kl`, which is no KL.
(5) Both targets of the symmetric KL are constants, which halves the gradient (`detach_targets`). (6) Each pass draws
its own dropout. (7) Padding is moved too. Defects of its network are not reproduced: it runs the embedding module
twice, draws the pooler anew and without an activation, its error for regression broadcasts (B,) with (B, 1), and a
gradient that is not finite, like any norm but the default, crashes it. It moves the output of the embedding module;
here, as for all methods, the word embeddings are moved.

**Reference.** Jiang, He, Chen, Liu, Gao, Zhao. SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language
Models through Principled Regularized Optimization. ACL 2020, arXiv:1911.03437.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from finetune_reg.building_blocks.embedding_perturbation import (
    input_embeddings,
    perturbed_embeddings,
    refuse_rounded_move,
    refuse_unfit_embeddings,
    token_mask,
)
from finetune_reg.building_blocks.module_surgery import in_mode
from finetune_reg.building_blocks.output_divergence import (
    compared_logits,
    is_regression,
    output_divergence,
    stable_kl,
)
from finetune_reg.building_blocks.pretrained_model import (
    precision_of,
    refuse_reentrant_checkpointing,
    refuse_tuples,
    task_loss,
    unwrapped,
)
from finetune_reg.building_blocks.random_replay import RandomReplay, extra_pass
from finetune_reg.building_blocks.task_outputs import TaskPassModule, task_outputs
from finetune_reg.hyperparameters.ranges import Count, NonNegative, Precision, Probability
from finetune_reg.method import FineTuningMethod, TrainingContext

EARLY_FRACTION = 0.1


def projected_step(
    perturbation: torch.Tensor, gradient: torch.Tensor, step_size: float, epsilon: float
) -> torch.Tensor:
    """Return `clamp(delta + eta g / |g|_inf, -epsilon, epsilon)`, the norm being each token's; `g = 0` is no move.

    Args:
        perturbation: `delta`, shape (batch, length, width).
        gradient: `g`, same shape.
        step_size: `eta`.
        epsilon: radius of the box.
    """
    largest = gradient.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(gradient.dtype).tiny)
    return torch.addcdiv(perturbation, gradient, largest, value=step_size).clamp_(-epsilon, epsilon)


def normalized_step(
    perturbation: torch.Tensor, gradient: torch.Tensor, step_size: float, guard: float = 1e-6
) -> torch.Tensor:
    """Return mt-dnn's `(delta + eta g) / (|delta + eta g|_inf + guard)`; norm and shapes as in `projected_step`."""
    moved = torch.add(perturbation, gradient, alpha=step_size)
    return moved / (moved.abs().amax(-1, keepdim=True) + guard)


def move_average(averages: Mapping[str, torch.Tensor], current: Mapping[str, torch.Tensor], momentum: float) -> None:
    """Set each average to `beta average + (1 - beta) current`, in place."""
    get_ema_multi_avg_fn(momentum)(list(averages.values()), [current[name] for name in averages], None)


@dataclass
class SMART(FineTuningMethod):
    """Keep predictions smooth in the input and near those of an averaged teacher.

    Args:
        smoothness_strength: the paper's lambda, at least 0 (grid 1, 3, 5); 0 leaves the adversarial passes out.
        proximal_strength: the paper's mu, at least 0; 0 builds no teacher.
        epsilon: largest move of a coordinate of an embedding, in the embedding's units.
        noise_std: standard deviation of the random start; 0 never leaves the start, where the gradient is 0.
        ascent_step_size: the paper's eta.
        n_ascent_steps: at least 1.
        teacher_momentum: in [0, 1], for updates 1 to T/10 of T.
        late_teacher_momentum: in [0, 1], for all later updates.
        dropout: `"shared"` gives the perturbed passes the masks of the main pass; `"off"` compares passes without
            dropout, at the price of a second clean pass; `"independent"` draws anew in each pass.
        ascent_rule: `"project"` (the paper) or `"normalize"` (mt-dnn, which has no radius and ignores epsilon).
        ascent_loss: what the ascent of a classifier climbs.
        detach_targets: hold the targets of the symmetric KL of the smoothness term constant.
        perturb_padding: move padding as well.

    Raises:
        InputError: a value outside its range; at `setup`, weights in less than float32, or a model that returns tuples;
            a box that the precision of the passes rounds away.
    """

    setup_stage: ClassVar[Literal["reference"]] = "reference"

    smoothness_strength: NonNegative = 1.0
    proximal_strength: NonNegative = 1.0
    epsilon: NonNegative = 1e-5
    noise_std: NonNegative = 1e-5
    ascent_step_size: NonNegative = 1e-3
    n_ascent_steps: Count = 1
    teacher_momentum: Probability = 0.99
    late_teacher_momentum: Probability = 0.999
    dropout: Literal["shared", "off", "independent"] = "shared"
    ascent_rule: Literal["project", "normalize"] = "project"
    ascent_loss: Literal["symmetric_kl", "stable_kl"] = "symmetric_kl"
    detach_targets: bool = False
    perturb_padding: bool = False
    _teacher: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _update: int = field(default=0, init=False, repr=False, compare=False)
    _early_updates: float = field(default=0.0, init=False, repr=False, compare=False)
    _replay: RandomReplay | None = field(default=None, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def official(
        cls, smoothness_strength: float = 1.0, ascent_step_size: float = 1e-5, n_ascent_steps: int = 1
    ) -> SMART:
        """Return mt-dnn's arithmetic, at the default flags of its `train.py`; no teacher."""
        return cls(
            smoothness_strength,
            proximal_strength=0.0,
            ascent_step_size=ascent_step_size,
            n_ascent_steps=n_ascent_steps,
            dropout="independent",
            ascent_rule="normalize",
            ascent_loss="stable_kl",
            detach_targets=True,
            perturb_padding=True,
        )

    @property
    def passes_per_update(self) -> tuple[int, int]:
        """Main pass, ascents, perturbed pass, teacher (forward only), and with `dropout="off"` a second clean pass."""
        adversarial = self.n_ascent_steps + 1 if self.smoothness_strength > 0 else 0
        teacher = int(self.proximal_strength > 0)
        clean = int(self.dropout == "off" and (adversarial or teacher) > 0)
        return 1 + clean + adversarial + teacher, 1 + clean + adversarial

    def check_precision(self, precision: Precision) -> None:
        """Refuse a box that bfloat16 rounds away; mt-dnn's moves are of size 1."""
        if precision == "bfloat16" and self.smoothness_strength > 0 and self.ascent_rule == "project":
            refuse_rounded_move("SMART", "epsilon", self.epsilon)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Copy the trainable weights, of backbone and fresh head, as the teacher; watch the main passes."""
        if self.smoothness_strength > 0 or self.proximal_strength > 0:
            refuse_unfit_embeddings(model, "SMART")
            refuse_tuples(model)
        if self.smoothness_strength > 0:
            refuse_reentrant_checkpointing(model, "SMART")
        if self.smoothness_strength > 0 and self.dropout == "shared":
            self._replay = RandomReplay(model, self._undo)
        if self.proximal_strength > 0:
            self._teacher = {n: p.detach().clone() for n, p in unwrapped(model).named_parameters() if p.requires_grad}
            self._early_updates = EARLY_FRACTION * context.n_updates

    def training_loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the task loss, the weighted smoothness term and the weighted proximal term."""
        loss, model = task_loss(outputs), unwrapped(model)
        if self.smoothness_strength == 0 and self.proximal_strength == 0:
            return loss
        clean = self.clean_logits(model, batch, outputs)
        if self.smoothness_strength > 0:
            perturbation = self.adversarial_perturbation(model, batch, clean)
            loss = loss + self.smoothness_strength * self.smoothness(model, batch, clean, perturbation)
        if self.proximal_strength > 0:
            teacher = self.teacher_logits(model, batch)
            loss = loss + self.proximal_strength * output_divergence(model, clean, teacher)
        return loss

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Move the teacher toward the student."""
        if self._teacher:
            self._update += 1
            early = self._update <= self._early_updates
            momentum = self.teacher_momentum if early else self.late_teacher_momentum
            move_average(self._teacher, dict(unwrapped(model).named_parameters()), momentum)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the teacher and the number of its moves."""
        return {"update": torch.tensor(self._update), **self._teacher}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take up the teacher."""
        super().load_state_dict(state_dict)
        self._update = int(state_dict["update"])

    def finalize(self, model: nn.Module) -> None:
        """Drop the teacher and stop watching."""
        self._undo.close()
        self._teacher, self._replay = {}, None
        self._update, self._early_updates = 0, 0.0

    def clean_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor], outputs: Any) -> torch.Tensor:
        """Return the clean side of both terms: the main pass, or a pass without dropout, with gradient."""
        if self.dropout != "off":
            return compared_logits(model, batch, outputs)
        with in_mode(model, training=False):
            return compared_logits(model, batch, task_outputs(model, batch))

    def adversarial_perturbation(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], clean_logits: torch.Tensor
    ) -> torch.Tensor:
        """Return `delta*`, shape (batch, length, width), in float32 at least; a constant."""
        self.check_precision(precision_of(model))
        refuse_reentrant_checkpointing(model, "SMART")  # a Trainer enables it after set-up
        clean_logits = clean_logits.detach()
        embeddings = input_embeddings(model, batch)
        mask = 1 if self.perturb_padding else token_mask(batch)
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        perturbation = torch.randn_like(embeddings, dtype=dtype).mul_(self.noise_std).mul_(mask)
        for _ in range(self.n_ascent_steps):
            logits = self._perturbed_logits(model, batch, perturbation.requires_grad_())
            if self.ascent_loss == "stable_kl" and not is_regression(model, logits):
                ascent_loss = stable_kl(logits, clean_logits)
            else:
                ascent_loss = output_divergence(model, logits, clean_logits, "sum")
            (gradient,) = torch.autograd.grad(ascent_loss, perturbation)
            perturbation = perturbation.detach()
            if self.ascent_rule == "project":
                perturbation = projected_step(perturbation, gradient, self.ascent_step_size, self.epsilon)
            else:
                perturbation = normalized_step(perturbation, gradient, self.ascent_step_size)
            perturbation.mul_(mask)
        return perturbation

    def smoothness(
        self,
        model: nn.Module,
        batch: Mapping[str, torch.Tensor],
        clean_logits: torch.Tensor,
        perturbation: torch.Tensor,
    ) -> torch.Tensor:
        """Return the smoothness term at a perturbation, without its strength.

        At `torch.zeros(())` it is what differing dropout masks alone contribute. Call it after a main pass.
        """
        logits = self._perturbed_logits(model, batch, perturbation)
        return output_divergence(model, clean_logits, logits, detach_targets=self.detach_targets)

    @torch.no_grad()
    def teacher_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the teacher's output, shape (batch, labels): the model without dropout, with the averaged weights."""
        with in_mode(model, training=False):
            teacher = {f"model.{name}": weight for name, weight in self._teacher.items()}
            outputs = torch.func.functional_call(TaskPassModule(model), teacher, (batch,))
        return compared_logits(model, batch, outputs)

    def _perturbed_logits(
        self, model: nn.Module, batch: Mapping[str, torch.Tensor], perturbation: torch.Tensor
    ) -> torch.Tensor:
        with self._masks(model), perturbed_embeddings(model, perturbation):
            outputs = task_outputs(model, batch)
        return compared_logits(model, batch, outputs)

    def _masks(self, model: nn.Module) -> AbstractContextManager:
        if self.dropout == "off":
            return in_mode(model, training=False)
        return extra_pass() if self._replay is None else self._replay.again()
