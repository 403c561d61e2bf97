"""Attempts that live in another process: a checker calls them as if they were here, and only plain data comes back.

Arguments go there pickled, results come back as JSON (see `plain_data`), so that nothing a submission does to its own
process reaches the one that judges it. A call also brings back what it did to its arguments. Gradients through a result
are asked for where its graph is. Models and methods keep their identity: each is one object there, as it is here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import cloudpickle
import torch
from torch import nn

from finetune_reg.course.grading.plain_data import decode, followed
from finetune_reg.method import FineTuningMethod

LONGEST_MESSAGE = 64 * 2**20
LONGEST_TEXT = 1000
LOOK_SECONDS = 1.0
NO_MESSAGE = "Its process said something that is no attempt and no answer, or is too long."


class SubmissionEndedError(BaseException):
    """A submission's process is gone, or has to go; no checker may take this for a wrong attempt."""


class RemoteError(Exception):
    """What an attempt raised, by the name of its class; NotImplementedError and AssertionError stay what they are."""


class Conversation:
    """Talk to the process of one submission.

    Args:
        connection: to it.
        deadline: on the monotonic clock.
        time_is_up: sentence for what is still running then.
        look: called each second while waiting; raises `SubmissionEndedError` if something is wrong there.
    """

    def __init__(
        self, connection: Connection, deadline: float, time_is_up: str, look: Callable[[], None] = lambda: None
    ) -> None:
        self.connection, self.deadline, self.time_is_up, self.look = connection, deadline, time_is_up, look
        self._ours: list[Any] = []

    def send(self, *message: Any) -> None:
        """Send something that only this side has made."""
        buffer = io.BytesIO()
        _Sender(buffer, self._ours).dump(message)
        try:
            self.connection.send_bytes(buffer.getvalue())
        except OSError:
            raise SubmissionEndedError("Its process ended.") from None

    def receive(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            SubmissionEndedError: there is none before the deadline, or it is none of ours.
        """
        while not self.connection.poll(max(0.0, min(LOOK_SECONDS, self.deadline - monotonic()))):
            if monotonic() >= self.deadline:
                raise SubmissionEndedError(self.time_is_up)
            self.look()
        try:
            message = json.loads(self.connection.recv_bytes(LONGEST_MESSAGE))
        except (EOFError, ConnectionError):
            raise SubmissionEndedError("Its process ended.") from None
        except (OSError, ValueError, RecursionError):
            raise SubmissionEndedError(NO_MESSAGE) from None
        return message if isinstance(message, dict) else {}

    def attempt(self, data: Any) -> Any:
        """Return the attempt that a message holds."""
        return decode(data, self._stand_in)

    def call(self, number: int, attribute: str | None, arguments: tuple, named: dict[str, Any]) -> Any:
        """Call a function, or a method of an object, there.

        Raises:
            RemoteError, NotImplementedError, AssertionError: what the call raises there.
            ValueError, TypeError, KeyError, RecursionError: the answer is not what `encode` writes.
        """
        self.send("call", number, attribute, arguments, named)
        answer = self._answer()
        inputs = followed([arguments, named])
        _mirror(list(arguments), decode(answer["arguments"], self._stand_in))
        return decode(answer["value"], lambda data: self._stand_in(data, inputs))

    def pull_back(self, graph: int, gradient: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the gradients of the inputs of a call, given the one of its result."""
        self.send("pull back", graph, gradient)
        return decode(self._answer()["value"], self._stand_in)

    def _answer(self) -> dict[str, Any]:
        answer = self.receive()
        if "raised" not in answer:
            return answer
        name, text = (str(part)[:LONGEST_TEXT] for part in answer["raised"])
        kinds = {"NotImplementedError": NotImplementedError, "AssertionError": AssertionError}
        kind = kinds.get(name) or type(name if name.isidentifier() else "Exception", (RemoteError,), {})
        raise kind(text)

    def _stand_in(self, data: dict[str, Any], inputs: list[torch.Tensor] | None = None) -> Any:
        match data:
            case {"graph": int(graph), "tensor": tensor}:
                return _Graph.apply(self, graph, tensor, *inputs) if inputs else tensor
            case {"ours": int(number), **state}:
                ours = self._ours[number]
                if "state" in state:
                    ours.load_state_dict(decode(state["state"], self._stand_in))
                return ours
            case {"remote": int(number), "is_method": bool(is_method)}:
                return Remote(self, number, is_method)
            case {"unchanged": True}:
                return _UNCHANGED
        raise ValueError("The process of the submission gave no value")


class Remote:
    """Stands for a function, a class or an object there; it can be called, and so can its methods."""

    def __init__(self, conversation: Conversation, number: int, is_method: bool) -> None:
        self._conversation, self._number, self._is_method = conversation, number, is_method

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # what `isinstance` asks
        return FineTuningMethod if self._is_method else Remote

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it there."""
        return self._conversation.call(self._number, None, arguments, named)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **named: self._conversation.call(self._number, name, arguments, named)

    def __float__(self) -> float:
        return float(self._conversation.call(self._number, "__float__", (), {}))


class _Graph(torch.autograd.Function):
    """A result whose graph is there."""

    @staticmethod
    def forward(ctx, conversation, graph, value, *inputs):
        ctx.pull_back = conversation.pull_back
        ctx.graph = graph
        return value.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, None, *ctx.pull_back(ctx.graph, *gradients)


class _Sender(cloudpickle.Pickler):
    """Sends what is there already, and models and methods, by number."""

    def __init__(self, buffer: io.BytesIO, ours: list[Any]) -> None:
        super().__init__(buffer)
        self._ours = ours

    def persistent_id(self, thing: Any) -> tuple | None:
        """Return what stands for a thing, or None to send the thing itself."""
        if type(thing) is Remote:
            return "theirs", thing._number
        if not isinstance(thing, nn.Module | FineTuningMethod):
            return None
        known = [i for i, ours in enumerate(self._ours) if ours is thing]
        if not known:
            self._ours.append(thing)
        return "ours", known[0] if known else len(self._ours) - 1, cloudpickle.dumps(thing)


_UNCHANGED = object()


def _mirror(given: Any, seen: Any) -> Any:
    """Make a call's argument what the call made of its copy, and return it."""
    match given, seen:
        case _, _ if seen is _UNCHANGED:
            return given
        case torch.Tensor(), torch.Tensor() if given.shape == seen.shape and given.dtype == seen.dtype:
            if not torch.equal(given, seen):
                given.data.copy_(seen)
            return given
        case list(), list():
            pairs = zip(given, seen, strict=False)
            given[:] = [*(_mirror(*pair) for pair in pairs), *seen[len(given) :]]
            return given
        case dict(), dict():
            changed = {key: _mirror(given.get(key, _UNCHANGED), value) for key, value in seen.items()}
            given.clear()
            given.update(changed)
            return given
        case tuple(), tuple():
            return tuple(_mirror(*pair) for pair in zip(given, seen, strict=False))
    return seen
