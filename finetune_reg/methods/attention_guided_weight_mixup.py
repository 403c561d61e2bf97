r"""Attention-guided weight mixup: learn, per weight, how much of fine-tuning to keep.

**Idea.** Child-network methods update a hard subset of the weights. Here every weight of a linear layer is a mixture of
its fine-tuned and its pretrained value, and the mixing coefficients ("attention parameters") are learned. Learned
together with the weights they would fit the same examples, so the training set is split: weights follow 80 %, the
coefficients follow the loss on the other 20 % through the weights (two levels). Then the coefficients are frozen
and the weights are fine-tuned on all of the training set.

**Equation.** With task weight `W`, pretrained weight `W0` and coefficients `alpha` in [0, 1] of each linear layer,

    convex:    W~ = alpha * W + (1 - alpha) * W0,                     alpha = a1 a2 / r,
    factored:  W~ = alpha * W + (1 - a1)(1 - a2) / r * W0,

where `*` is elementwise and `a1` (out x r), `a2` (r x in) are raw parameters clamped to [0, 1]; the mean over the `r`
rank components keeps `alpha` in [0, 1], and for r = 1 it is the outer product. The bias is the task bias. Upper level:

    min_alpha L_val(W'(alpha), alpha),        W' = W - xi grad_W L_train(W, alpha),

with `xi` the current learning rate (its gradient: `building_blocks/hypergradient.py`). `"factored"` is what the paper
announces after the rank decomposition and presumably what its table used. The default is `"convex"`, because the other
is no mixture: at a1 = 1, a2 = 0 the weight is 0.

**Where it acts.** `setup` replaces the backbone's linear layers, searches `alpha` on `n_searches` random splits, each
from the same start and on the task loss alone, and averages; the host's loop is the fine-tuning phase. In a state dict
a mixed layer shows its mixed weight, so checkpoints are plain, and `finalize` writes that weight into the parameter.

At W = W0 the convex `alpha` has no gradient, and AdamW moves it by at most about `alpha_learning_rate` per iteration:
by 0.05 with 300 examples (48 iterations of 16). At ordinary rates the one-step hypergradient's implicit part, which has
the factor `xi`, is a thousandth of the direct one. The searches cost many more passes than the fine-tuning they
prepare (`search_passes`): compare with vanilla runs of equal cost before crediting `alpha`.
**Under adapters.** Refused: `alpha` mixes whole weight matrices.

**Differences from the released code** (Sai-Ashish/Attention_guided_weight_mixup_BLO with Betty 0.2.0), each an option
that `official` sets. (1) `mixing="factored"`. (2) `hypergradient="identity"`: the implicit part lacks the factor `xi`
and is taken around the weights after AdamW's step. (3) `precondition`: there, the validation gradient is divided by
Adam's scale per tensor. (4) `shared_masks=False`: every pass draws its own dropout masks, so the implicit part is
mostly noise. (5) `roll_back_look_ahead=False`: the look-ahead step stays, so each iteration makes two AdamW steps on a
batch, and in the first iteration the optimizer forgets its state in between. (6) `undo_perturbation=False`: each
iteration leaves the weights displaced by 0.01 in a direction that lowers the validation loss. (7) `average="all"`:
fine-tuning starts from the mean of the searched models. Not reproduced: its AdamW (decay after the step), its unused L1
penalty on `alpha`, and a clipping norm that counts the gradients of frozen tensors in the fine-tuning phase.

**Reference.** Somayajula, Liang, Singh, Zhang, Xie. Generalizable and Stable Finetuning of Pretrained Language Models
on Low-Resource Texts. NAACL 2024, arXiv:2403.12918.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

import finetune_reg.methods.attention_guided_weight_mixup_search as bilevel
from finetune_reg.building_blocks.module_surgery import ReplacementLinear, backbone_module_names, replace_linears
from finetune_reg.errors import InputError
from finetune_reg.hyperparameters.ranges import Count, CountOrZero, Interval, NonNegative, Positive
from finetune_reg.method import FineTuningMethod, TrainingContext

Mixing = Literal["convex", "factored"]


def attention_coefficients(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return `alpha`, shape (out, in): the only factor, or `a1 a2 / r` of (out, r) and (r, in)."""
    if len(factors) == 1:
        return factors[0]
    rows, columns = factors
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ columns / rows.shape[1] if rows.shape[1] > 1 else rows * columns


