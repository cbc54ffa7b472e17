"""Both sides of NRI, ours and Go's, behind one interface."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import json_format

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.errors import NRIError
from nri_sync.runtime import Runtime
from tests.interop.gopeer import Peer, PeerError
from tests.interop.goruntime import RELEASES, GoRuntime
from tests.interop.plugins import PROMPTLY

__all__ = ["PLUGINS", "RUNTIMES", "Plugin", "RequestError", "Side", "go_plugin", "our_plugin"]


class RequestError(Exception):
    """A request has failed."""


class Side(Protocol):
    """A started runtime."""

    name: str

    def request(self, op: str, **fields: Any) -> Any: ...

    def wait_connected(self, name: str) -> None: ...

    def unsolicited(self) -> list[str]:
        """The ids in the next unsolicited updates that arrive."""

    def stop(self) -> None: ...

    def start(self) -> None:
        """Start again, after stop()."""


class OurRuntime:
    name = "our runtime"

    def __init__(self, path: Path, pods: int = 2, containers: int = 2, size: int = 0) -> None:
        self._pods = [nri_pb2.PodSandbox(id=f"pod{n}") for n in range(pods)]
        padding = {"padding": "x" * size}
        self._containers = [
            nri_pb2.Container(id=f"ctr{n}", pod_sandbox_id=f"pod{n % pods}", annotations=padding)
            for n in range(containers)
        ]
        self._unsolicited: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self.runtime = Runtime(
            "containerd",
            "v2.4.0",
            synchronize=lambda sync: sync(self._pods, self._containers),
            update_containers=self._update,
            socket_path=str(path),
            plugin_path=None,
            request_timeout=PROMPTLY,
        )
        self.runtime.start()

    def _update(self, updates: Any, evictions: Any) -> Any:
        self._unsolicited.put([update.container_id for update in updates])
        return [update for update in updates if update.container_id == "refused"]

    def request(self, op: str, **fields: Any) -> Any:
        handler = next(handler for handler in HANDLERS if handler.rpc == op)
        try:
            return getattr(self.runtime, handler.name)(*(fields[name] for name in handler.fields))
        except NRIError as error:
            raise RequestError(str(error)) from error

    def wait_connected(self, name: str) -> None:
        assert self.runtime.wait_for_plugins(lambda names: name in names, PROMPTLY)

    def unsolicited(self) -> list[str]:
        return self._unsolicited.get(timeout=PROMPTLY)

    def stop(self) -> None:
        self.runtime.stop()

    def start(self) -> None:
        self.runtime.start()


class GoSide:
    name = "Go runtime"

    def __init__(
        self, runtime: GoRuntime, pods: int = 2, containers: int = 2, size: int = 0
    ) -> None:
        self._runtime = runtime
        self._options: dict[str, Any] = {
            "make_pods": pods,
            "make_containers": containers,
            "make_size": size,
            "update_fail": ["refused"],
            "request_timeout_ms": int(PROMPTLY * 1000),
        }
        self.start()

    def request(self, op: str, **fields: Any) -> Any:
        try:
            return self._runtime.request(op, **fields)
        except PeerError as error:
            raise RequestError(error.message) from error

    def wait_connected(self, name: str) -> None:
        self._runtime.wait_connected(name)

    def unsolicited(self) -> list[str]:
        updates = self._runtime.wait_event("unsolicited")["data"]["updates"]
        return [update["container_id"] for update in updates]

    def stop(self) -> None:
        self._runtime.call("stop")

    def start(self) -> None:
        self._runtime.start(**self._options)


@contextlib.contextmanager
def _ours(path: Path, **options: Any) -> Iterator[Side]:
    runtime = OurRuntime(path, **options)
    try:
        yield runtime
    finally:
        runtime.stop()


@contextlib.contextmanager
def _go(path: Path, **options: Any) -> Iterator[Side]:
    with GoRuntime(RELEASES[0], path) as runtime:
        yield GoSide(runtime, **options)


RUNTIMES: dict[str, Callable[..., contextlib.AbstractContextManager[Side]]] = {
    "our runtime": _ours,
    "Go runtime": _go,
}


class Plugin(Protocol):
    """A plugin, not started. Its events are those of stubplugin/main.go."""

    def call(self, command: str, **arguments: Any) -> Any: ...

    def wait_event(self, name: str, /, **matching: Any) -> Any: ...


class OurPlugin:
    """The plugin of stubplugin/main.go on our stub."""

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        events: str = "",
        env: int = 0,
        updates: int = 0,
        reject: str = "",
        error: str = "",
    ) -> None:
        self._events = EventMask.parse(events) if events else None
        self._env, self._updates, self._reject, self._error = env, updates, reject, error
        self._name = name.partition("-")[2]
        self._happened: dict[str, queue.SimpleQueue[Any]] = {
            kind: queue.SimpleQueue() for kind in ("configure", "synchronize", "event", "closed")
        }
        handlers = nri_sync.Plugin()
        for handler in HANDLERS:
            if handler.event:
                setattr(handlers, handler.name, self._handler(handler.rpc))
        handlers.configure = self._configure  # type: ignore[method-assign]
        handlers.synchronize = self._synchronize  # type: ignore[method-assign]
        self._stub = nri_sync.Stub(
            handlers,
            idx=name[:2],
            name=self._name,
            socket_path=str(path),
            on_close=lambda stub: self._happened["closed"].put({}),
        )

    def _handler(self, rpc: str) -> Any:
        def handle(*arguments: Any) -> Any:
            self._happened["event"].put({"name": rpc, "args": [_json(item) for item in arguments]})
            if rpc == "ValidateContainerAdjustment" and self._reject:
                raise ValueError(self._reject)
            if self._error:
                raise ValueError(self._error)
            updates = [api.Update(f"other{n}").set_cpu(shares=n + 2) for n in range(self._updates)]
            if rpc == "CreateContainer":
                adjustment = api.Adjustment()
                for number in range(self._env):
                    adjustment.add_env(f"{self._name}_{number}", "value")
                return adjustment, updates
            return updates if rpc in ("UpdateContainer", "StopContainer") else None

        return handle

    def _configure(self, config: str, runtime: str, version: str) -> Any:
        self._happened["configure"].put({"config": config, "runtime": runtime, "version": version})
        return self._events

    def _synchronize(self, pods: Any, containers: Any) -> Any:
        ids = sorted(container.id for container in containers)
        data = {"pods": len(pods), "containers": len(containers), "ids": ids[:10]}
        self._happened["synchronize"].put(data)

    def call(self, command: str, **arguments: Any) -> Any:
        if command == "start":
            self._stub.start(PROMPTLY)
        elif command == "stop":
            self._stub.stop()
        else:
            updates = [
                json_format.ParseDict(update, nri_pb2.ContainerUpdate())
                for update in arguments["updates"]
            ]
            failed = self._stub.update_containers(updates, timeout=PROMPTLY)
            return [update.container_id for update in failed]
        return None

    def wait_event(self, name: str, /, **matching: Any) -> Any:
        data = self._happened[name].get(timeout=PROMPTLY)
        assert {key: data[key] for key in matching} == matching
        return {"data": data}


def _json(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@contextlib.contextmanager
def our_plugin(path: Path, name: str, **options: Any) -> Iterator[Plugin]:
    """Our stub, in this process. The options are flags of stubplugin/main.go."""
    plugin = OurPlugin(path, name, **options)
    try:
        yield plugin
    finally:
        plugin.call("stop")


@contextlib.contextmanager
def go_plugin(path: Path, name: str, **options: Any) -> Iterator[Plugin]:
    """The Go stub, in a separate process."""
    arguments = ["-socket", str(path), "-idx", name[:2], "-name", name[3:], "-trace"]
    for option, value in options.items():
        arguments += [f"-{option}", str(value)]
    with Peer("stubplugin", *arguments) as plugin:
        yield plugin


PLUGINS: dict[str, Callable[..., contextlib.AbstractContextManager[Plugin]]] = {
    "our stub": our_plugin,
    "Go stub": go_plugin,
}
