"""The two runtimes of the soak, ours and Go's, behind one interface."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from nri_sync import api
from nri_sync.errors import NRIError
from nri_sync.runtime import Runtime
from tests.interop.gopeer import PeerError
from tests.interop.goruntime import RELEASES, GoRuntime

__all__ = ["REQUEST_TIMEOUT", "RUNTIMES", "RequestError", "SoakRuntime"]

# Time limit for an answer of a plugin, longer than a busy machine needs. In seconds.
REQUEST_TIMEOUT = 5.0


class RequestError(Exception):
    """A plugin has failed the request."""


class SoakRuntime(Protocol):
    def create(self, pod: api.PodSandbox, container: api.Container) -> api.ContainerAdjustment:
        """Send CreateContainer to all plugins. Raises RequestError."""

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        """Send StopContainer to all plugins. Raises RequestError."""

    def wait_connected(self, name: str, timeout: float) -> bool:
        """Block until the plugin receives requests."""

    def log(self) -> str:
        """The last lines of the runtime's log, if the runtime is another process."""

    def resident(self) -> int:
        """The resident memory of the runtime's process in bytes; 0 if the runtime is in this process."""


class _Ours:
    def __init__(self, path: Path) -> None:
        self.runtime = Runtime(
            "containerd",
            "v2.4.0",
            synchronize=lambda sync: sync([], []),
            update_containers=lambda updates, evictions: [],
            socket_path=str(path),
            plugin_path=None,
            request_timeout=REQUEST_TIMEOUT,
        )

    def create(self, pod: api.PodSandbox, container: api.Container) -> api.ContainerAdjustment:
        try:
            return self.runtime.create_container(pod, container).adjust
        except NRIError as error:
            raise RequestError(str(error)) from error

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        try:
            self.runtime.stop_container(pod, container)
        except NRIError as error:
            raise RequestError(str(error)) from error

    def wait_connected(self, name: str, timeout: float) -> bool:
        return self.runtime.wait_for_plugins(lambda names: name in names, timeout)

    def log(self) -> str:
        return ""

    def resident(self) -> int:
        return 0


class _Reference:
    def __init__(self, runtime: GoRuntime) -> None:
        self._runtime = runtime

    def create(self, pod: api.PodSandbox, container: api.Container) -> api.ContainerAdjustment:
        self._runtime.take_events()
        try:
            reply = self._runtime.request("CreateContainer", pod=pod, container=container)
        except PeerError as error:
            raise RequestError(error.message) from error
        adjustment: api.ContainerAdjustment = reply.adjust
        return adjustment

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        try:
            self._runtime.request("StopContainer", pod=pod, container=container)
        except PeerError as error:
            raise RequestError(error.message) from error

    def wait_connected(self, name: str, timeout: float) -> bool:
        try:
            self._runtime.wait_event("connected", timeout, name=name)
        except RuntimeError:
            return False
        return True

    def log(self) -> str:
        events = self._runtime.take_events("log")
        return " | ".join(event["data"]["text"] for event in events[-10:])

    def resident(self) -> int:
        for line in Path(f"/proc/{self._runtime.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        return 0


@contextlib.contextmanager
def _ours(path: Path) -> Iterator[SoakRuntime]:
    ours = _Ours(path)
    with ours.runtime:
        yield ours


@contextlib.contextmanager
def _go(path: Path) -> Iterator[SoakRuntime]:
    with GoRuntime(RELEASES[0], path) as runtime:
        runtime.start(request_timeout_ms=int(REQUEST_TIMEOUT * 1000))
        yield _Reference(runtime)


RUNTIMES: dict[str, Callable[[Path], contextlib.AbstractContextManager[SoakRuntime]]] = {
    "ours": _ours,
    "go": _go,
}
