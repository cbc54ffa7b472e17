"""Helpers for the tests of the runtime side: a host with a Runtime, and plugins with a given behaviour."""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.services import PLUGIN
from nri_sync.deadline import Deadline
from nri_sync.net.sockets import connect
from nri_sync.rpc.router import MethodHandler, Router
from nri_sync.rpc.unary import UnaryMethod
from nri_sync.runtime import Metrics, Runtime
from nri_sync.session import Session
from nri_sync.threads import Latch, spawn
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = [
    "CONTAINER",
    "LONG",
    "OTHER",
    "POD",
    "RESOURCES",
    "SHORT",
    "Figures",
    "Host",
    "Interrupt",
    "Never",
    "PluginWith",
    "RawPlugin",
    "host_options",
    "interrupted_at",
    "on_thread",
    "set_request_timeout",
    "update_of",
]  # fmt: skip

#: Seconds that no wait in these tests should reach: a test that reaches it has failed.
LONG = 20.0
#: A short timeout in seconds, for plugins that do not answer.
SHORT = 0.05

POD = nri_pb2.PodSandbox(id="pod0", name="pod", namespace="default")
CONTAINER = nri_pb2.Container(id="ctr1", pod_sandbox_id="pod0", name="ctr1", args=["sleep", "9"])
OTHER = nri_pb2.Container(id="ctr0", pod_sandbox_id="pod0", name="ctr0")
RESOURCES = nri_pb2.LinuxResources(cpu=nri_pb2.LinuxCPU(cpus="0-3"))

_PACKAGE = os.path.dirname(nri_sync.__file__) + os.sep


def update_of(container_id: str, shares: int = 5, **fields: Any) -> nri_pb2.ContainerUpdate:
    update = nri_pb2.ContainerUpdate(container_id=container_id, **fields)
    update.linux.resources.cpu.shares.value = shares
    return update


class PluginWith:
    """A plugin with the given handlers: ``PluginWith(run_pod_sandbox=function)``."""

    def __init__(self, **handlers: Any) -> None:
        self.__dict__.update(handlers)


