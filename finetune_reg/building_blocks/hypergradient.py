r"""Hypergradients: the gradient of a validation loss with respect to parameters that steer training.

Two levels share a model. The weights `W` follow the training loss; `alpha` should follow the validation loss at the
weights that training leads to. Both functions here need two more passes than the direct gradient alone.

    one step (DARTS):  W' = W - xi grad_W L_train(W, alpha),         v = grad_W L_val(W', alpha),
                       g  = grad_alpha L_val(W', alpha) - xi M(W) v,

    identity:          g  = grad_alpha L_val(W', alpha) - M(W') u,   u = v, or v divided by Adam's scale,

where `M(W) = d^2 L_train(W, alpha) / (d alpha d W)`. The first is exact for one plain gradient step. The second is
implicit differentiation with the inverse of the lower Hessian replaced by the identity. `M` is never formed:

    M(W) v ~ (grad_alpha L_train(W + e v) - grad_alpha L_train(W - e v)) / (2 e),      e = radius / (|v| + 1e-12).

**Memory.** One copy of the weights, from which they are restored bit for bit, and one gradient of the weights.

**References.** Liu, Simonyan, Yang. DARTS. ICLR 2019, arXiv:1806.09055. Choe et al. Betty. ICLR 2023, arXiv:2207.02849.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from finetune_reg.building_blocks.random_replay import RandomState
from finetune_reg.errors import InputError

Loss = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Hypergradient:
    """The two parts of a hypergradient, one tensor per tensor of `alpha`.

    Attributes:
        direct: gradient of the validation loss at fixed weights.
        implicit: what `alpha` does through the weights; its sign is such that `total` is the sum.
        validation_loss: scalar, at the weights after the lower step.
    """

    direct: list[torch.Tensor]
    implicit: list[torch.Tensor]
    validation_loss: torch.Tensor

    @property
    def total(self) -> list[torch.Tensor]:
        """The sum of the two parts."""
        return list(torch._foreach_add(self.direct, self.implicit))

    def norms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the norms of the direct and of the implicit part, over all tensors together."""
        return _norm(self.direct), _norm(self.implicit)

    def cosine(self) -> torch.Tensor:
        """Return the cosine between the parts, a scalar in [-1, 1]; 0 when one of them vanishes."""
        products = ((d * i).sum() for d, i in zip(self.direct, self.implicit, strict=True))
        product = sum(products, start=self.direct[0].new_zeros(()))
        direct_norm, implicit_norm = self.norms()
        return product / (direct_norm * implicit_norm).clamp(min=torch.finfo(product.dtype).tiny)


def look_ahead(
    weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], step_size: float
) -> list[torch.Tensor]:
    """Return `W' = W - xi g`, where the validation loss is looked at."""
    return list(torch._foreach_add(list(weights), list(gradients), alpha=-step_size))


def one_step_hypergradient(
    weights: Sequence[torch.Tensor],
    alphas: Sequence[torch.Tensor],
    train_loss: Loss,
    validation_loss: Loss,
    *,
    step_size: float,
    radius: float = 0.01,
) -> Hypergradient:
    """Differentiate the validation loss after one plain gradient step on the training loss.

    Args:
        weights: leaf tensors in float32 at least; moved during the call and put back bit for bit.
        alphas: leaf tensors that both losses depend on.
        train_loss: scalar loss at the current values of the tensors, called 3 times. With dropout it must draw the
            same masks each time (see `same_masks`), or the difference is mostly that of the masks.
        validation_loss: the same on validation data, called once.
        step_size: `xi >= 0`, rate of the lower step.
        radius: norm of the perturbation `e v`.

    Raises:
        InputError: weights in half precision, which would swallow the perturbation.
    """
    kept = [weight.detach().clone() for weight in weights]
    with _full_precision(weights):
        try:
            gradients = torch.autograd.grad(train_loss(), weights, materialize_grads=True)
            _restore(weights, look_ahead(weights, gradients, step_size))
            loss, v, direct = _validation_gradients(weights, alphas, validation_loss)
            _restore(weights, kept)
            product = _mixed_derivative_product(weights, v, alphas, train_loss, radius)
        finally:
            _restore(weights, kept)
    return Hypergradient(direct, list(torch._foreach_mul(product, -step_size)), loss)


