"""A node with a runtime that can be stopped and started again, for tests of the kit."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, Callable

import nri_sync
from nri_sync import api
from nri_sync.errors import NRIError
from nri_sync.runtime import Runtime

__all__ = ["CONTAINER", "LONG", "POD", "Node", "PluginWith", "eventually"]

#: The limit of every wait, in seconds: longer than any step takes. A test that reaches it has failed.
LONG = 20.0

POD = api.PodSandbox(id="pod0", name="web", namespace="default")
CONTAINER = api.Container(id="ctr0", pod_sandbox_id="pod0", name="nginx")


class PluginWith:
    """Return a plugin with the given handlers: ``PluginWith(run_pod_sandbox=function)``."""

    def __init__(self, **handlers: Any) -> None:
        self.__dict__.update(handlers)


def eventually(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for a condition that no event announces."""
    give_up = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < give_up, f"{what} has not come about"
        time.sleep(0.001)


class Node:
    """A runtime on a socket, with one pod and one container, and the stubs that connect to it.

    While ``may_synchronize`` is not set, plugins are configured but not synchronized.
    """

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "nri.sock")
        self.may_synchronize = threading.Event()
        self.may_synchronize.set()
        self.runtime: Runtime
        self._is_starting = False
        self._runtimes: list[Runtime] = []
        self._stubs: list[nri_sync.Stub] = []
        self._threads: list[threading.Thread] = []

    def start(self, **options: Any) -> None:
        # More than the real runtimes' time limits: the machine may be busy.
        options = {"registration_timeout": LONG, "request_timeout": LONG, **options}
        self.runtime = Runtime(
            "test-runtime",
            "v1.0.0",
            synchronize=self._synchronize,
            update_containers=lambda updates, evictions: [],
            socket_path=self.path,
            plugin_path=None,
            **options,
        )
        self._runtimes.append(self.runtime)
        self._is_starting = True
        try:
            self.runtime.start()
        finally:
            self._is_starting = False

    def _synchronize(self, deliver: Callable[..., Any]) -> None:
        # The first call is for the plugins that the runtime launches, and there are none.
        assert self._is_starting or self.may_synchronize.wait(LONG)
        deliver([POD], [CONTAINER])

    def stub(self, plugin: object, **options: Any) -> nri_sync.Stub:
        """Return a stub for this runtime, named ``10-test``."""
        options = {"name": "test", "idx": "10", "socket_path": self.path, **options}
        self._stubs.append(nri_sync.Stub(plugin, **options))
        return self._stubs[-1]

    def connect(self, stub: nri_sync.Stub) -> None:
        """Start a stub, and wait until it receives events."""
        # Until the runtime has removed the former session, it may send events there.
        assert self.runtime.wait_for_plugins(lambda names: stub.name not in names, LONG)
        stub.start(LONG)
        assert self.runtime.wait_for_plugins(lambda names: stub.name in names, LONG)

    def create_container(self) -> None:
        """Create the container on a thread, for handlers that do not return."""

        def create() -> None:
            with contextlib.suppress(NRIError):
                self.runtime.create_container(POD, CONTAINER)

        self._threads.append(threading.Thread(target=create))
        self._threads[-1].start()

    def lose(self, stub: nri_sync.Stub) -> None:
        """Stop the runtime, and wait until the stub has noticed."""
        self.runtime.stop()
        assert stub.wait(LONG)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.may_synchronize.set()
        for stub in self._stubs:
            stub.stop()
        for runtime in self._runtimes:
            runtime.stop()
        for thread in self._threads:
            thread.join(LONG)
