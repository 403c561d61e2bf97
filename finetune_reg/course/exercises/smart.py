"""The exercises of notebook 05: SMART, R3F, R-Drop and FreeLB."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch.nn import functional as F

from finetune_reg.building_blocks.output_divergence import symmetric_kl
from finetune_reg.course.exercises import Checker
from finetune_reg.course.predictions import Choice, Prediction
from finetune_reg.results.statistics import compare_paired

DOUBLE = torch.float64
SEEDS = ["seed_init", "seed_order", "seed_noise"]


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-9) -> bool:
    return torch.allclose(one.to(torch.float64), other.to(torch.float64), rtol=0, atol=tolerance)


def check_fisher(fisher: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Check `fisher(weight, x)`: the matrix of the quadratic form that the symmetric KL becomes for small moves."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator, dtype=DOUBLE)
    x = torch.randn(4, generator=generator, dtype=DOUBLE)
    found = fisher(weight, x)
    assert isinstance(found, torch.Tensor), "Return a tensor."
    assert found.shape == (4, 4), (
        f"The move is one of the input, with 4 coordinates here: a matrix of shape (4, 4), not {tuple(found.shape)}"
    )
    assert _close(found, found.T), "A quadratic form needs a symmetric matrix."
    moves = torch.randn(5, 4, generator=generator, dtype=DOUBLE)
    moved, clean = (x + 1e-5 * moves) @ weight.T, (x @ weight.T).expand(5, 3)
    values = [symmetric_kl(one[None], two[None]).item() / 1e-10 for one, two in zip(moved, clean, strict=True)]
    forms = [(v @ found.to(torch.float64) @ v).item() for v in moves]
    ratios = [form / value for form, value in zip(forms, values, strict=True)]
    if max(ratios) - min(ratios) < 1e-3:
        assert abs(ratios[0] - 1) < 1e-3, (
            f"The form is {ratios[0]:.3g} times the symmetric KL: each of the two KL directions contributes, and each "
            "has its own factor from the second-order term"
        )
    shift = torch.linalg.lstsq(weight, torch.ones(3, 1, dtype=DOUBLE)).solution[:, 0]
    assert abs((shift @ found.to(torch.float64) @ shift).item()) < 1e-6, (
        "Adding the same number to all logits changes no probability, but your form is not 0 for the move that does it"
    )
    assert all(abs(ratio - 1) < 1e-3 for ratio in ratios), (
        "For a move of size 1e-5 the form does not give the symmetric KL: how do the logits depend on the input?"
    )


def check_teacher_memory(memory: Callable[[int], float]) -> None:
    """Check `memory(n_updates)`: the weight of the start in the teacher after the paper's schedule."""
    for n_updates in (10, 100, 468, 936):
        early = math.floor(0.1 * n_updates)
        expected = 0.99**early * 0.999 ** (n_updates - early)
        found = memory(n_updates)
        assert isinstance(found, int | float), "Return one number."
        assert 0.0 <= found <= 1.0, f"A weight lies between 0 and 1, but memory({n_updates}) is {found:.4g}"
        wrong_schedules = {0.99**n_updates, 0.999**n_updates}
        assert not any(math.isclose(found, wrong, rel_tol=1e-9) for wrong in wrong_schedules), (
            "One momentum for the whole run? The schedule has another one in the first tenth of the updates"
        )
        assert not math.isclose(found, 1 - expected, rel_tol=1e-9), (
            "That is the weight of all later iterates together; asked is what the start keeps"
        )
        assert not any(math.isclose(found, expected / factor, rel_tol=1e-9) for factor in (0.99, 0.999)), (
            "One factor is missing: the teacher moves after every update, also after the first"
        )
        assert math.isclose(found, expected, rel_tol=1e-9), (
            f"memory({n_updates}) is {found:.4g}. Each update multiplies what is left of the start by one factor; "
            "update t, counted from 1, is early if t is at most a tenth of all: a whole number of updates"
        )