def identity_hypergradient(
    weights: Sequence[torch.Tensor],
    alphas: Sequence[torch.Tensor],
    train_loss: Loss,
    validation_loss: Loss,
    *,
    radius: float = 0.01,
    denominators: Sequence[torch.Tensor] | None = None,
    undo_perturbation: bool = True,
) -> Hypergradient:
    """Return the hypergradient with the inverse lower Hessian replaced by the identity.

    Args:
        weights: leaf tensors at `W'`, after the lower step, in float32 at least.
        alphas: leaf tensors that both losses depend on.
        train_loss: scalar loss at the current values of the tensors, called twice (dropout: see `same_masks`).
        validation_loss: the same on validation data, called once.
        radius: norm of the perturbation `e u`.
        denominators: scalars, one per weight tensor, that `v` is divided by (see `adam_denominator`); None for 1.
        undo_perturbation: False leaves the weights at `W' - e u`, as Betty 0.2.0 does.

    Raises:
        InputError: weights in half precision, which would swallow the perturbation.
    """
    kept = [weight.detach().clone() for weight in weights] if undo_perturbation else None
    with _full_precision(weights):
        try:
            loss, u, direct = _validation_gradients(weights, alphas, validation_loss)
            if denominators is not None:
                u = torch._foreach_div(u, list(denominators))
            product = _mixed_derivative_product(weights, u, alphas, train_loss, radius)
        finally:
            if kept is not None:
                _restore(weights, kept)
    return Hypergradient(direct, list(torch._foreach_neg(product)), loss)


def adam_denominator(second_moment: torch.Tensor, step: float, beta2: float, epsilon: float) -> torch.Tensor:
    """Return Betty's scalar stand-in for Adam's denominator: `(sqrt(mean(beta2 s)) + eps) / sqrt(1 - beta2^t)`.

    Args:
        second_moment: Adam's running mean `s` of squared gradients of one weight tensor.
        step: updates `t >= 1` so far.
    """
    return ((beta2 * second_moment).mean().sqrt() + epsilon) / (1.0 - beta2**step) ** 0.5


def same_masks(loss: Loss, device: torch.device) -> Loss:
    """Wrap a loss so that every call draws the random numbers of its first call."""
    first: RandomState | None = None

    def repeated() -> torch.Tensor:
        nonlocal first
        if first is None:
            first = RandomState(device)
            return loss()
        with first.again():
            return loss()

    return repeated


def _validation_gradients(
    weights: Sequence[torch.Tensor], alphas: Sequence[torch.Tensor], validation_loss: Loss
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], list[torch.Tensor]]:
    loss = validation_loss()
    gradients = torch.autograd.grad(loss, [*weights, *alphas], materialize_grads=True)
    return loss.detach(), gradients[: len(weights)], list(gradients[len(weights) :])


def _mixed_derivative_product(
    weights: Sequence[torch.Tensor],
    vector: Sequence[torch.Tensor],
    alphas: Sequence[torch.Tensor],
    loss: Loss,
    radius: float,
) -> list[torch.Tensor]:
    """Return `M(W) v` by a central difference; leaves the weights at `W - e v`."""
    step = radius / (_norm(vector).item() + 1e-12)
    _move(weights, vector, step)
    above = torch.autograd.grad(loss(), alphas, materialize_grads=True)
    _move(weights, vector, -2 * step)
    below = torch.autograd.grad(loss(), alphas, materialize_grads=True)
    return list(torch._foreach_div(torch._foreach_sub(above, below), 2 * step))


@contextmanager
def _full_precision(weights: Sequence[torch.Tensor]) -> Iterator[None]:
    if any(weight.itemsize < 4 for weight in weights):
        raise InputError("A finite difference needs weights in float32 or float64: half precision would swallow it.")
    with torch.autocast(weights[0].device.type, enabled=False):
        yield


@torch.no_grad()
def _move(weights: Sequence[torch.Tensor], direction: Sequence[torch.Tensor], rate: float) -> None:
    torch._foreach_add_(list(weights), list(direction), alpha=rate)


@torch.no_grad()
def _restore(weights: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> None:
    torch._foreach_copy_(list(weights), list(kept))


def _norm(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(torch._foreach_norm(list(tensors))).norm()
