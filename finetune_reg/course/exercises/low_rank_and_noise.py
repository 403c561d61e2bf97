"""Exercises of notebook 12: what NEFTune adds to a bowl, the rank that saves weights, and an adapter from a change."""

from __future__ import annotations

from collections.abc import Callable

import torch

from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction, paired


def check_added_by_noise(added_by_noise: Callable[[torch.Tensor, float], float]) -> None:
    """Compare with the variance of the noise: `added_by_noise(curvatures, noise_alpha)`."""
    generator = torch.Generator().manual_seed(0)
    for length, width, alpha in ((4, 3, 5.0), (1, 8, 2.0), (16, 2, 10.0)):
        curvatures = torch.rand(length, width, dtype=torch.float64, generator=generator)
        attempt = float(added_by_noise(curvatures, alpha))
        right = alpha**2 / (6 * length * width) * float(curvatures.sum())
        where = f"for {length} tokens of width {width} and alpha = {alpha:g} you have {attempt:.4f}"
        assert not _close(attempt, 3 * right), (
            f"{where}; uniform noise between -1 and 1 has a variance of 1/3, not of 1"
        )
        assert not _close(attempt, 2 * right), f"{where}, twice too much; the loss has a factor of one half"
        assert not _close(attempt, right * length * width), f"{where}; the divisor of the noise is missing"
        assert not _close(attempt, right * (length * width) ** 0.5), (
            f"{where}; the noise is divided by the root of L d, and so its square by L d"
        )
        assert _close(attempt, right), f"{where}, not {right:.4f}; the mean of a square without mean is its variance"


def check_largest_saving_rank(largest_saving_rank: Callable[[int, int], int]) -> None:
    """Compare with counting: `largest_saving_rank(n_out, n_in)`."""
    for n_out, n_in in ((768, 768), (768, 3072), (4, 4), (2, 3), (1, 5), (6, 3)):
        attempt = largest_saving_rank(n_out, n_in)
        where = f"for a matrix of {n_out} x {n_in} you have {attempt}"
        assert isinstance(attempt, int), f"{where}; give a whole number, an int"
        assert attempt >= 0, f"{where}; give 0 where no rank saves anything"
        assert attempt * (n_out + n_in) < n_out * n_in, (
            f"{where}, but that many directions take {attempt * (n_out + n_in)} weights, not fewer than {n_out * n_in}"
        )
        assert (attempt + 1) * (n_out + n_in) >= n_out * n_in, f"{where}, and a higher rank saves weights, too"


def check_best_factors(factors: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Compare the rest with that of the best product: `factors(change, rank)`."""
    change = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(change)
    for rank in (1, 2, 4):
        attempt = factors(change.clone(), rank)
        assert isinstance(attempt, tuple | list), "return B and A"
        B, A = attempt
        shapes = [tuple(B.shape), tuple(A.shape)]
        assert shapes == [(6, rank), (rank, 4)], f"for rank {rank} and a change of 6 x 4 the shapes are {shapes}"
        rest, least = float((change - B @ A).norm()), float(values[rank:].norm())
        assert rest < least + 1e-6, (
            f"with rank {rank} a rest of length {rest:.3f} is left, and {least:.3f} is possible; take the largest "
            "singular values, and each of them once in the product"
        )


def _close(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6 * abs(b)


EXERCISES: dict[str, Checker] = {
    "added-by-noise": check_added_by_noise,
    "largest-saving-rank": check_largest_saving_rank,
    "best-factors": check_best_factors,
}

PREDICTIONS = {
    "lora-first-gradient": Prediction(
        "At the start B is zero and A is random. Which factor gets a gradient in the first update?",
        (
            Choice("A alone", "The gradient of A is B transposed times something, and B is zero."),
            Choice(
                "B alone",
                right="The gradient of B has the factor A x, that of A the factor B, which is zero: A begins to move "
                "in the second update.",
            ),
            Choice("both", "The output depends on each of them, but each gradient has the other factor in it."),
            Choice("neither", "Then LoRA could never begin. If both were zero, it would be so."),
        ),
        right="b",
    ),
    "hype-or-other-masks": Prediction(
        "HyPe's noise has a size of 1e-5. Does it score higher than noise of 1e-12, which float32 rounds away?",
        (
            Choice(
                "lower",
                "Noise can cost something. But here it is far smaller than what dropout does in the same pass.",
                "Even so small a noise has cost something on these seeds.",
            ),
            Choice(
                "higher",
                "Compared with vanilla the scores of HyPe do differ. So do those of the noise that is rounded away: "
                "both draw random numbers, and so all dropout masks are others.",
                "Even so small a noise has gained something on these seeds.",
            ),
            Choice(
                "that cannot be told",
                "The interval of the difference excludes zero here.",
                "What sets HyPe apart from vanilla here are the other dropout masks, as another seed would.",
            ),
        ),
        right=paired(below="a", above="b", undecided="c", factor=100),
    ),
}
