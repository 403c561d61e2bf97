"""Hypergradients against worked numbers, closed forms, exact second derivatives and brute force."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetune_reg.building_blocks.hypergradient import (
    Hypergradient,
    adam_denominator,
    identity_hypergradient,
    look_ahead,
    one_step_hypergradient,
    same_masks,
)
from finetune_reg.errors import InputError

DOUBLE = torch.float64


class ScalarMixup:
    """`w~ = alpha w + (1 - alpha) w0` for one or two independent scalars, with quadratic losses around t and s."""

    def __init__(self, w0, w, alpha, t, s):
        self.w0, self.t, self.s = (torch.tensor(values, dtype=DOUBLE) for values in (w0, t, s))
        self.w, self.alpha = (torch.tensor(values, dtype=DOUBLE, requires_grad=True) for values in (w, alpha))

    def mixed(self, w=None, alpha=None):
        w, alpha = self.w if w is None else w, self.alpha if alpha is None else alpha
        return alpha * w + (1 - alpha) * self.w0

    def train_loss(self):
        return 0.5 * (self.mixed() - self.t).square().sum()

    def validation_loss(self):
        return 0.5 * (self.mixed() - self.s).square().sum()

    def one_step(self, **options):
        return one_step_hypergradient([self.w], [self.alpha], self.train_loss, self.validation_loss, **options)

    def identity(self, **options):
        return identity_hypergradient([self.w], [self.alpha], self.train_loss, self.validation_loss, **options)

    def descend(self, rate):
        with torch.no_grad():
            self.w -= rate * self.alpha * (self.mixed() - self.t)


ROWS = {
    "first": ((1.0, 1.5, 0.8, 2.0, 1.0), 0.43808, 0.48544, 0.3509376),
    "second": ((-0.2, 0.3, 0.6, 0.5, 1.0), -0.51336, -0.5382, -0.4915008),
}
BOTH = tuple([first, second] for first, second in zip(ROWS["first"][0], ROWS["second"][0], strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_worked_scalar_examples(row):
    numbers, direct, one_step, identity = ROWS[row]
    toy = ScalarMixup(*([number] for number in numbers))
    gradient = toy.one_step(step_size=0.5)
    assert gradient.direct[0].item() == pytest.approx(direct, abs=1e-12)
    assert gradient.total[0].item() == pytest.approx(one_step, abs=1e-11)
    toy.descend(0.5)
    gradient = toy.identity()
    assert gradient.direct[0].item() == pytest.approx(direct, abs=1e-12)
    assert gradient.total[0].item() == pytest.approx(identity, abs=1e-11)


def test_one_step_form_equals_brute_force_on_the_scalar_examples():
    toy = ScalarMixup(*BOTH)

    def validation_loss_after_the_step(alpha):
        w = toy.w.detach() - 0.5 * alpha * (toy.mixed(toy.w.detach(), alpha) - toy.t)
        return 0.5 * (toy.mixed(w, alpha) - toy.s).square().sum().item()

    alpha, gradient = toy.alpha.detach(), toy.one_step(step_size=0.5).total[0]
    for i in range(2):
        shift = torch.zeros(2, dtype=DOUBLE)
        shift[i] = 1e-5
        slope = (validation_loss_after_the_step(alpha + shift) - validation_loss_after_the_step(alpha - shift)) / 2e-5
        assert gradient[i].item() == pytest.approx(slope, abs=1e-9)


def test_bug_compatible_trace_of_betty():
    toy = ScalarMixup(*BOTH)
    toy.descend(0.5)
    look_ahead = toy.w.detach().clone()
    torch.testing.assert_close(look_ahead, torch.tensor([1.74, 0.42], dtype=DOUBLE))
    gradient = toy.identity(undo_perturbation=False).total[0]
    torch.testing.assert_close(
        toy.w.detach(), torch.tensor([1.7330999566, 0.4272380523], dtype=DOUBLE), rtol=0, atol=1e-10
    )
    assert (toy.w.detach() - look_ahead).norm().item() == pytest.approx(0.01, abs=1e-12)
    with torch.no_grad():
        toy.alpha -= 0.01 * gradient
    expected = torch.tensor([0.796490624, 0.604915008], dtype=DOUBLE)
    torch.testing.assert_close(toy.alpha.detach(), expected, rtol=0, atol=1e-9)
    toy.descend(0.5)
    expected = torch.tensor([1.8988069469, 0.5241981515], dtype=DOUBLE)
    torch.testing.assert_close(toy.w.detach(), expected, rtol=0, atol=1e-9)


def test_the_remaining_offset_lowers_the_validation_loss():
    toy = ScalarMixup(*BOTH)
    before = toy.validation_loss().item()
    toy.identity(undo_perturbation=False)
    assert toy.validation_loss().item() < before


def test_preconditioned_numbers_after_an_adamw_step():
    toy = ScalarMixup(*BOTH)
    optimizer = torch.optim.AdamW([toy.w], lr=0.5, weight_decay=0.0)
    toy.train_loss().backward(inputs=[toy.w])
    optimizer.step()
    state = optimizer.state[toy.w]
    denominator = adam_denominator(state["exp_avg_sq"], state["step"].item(), beta2=0.999, epsilon=1e-8)
    plain, preconditioned = (toy.identity(denominators=d).total[0] for d in (None, [denominator]))
    torch.testing.assert_close(plain, torch.tensor([0.4160, -0.4200], dtype=DOUBLE), rtol=0, atol=1e-7)
    expected = torch.tensor([-0.2124343, -0.1254214], dtype=DOUBLE)
    torch.testing.assert_close(preconditioned, expected, rtol=0, atol=1e-7)


def test_adam_denominator_is_one_scalar_per_tensor():
    second_moment = torch.tensor([[0.25, 0.75]], dtype=DOUBLE)
    expected = ((0.9 * 0.5) ** 0.5 + 1e-3) / (1 - 0.9**3) ** 0.5
    assert adam_denominator(second_moment, 3, beta2=0.9, epsilon=1e-3).item() == pytest.approx(expected, rel=1e-14)


def closed_form_toy(w):
    w, alpha = (torch.tensor([value], dtype=DOUBLE, requires_grad=True) for value in (w, 0.5))
    return [w], [alpha], lambda: 0.5 * (w - alpha).square().sum(), lambda: 0.5 * (w - 1).square().sum()


def test_closed_form_of_two_parabolas():
    assert one_step_hypergradient(*closed_form_toy(0.0), step_size=0.1).total[0].item() == pytest.approx(-0.095)
    assert identity_hypergradient(*closed_form_toy(0.05)).total[0].item() == pytest.approx(-0.95)


def test_identity_form_is_the_exact_implicit_gradient_once_the_lower_level_has_converged():
    assert identity_hypergradient(*closed_form_toy(0.5)).total[0].item() == pytest.approx(0.5 - 1)


class Network:
    """A small net whose first layer is mixed with another weight; losses on two batches."""

    def __init__(self, dtype=DOUBLE, dropout=0.0):
        torch.manual_seed(0)

        def draw(*shape):
            return (0.3 * torch.randn(*shape, dtype=DOUBLE)).to(dtype)

        self.weights = [draw(8, 5).requires_grad_(), draw(3, 8).requires_grad_(), draw(3).requires_grad_()]
        self.start, self.dropout = draw(8, 5), dropout
        self.alphas = [torch.rand(8, 1, dtype=DOUBLE).to(dtype).requires_grad_()]
        self.alphas.append(torch.rand(1, 5, dtype=DOUBLE).to(dtype).requires_grad_())
        self.batches = [(draw(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])) for _ in range(2)]

    def loss(self, batch, weights=None):
        first, second, bias = self.weights if weights is None else weights
        mixed = torch.lerp(self.start, first, self.alphas[0] * self.alphas[1])
        hidden = F.dropout(torch.tanh(batch[0] @ mixed.T), self.dropout)
        return F.cross_entropy(F.linear(hidden, second, bias), batch[1])

    def train_loss(self):
        return self.loss(self.batches[0])

    def validation_loss(self):
        return self.loss(self.batches[1])

    def problem(self):
        return self.weights, self.alphas, self.train_loss, self.validation_loss

    def exact_one_step(self, step_size):
        gradients = torch.autograd.grad(self.train_loss(), self.weights, create_graph=True)
        moved = [w - step_size * g for w, g in zip(self.weights, gradients, strict=True)]
        return torch.autograd.grad(self.loss(self.batches[1], moved), self.alphas)

    def exact_identity(self):
        v = torch.autograd.grad(self.validation_loss(), self.weights)
        direct = torch.autograd.grad(self.validation_loss(), self.alphas)
        gradients = torch.autograd.grad(self.train_loss(), self.weights, create_graph=True)
        product = torch.autograd.grad(gradients, self.alphas, grad_outputs=v)
        return [d - p for d, p in zip(direct, product, strict=True)]


def relative_error(found, expected) -> float:
    found, expected = (torch.cat([part.detach().flatten() for part in parts]) for parts in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()


def test_both_forms_agree_with_exact_second_derivatives():
    net = Network()
    found = one_step_hypergradient(*net.problem(), step_size=0.7)
    assert relative_error(found.total, net.exact_one_step(0.7)) < 1e-5
    assert relative_error(found.direct, net.exact_one_step(0.7)) > 1e-2
    assert relative_error(identity_hypergradient(*net.problem()).total, net.exact_identity()) < 1e-5


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_the_radius_hardly_matters(scale):
    net = Network()
    usual, scaled = (one_step_hypergradient(*net.problem(), step_size=0.7, radius=r) for r in (0.01, 0.01 * scale))
    assert 0 < relative_error(scaled.implicit, usual.implicit) < 1e-3


def test_the_weights_are_perturbed_by_the_radius_and_come_back_bit_for_bit():
    net, distances = Network(torch.float32), []
    before = [weight.detach().clone() for weight in net.weights]

    def train_loss():
        moved = [(w.detach() - b).flatten() for w, b in zip(net.weights, before, strict=True)]
        distances.append(torch.cat(moved).norm().item())
        return net.train_loss()

    one_step_hypergradient(net.weights, net.alphas, train_loss, net.validation_loss, step_size=0.3, radius=0.05)
    identity_hypergradient(net.weights, net.alphas, train_loss, net.validation_loss, radius=0.05)
    assert distances == pytest.approx([0.0, 0.05, 0.05, 0.05, 0.05], rel=1e-4)
    assert all(torch.equal(w, b) for w, b in zip(net.weights, before, strict=True))
    assert all(tensor.grad is None for tensor in (*net.weights, *net.alphas))


def test_the_weights_come_back_when_a_loss_fails():
    net, calls = Network(), []
    before = [weight.detach().clone() for weight in net.weights]

    def train_loss():
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return net.train_loss()

    with pytest.raises(RuntimeError, match="out of memory"):
        one_step_hypergradient(net.weights, net.alphas, train_loss, net.validation_loss, step_size=0.3)
    assert all(torch.equal(w, b) for w, b in zip(net.weights, before, strict=True))


def test_no_validation_gradient_gives_no_implicit_part():
    net = Network()
    alphas = [*net.alphas, torch.zeros(2, dtype=DOUBLE, requires_grad=True)]

    def constant():
        return 0.0 * net.validation_loss()

    for gradient in (
        one_step_hypergradient(net.weights, alphas, net.train_loss, constant, step_size=0.3),
        identity_hypergradient(net.weights, alphas, net.train_loss, constant),
    ):
        assert all(torch.equal(part, torch.zeros_like(part)) for part in (*gradient.direct, *gradient.implicit))
        assert gradient.cosine().item() == 0.0


def test_cosine_between_the_parts():
    def cosine(direct, implicit):
        parts = ([torch.tensor(values, dtype=DOUBLE) for values in part] for part in (direct, implicit))
        return Hypergradient(*parts, validation_loss=torch.tensor(0.0)).cosine().item()

    assert cosine([[3.0], [4.0]], [[6.0], [8.0]]) == pytest.approx(1.0)
    assert cosine([[3.0], [4.0]], [[-3.0], [-4.0]]) == pytest.approx(-1.0)
    assert cosine([[3.0], [4.0]], [[5.0], [0.0]]) == pytest.approx(0.6)


def test_same_masks_repeats_the_first_draw_and_leaves_the_stream_alone():
    torch.manual_seed(0)
    draws = [torch.rand(()).item() for _ in range(3)]
    torch.manual_seed(0)
    repeated = same_masks(lambda: torch.rand(()), torch.device("cpu"))
    assert [repeated().item(), repeated().item(), torch.rand(()).item(), repeated().item()] == [
        draws[0],
        draws[0],
        draws[1],
        draws[0],
    ]


def test_with_shared_masks_dropout_is_differentiated_exactly_and_without_them_noise_dominates():
    net = Network(dropout=0.3)
    weights, alphas, train_loss, validation_loss = net.problem()
    validation_loss = same_masks(validation_loss, torch.device("cpu"))
    validation_loss()
    torch.manual_seed(1)
    shared = one_step_hypergradient(
        weights, alphas, same_masks(train_loss, torch.device("cpu")), validation_loss, step_size=0.7
    )
    torch.manual_seed(1)
    gradients = torch.autograd.grad(train_loss(), weights, create_graph=True)
    with torch.no_grad():
        kept = [w.clone() for w in weights]
        torch._foreach_add_(weights, [g.detach() for g in gradients], alpha=-0.7)
    v = torch.autograd.grad(validation_loss(), weights)
    with torch.no_grad():
        torch._foreach_copy_(weights, kept)
    torch.manual_seed(1)
    gradients = torch.autograd.grad(train_loss(), weights, create_graph=True)
    exact = [-0.7 * product for product in torch.autograd.grad(gradients, alphas, grad_outputs=v)]
    assert relative_error(shared.implicit, exact) < 1e-4
    independent = one_step_hypergradient(weights, alphas, train_loss, validation_loss, step_size=0.7)
    assert independent.norms()[1] > 3 * shared.norms()[1]


def test_autocast_does_not_reach_the_finite_difference():
    net, found = Network(torch.float32), []

    def train_loss():
        assert not torch.is_autocast_enabled("cpu")
        return net.train_loss()

    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(
                one_step_hypergradient(net.weights, net.alphas, train_loss, net.validation_loss, step_size=0.7)
            )
    assert all(torch.equal(a, b) for a, b in zip(found[0].total, found[1].total, strict=True))


def test_half_precision_weights_are_refused():
    linear = nn.Linear(2, 2).bfloat16()
    weights = list(linear.parameters())

    def loss():
        return linear(torch.ones(1, 2).bfloat16()).sum()

    with pytest.raises(InputError, match="float32 or float64"):
        one_step_hypergradient(weights, weights, loss, loss, step_size=0.1)


def test_worked_look_ahead():
    weights, gradients = [torch.tensor([1.0, 2.0])], [torch.tensor([4.0, -8.0])]
    (moved,) = look_ahead(weights, gradients, 0.25)
    assert moved.tolist() == [0.0, 4.0]
    assert weights[0].tolist() == [1.0, 2.0]
