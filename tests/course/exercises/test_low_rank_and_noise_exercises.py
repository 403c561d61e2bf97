from __future__ import annotations

import torch
from exercise_attempts import right_attempts, unattempted, wrong_attempts


def added(curvatures, alpha):
    return alpha**2 / (6 * curvatures.numel()) * curvatures.sum()


def largest_rank(n_out, n_in):
    return (n_out * n_in - 1) // (n_out + n_in)


def factors(change, rank, first=0, powers=(1.0, 0.0)):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    kept = slice(first, first + rank)
    return u[:, kept] * s[kept] ** powers[0], s[kept, None] ** powers[1] * v[kept]


test_the_right_attempt_passes = right_attempts(
    [
        ("added-by-noise", added),
        ("largest-saving-rank", largest_rank),
        ("best-factors", factors),
        ("best-factors", lambda change, rank: factors(change, rank, powers=(0.5, 0.5))),
    ]
)


test_wrong_attempts_are_helped = wrong_attempts(
    [
        ("added-by-noise", lambda h, alpha: 3 * added(h, alpha), "a variance of 1/3"),
        ("added-by-noise", lambda h, alpha: 2 * added(h, alpha), "twice too much"),
        ("added-by-noise", lambda h, alpha: h.numel() * added(h, alpha), "the divisor of the noise is missing"),
        ("added-by-noise", lambda h, alpha: h.numel() ** 0.5 * added(h, alpha), "its square by L d"),
        ("added-by-noise", lambda h, alpha: 0.0, "is its variance"),
        ("largest-saving-rank", lambda n_out, n_in: n_out * n_in / (n_out + n_in), "give a whole number"),
        ("largest-saving-rank", lambda n_out, n_in: n_out * n_in // (n_out + n_in), "not fewer than"),
        ("largest-saving-rank", lambda n_out, n_in: max(largest_rank(n_out, n_in) - 1, 0), "a higher rank saves"),
        ("best-factors", lambda change, rank: factors(change, rank)[::-1], "the shapes are"),
        ("best-factors", lambda change, rank: factors(change, rank)[0], "return B and A"),
        ("best-factors", lambda change, rank: factors(change, rank, powers=(1.0, 1.0)), "each of them once"),
        ("best-factors", lambda change, rank: (change[:, :rank], torch.eye(4).double()[:rank]), "a rest of length"),
    ]
)
test_stubs_are_not_attempted = unattempted(["added-by-noise", "largest-saving-rank", "best-factors"])
