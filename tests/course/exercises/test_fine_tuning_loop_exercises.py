from __future__ import annotations

import pytest
import torch

from finetune_reg import FineTuningMethod
from finetune_reg.course.exercises import check


def report(capsys, name, attempt):
    return check(name, attempt), capsys.readouterr().out


def right_update(gradient, factor, learning_rate, epsilon):
    scaled = factor * gradient
    return -learning_rate * scaled / (abs(scaled) + epsilon)


def test_the_first_update_is_right(capsys):
    assert report(capsys, "first-update-of-adamw", right_update)[0]


@pytest.mark.parametrize(
    ("attempt", "help"),
    [
        (lambda g, c, rate, epsilon: -right_update(g, c, rate, epsilon), "its sign counts"),
        (lambda g, c, rate, epsilon: right_update(g, 1, rate, epsilon), "the factor does not cancel"),
        (lambda g, c, rate, epsilon: -rate * c * g, "another first step"),
        (lambda g, c, rate, epsilon: -rate * (1 if g > 0 else -1), "the factor does not cancel"),
    ],
)
def test_wrong_updates_are_helped(capsys, attempt, help):
    solved, printed = report(capsys, "first-update-of-adamw", attempt)
    assert not solved
    assert help in printed


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


def test_the_average_is_right(capsys):
    assert report(capsys, "average-of-last-weights", Averaging)[0]


@pytest.mark.parametrize(
    ("attempt", "help"),
    [
        (WithoutCopies, "keep copies, not the parameters themselves"),
        (OverAllUpdates, "not the mean of the last 1"),
        (WhileTraining, "leave the weights alone while training"),
        (lambda n: object(), "derive the class from FineTuningMethod"),
    ],
)
def test_wrong_averages_are_helped(capsys, attempt, help):
    solved, printed = report(capsys, "average-of-last-weights", attempt)
    assert not solved
    assert help in printed


def unattempted(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("name", ["first-update-of-adamw", "average-of-last-weights"])
def test_unattempted_is_recognized(capsys, name):
    assert report(capsys, name, unattempted) == (False, f"{name}: not attempted yet.\n")