def mix_weights(
    weight: torch.Tensor, pretrained_weight: torch.Tensor, factors: tuple[torch.Tensor, ...], mixing: Mixing = "convex"
) -> torch.Tensor:
    """Return the mixed weight.

    Args:
        weight: task weight `W`, shape (out, in); computed in float32 at least, returned in its own type.
        pretrained_weight: `W0`, same shape.
        factors: `(alpha,)` of that shape, for `"convex"` only, or `(a1, a2)` of shapes (out, r) and (r, in); values in
            [0, 1], in float32 at least.
        mixing: the equation.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    alpha = attention_coefficients(factors)
    if mixing == "convex":
        mixed = torch.lerp(pretrained_weight.to(wide), weight.to(wide), alpha)
    else:
        offset = attention_coefficients(tuple(1.0 - factor for factor in factors)) * pretrained_weight
        mixed = torch.addcmul(offset, alpha, weight.to(wide))
    return mixed.to(weight.dtype)


class MixedLinear(ReplacementLinear):
    """A linear layer that uses the mixture of its weight with a pretrained one, in training and in evaluation.

    `alpha` starts at exactly 1, where the mixture is the weight itself. In a state dict, `weight` is the mixture.
    """

    def __init__(
        self, linear: nn.Linear, pretrained_weight: torch.Tensor, mixing: Mixing = "convex", rank: int | None = 1
    ) -> None:
        super().__init__(linear)
        self.mixing = mixing
        self.pretrained_weight: torch.Tensor
        self.register_buffer("pretrained_weight", pretrained_weight, persistent=False)
        n_rows, n_columns = self.weight.shape
        wide, device = torch.promote_types(self.weight.dtype, torch.float32), self.weight.device
        shapes = [(n_rows, n_columns)] if rank is None else [(n_rows, rank), (rank, n_columns)]
        for i, shape in enumerate(shapes, start=1):
            self.register_buffer(f"alpha{i}", torch.ones(shape, dtype=wide, device=device), persistent=False)

    @property
    def factors(self) -> tuple[torch.Tensor, ...]:
        """The tensors that make up `alpha`."""
        return tuple(buffer for name, buffer in self.named_buffers(recurse=False) if name.startswith("alpha"))

    def mixed_weight(self) -> torch.Tensor:
        """Return the weight that the layer uses, shaped like the parameter."""
        return mix_weights(self.weight, self.pretrained_weight, self.factors, self.mixing)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        return self.map(input, self.mixed_weight())

    @torch.no_grad()
    def fold(self) -> None:
        """Write the mixed weight into the parameter."""
        self.weight.copy_(self.mixed_weight())

    @torch.no_grad()
    def unfold(self, mixed_weight: torch.Tensor) -> None:
        """Set the weight such that the layer uses `mixed_weight`, to rounding.

        Raises:
            InputError: no weight does, because `alpha` is 0 somewhere.
        """
        alpha = attention_coefficients(self.factors)
        offset = mix_weights(torch.zeros_like(self.weight), self.pretrained_weight, self.factors, self.mixing)
        self.weight.copy_(torch.where(alpha > 0, (mixed_weight - offset) / alpha, self.weight))
        rounding = 8 * torch.finfo(self.weight.dtype).eps * (mixed_weight.abs() + offset.abs())
        if ((self.mixed_weight() - mixed_weight).abs() > rounding).any():
            raise InputError("A mixed layer cannot take this weight: alpha is 0 where it differs. Load after finalize.")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        mixed = self.mixed_weight()
        destination[f"{prefix}weight"] = mixed if keep_vars else mixed.detach()

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if f"{prefix}weight" in state_dict:
            self.unfold(self.weight.detach().clone())


@dataclass
class AttentionGuidedWeightMixup(FineTuningMethod):
    """Search mixing coefficients of pretrained and fine-tuned weights, then fine-tune with them.

    Args:
        mixing: the paper's idea or the form of its table (see the module).
        rank: of `alpha`, at least 1; None learns one coefficient per weight (`"convex"` only).
        n_searches: splits whose results are averaged; 0 leaves the model alone.
        search_epochs: passes over the training part of a split, > 0.
        validation_fraction: share of the examples that `alpha` learns from, in (0, 1).
        alpha_learning_rate: peak rate of `alpha`'s AdamW (10 % warm-up, then a cosine; no decay), > 0.
        alpha_init_std: factors start at `N(1, std)` clamped to [0, 1].
        search_max_grad_norm: clipping of the weights' gradient in the search.
        average: over the searches, of `"alpha"` (weights return to the start) or of `"all"` parameters.
        hypergradient: `"one_step"` (the equation) or `"identity"` (see `finetune_reg.building_blocks.hypergradient`).
        finite_difference_radius: norm of the perturbation of the weights, > 0.
        shared_masks: the passes that make up a hypergradient share their dropout masks on the training batch.
        precondition: divide the validation gradient by Adam's scale per tensor; `"identity"` only.
        roll_back_look_ahead, undo_perturbation: False leaves the weights moved; `"identity"` only.

    Attributes:
        search_log: after a search, a record per iteration: search, iteration, training_loss, validation_loss,
            direct_norm, implicit_norm, cosine (between the two parts of the hypergradient) and mean_alpha.

    Raises:
        InputError: a value outside its range, or options that exclude each other; at `setup`, no linear layer, or too
            few examples to split.
        TrainingDivergedError: at `setup`, a loss of the search is not finite. The model is restored.
    """

    replaces_linears: ClassVar[bool] = True
    setup_stage: ClassVar[Literal["search"]] = "search"

    mixing: Mixing = "convex"
    rank: Count | None = 1
    n_searches: CountOrZero = 5
    search_epochs: Positive = 3.0
    validation_fraction: Annotated[float, Interval("(0, 1)")] = 0.2
    alpha_learning_rate: Positive = 2e-3
    alpha_init_std: NonNegative = 0.005
    search_max_grad_norm: Positive = 5.0
    average: Literal["alpha", "all"] = "alpha"
    hypergradient: Literal["one_step", "identity"] = "one_step"
    finite_difference_radius: Positive = 0.01
    shared_masks: bool = True
    precondition: bool = False
    roll_back_look_ahead: bool = True
    undo_perturbation: bool = True
    search_log: list[dict[str, float]] = field(default_factory=list, init=False, repr=False, compare=False)
    _layers: list[MixedLinear] = field(default_factory=list, init=False, repr=False, compare=False)
    _undo: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is None and self.mixing == "factored":
            raise InputError("AttentionGuidedWeightMixup needs a rank for mixing='factored'; None is for 'convex'.")
        plain = not self.precondition and self.roll_back_look_ahead and self.undo_perturbation
        if self.hypergradient == "one_step" and not plain:
            raise InputError(
                "AttentionGuidedWeightMixup needs hypergradient='identity' for precondition=True, "
                "roll_back_look_ahead=False or undo_perturbation=False."
            )

    @classmethod
    def official(cls, n_searches: int = 5) -> AttentionGuidedWeightMixup:
        """Return the released code's behaviour, with Betty 0.2.0."""
        return cls(
            mixing="factored",
            n_searches=n_searches,
            average="all",
            hypergradient="identity",
            shared_masks=False,
            precondition=True,
            roll_back_look_ahead=False,
            undo_perturbation=False,
        )

    def search_passes(self, n_examples: int, batch_size: int, n_updates: int = 1) -> tuple[int, int]:
        """Return the forward and backward passes of all searches: five of each per iteration."""
        n_train = int((1.0 - self.validation_fraction) * n_examples)
        passes = 5 * self.n_searches * bilevel.count_iterations(n_train, batch_size, self.search_epochs)
        return passes, passes

    def setup(self, model: nn.Module, context: TrainingContext) -> None:
        """Replace the linear layers and search; freeze `alpha`."""
        self.search_log = []
        if self.n_searches == 0:
            return
        start: dict[torch.Tensor, torch.Tensor] = {p: p.detach().clone() for p in model.parameters()}

        def mix(linear: nn.Linear) -> MixedLinear:
            self._layers.append(MixedLinear(linear, start[linear.weight], self.mixing, self.rank))
            return self._layers[-1]

        with ExitStack() as undo:
            inside = backbone_module_names(model)
            replace_linears(model, inside.__contains__, mix, undo, method=type(self).__name__)
            if not context.resumes:
                self._search(model, start, context)
            for layer in self._layers:
                undo.callback(layer.fold)
            self._undo = undo.pop_all()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights, pretrained weights and factors of the mixed layers; the model shows the mixture only."""
        named = [[("weight", layer.weight.detach()), *layer.named_buffers(recurse=False)] for layer in self._layers]
        return {f"{i}.{name}": tensor for i, tensors in enumerate(named) for name, tensor in tensors}

    def finalize(self, model: nn.Module) -> None:
        """Write the mixed weights into the parameters and put the plain linear layers back."""
        self._undo.close()
        self._layers = []

    def _search(self, model: nn.Module, start: dict[torch.Tensor, torch.Tensor], context: TrainingContext) -> None:
        """Run the searches, each from `start`; leave the averaged tensors, and the start elsewhere."""
        generator = torch.Generator().manual_seed(context.seed)
        search = bilevel.BilevelSearch(**{f.name: getattr(self, f.name) for f in fields(bilevel.BilevelSearch)})
        alphas = [factor.requires_grad_() for layer in self._layers for factor in layer.factors]
        averaged = alphas + [parameter for parameter in start if parameter.requires_grad and self.average == "all"]
        with bilevel.training_on_trial(model, start):
            totals = [torch.zeros_like(tensor) for tensor in averaged]
            for k in range(self.n_searches):
                torch.manual_seed(context.seed + k)
                with torch.no_grad():
                    torch._foreach_copy_(list(start), list(start.values()))
                    for alpha in alphas:
                        draws = torch.empty(alpha.shape, dtype=alpha.dtype).normal_(generator=generator)
                        alpha.copy_(bilevel.alpha_start(draws, self.alpha_init_std))
                for record in search.run(model, alphas, context, generator):
                    self.search_log.append({"search": k + 1, **record, "mean_alpha": _mean_alpha(self._layers)})
                torch._foreach_add_(totals, [tensor.detach() for tensor in averaged])
        with torch.no_grad():
            torch._foreach_copy_(averaged, torch._foreach_div(totals, self.n_searches))
        for alpha in alphas:
            alpha.requires_grad_(False)


@torch.no_grad()
def _mean_alpha(layers: list[MixedLinear]) -> float:
    """Return the mean of `alpha` over all mixed weights."""
    total = sum((attention_coefficients(layer.factors).sum() for layer in layers), start=torch.zeros(()))
    return total.item() / sum(layer.weight.numel() for layer in layers)
