"""Further passes follow the loss that the host names, and the model's own without a host."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batches, tiny_encoder, without_dropout

from finetune_reg.building_blocks.task_outputs import (
    TaskPassModule,
    divides_by_count,
    task_outputs,
    task_outputs_from,
)
from finetune_reg.methods import FreeLB, RDrop


def doubled(model, batch):
    outputs = model(**batch)
    outputs.loss = 2 * outputs.loss
    return outputs


def test_without_a_host_the_loss_is_the_models_and_a_host_that_fails_leaves_nothing(encoder, dataset):
    encoder.eval()
    batch = batches(dataset, 8)[0]
    own = encoder(**batch).loss
    with task_outputs_from(doubled):
        assert torch.equal(task_outputs(encoder, batch).loss, 2 * own)
        with pytest.raises(ZeroDivisionError), task_outputs_from(lambda model, batch: 1 / 0):
            task_outputs(encoder, batch)
        assert torch.equal(task_outputs(encoder, batch).loss, 2 * own)
    assert torch.equal(task_outputs(encoder, batch).loss, own)


@pytest.mark.parametrize("method", [RDrop(0.0), FreeLB(3, 0.0, None, 0.0)])
def test_a_plain_loop_may_name_its_loss(method, dataset):
    """The gradient, for which FreeLB hands on what it has differentiated, is that of the doubled loss."""
    gradients = []
    for task_pass, factor in ((lambda model, batch: model(**batch), 2), (doubled, 1)):
        model = tiny_encoder("bert", dtype=torch.float64, **without_dropout("bert")).train()
        batch = batches(dataset, 8)[0]
        method.setup(model, None)
        with task_outputs_from(task_pass):
            loss = method.training_loss(model, batch, task_pass(model, batch))
        (factor * loss).backward()
        method.finalize(model)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_other_weights_may_stand_in_for_those_of_the_model(encoder, dataset):
    encoder.eval()
    batch = batches(dataset, 8)[0]
    other = {f"model.{name}": torch.zeros_like(parameter) for name, parameter in encoder.named_parameters()}
    logits = torch.func.functional_call(TaskPassModule(encoder), other, (batch,)).logits
    assert logits.abs().max() == 0
    assert encoder(**batch).logits.abs().max() > 0


def test_a_loss_divides_by_the_count_if_it_changes_with_it(dataset):
    model = tiny_encoder("bert").train()
    batch = batches(dataset, 8)[0]

    def counted(model, batch, count):
        outputs = model(**batch)
        outputs.loss = outputs.loss / count
        return outputs

    state = torch.get_rng_state()
    assert divides_by_count(model, batch, counted)
    assert not divides_by_count(model, batch, lambda model, batch, count: model(**batch, num_items_in_batch=count))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
