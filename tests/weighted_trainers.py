"""Trainers whose own loss has class weights, by the recipe of the Trainer's documentation."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import Trainer

from finetune_reg.trainer import MethodTrainer

CLASS_WEIGHTS = (0.2, 3.0)


def weighted_loss(logits, labels, class_weights=CLASS_WEIGHTS):
    return F.cross_entropy(logits, labels, weight=torch.tensor(class_weights, dtype=logits.dtype))


class WeightedTrainer(Trainer):
    class_weights = CLASS_WEIGHTS

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = weighted_loss(outputs.logits, labels, self.class_weights)
        return (loss, outputs) if return_outputs else loss


class WeightedMethodTrainer(MethodTrainer):
    class_weights = CLASS_WEIGHTS
    compute_loss = WeightedTrainer.compute_loss


class MethodFirst(MethodTrainer, WeightedTrainer):
    pass


class WeightedFirst(WeightedTrainer, MethodTrainer):
    pass
