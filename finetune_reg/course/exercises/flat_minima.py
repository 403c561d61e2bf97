"""Exercises of notebook 11: what an average gains, one step of SAM, and a greedy soup."""

from __future__ import annotations

from collections.abc import Callable

import torch

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired

Gradient = Callable[[torch.Tensor], torch.Tensor]
Score = Callable[[torch.Tensor], float]


def check_gain(gain_of_average: Callable[[torch.Tensor, torch.Tensor], float]) -> None:
    """Compare with the losses themselves: `gain_of_average(weights, curvatures)`."""
    generator = torch.Generator().manual_seed(0)
    for n_runs in (3, 2, 5):
        weights = torch.randn(n_runs, 4, dtype=torch.float64, generator=generator) + 1.0
        curvatures = torch.tensor([10.0, 1.0, 0.1, 0.0], dtype=torch.float64)
        attempt = float(gain_of_average(weights, curvatures))
        gain = float(_bowl(weights, curvatures).mean() - _bowl(weights.mean(0), curvatures))
        where = f"for {n_runs} runs you have {attempt:.4f}"
        assert not _close(attempt, -gain), f"{where}; the sign is turned: the loss of the mean is the smaller one"
        assert not _close(attempt, 2 * gain), f"{where}, twice too much; the loss has a factor of one half"
        assert not _close(attempt, gain * n_runs / (n_runs - 1)), (
            f"{where}; the runs are all there is, so divide the squares by their number"
        )
        assert _close(attempt, gain), (
            f"{where}, and the losses say {gain:.4f}; write each weight as the mean plus a deviation, and square it"
        )


def check_sam_step(sam_step: Callable[[torch.Tensor, Gradient, float, float], torch.Tensor]) -> None:
    """Compare with the closed form on bowls: `sam_step(w, gradient, radius, rate)`."""
    curvatures, rate = torch.tensor([10.0, 0.1], dtype=torch.float64), 0.05
    for radius in (0.5, 0.0):
        w = torch.tensor([0.3, 2.0], dtype=torch.float64)
        kept, g = w.clone(), curvatures * w
        attempt = sam_step(w, lambda at: curvatures * at, radius, rate)
        assert getattr(attempt, "shape", None) == w.shape, "return the weights after the step, in their shape"
        assert torch.equal(w, kept), "the weights that came in have changed; return new ones"
        up = radius * g / g.norm()
        plain, above = kept - rate * g, kept + up - rate * curvatures * (kept + up)
        assert radius == 0 or not torch.allclose(attempt, plain), "this is a step without SAM: climb before you descend"
        assert radius == 0 or not torch.allclose(attempt, above), (
            "you descend from the point above; take its gradient only, and step from the weights that came in"
        )
        assert radius == 0 or not torch.allclose(attempt, kept - rate * curvatures * (kept - up)), (
            "you look at a point below; climb along the gradient, not against it"
        )
        assert torch.allclose(attempt, kept - rate * curvatures * (kept + up)), (
            f"with radius {radius:g} the step is not SAM's; the move is as long as the radius, whatever the gradient"
        )
    flat = torch.zeros(2, dtype=torch.float64)
    attempt = sam_step(flat, lambda at: curvatures * at, 0.5, rate)
    assert torch.isfinite(attempt).all(), "where the gradient is zero you divide by its length"
    assert torch.equal(attempt, flat), "where the gradient is zero the weights should stay"


def check_greedy_soup(greedy_soup: Callable[[list[torch.Tensor], Score], torch.Tensor]) -> None:
    """Try soups in which one model, all, or some belong: `greedy_soup(models, score)`."""
    cases = (
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]], [1.0, 1.0], [0.0, 0.0], "the third makes it worse and has to stay out"),
        ([[0.0, 2.0], [0.0, 4.0]], [1.0, 0.0], [0.0, 3.0], "a model that leaves the score where it is belongs in it"),
        ([[0.0], [4.0], [8.0]], [1.0], [0.0], "no other model helps the best one: the soup is that one alone"),
        ([[5.0], [1.0], [-1.5]], [1.0], [-0.25], "begin with the best model, not with the first"),
    )
    for rows, counts, wanted, why in cases:
        models, weights = [torch.tensor(row, dtype=torch.float64) for row in rows], torch.tensor(counts).double()

        def score(w: torch.Tensor, weights: torch.Tensor = weights) -> float:
            return -float((weights * w.square()).sum())

        attempt = greedy_soup(list(models), score)
        assert getattr(attempt, "shape", None) == models[0].shape, "return one tensor, the mean of the chosen models"
        assert torch.allclose(attempt.double(), torch.tensor(wanted).double()), (
            f"of the models {rows} you return {attempt.tolist()}; {why}"
        )


def _bowl(weights: torch.Tensor, curvatures: torch.Tensor) -> torch.Tensor:
    return (curvatures * weights.square()).sum(-1) / 2


def _close(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6 * max(abs(b), 1e-6)


EXERCISES: dict[str, Checker] = {
    "gain-of-average": check_gain,
    "sam-step": check_sam_step,
    "greedy-soup": check_greedy_soup,
}

PREDICTIONS = {
    "loss-of-a-mean": Prediction(
        "You take the mean of the three weights. Where is its loss?",
        (
            Choice(
                "at the mean of the three losses",
                "That would hold on a slope, which has no curvature. In a bowl the deviations to both sides cost "
                "more than they save.",
            ),
            Choice(
                "below the mean of the three losses",
                right="In a bowl the loss of a mean is never above the mean of the losses, and below it where the "
                "weights differ in a direction that is curved.",
            ),
            Choice(
                "it can lie above",
                "Between two valleys with a hill in the middle it can, but a bowl has no hill.",
            ),
        ),
        right="b",
    ),
    "sam-or-half-the-rate": Prediction(
        "SAM makes twice as many passes as vanilla. Is its held-out loss below that of vanilla at half the learning "
        "rate?",
        (
            Choice(
                "below",
                "SAM does lower the loss of vanilla at the same rate. But a smaller rate lowers it, too, and for free.",
                "SAM's place is better than what a smaller step finds.",
            ),
            Choice(
                "above",
                "SAM is not only a way to move less; here it finds what a smaller rate does not, or no less.",
                "Half the rate gains more than SAM does, at half the price. A rate that is too high is mended best by "
                "a lower rate.",
            ),
            Choice(
                "that cannot be told",
                "The losses of equal seeds differ in one direction here, by more than their spread.",
                "The interval has zero in it. What SAM gains over vanilla, half the rate gains as well.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", digits=2),
    ),
}
