"""Count how often a model is run forward and differentiated: the fair cost of a method."""

from __future__ import annotations

from typing import Any

from torch import nn


class PassCounter:
    """Counts passes of a model in training mode while used as a context manager.

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

    def _count(self, model: nn.Module, inputs: Any, outputs: Any) -> None:
        if model.training:
            self.forward += 1
            if outputs.logits.requires_grad:
                outputs.logits.register_hook(self._count_backward)

    def _count_backward(self, gradient: Any) -> None:
        self.backward += 1
