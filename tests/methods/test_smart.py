"""SMART against its equations, the worked numbers of a linear classifier and loops written out in float64."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import ENCODERS, batches, tiny_encoder, without_dropout
from torch import nn
from torch.nn import functional as F
from training_hosts import added_loss, context, largest_difference, train_in_loop, weights
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune_reg.building_blocks.embedding_perturbation import input_embeddings, token_mask
from finetune_reg.building_blocks.output_divergence import symmetric_kl
from finetune_reg.errors import InputError
from finetune_reg.methods import SMART, Combination, Mixout, RDrop
from finetune_reg.methods.smart import move_average, normalized_step, projected_step

DOUBLE = {"dtype": torch.float64}
NO_DROPOUT = {**without_dropout("bert"), **DOUBLE}


class LinearClassifier(nn.Module):
    """One token of two dimensions; logits are `W x`."""

    device = torch.device("cpu")

    def __init__(self, weight, x):
        super().__init__()
        self.config = SimpleNamespace(num_labels=2, problem_type=None)
        self.embedding = nn.Embedding.from_pretrained(torch.tensor([x], **DOUBLE), freeze=False)
        self.weight = nn.Parameter(torch.tensor(weight, **DOUBLE))

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, labels=None):
        logits = self.embedding(input_ids)[:, 0] @ self.weight.T
        return SequenceClassifierOutput(loss=F.cross_entropy(logits, labels), logits=logits)


W, X = ((1.0, -1.0), (0.0, 2.0)), (1.0, 0.5)
ONE_TOKEN = {"input_ids": torch.tensor([[0]]), "labels": torch.tensor([0])}


def started(method, model, dataset, **options):
    """Set up, run the main pass."""
    method.setup(model, context(dataset, **options))
    batch = batches(dataset, 8)[0]
    return batch, model(**batch)


def padded(batch):
    batch["input_ids"][:3, 5:] = 0
    batch["attention_mask"][:3, 5:] = 0
    return batch


def test_worked_ascent_steps():
    start = 1e-5 * torch.tensor([[[0.5, -1.0, 2.0, 0.3]]], **DOUBLE)
    gradient = torch.tensor([[[0.02, -0.01, 0.005, 0.04]]], **DOUBLE)
    moved = projected_step(start, gradient, 1e-3, 1.0).flatten().tolist()
    assert moved == pytest.approx([5.05e-4, -2.6e-4, 1.45e-4, 1.003e-3], abs=1e-12)
    clamped = projected_step(start, gradient, 1e-3, 1e-5).flatten().tolist()
    assert clamped == pytest.approx([1e-5, -1e-5, 1e-5, 1e-5], abs=1e-15)
    official = normalized_step(start, gradient, 1e-5).flatten().tolist()
    assert official == pytest.approx([0.24703, -0.47981, 0.95249, 0.16152], abs=1e-5)
    larger = normalized_step(start, gradient, 1e-3).flatten().tolist()
    assert larger == pytest.approx([0.56818, -0.45455, 0.56818, 0.97727], abs=1e-5)


def test_normalization_is_per_token():
    gradient = torch.tensor([[[1.0, -2.0], [0.001, 0.0]]])
    moved = projected_step(torch.zeros(1, 2, 2), gradient, 0.5, 1.0)
    torch.testing.assert_close(moved, torch.tensor([[[0.25, -0.5], [0.5, 0.0]]]))


def test_a_zero_gradient_leaves_the_clamped_start():
    start = torch.tensor([[[3.0, -0.2]]])
    assert torch.equal(projected_step(start, torch.zeros(1, 1, 2), 1e-3, 1.0), torch.tensor([[[1.0, -0.2]]]))
    assert torch.equal(normalized_step(0 * start, torch.zeros(1, 1, 2), 1e-3), torch.zeros(1, 1, 2))


@pytest.mark.parametrize("step_size", [1e-5, 1e-3, 10.0])
def test_official_perturbation_is_just_below_one_at_every_token(step_size):
    torch.manual_seed(0)
    start, gradient = 1e-5 * torch.randn(2, 3, 8, **DOUBLE), torch.randn(2, 3, 8, **DOUBLE)
    largest = (start + step_size * gradient).abs().amax(-1)
    official = normalized_step(start, gradient, step_size).abs().amax(-1)
    torch.testing.assert_close(official, largest / (largest + 1e-6))
    assert (official < 1).all()


@pytest.mark.parametrize(
    ("epsilon", "expected", "tolerance"),
    [(1e-5, 3.7601e-10, 1e-14), (1e-3, 3.7619e-6, 1e-10), (0.1, 0.038992, 1e-6), (1.0, 2.37259, 1e-5)],
)
def test_the_ascent_finds_the_worst_corner_of_a_linear_classifier(epsilon, expected, tolerance, dataset):
    model = LinearClassifier(W, X)
    clean = model(**ONE_TOKEN).logits
    corners = [torch.tensor([[corner]], **DOUBLE) * epsilon for corner in product((-1, 1), repeat=2)]
    method = SMART(1.0, 0.0, epsilon, noise_std=epsilon / 10, ascent_step_size=epsilon, n_ascent_steps=4)
    method.setup(model, context(dataset))
    model.train()(**ONE_TOKEN)
    at_corners = [method.smoothness(model, ONE_TOKEN, clean, corner).item() for corner in corners]
    assert max(at_corners) == pytest.approx(expected, abs=tolerance)
    torch.manual_seed(0)
    worst = method.adversarial_perturbation(model, ONE_TOKEN, clean)
    assert worst[0, 0, 0] == -worst[0, 0, 1]
    assert worst.abs().max().item() == pytest.approx(epsilon)
    found = method.smoothness(model, ONE_TOKEN, clean, worst).item()
    assert found == pytest.approx(max(at_corners), rel=0.5)  # at epsilon 1 the two ends differ
    assert found >= sorted(at_corners)[-2] * (1 - 1e-12)


def test_for_small_radius_the_term_is_the_fisher_form():
    weight, x = torch.tensor(W, **DOUBLE), torch.tensor(X, **DOUBLE)
    p = (weight @ x).softmax(0)
    fisher = weight.T @ (p.diag() - torch.outer(p, p)) @ weight
    expected = torch.tensor([[0.2350037, -0.7050111], [-0.7050111, 2.1150334]], **DOUBLE)
    torch.testing.assert_close(fisher, expected, rtol=0, atol=1e-7)
    for v in torch.randn(5, 2, **DOUBLE):
        divergence = symmetric_kl((weight @ (x + 1e-4 * v))[None], (weight @ x)[None]) / 1e-8
        torch.testing.assert_close(divergence, v @ fisher @ v, rtol=1e-3, atol=1e-6)


def test_the_exact_maximum_does_not_fall_with_the_radius():
    weight, x = torch.tensor(W, **DOUBLE), torch.tensor(X, **DOUBLE)
    corners = torch.tensor(list(product((-1, 1), repeat=2)), **DOUBLE)
    maxima = [
        max(symmetric_kl((weight @ (x + epsilon * v))[None], (weight @ x)[None]).item() for v in corners)
        for epsilon in torch.linspace(0, 2, 9).tolist()
    ]
    assert maxima == sorted(maxima)
    assert maxima[0] == 0.0


@pytest.mark.parametrize(
    ("epsilon", "noise_std", "step_size", "n"), list(product((0.0, 1e-3), (1e-5, 1.0), (0.1, 9), (1, 3)))
)
def test_the_perturbation_stays_in_the_box_and_off_the_padding(epsilon, noise_std, step_size, n, dataset):
    model = tiny_encoder("bert").train()
    method = SMART(1.0, 0.0, epsilon, noise_std, step_size, n)
    batch, _ = started(method, model, dataset)
    outputs = model(**padded(batch))
    perturbation = method.adversarial_perturbation(model, batch, outputs.logits)
    assert perturbation.abs().max() <= epsilon
    assert torch.equal(perturbation * (1 - token_mask(batch)), torch.zeros_like(perturbation))
    assert (perturbation.abs().sum((1, 2)) > 0).all() == (epsilon > 0)


def test_padding_stays_put_in_a_model_that_reads_it(dataset, monkeypatch):
    model = tiny_encoder("bert").train()
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda attention_mask, **batch: forward(**batch))
    method = SMART(1.0, 0.0, epsilon=0.1, n_ascent_steps=2)
    batch, _ = started(method, model, dataset)
    perturbation = method.adversarial_perturbation(model, batch, model(**padded(batch)).logits)
    padding = 1 - token_mask(batch)
    assert torch.equal(perturbation * padding, torch.zeros_like(perturbation))


def test_official_moves_padding_too_and_the_outputs_do_not_notice(dataset):
    model = tiny_encoder("bert", **NO_DROPOUT).train()
    batch = padded(batches(dataset, 8)[0])
    clean = model(**batch).logits
    torch.manual_seed(0)
    perturbation = SMART.official().adversarial_perturbation(model, batch, clean)
    mask = token_mask(batch)
    assert (perturbation * (1 - mask)).abs().amax() > 0.5
    method = SMART.official()
    moved, masked = (method.smoothness(model, batch, clean, delta) for delta in (perturbation, perturbation * mask))
    torch.testing.assert_close(moved, masked)


def test_a_constant_network_has_no_term_and_keeps_the_clamped_noise(dataset):
    model = tiny_encoder("bert").train()
    nn.init.zeros_(model.classifier.weight)
    method = SMART(1.0, 0.0, epsilon=1e-5, noise_std=1e-5)
    batch, outputs = started(method, model, dataset)
    torch.manual_seed(0)
    noise = 1e-5 * torch.randn_like(input_embeddings(model, batch))
    torch.manual_seed(0)
    perturbation = method.adversarial_perturbation(model, batch, outputs.logits)
    torch.testing.assert_close(perturbation, noise.clamp(-1e-5, 1e-5), rtol=0, atol=0)
    assert added_loss(method, model, batch, outputs).item() == 0.0


@pytest.mark.parametrize("dropout", ["shared", "off"])
def test_at_radius_zero_the_term_and_its_gradient_are_zero(dropout, dataset):
    model = tiny_encoder("bert").train()
    method = SMART(1.0, 0.0, epsilon=0.0, dropout=dropout)
    batch, outputs = started(method, model, dataset)
    loss = added_loss(method, model, batch, outputs)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


def test_the_ascent_raises_the_divergence(dataset):
    model = tiny_encoder("bert", **NO_DROPOUT).train()
    values = []
    for step_size in (0.0, 1e-3, 3e-3):
        method = SMART(1.0, 0.0, epsilon=1.0, noise_std=0.1, ascent_step_size=step_size)
        batch, outputs = started(method, model, dataset)
        torch.manual_seed(0)
        perturbation = method.adversarial_perturbation(model, batch, outputs.logits)
        values.append(method.smoothness(model, batch, outputs.logits, perturbation).item())
        method.finalize(model)
    assert values == sorted(values)
    assert values[0] < values[1] < values[2]


def by_hand(model, batch, clean, noise, n_steps, official):
    """The smoothness term of one batch of BERT, through `inputs_embeds`."""
    epsilon, step_size = 0.05, 0.02
    words = model.bert.embeddings.word_embeddings(batch["input_ids"])

    def logits(delta):
        return model(inputs_embeds=words + delta, attention_mask=batch["attention_mask"]).logits

    delta, log_q = noise, clean.log_softmax(-1)
    for _ in range(n_steps):
        delta = delta.detach().requires_grad_()
        p, q = logits(delta).softmax(-1), log_q.exp().detach()
        if official:
            bracket = ((q + 1e-6).reciprocal() - 1 + 1e-6).log() - ((p + 1e-6).reciprocal() - 1 + 1e-6).log()
            loss = (2 * p * bracket.detach()).sum()
        else:
            loss = ((p - q) * (p.log() - q.log())).sum()
        (gradient,) = torch.autograd.grad(loss, delta, retain_graph=True)
        if official:
            delta = delta + step_size * gradient
            delta = delta / (delta.abs().max(-1, keepdim=True).values + 1e-6)
        else:
            delta = delta + step_size * gradient / gradient.abs().max(-1, keepdim=True).values
            delta = delta.clamp(-epsilon, epsilon)
    log_p = logits(delta.detach()).log_softmax(-1)
    target_p, target_q = log_p.exp(), log_q.exp()
    if official:
        target_p, target_q = target_p.detach(), target_q.detach()
    first = F.kl_div(log_p, target_q, reduction="batchmean")
    second = F.kl_div(log_q, target_p, reduction="batchmean")
    return first + second


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("official", [False, True])
def test_loss_and_gradient_equal_the_algorithm_written_out(n_steps, official, dataset):
    if official:
        method = SMART.official(2.0, ascent_step_size=0.02, n_ascent_steps=n_steps)
    else:
        method = SMART(2.0, 0.0, epsilon=0.05, ascent_step_size=0.02, n_ascent_steps=n_steps)
    results = []
    for _ in range(2):
        model = tiny_encoder("bert", **NO_DROPOUT).train()
        batch = batches(dataset, 8)[0]
        method.setup(model, context(dataset))
        outputs = model(**batch)
        torch.manual_seed(1)
        if not results:
            term = added_loss(method, model, batch, outputs)
            assert all(parameter.grad is None for parameter in model.parameters())
        else:
            noise = torch.randn_like(input_embeddings(model, batch)) * 1e-5
            term = 2.0 * by_hand(model, batch, outputs.logits, noise, n_steps, official)
        (outputs.loss + term).backward()
        results.append((term.detach(), {name: p.grad for name, p in model.named_parameters()}))
        method.finalize(model)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-9, atol=1e-15)
    assert results[0][0] > 1e-6
    assert largest_difference(results[0][1], results[1][1]) < 1e-12


def test_official_preset_names_every_difference():
    method = SMART.official()
    assert method.proximal_strength == 0.0
    assert (method.ascent_step_size, method.noise_std, method.n_ascent_steps) == (1e-5, 1e-5, 1)
    assert (method.ascent_rule, method.ascent_loss, method.dropout) == ("normalize", "stable_kl", "independent")
    assert method.detach_targets
    assert method.perturb_padding


@pytest.mark.parametrize("name", ENCODERS)
def test_shared_masks_leave_nothing_at_zero_perturbation_and_independent_ones_do(name, dataset):
    at_zero = {}
    for dropout in ("shared", "off", "independent"):
        model = tiny_encoder(name).train()
        method = SMART(1.0, 0.0, dropout=dropout)
        batch, outputs = started(method, model, dataset)
        method.adversarial_perturbation(model, batch, outputs.logits)
        clean = method.clean_logits(model, batch, outputs)
        at_zero[dropout] = method.smoothness(model, batch, clean, torch.zeros(())).item()
        noise = 0.1 * torch.randn_like(input_embeddings(model, batch))
        assert method.smoothness(model, batch, clean, noise) > 0
    assert at_zero["shared"] == at_zero["off"] == 0.0
    assert at_zero["independent"] > 1e-6


def test_masks_are_the_main_pass_s_also_after_another_method_ran_a_pass(dataset):
    model = tiny_encoder("bert").train()
    members = [Mixout(0.3, disable_dropout=False), RDrop(), SMART(1.0, 0.0)]
    method = Combination(members)
    batch, outputs = started(method, model, dataset)
    for member in members[:2]:
        added_loss(member, model, batch, outputs)
    assert members[2].smoothness(model, batch, outputs.logits, torch.zeros(())).item() == 0.0


def test_without_dropout_every_module_is_back_in_its_mode(dataset):
    model = tiny_encoder("bert").train()
    model.bert.pooler.eval()
    modes = [module.training for module in model.modules()]
    method = SMART(1.0, 1.0, dropout="off")
    batch, outputs = started(method, model, dataset)
    added_loss(method, model, batch, outputs)
    assert [module.training for module in model.modules()] == modes


def test_strengths_zero_add_nothing_and_draw_nothing(dataset):
    model = tiny_encoder("bert").train()
    method = SMART(0.0, 0.0)
    batch, outputs = started(method, model, dataset)
    state = torch.get_rng_state()
    assert added_loss(method, model, batch, outputs) == 0.0
    assert torch.equal(torch.get_rng_state(), state)


def test_worked_teacher():
    teacher = {"w": torch.tensor([0.0], **DOUBLE)}
    seen = [0.0]
    for weight in (1.0, 2.0):
        move_average(teacher, {"w": torch.tensor([weight], **DOUBLE)}, 0.9)
        seen.append(teacher["w"].item())
    assert seen == pytest.approx([0.0, 0.1, 0.29], abs=1e-12)


def test_teacher_has_the_closed_form_of_a_moving_average_and_its_lag():
    momentum, steps, drift = 0.9, 300, 0.5
    teacher = {"w": torch.zeros(1, **DOUBLE)}
    for k in range(1, steps + 1):
        move_average(teacher, {"w": torch.tensor([drift * k], **DOUBLE)}, momentum)
    closed = (1 - momentum) * sum(momentum ** (steps - k) * drift * k for k in range(1, steps + 1))
    assert teacher["w"].item() == pytest.approx(closed, rel=1e-12)
    assert drift * steps - teacher["w"].item() == pytest.approx(momentum * drift / (1 - momentum), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_momentum_zero_copies_one_freezes_and_a_still_student_has_a_still_teacher(momentum):
    teacher, student = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 7.0])}
    move_average(teacher, student, momentum)
    torch.testing.assert_close(teacher["w"], momentum * torch.tensor([1.0, 2.0]) + (1 - momentum) * student["w"])
    still = {"w": student["w"].clone()}
    move_average(still, student, momentum)
    assert torch.equal(still["w"], student["w"])


def test_momentum_changes_after_a_tenth_of_the_updates(dataset):
    model = tiny_encoder("bert")
    method = SMART(0.0, 1.0, teacher_momentum=0.0, late_teacher_momentum=1.0)
    method.setup(model, context(dataset * 10, batch_size=24))  # 2 epochs of 10 updates
    follows = []
    for _ in range(5):
        with torch.no_grad():
            model.classifier.bias.add_(1.0)
        method.after_step(model, None)
        follows.append(torch.equal(method._teacher["classifier.bias"], model.classifier.bias))
    assert follows == [True, True, False, False, False]


def test_the_teacher_moves_once_per_update_not_per_micro_batch(dataset):
    class Counted(SMART):
        n_moves = 0

        def after_step(self, model, optimizer):
            super().after_step(model, optimizer)
            Counted.n_moves = self._update

    train_in_loop(tiny_encoder("bert"), Counted(0.0, 1.0), dataset, accumulation_steps=4)
    assert Counted.n_moves == 6


def test_four_micro_batches_of_two_equal_one_batch_of_eight(dataset):
    models = []
    for accumulation_steps in (1, 4):
        models.append(tiny_encoder("bert", **NO_DROPOUT))
        train_in_loop(models[-1], SMART(0.0, 3.0, 0.5), dataset, accumulation_steps=accumulation_steps)
    first, second = (
        {name: weight for name, weight in weights(model).items() if "key.bias" not in name} for model in models
    )
    assert largest_difference(first, second) < 1e-9


def test_at_the_first_update_the_proximal_term_and_its_gradient_are_zero(dataset):
    model = tiny_encoder("bert").train()
    method = SMART(0.0, 1.0, dropout="off")
    batch, outputs = started(method, model, dataset)
    loss = added_loss(method, model, batch, outputs)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_the_teacher_is_a_second_model_with_the_averaged_weights_and_no_gradient(name, dataset):
    model, second = tiny_encoder(name, **DOUBLE).train(), tiny_encoder(name, **DOUBLE).eval()
    method = SMART(0.0, 2.0, late_teacher_momentum=0.75, dropout="off")
    batch, _ = started(method, model, dataset)
    start = weights(second)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.after_step(model, None)
    student = weights(model)
    second.load_state_dict(
        {n: w if not w.is_floating_point() else w + 0.25 * (student[n] - w) for n, w in start.items()}
    )
    reference = second(**batch).logits.detach()
    torch.testing.assert_close(method.teacher_logits(model, batch), reference)
    outputs = model(**batch)
    loss = added_loss(method, model, batch, outputs)
    torch.testing.assert_close(loss, 2.0 * symmetric_kl(model.eval()(**batch).logits, reference))
    assert loss > 0
    loss.backward()
    assert not any(w.requires_grad for w in method._teacher.values())
    assert largest_difference(student, weights(model)) == 0.0


def test_a_strong_proximal_term_keeps_predictions_near_the_start(dataset):
    start = tiny_encoder("bert").eval()
    moves = []
    for strength in (0.0, 100.0):
        model = tiny_encoder("bert")
        train_in_loop(model, SMART(0.0, strength, dropout="off"), dataset)
        batch = batches(dataset, 24)[0]
        with torch.no_grad():
            moves.append(symmetric_kl(model.eval()(**batch).logits, start(**batch).logits).item())
    assert moves[1] < 0.5 * moves[0]


@pytest.mark.parametrize("dropout", ["shared", "off", "independent"])
def test_regression_compares_numbers_by_squared_error(dropout, dataset):
    model = tiny_encoder("bert", num_labels=1, **NO_DROPOUT).train()
    for example in dataset:
        example["labels"] = example["labels"].double()
    for method in (SMART(1.0, 1.0, 0.1, 0.1, 0.1, dropout=dropout), SMART.official()):
        batch, outputs = started(method, model, dataset)
        torch.manual_seed(0)
        loss = added_loss(method, model, batch, outputs)
        torch.manual_seed(0)
        perturbation = method.adversarial_perturbation(model, batch, outputs.logits)
        moved = method._perturbed_logits(model, batch, perturbation)
        torch.testing.assert_close(loss, (moved - outputs.logits).square().mean())
        assert loss > 0
        method.finalize(model)


@pytest.mark.parametrize("build", [lambda: SMART(epsilon=0.1, noise_std=0.1), SMART.official])
def test_under_bfloat16_autocast_perturbation_and_loss_stay_float32(build, dataset):
    model, method = tiny_encoder("bert").train(), build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        batch, outputs = started(method, model, dataset)
        assert outputs.logits.dtype == torch.bfloat16
        assert method.adversarial_perturbation(model, batch, outputs.logits).dtype == torch.float32
        loss = added_loss(method, model, batch, outputs)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert all(w.dtype == torch.float32 for w in method._teacher.values())


def test_what_it_cannot_compare_or_move_is_refused_at_setup(dataset):
    with pytest.raises(InputError, match="float32"):
        SMART().setup(tiny_encoder("bert", dtype=torch.bfloat16), context(dataset))
    with pytest.raises(InputError, match="returns tuples"):
        SMART().setup(tiny_encoder("bert", return_dict=False), context(dataset))


@pytest.mark.parametrize(
    "arguments", [{"epsilon": -1.0}, {"n_ascent_steps": 0}, {"teacher_momentum": 1.5}, {"dropout": "none"}]
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(InputError):
        SMART(**arguments)


def test_a_method_serves_a_second_run_like_a_fresh_one(dataset):
    runs, method = [], SMART(1.0, 1.0, 0.1, 0.1, 0.1)
    for each in (method, method, SMART(1.0, 1.0, 0.1, 0.1, 0.1)):
        model = tiny_encoder("bert")
        train_in_loop(model, each, dataset)
        runs.append(weights(model))
    assert not method._teacher
    assert largest_difference(runs[0], runs[1]) == largest_difference(runs[1], runs[2]) == 0.0
