from __future__ import annotations

import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts

from finetune_reg import FineTuningMethod


def right_update(gradient, factor, learning_rate, epsilon):
    scaled = factor * gradient
    return -learning_rate * scaled / (abs(scaled) + epsilon)


class Averaging(FineTuningMethod):
    copies_made = True
    averages = staticmethod(lambda snapshots, n: torch.stack(snapshots[-n:]).mean(0))

    def __init__(self, n_last):
        self.n_last = n_last
        self.snapshots = []

    def after_step(self, model, optimizer):
        self.snapshots.append([p.detach().clone() if self.copies_made else p for p in model.parameters()])

    @torch.no_grad()
    def finalize(self, model):
        for parameter, *copies in zip(model.parameters(), *self.snapshots, strict=True):
            parameter.copy_(self.averages(copies, self.n_last))


class WithoutCopies(Averaging):
    copies_made = False


class OverAllUpdates(Averaging):
    averages = staticmethod(lambda snapshots, n: torch.stack(snapshots).mean(0))


class WhileTraining(Averaging):
    def after_step(self, model, optimizer):
        super().after_step(model, optimizer)
        self.finalize(model)


UPDATE, AVERAGE = "first-update-of-adamw", "average-of-last-weights"
test_the_right_attempt_passes = right_attempts([(UPDATE, right_update), (AVERAGE, Averaging)])
test_wrong_attempts_are_helped = wrong_attempts(
    [
        (UPDATE, lambda g, c, rate, epsilon: -right_update(g, c, rate, epsilon), "its sign counts"),
        (UPDATE, lambda g, c, rate, epsilon: right_update(g, 1, rate, epsilon), "the factor does not cancel"),
        (UPDATE, lambda g, c, rate, epsilon: -rate * c * g, "another first step"),
        (UPDATE, lambda g, c, rate, epsilon: -rate * (1 if g > 0 else -1), "the factor does not cancel"),
        (AVERAGE, WithoutCopies, "keep copies, not the parameters themselves"),
        (AVERAGE, OverAllUpdates, "not the mean of the last 1"),
        (AVERAGE, WhileTraining, "leave the weights alone while training"),
        (AVERAGE, lambda n: object(), "derive the class from FineTuningMethod"),
    ]
)
test_stubs_are_not_attempted = unattempted([UPDATE, AVERAGE])
