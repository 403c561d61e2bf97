"""Run a pass again with the same dropout masks.

Methods that compare two passes must decide whether the passes share their noise: with independent masks a
difference of outputs, or a finite difference of gradients, is mostly the difference of the masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import distributed, nn

from finetune_reg.building_blocks.pretrained_model import device_of, unwrapped
from finetune_reg.errors import InputError

_in_extra_pass: ContextVar[bool] = ContextVar("in_extra_pass", default=False)


@contextmanager
def extra_pass() -> Iterator[None]:
    """Mark the passes in the block as further ones, beside the main pass of the training loop."""
    token = _in_extra_pass.set(True)
    try:
        yield
    finally:
        _in_extra_pass.reset(token)


def in_main_pass(model: nn.Module) -> bool:
    """Return whether a pass of `model` that begins now is the training loop's own."""
    return model.training and not _in_extra_pass.get()


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore the global random state of the CPU and of `device` at the end of the block."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def several_processes() -> bool:
    """Return whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@contextmanager
def drawing_alike(device: torch.device) -> Iterator[None]:
    """Draw the same numbers in the block in all processes, though they may have drawn unlike many before.

    For what is done to weights or gradients after these have been averaged. One process draws as without the block.
    """
    if not several_processes():
        yield
        return
    seed = torch.randint(2**62, (), device=device)
    distributed.broadcast(seed, src=0)
    with random_state_kept(device):
        torch.manual_seed(int(seed))
        yield


class RandomState:
    """The global random state of the CPU and of `device` at the time of construction."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw from this state in the block; afterwards the random stream goes on."""
        with random_state_kept(self._device):
            torch.set_rng_state(self._cpu)
            if self._cuda is not None:
                torch.cuda.set_rng_state(self._cuda, self._device)
            yield


class RandomReplay:
    """Remembers the random state in which the model's latest main pass began.

    Args:
        model: watched by a hook; passes in evaluation mode and extra passes, of any method, are not remembered.
        undo: the stack that removes the hook.
        first: watch before the hooks that are there already, which may draw something themselves.
    """

    def __init__(self, model: nn.Module, undo: ExitStack, first: bool = False) -> None:
        self._state: RandomState | None = None
        undo.callback(unwrapped(model).register_forward_pre_hook(self._remember, prepend=first).remove)

    @property
    def state(self) -> RandomState:
        """The state in which the latest main pass began.

        Raises:
            InputError: the model has not made a main pass yet.
        """
        if self._state is None:
            raise InputError("There is no pass to repeat: run the model once in training mode first.")
        return self._state

    @contextmanager
    def again(self) -> Iterator[None]:
        """Run one pass in the block with the masks of the remembered pass; afterwards the random stream goes on.

        Raises:
            InputError: the model has not made a main pass yet.
        """
        with extra_pass(), self.state.again():
            yield

    def _remember(self, model: nn.Module, inputs: object) -> None:
        if in_main_pass(model):
            self._state = RandomState(device_of(model))
