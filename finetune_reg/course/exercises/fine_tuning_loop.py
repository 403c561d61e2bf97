"""Exercises of notebook 01: what a factor on the gradients does to AdamW, and a method that averages weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import nn

from finetune_reg.course.exercises import Checker
from finetune_reg.method import FineTuningMethod, TrainingContext


def check_first_update(first_update: Callable[[float, float, float, float], float]) -> None:
    """Compare with AdamW itself: `first_update(gradient, factor, learning_rate, epsilon)`."""
    for gradient, factor, epsilon in product((0.5, -2.0), (1.0, 10.0, 0.1), (1e-8, 1.0)):
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.AdamW([weight], lr=0.01, eps=epsilon, weight_decay=0.0)
        weight.grad = torch.full_like(weight, factor * gradient)
        optimizer.step()
        attempt, exact = float(first_update(gradient, factor, 0.01, epsilon)), weight.item()
        assert attempt * exact > 0, "the update goes against the gradient, and its sign counts"
        where = f"gradient {gradient}, factor {factor}, epsilon {epsilon:g}"
        about_epsilon = "" if epsilon < 1e-3 else "; with an epsilon that is not small the factor does not cancel"
        assert abs(attempt - exact) < 1e-9, f"AdamW takes another first step at {where}{about_epsilon}"


def check_average_of_last(method_class: Callable[[int], FineTuningMethod]) -> None:
    """Drive the method through five updates by hand: the weight is 1, 2, 4, 8, 16 after them."""
    for n_last in (1, 2, 5):
        model = nn.Linear(1, 1, bias=False).double()
        method, weights = method_class(n_last), [1.0, 2.0, 4.0, 8.0, 16.0]
        assert isinstance(method, FineTuningMethod), "derive the class from FineTuningMethod"
        context = _context(n_updates=len(weights))
        method.setup(model, context)
        optimizer = method.create_optimizer(model, context)
        for value in weights:
            with torch.no_grad():
                model.weight.fill_(value)
            method.after_step(model, optimizer)
            assert model.weight.item() == value, "leave the weights alone while training; the loop goes on from them"
        method.finalize(model)
        found, exact = model.weight.item(), sum(weights[-n_last:]) / n_last
        wrong = f"with n_last = {n_last} and weights {weights}, finalize leaves {found:g}"
        assert found != weights[-1] or n_last == 1, f"{wrong}: keep copies, not the parameters themselves, and average"
        assert abs(found - exact) < 1e-9, f"{wrong}, which is not the mean of the last {n_last}"
        assert isinstance(model.weight, nn.Parameter), "write into the parameters, so that the model keeps them"


def _context(n_updates: int) -> TrainingContext:
    return TrainingContext(
        train_dataset=[{}],
        collate=lambda rows: {},
        batch_size=1,
        learning_rate=0.01,
        weight_decay=0.0,
        n_updates=n_updates,
        seed=0,
    )


EXERCISES: dict[str, Checker] = {
    "first-update-of-adamw": check_first_update,
    "average-of-last-weights": check_average_of_last,
}