def check_r_drop_loss(loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]) -> None:
    """Check `loss(first_logits, second_logits, labels, strength)`: the paper's loss of two passes of a batch."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5, 3, generator=generator, dtype=DOUBLE).requires_grad_()
    second = torch.randn(5, 3, generator=generator, dtype=DOUBLE).requires_grad_()
    labels = torch.tensor([0, 2, 1, 1, 0])
    task_losses = F.cross_entropy(first, labels) + F.cross_entropy(second, labels)
    without = loss(first, second, labels, 0.0)
    assert isinstance(without, torch.Tensor), "Return a tensor."
    assert without.ndim == 0, f"Return one number for the batch, not the shape {tuple(without.shape)}."
    assert not _close(without, task_losses / 2), "The paper adds the two task losses; it does not average them."
    assert _close(without, task_losses), "With strength 0 the loss should be that of the task, of both passes."
    divergence = symmetric_kl(first, second) / 2
    term = loss(first, second, labels, 1.0) - without
    assert not _close(term, 2 * divergence), "The divergence is the mean of the two KL directions, not their sum."
    assert not any(_close(term, factor * divergence) for factor in (5, 10)), (
        "The divergence should be a mean over the batch, like the task loss; `batchmean` is one, `sum` is not"
    )
    assert not _close(term, divergence / 3), "Sum over the classes and average over the batch, not over both."
    swapped = loss(second, first, labels, 1.0)
    assert _close(swapped, without + term), "Swapping the two passes should change nothing: use both directions of KL."
    assert _close(term, divergence), "With strength 1 the two task losses are right, but the divergence is not."
    gradients = torch.autograd.grad(term, (first, second), allow_unused=True, retain_graph=True)
    expected = torch.autograd.grad(divergence, (first, second))
    assert all(one is not None and _close(one, two) for one, two in zip(gradients, expected, strict=True)), (
        "The value is right, but not the gradient: nothing is held constant, each distribution is target and prediction"
    )
    tripled = loss(first, second, labels, 3.0)
    assert _close(tripled, without + 3 * divergence), "The strength should be a factor of the divergence."


def check_fast_teacher(table: pd.DataFrame) -> None:
    """Check a `results_table` of vanilla runs and of SMART with the teacher alone, which follows fast."""
    assert isinstance(table, pd.DataFrame), "Give the table that results_table returns, with the runs of both methods."
    assert {"method", "method_hyperparameters"} <= set(table), "Give the table that results_table returns."
    vanilla, smart = table[table.method == "vanilla"], table[table.method == "smart"]
    assert min(len(vanilla), len(smart)) > 0, "The table needs runs of vanilla, to compare with, and of SMART."
    for text in smart.method_hyperparameters:
        chosen = json.loads(text)
        assert chosen["smoothness_strength"] == 0, "Switch the smoothness term off, so that only the teacher acts."
        assert chosen["proximal_strength"] > 0, "Without a proximal strength there is no teacher."
        assert max(chosen["teacher_momentum"], chosen["late_teacher_momentum"]) <= 0.9, (
            "A fast teacher has a momentum of 0.9 or less, in the first tenth of the updates and later"
        )
    recipe = ["task", "model_name", "n_train", "epochs", "batch_size", "learning_rate"]
    assert all(table[name].nunique(dropna=False) == 1 for name in recipe), (
        "The runs should differ in the method and in the seed, and in nothing else"
    )
    seeds = [sorted(map(tuple, runs[SEEDS].to_numpy().tolist())) for runs in (vanilla, smart)]
    assert seeds[0] == seeds[1], "Both methods need the same seeds, each once: the comparison is paired."
    assert len(seeds[0]) >= 3, "Take at least 3 seeds."


EXERCISES: dict[str, Checker] = {
    "smart-fisher": check_fisher,
    "smart-teacher-memory": check_teacher_memory,
    "smart-r-drop-loss": check_r_drop_loss,
    "smart-fast-teacher": check_fast_teacher,
}


def working_half(rough: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Say which half of SMART makes the worst move smaller: a the adversary's, b the teacher's, c both, d neither."""
    falls = {}
    for name in ("smoothness alone", "teacher alone"):
        falls[name] = compare_paired(rough[name], rough["vanilla"])
    found = {name: fall.high < 0 for name, fall in falls.items()}
    letters = {(True, False): "a", (False, True): "b", (True, True): "c", (False, False): "d"}
    figures = " and ".join(
        f"{fall.difference:+.3f} [{fall.low:+.3f}, {fall.high:+.3f}] nats with {name}" for name, fall in falls.items()
    )
    return letters[found["smoothness alone"], found["teacher alone"]], f"Against vanilla it changes by {figures}."


PREDICTIONS = {
    "smart-radius": Prediction(
        "The adversary may move each coordinate by epsilon, and epsilon is small. You make it ten times smaller. What"
        " happens to the symmetric KL of its worst move?",
        (
            Choice(
                "it falls ten times",
                "So would a quantity with a slope at the clean input. A divergence has its minimum there, and no "
                "slope.",
            ),
            Choice(
                "it falls a hundred times",
                right="At the clean input the divergence and its slope are both 0, so the square of the move leads.",
            ),
            Choice(
                "it hardly falls, because the adversary still finds the worst direction",
                "The direction stays, but the way along it gets shorter, and the prediction is a smooth function of "
                "the input.",
            ),
        ),
        right="b",
    ),
    "smart-half": Prediction(
        "SMART adds a smoothness term, with the paper's radius of 1e-5, and a pull toward a slow average of the "
        "weights. You train with one half alone. Which half makes the worst move smaller than vanilla's?",
        (
            Choice(
                "the smoothness term, which was made for it",
                "It was made for it, but remember its size: at a radius of 1e-5 it adds less than a millionth of a "
                "nat to the loss.",
                "Small as the term is, its gradient was enough here.",
            ),
            Choice(
                "the teacher",
                "A teacher near the start predicts next to nothing, and to stay near it keeps predictions flat. But "
                "that is not all that these seeds show.",
                "In a short run the teacher is nearly the untrained start, which is undecided everywhere. To be near "
                "it is to be flat.",
            ),
            Choice(
                "each of the two",
                "At the paper's radius one of them is far too small to act. Compare the sizes of the two terms.",
                "Each interval lies below zero, although the two terms differ by orders of magnitude.",
            ),
            Choice(
                "neither, as far as these seeds can tell",
                "There is a difference to see: what predicts with less confidence also moves less.",
                "Both intervals have zero in them: the seeds differ more than the halves do.",
            ),
        ),
        right=working_half,
    ),
}
