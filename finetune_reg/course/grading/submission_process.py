"""The process of one submission: executes its cells, and lets its attempts be called from outside.

Run as `python -m finetune_reg.course.grading.submission_process DESCRIPTOR FOLDER BYTES`: a connection to the process
that judges, the folder to work in, and the memory it may use. `check` is another one here: it hands the attempt over
and prints the verdict that comes back. Whatever a submission does to this process, the verdicts are found in the other.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn
from traitlets.config import Config

from finetune_reg.course import exercises
from finetune_reg.course.exercises import Answer
from finetune_reg.course.grading.plain_data import encode, followed
from finetune_reg.course.grading.sandbox import confine
from finetune_reg.method import FineTuningMethod


class Attempts:
    """What a submission has made, by number, and the answers to calls of it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._theirs: list[Any] = []
        self._ours: dict[int, Any] = {}
        self._graphs: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
        self._is_answering = False

    def check(self, name: str, attempt: Any, strict: bool = False) -> Answer:
        """Hand an attempt over, answer the calls of its checker, and print the verdict; never strict."""
        if self._is_answering:
            raise RuntimeError("An attempt cannot check itself.")
        self._is_answering = True
        try:
            self.say(check=str(name), attempt=encode(attempt, self._number_of))
            while (message := self.hear())[0] != "verdict":
                self.say(**self._answer(*message))
        finally:
            self._is_answering = False
        print(f"{name}: {message[1] or 'right'}.")
        return Answer(not message[1])

    def say(self, **message: Any) -> None:
        """Send a message: JSON."""
        self.connection.send_bytes(json.dumps(message).encode())

    def hear(self) -> tuple:
        """Wait for a message: a pickle, since it comes from the process that judges."""
        return _Receiver(self.connection.recv_bytes(), self._theirs, self._ours).load()

    def _answer(self, request: str, number: int, *details: Any) -> dict[str, Any]:
        try:
            if request == "pull back":
                (gradient,), (result, inputs) = details, self._graphs[number]
                found = torch.autograd.grad(result, inputs, gradient, retain_graph=True, allow_unused=True)
                return {"value": encode(list(found), self._number_of)}
            attribute, arguments, named = details
            target = self._theirs[number] if attribute is None else getattr(self._theirs[number], attribute)
            inputs = followed([arguments, named])
            value = target(*arguments, **named)
            return {
                "value": encode(value, lambda one: self._number_of(one, inputs)),
                "arguments": encode(list(arguments), self._state_of),
            }
        except BaseException as error:  # also `sys.exit`: the notebook goes on
            kinds = {NotImplementedError: "NotImplementedError", AssertionError: "AssertionError"}
            known = [name for kind, name in kinds.items() if isinstance(error, kind)]
            return {"raised": [*(known or [type(error).__name__])[:1], str(error)[:1000]]}

    def _number_of(self, thing: Any, inputs: list[torch.Tensor] | None = None) -> dict[str, Any]:
        """Return what stands for something that is no plain data."""
        if isinstance(thing, torch.Tensor):
            self._graphs.append((thing, inputs or []))
            return {"graph": len(self._graphs) - 1}
        for number, ours in self._ours.items():
            if thing is ours:
                return {"ours": number}
        self._theirs.append(thing)
        return {"remote": len(self._theirs) - 1, "is_method": isinstance(thing, FineTuningMethod)}

    def _state_of(self, thing: Any) -> dict[str, Any]:
        """Return what a call has left of an argument that is no plain data."""
        for number, ours in self._ours.items():
            if thing is ours and isinstance(ours, nn.Module):
                return {"ours": number, "state": encode(dict(ours.state_dict()), self._state_of)}
        return {} if isinstance(thing, torch.Tensor) else {"unchanged": True}


class Shell(InteractiveShell):
    """A shell without a screen, which keeps nothing of what is printed."""

    def enable_gui(self, gui: Any = None) -> None:
        """Show nothing."""

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield


class _Receiver(pickle.Unpickler):
    def __init__(self, content: bytes, theirs: list[Any], ours: dict[int, Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._theirs, self._ours = theirs, ours

    def persistent_load(self, identity: tuple) -> Any:
        kind, number, *content = identity
        if kind == "theirs":
            return self._theirs[number]
        fresh = pickle.loads(content[0])
        known = self._ours.setdefault(number, fresh)
        if known is not fresh and isinstance(known, nn.Module):
            known.load_state_dict(fresh.state_dict())
        return known


def run(cells: list[str]) -> str:
    """Execute cells as a notebook does, also those after one that fails; return the first error, or nothing."""
    shell = Shell.instance(config=Config(HistoryManager=Config(enabled=False)))
    errors = []
    for cell in cells:
        result = shell.run_cell(cell, store_history=True)
        if error := result.error_before_exec or result.error_in_exec:
            errors.append(f"{type(error).__name__}: {error}".rstrip(": "))
    return errors[0] if errors else ""


def main(descriptor: int, folder: str, n_bytes: int) -> None:
    """Confine this process, then execute the cells that the first message brings."""
    attempts = Attempts(Connection(descriptor))
    confine(folder, n_bytes)
    os.chdir(folder)
    exercises.check = attempts.check
    attempts.say(ready=True)
    (cells,) = attempts.hear()
    error = run(cells)
    attempts.say(ended=error)
    attempts.hear()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
