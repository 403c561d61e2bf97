r"""Weight averaging: train as usual, deliver the average of the weights that training has visited.

**Idea.** With small batches the weights wander around a minimum instead of reaching it. Their average lies nearer to
its middle than the last of them, at the price of one more copy of the weights.

**Equation.** With the weights `w_t` after update t = 1 ... T and the initial ones `w_0`,

    tail:            m = mean of w_t over the last ceil(f T) updates,
    exponential:     m_0 = w_0,    m_t = beta m_{t-1} + (1 - beta) w_t,
    bias_corrected:  the same with 1 - beta_t = (rho + t)^-kappa,  and  w'_t = m_t + (rho + t)^-eta (w_t - w_0).

`f` is `tail_fraction`, `beta` is `decay`, `kappa` is `ema_power`, `eta` is `bias_power`, `rho` is `lag`. The
exponential average lags behind training; BEMA's second term makes up for it.

**Where it acts.** `setup` makes an `AveragedModel` of `torch.optim.swa_utils` around the trainable parameters alone,
and `after_step` updates it. Evaluation, checkpoints and `finalize` have the average; training never sees it.

**Under adapters.** Averages what peft trains, with any adapter; of LoRA each factor, so that the delivered product is
that of the averages, not the average of the products.

**Differences from the released code.** SWA averages under a constant or cyclic learning rate, which keeps the weights
moving; here the rate is the host's, and where it falls to 0 the last weights lie close together. The released code of
BEMA (`core_online.py` of abblock/bema) has `1 + rho + t` in place of `rho + t` (`official()`), takes `w_0` after the
first update, and takes in the weights every 100 updates (400 in its configuration), more than a run on little data has:
here every update counts, and `w_0` is the start. The callback of TRL has `rho + t`, the initial `w_0`, and every 400.

**Reference.** Izmailov, Podoprikhin, Garipov, Vetrov, Wilson. Averaging Weights Leads to Wider Optima and Better
Generalization. UAI 2018, arXiv:1803.05407. BEMA: Block, Zhang. EMA Without the Lag: Bias-Corrected Iterate Averaging
Schemes. 2025, arXiv:2508.00180.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from finetune_reg.hyperparameters.ranges import Fraction, Interval, NonNegative
from finetune_reg.method import FineTuningMethod, TrainingContext

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]


def bema_coefficient(t: int, lag: float, power: float) -> float:
    """Return `(rho + t)^-power`, in (0, 1], for t at least 1."""
    return (lag + t) ** -power


def bias_corrected(
    average: torch.Tensor, weight: torch.Tensor, initial_weight: torch.Tensor, coefficient: float
) -> torch.Tensor:
    """Return `m + alpha (w - w_0)`; all tensors of one shape."""
    return average + coefficient * (weight - initial_weight)


@dataclass
class WeightAveraging(FineTuningMethod):
    """Deliver an average of the weights that were visited.

    Args:
        average: `"tail"` is the mean over the end of training (SWA), `"exponential"` a moving average (EMA) and
            `"bias_corrected"` one without its lag (BEMA).
        tail_fraction: of the updates that `"tail"` averages over, in (0, 1].
        decay: the `beta` of `"exponential"`, in [0, 1); 0 is the last weights.
        ema_power, bias_power: of `"bias_corrected"`, at least 0.
        lag: the `rho` of `"bias_corrected"`, at least 0.

    Raises:
        InputError: a value outside its range.
    """

    setup_stage: ClassVar[Literal["reference"]] = "reference"

    average: Literal["tail", "exponential", "bias_corrected"] = "tail"
    tail_fraction: Fraction = 0.25
    decay: Annotated[float, Interval("[0, 1)")] = 0.99
    ema_power: NonNegative = 0.5
    bias_power: NonNegative = 0.2
    lag: NonNegative = 10.0
    _trained: nn.ParameterList = field(default_factory=nn.ParameterList, init=False, repr=False, compare=False)
    _averaged: AveragedModel | None = field(default=None, init=False, repr=False, compare=False)
    _initial: list[torch.Tensor] = field(default_factory=list, init=False, repr=False, compare=False)
    _n_updates: int = field(default=0, init=False, repr=False, compare=False)
    _n_before: int = field(default=0, init=False, repr=False, compare=False)

    @classmethod
    def official(cls) -> WeightAveraging:
        """Return BEMA with the powers of its released code."""
        return cls("bias_corrected", lag=11.0)

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Make the average: of the initial weights, or still of none."""
        self._trained = nn.ParameterList(p for p in model.parameters() if p.requires_grad)
        self._averaged = AveragedModel(self._trained, multi_avg_fn=self._move)
        for parameter in self._averaged.module.parameters():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        self._n_updates = self._n_before = 0
        if self.average == "tail":
            self._n_before = context.n_updates - math.ceil(self.tail_fraction * context.n_updates)
        else:
            self._averaged.update_parameters(self._trained)
        if self.average == "bias_corrected":
            self._initial = [parameter.detach().clone() for parameter in self._trained]

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take the weights into the average."""
        self._n_updates += 1
        if self._averaged is not None and self._n_updates > self._n_before:
            self._averaged.update_parameters(self._trained)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the average, how many updates it has seen, and the trained and initial weights."""
        state = {} if self._averaged is None else self._averaged.state_dict()
        state |= {f"trained.{i}": parameter.detach() for i, parameter in enumerate(self._trained)}
        state |= {f"initial.{i}": weight for i, weight in enumerate(self._initial)}
        return {"n_updates": torch.tensor(self._n_updates), **state}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Take up the average, and put the trained weights back into the model."""
        super().load_state_dict(state_dict)
        self._n_updates = int(state_dict["n_updates"])

    def delivered_weights(self, model: nn.Module) -> Mapping[nn.Parameter, torch.Tensor]:
        """Return the average; none before the first update that counts."""
        if self._averaged is None or self._n_updates <= self._n_before:
            return {}
        averages = [parameter.detach() for parameter in self._averaged.module.parameters()]
        if self.average == "bias_corrected":
            coefficient = bema_coefficient(self._n_updates, self.lag, self.bias_power)
            weights = (parameter.detach() for parameter in self._trained)
            averages = [
                bias_corrected(*tensors, coefficient) for tensors in zip(averages, weights, self._initial, strict=True)
            ]
        return dict(zip(self._trained, averages, strict=True))

    def finalize(self, model: nn.Module) -> None:
        """Leave the average in the model, and drop it."""
        super().finalize(model)
        self._averaged, self._trained = None, nn.ParameterList()
        self._initial.clear()

    def _move(self, averages: Tensors, weights: Tensors, n_averaged: torch.Tensor | int) -> None:
        """Move the averages toward the weights: what `AveragedModel` calls."""
        match self.average:
            case "tail":
                share = 1 / (int(n_averaged) + 1)
            case "exponential":
                share = 1 - self.decay
            case "bias_corrected":
                share = bema_coefficient(self._n_updates, self.lag, self.ema_power)
        torch._foreach_lerp_(averages, [weight.to(mean) for weight, mean in zip(weights, averages, strict=True)], share)
