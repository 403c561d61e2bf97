"""Count how often a model is run forward and differentiated: the fair cost of a method."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finetune_reg.building_blocks.pretrained_model import named_outputs


class PassCounter:
    """Counts the passes of a model, and of copies made of it, while used as a context manager.

    Evaluation is not counted: `training_loop.predict` runs in inference mode.

    Attributes:
        forward: calls of the model.
        backward: passes of a gradient back through the logits of such a call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.forward = self.backward = 0
        self._model = model

    def __enter__(self) -> PassCounter:
        self._handle = self._model.register_forward_hook(self._count)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handle.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> PassCounter:
        """Return itself, so that a copied model (a teacher) is counted by the same counter."""
        return self

    def _count(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if torch.is_inference_mode_enabled():
            return
        self.forward += 1
        logits = named_outputs(outputs).logits
        if logits.requires_grad:
            logits.register_hook(self._count_backward)

    def _count_backward(self, gradient: Any) -> None:
        self.backward += 1
