"""Plugins that record the events that they receive."""

from __future__ import annotations

import queue
from typing import Any

import nri_sync
from nri_sync import api

__all__ = ["Plugin", "RecordingPlugin"]


class Plugin:
    """Records its configuration, the states that it receives, and the names of new pods."""

    def __init__(self) -> None:
        self.configured: tuple[str, ...] = ()
        self.synchronized: list[tuple[list[api.PodSandbox], list[api.Container]]] = []
        self.pods: list[str] = []

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.configured = (config, runtime, version)

    def synchronize(self, pods: Any, containers: Any) -> None:
        self.synchronized.append((list(pods), list(containers)))

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.pods.append(pod.name)


class RecordingPlugin(nri_sync.Plugin):
    """Records its calls: the name of the handler, and the last argument. Gives the answers of ``answers``."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: queue.Queue[tuple[str, Any]] = queue.Queue()

    @property
    def names(self) -> list[str]:
        """The handlers that have been called since the last use of this property."""
        names = []
        while not self.calls.empty():
            names.append(self.calls.get()[0])
        return names


def _recording(name: str) -> Any:
    def handler(self: RecordingPlugin, *arguments: Any) -> Any:
        self.calls.put((name, arguments[-1]))
        answer = self.answers.get(name)
        if isinstance(answer, BaseException):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    return handler


_EVENTS = [
    name
    for name in vars(nri_sync.Plugin)
    if not name.startswith(("_", "validate", "configure", "synchronize", "shutdown"))
]
for _name in _EVENTS:
    setattr(RecordingPlugin, _name, _recording(_name))