def on_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Run a call on a new thread.

    The returned function waits for the result, or raises the exception of the call.
    """
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()

    def result() -> Any:
        value, error = outcome.get(timeout=LONG)
        if error is not None:
            raise error
        return value

    return result


class Interrupt(BaseException):
    """The exception of a signal handler."""


def interrupted_at(number: int, call: Callable[[], Any], within: str = _PACKAGE) -> bool:
    """Run a call, and raise before bytecode ``number`` of the package.

    Returns False if the call has fewer bytecodes.

    ``within`` is the prefix of the paths of traced code. "" traces all code, including Python's own library.
    """
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(within) or left < 0:
            return None
        if event == "call":
            # This order matters: Python 3.13 enables the events of a frame that has a trace function.
            frame.f_trace = trace
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
        elif event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Interrupt
        return trace

    sys._getframe().f_trace_opcodes = True
    before = sys.gettrace()
    # Finalizers of garbage from other code would run as a part of the call.
    gc.disable()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return left < 0


class Figures(Metrics):
    """Stores the figures in the order of the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.counts: queue.SimpleQueue[int] = queue.SimpleQueue()

    def plugin_latency(self, plugin: str, event: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append(("latency", plugin, event))

    def plugin_invocation(self, plugin: str, event: str, error: Exception | None) -> None:
        self.calls.append(("invocation", plugin, event, error))

    def plugin_adjustments(
        self,
        plugin: str,
        event: str,
        adjustment: nri_pb2.ContainerAdjustment | None,
        updates: int,
        evictions: int,
    ) -> None:
        self.calls.append(
            ("adjustments", plugin, event, adjustment is not None, updates, evictions)
        )

    def plugin_count(self, count: int) -> None:
        self.counts.put(count)


class Host:
    """A container runtime: its pods and containers, and the requests that it gets."""

    def __init__(self) -> None:
        self.pods: list[nri_pb2.PodSandbox] = [POD]
        self.containers: list[nri_pb2.Container] = [OTHER]
        #: The result of each synchronization: updates, or an exception.
        self.synchronized: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.unsolicited: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.failing: Iterable[nri_pb2.ContainerUpdate] = ()

    def synchronize(self, sync: Any) -> None:
        try:
            self.synchronized.put(sync(self.pods, self.containers))
        except Exception as error:
            self.synchronized.put(error)
            raise

    def update_containers(self, updates: Any, evictions: Any) -> Any:
        self.unsolicited.put((updates, evictions))
        return self.failing


def host_options(host: Host, directory: Path, **options: Any) -> dict[str, Any]:
    """The arguments for a Runtime of the host, with all paths below a directory."""
    return {
        "synchronize": host.synchronize,
        "update_containers": host.update_containers,
        "socket_path": str(directory / "nri.sock"),
        "plugin_path": str(directory / "plugins"),
        "plugin_config_path": str(directory / "conf.d"),
        "registration_timeout": LONG,
        "request_timeout": LONG,
        **options,
    }


class Never:
    """A handler that returns after ``release``, or at the end of the test. ``called`` is set when it begins."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.release = threading.Event()
        #: The number of calls.
        self.calls = 0

    def __call__(self, *_arguments: Any) -> Any:
        self.calls += 1
        self.called.set()
        self.release.wait(LONG)


class RawPlugin:
    """A plugin's end of a connection, which can violate every rule.

    ``handlers`` maps RPCs to functions of the serialized request and the context. A function returns the response,
    as a message or as bytes. Other RPCs get an empty message, except those in ``unknown``.
    """

    def __init__(
        self,
        path: str,
        *,
        events: int = int(EventMask.ALL & ~EventMask.VALIDATE_CONTAINER_ADJUSTMENT),
        policy: nri_pb2.FailurePolicy | None = None,
        unknown: Iterable[str] = (),
        **handlers: Callable[[bytes, Any], Any],
    ) -> None:
        self.answer = nri_pb2.ConfigureResponse(events=events, failure_policy=policy)
        #: The RPCs that the plugin received, in order.
        self.calls: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.configured: nri_pb2.ConfigureRequest | None = None
        self.lost = Latch()
        router = Router()
        router.add_registered_method_handlers(
            PLUGIN.full_name,
            {
                rpc: MethodHandler(self._serve(rpc, handlers.get(rpc)), response_serializer=_bytes)
                for rpc in PLUGIN.methods
                if rpc not in unknown
            },
        )
        self.session = Session(
            connect(path, Deadline(LONG)),
            router,
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name="raw-plugin",
            peer="test",
            lost=lambda _cause: self.lost.set(),
        )
        spawn("raw-plugin", self.session.link.run)

    def _serve(self, rpc: str, handler: Callable[[bytes, Any], Any] | None) -> Any:
        def serve(request: bytes, context: Any) -> Any:
            self.calls.put(rpc)
            if handler is not None:
                return handler(request, context)
            if rpc == "Configure":
                self.configured = nri_pb2.ConfigureRequest.FromString(request)
                return self.answer
            if rpc == "Synchronize":
                more = nri_pb2.SynchronizeRequest.FromString(request).more
                return nri_pb2.SynchronizeResponse(more=more)
            return b""

        return serve

    def _call(self, rpc: str, message: Any, response: Any) -> Any:
        method = UnaryMethod(
            self.session.client,
            f"/nri.pkg.api.v1alpha1.Runtime/{rpc}",
            type(message).SerializeToString,
            response.FromString,
        )
        return method(message, LONG)

    def register(self, name: str = "raw", idx: str = "10") -> RawPlugin:
        """Register. Raises CallFailed if the runtime refuses the registration."""
        request = nri_pb2.RegisterPluginRequest(
            plugin_name=name, plugin_idx=idx, NRI_version=api.NRI_VERSION
        )
        self._call("RegisterPlugin", request, nri_pb2.Empty)
        return self

    def update_containers(self, *updates: nri_pb2.ContainerUpdate) -> Any:
        request = nri_pb2.UpdateContainersRequest(update=updates)
        return self._call("UpdateContainers", request, nri_pb2.UpdateContainersResponse)

    def expect(self, *rpcs: str) -> None:
        """Assert that the next calls are these."""
        assert [self.calls.get(timeout=LONG) for _ in rpcs] == list(rpcs)

    def close(self) -> None:
        """Close the connection, and wait for its end."""
        self.session.link.close()
        assert self.lost.wait(Deadline(LONG))


def _bytes(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def set_request_timeout(runtime: Runtime, seconds: float) -> None:
    """Change the request timeout from now on.

    So only the requests that have to be late get a short timeout, even on a busy machine.
    """
    serving = runtime._serving
    assert serving is not None
    serving.relay._request_timeout = seconds
