"""Run a pass again with the same dropout masks.

Methods that compare two passes must decide whether the passes share their noise: with independent masks a
difference of outputs, or a finite difference of gradients, is mostly the difference of the masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the global random state of the CPU and of `device` at the end of the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


class RandomReplay:
    """Remembers the random state in which the model's latest training pass began.

    Args:
        model: watched by a hook, in training mode only.
        undo: the stack that removes the hook.
    """

    def __init__(self, model: nn.Module, undo: ExitStack) -> None:
        self._states: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._replaying = False
        undo.callback(model.register_forward_pre_hook(self._remember).remove)

    @contextmanager
    def again(self, device: torch.device) -> Iterator[None]:
        """Inside the block, passes draw the masks of the remembered pass; afterwards the random stream goes on."""
        cpu_state, cuda_state = self._states
        self._replaying = True
        try:
            with random_state_kept(device):
                torch.set_rng_state(cpu_state)
                if cuda_state is not None:
                    torch.cuda.set_rng_state(cuda_state, device)
                yield
        finally:
            self._replaying = False

    def _remember(self, model: nn.Module, inputs: object) -> None:
        if model.training and not self._replaying:
            device = next(model.parameters()).device
            self._states = (
                torch.get_rng_state(),
                torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            )
