"""The terminal: what the command prints, and how it hears Ctrl-C.

It prints names as they are, never read as markup, and each refusal as one sentence. Ctrl-C ends the program at once,
unless a block leaves something to tidy up: in `interrupts_raise` it is a KeyboardInterrupt, anywhere but only once; in
`interrupts_wait`, for what an exception between any two lines would leave half done, it is one at the next
`raise_if_interrupted`. Whoever presses again while all is being tidied up changes nothing.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

console = Console(markup=False, emoji=False, highlight=False)
LOOK_SECONDS = 0.1
Result = TypeVar("Result")


def print_error(sentence: str) -> None:
    """Print a sentence as one line on the error output; what is not for printing in it is written as an escape."""
    Console(stderr=True).print(Text(printable(sentence), style="bold red"), soft_wrap=True)


def printable(text: str) -> str:
    """Return a text with line breaks, control characters and halves of characters as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class _Interrupts:
    pressed = False


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for garbage once in a million objects: thousands of records, all in use, are none."""
    before = gc.get_threshold()
    gc.set_threshold(1_000_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Let the first Ctrl-C raise KeyboardInterrupt in this block, and later ones do nothing."""
    with _hearing(_raise_once):
        yield


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C be heard in this block where `raise_if_interrupted` is called, and at its end."""
    _Interrupts.pressed = False
    with _hearing(_note):
        yield
    raise_if_interrupted()


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed in `interrupts_wait`, but once for all presses until now."""
    if _Interrupts.pressed:
        _Interrupts.pressed = False
        raise KeyboardInterrupt


def interruptible(future: Future[Result]) -> Result:
    """Wait for a result, and hear Ctrl-C meanwhile."""
    while not future.done():
        raise_if_interrupted()
        wait([future], LOOK_SECONDS)
    return future.result()


def shield_children() -> None:
    """Keep Ctrl-C, which a terminal sends to all its processes, from those that this thread starts from now on."""
    if hasattr(signal, "pthread_sigmask"):  # they inherit the mask
        resource_tracker.ensure_running()  # where it starts, it sets the mask back
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextmanager
def _hearing(handler: Callable[..., None]) -> Iterator[None]:
    heard = signal.getsignal(signal.SIGINT)
    if not callable(heard) or threading.current_thread() is not threading.main_thread():
        yield  # whoever started this hears nothing, or elsewhere
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _note(*_: Any) -> None:
    _Interrupts.pressed = True


def _raise_once(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
