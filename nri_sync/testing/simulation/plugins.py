"""The plugins of a simulation: each runs on a stub, over the socket, with a recorder."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from nri_sync.api.nri_pb2 import UpdateContainersRequest
from nri_sync.errors import NRIError, Reject
from nri_sync.kit.program.definition import Assembly, Program
from nri_sync.plugin.interceptors import CallOn, Interceptor, Metadata, Proceed
from nri_sync.plugin.stub import Stub
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.frames import own_frames
from nri_sync.testing.common import WITHIN
from nri_sync.testing.fake import FakeRuntime

__all__ = ["Handled", "HandlerRecorder", "NotSynchronized", "SimulatedPlugin", "started"]


class NotSynchronized(NRIError):
    """The runtime has not accepted a plugin: the plugin has failed Synchronize, or has disconnected."""


@dataclass(frozen=True)
class SimulatedPlugin:
    """A plugin, with its identity and its configuration."""

    #: An object with handlers, or a :class:`nri_sync.kit.Program`.
    plugin: Any
    name: str
    idx: str = "10"
    #: The text of its configuration, sent as the runtime does to a plugin that it has launched.
    config: str = ""
    #: The file of its configuration, as for ``nri-sync run``.
    config_path: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.idx}-{self.name}"


class Handled(NamedTuple):
    """One call of a handler."""

    event: str
    seconds: float
    #: None if the handler has raised.
    response: Any
    traceback: str = ""
    #: The id of the event's container, or of its pod.
    about: str = ""


class HandlerRecorder(Interceptor):
    """Records the calls of handlers, and the plugin's requests to the runtime. Thread-safe."""

    def __init__(self, name: str, config: str) -> None:
        self.name = name
        self._config = config
        self._lock = threading.Lock()
        self._handled: list[Handled] = []
        self._requests: list[UpdateContainersRequest] = []

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        if event == "Configure" and self._config:
            request.config = self._config
        began = time.perf_counter()
        response, text = None, ""
        try:
            response = proceed(request, context)
            return response
        except Exception as error:
            if not isinstance(error, Reject):
                trace = own_frames(error.__traceback__)
                text = "".join(traceback.format_exception(type(error), error, trace))
            raise
        finally:
            seconds = time.perf_counter() - began
            with self._lock:
                self._handled.append(Handled(event, seconds, response, text, _about(request)))

    def call(self, method: str, request: Any, metadata: Metadata, proceed: CallOn) -> Any:
        # Record the request before it can have an effect, which another thread might see.
        with self._lock:
            self._requests.append(request)
        return proceed(request, metadata)

    def take_handled(self) -> list[Handled]:
        """The recorded calls since the last use of this method."""
        with self._lock:
            taken, self._handled = self._handled, []
            return taken

    def take_requests(self) -> list[UpdateContainersRequest]:
        """The recorded requests since the last use of this method."""
        with self._lock:
            taken, self._requests = self._requests, []
            return taken


def _about(request: Any) -> str:
    subject = getattr(request, "container", None) or getattr(request, "pod", None)
    return getattr(subject, "id", "")


@contextmanager
def started(
    plugins: Sequence[SimulatedPlugin], runtime: FakeRuntime
) -> Iterator[list[tuple[Stub, HandlerRecorder]]]:
    """Start plugins on a runtime, in the order of their indices; stop them at the end.

    Blocks until the plugins have been synchronized. A plugin gets its stub, its configuration, its interceptors
    and its hooks as in :func:`nri_sync.kit.run`.

    Raises:
        StartError, PluginError: a plugin could not start.
        ConfigError: its configuration is invalid.
        Unusable: it has a configuration file, and takes no configuration.
        NotSynchronized: it has failed Synchronize.
    """
    running = []
    with ExitStack() as cleanup:
        for plugin in sorted(plugins, key=lambda item: item.idx):
            running.append(_start(plugin, runtime, cleanup))
        yield running


def _start(
    plugin: SimulatedPlugin, runtime: FakeRuntime, cleanup: ExitStack
) -> tuple[Stub, HandlerRecorder]:
    recorder = HandlerRecorder(plugin.full_name, plugin.config)
    assembly = Program.of(plugin.plugin).assemble(
        config=plugin.config, config_path=plugin.config_path
    )
    stub = assembly.stub(
        [recorder],
        name=plugin.name,
        idx=plugin.idx,
        socket_path=runtime.socket_path,
        dialer=None,
        connection=None,
        # Wakes threads in FakeRuntime.wait_for(), so that they check their condition again.
        on_close=lambda _: runtime._notify(),
    )
    assembly.give(stub)
    cleanup.callback(assembly.call, "on_stop")
    cleanup.callback(stub.close)
    stub.start(WITHIN)
    _wait_until_synchronized(stub, runtime, recorder)
    assembly.call("on_connected", stub)
    cleanup.callback(_stopping, assembly, stub)
    return stub, recorder


def _stopping(assembly: Assembly, stub: Stub) -> None:
    if stub.started:
        assembly.call("on_stopping")


def _wait_until_synchronized(stub: Stub, runtime: FakeRuntime, recorder: HandlerRecorder) -> None:
    with suppress(AssertionError):
        runtime.wait_for(lambda: stub.name in runtime.plugins or not stub.started)
    if stub.name in runtime.plugins:
        return
    raised = [
        item.traceback.strip().splitlines()[-1]
        for item in recorder.take_handled()
        if item.traceback
    ]
    reason = raised[-1] if raised else str(stub.close_reason or f"not within {WITHIN:g} s")
    raise NotSynchronized(f"plugin {stub.name} was not synchronized: {reason}")
