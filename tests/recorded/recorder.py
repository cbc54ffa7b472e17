"""A plugin that records all its requests, on a real node or in a simulation."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from nri_sync.api.handlers import HANDLERS
from nri_sync.api.nri_pb2 import Container, LinuxResources, PodSandbox
from tests.interop.plugins import PROMPTLY, Recorder

__all__ = ["MessageRecorder", "Request", "by_pod"]

_HANDLERS = {handler.name: handler for handler in HANDLERS}


@dataclass(frozen=True)
class Request:
    """One request for a pod, or for a container of the pod."""

    event: str
    pod: PodSandbox
    container: Container | None = None
    #: The resources of an update.
    resources: Mapping[str, LinuxResources] = field(default_factory=dict)


class MessageRecorder(Recorder):
    """Adjusts nothing. Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = threading.Condition()
        self._requests: list[Request] = []

    def _handle(self, name: str, *args: Any) -> None:
        if not isinstance(args[0], PodSandbox):
            return
        handler = _HANDLERS[name]
        more = dict(zip(handler.parameters, args))
        request = Request(handler.rpc, more.pop("pod"), more.pop("container", None), more)
        with self._condition:
            self._requests.append(request)
            self._condition.notify_all()

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order."""
        with self._condition:
            return self._requests.copy()

    def wait(
        self, condition: Callable[[Sequence[Request]], bool], timeout: float = PROMPTLY
    ) -> bool:
        """Block until the condition holds for the requests; returns whether it does."""
        with self._condition:
            return self._condition.wait_for(lambda: condition(self._requests), timeout)


def by_pod(requests: Sequence[Request]) -> list[list[Request]]:
    """The requests of each pod, in the order of the names of pods."""
    found: dict[str, list[Request]] = {}
    for request in requests:
        found.setdefault(request.pod.id, []).append(request)
    return sorted(found.values(), key=lambda pod: pod[0].pod.name)
