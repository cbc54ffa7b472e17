"""Calls of the helpers in the Go package api, executed by the process of `apihelpers/main.go`."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import Any, TypeVar

from google.protobuf.message import Message

from tests.interop import gopeer

__all__ = ["GoHelpers", "Panic", "read", "same", "wire"]

_M = TypeVar("_M", bound=Message)


class Panic(Exception):
    """The Go helper has panicked."""


class GoHelpers:
    """The process. Only one thread at a time may use it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [gopeer.build("apihelpers")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def call(self, name: str, *args: Any) -> list[Any]:
        """The results of a function or method. For a method, its receiver is the first argument and result."""
        return self._ask({"call": name, "args": args})

    def each(self, receiver: Message, calls: list[tuple[str, list[Any]]]) -> tuple[Any, list[Any]]:
        """The receiver after calls of its methods, and their results."""
        kind = type(receiver).__name__
        named = [{"call": f"{kind}.{method}", "args": args} for method, args in calls]
        after, *results = self._ask({"each": named, "receiver": wire(receiver)})
        return after, results

    def _ask(self, question: dict[str, Any]) -> list[Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "panic" in answer:
            raise Panic(answer["panic"])
        results: list[Any] = answer["results"]
        return results

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def wire(message: Message) -> str:
    """A message in the encoding of the process."""
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode()


def read(kind: type[_M], text: str) -> _M:
    return kind.FromString(base64.b64decode(text))


def same(ours: Message, theirs: str) -> bool:
    """Whether a message equals one from the process, byte by byte.

    The order of map entries is ignored: the two libraries sort them in different ways.
    """
    return wire(ours) == wire(read(type(ours), theirs))
