"""The runtime is stopped, killed and started again while pods are created; its plugins reconnect.

NRI_SYNC_E2E_RESTARTS is the number of restarts; ``make e2e-full`` sets it to 50.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import NamedTuple

import grpc
import pytest

import nri_sync
from nri_sync import api, errors
from tests.e2e.cri import Pod
from tests.e2e.node import Node

__all__: list[str] = []

RESTARTS = int(os.environ.get("NRI_SYNC_E2E_RESTARTS", "6"))
# Time limit for a plugin to reconnect after the runtime is up, on a busy machine, in seconds.
BACK_WITHIN = 30.0
PAUSE = 0.05
# The number of containers to create with all plugins before the next restart; and the number of pods to keep.
CONTAINERS = 3
KEPT = 4


class Returning:
    """A plugin that sets one variable, and records its sessions. Subclasses define how it reconnects."""

    variable = ""

    def __init__(self, node: Node, idx: str) -> None:
        self.finished = threading.Event()
        #: The number of sessions so far, and the state that the last one has received.
        self.sessions = 0
        self.told: frozenset[str] = frozenset()
        self.changed = threading.Condition()
        #: The number of the current session, from its synchronization to its end.
        self.session: int | None = None
        self.stub = nri_sync.Stub(
            self, name=type(self).__name__.lower(), idx=idx, socket_path=str(node.nri_socket),
            on_close=self.lost,
        )  # fmt: skip

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.session = None

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        with self.changed:
            self.told = frozenset(pod.id for pod in pods)
            self.sessions += 1
            self.session = self.sessions
            self.changed.notify_all()

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_env(self.variable, str(self.session))

    @property
    def registered(self) -> int | None:
        """The current session. A container that is created now waits for the end of its synchronization."""
        return self.session if self.stub.started else None

    def wait_back(self, after: int) -> None:
        """Block until there is a session after session ``after``."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.sessions > after, BACK_WITHIN)

    def begin(self) -> None:
        self.come_back()

    def lost(self, stub: nri_sync.Stub) -> None:
        """The callback ``on_close``."""

    def come_back(self) -> None:
        """Start, as often as necessary."""
        while not self.finished.is_set():
            try:
                self.stub.start()
            except (errors.StartError, errors.StubStopped):
                self.finished.wait(PAUSE)
            else:
                if self.finished.is_set():
                    self.stub.stop()
                return

    def finish(self) -> None:
        self.finished.set()
        self.stub.stop()


class Application(Returning):
    """on_close only signals. A thread of the application stops the stub, and starts it later."""

    variable = "APPLICATION"

    def __init__(self, node: Node, idx: str) -> None:
        self.losses: queue.SimpleQueue[bool] = queue.SimpleQueue()
        super().__init__(node, idx)
        self.thread = threading.Thread(target=self.keep_up)

    def begin(self) -> None:
        super().begin()
        self.thread.start()

    def lost(self, stub: nri_sync.Stub) -> None:
        self.losses.put(True)

    def keep_up(self) -> None:
        while self.losses.get():
            self.stub.stop()
            self.come_back()

    def finish(self) -> None:
        super().finish()
        self.losses.put(False)
        self.thread.join()


class InOnClose(Returning):
    """Starts the stub inside on_close."""

    variable = "IN_ON_CLOSE"

    def lost(self, stub: nri_sync.Stub) -> None:
        self.come_back()


class Forever(Returning):
    """Runs under run_forever()."""

    variable = "FOREVER"

    def begin(self) -> None:
        backoff = nri_sync.Backoff(first=PAUSE, most=1.0, stable=1.0)
        self.thread = threading.Thread(
            target=nri_sync.run_forever,
            args=(self.stub,),
            kwargs={"backoff": backoff, "stop_event": self.finished},
        )
        self.thread.start()

    def finish(self) -> None:
        super().finish()
        self.thread.join()


class Created(NamedTuple):
    """A container, and the sessions that existed from before its creation until after it."""

    id: str
    sessions: dict[str, int]


class Kubelet:
    """Creates pods with one container each, one after the other, whether the runtime runs or not."""

    def __init__(self, node: Node, plugins: list[Returning]) -> None:
        self.node = node
        self.plugins = plugins
        self.finished = threading.Event()
        self.changed = threading.Condition()
        self.pods: list[Pod] = []
        self.created: list[Created] = []
        #: Containers that lack the variable of a plugin.
        self.wrong: list[str] = []
        self.failures = 0
        self.thread = threading.Thread(target=self.work)

    def registered(self) -> dict[str, int]:
        sessions = {plugin.variable: plugin.registered for plugin in self.plugins}
        return {name: session for name, session in sessions.items() if session is not None}

    def work(self) -> None:
        while not self.finished.is_set():
            try:
                self.create()
            except grpc.RpcError:
                # The pod may exist or not, as after any crash of a node.
                self.failures += 1
                self.finished.wait(PAUSE)

    def create(self) -> None:
        pod = self.node.cri.run_pod()
        with self.changed:
            self.pods.append(pod)
        before = self.registered()
        container = pod.create()
        throughout = dict(before.items() & self.registered().items())
        with self.changed:
            self.created.append(Created(container.id, throughout))
            self.changed.notify_all()
        container.start()
        env = container.info["runtimeSpec"]["process"]["env"]
        self.wrong += [
            f"container {container.id} was created in session {session} without {name}: {env}"
            for name, session in throughout.items()
            if f"{name}={session}" not in env
        ]
        while len(self.pods) > KEPT:
            with self.changed:
                oldest = self.pods.pop(0)
            oldest.remove()

    def wait_created(self) -> None:
        """Block until some more containers have been created with all plugins."""
        with self.changed:
            enough = len(self.complete()) + CONTAINERS
            assert self.changed.wait_for(lambda: len(self.complete()) >= enough, BACK_WITHIN)

    def complete(self) -> list[Created]:
        return [created for created in self.created if len(created.sessions) == len(self.plugins)]

    def existing(self) -> set[str]:
        with self.changed:
            return {pod.id for pod in self.pods}


@pytest.mark.timeout(60 + RESTARTS * 60)
@pytest.mark.feature("The runtime is stopped, killed and started again")
def test_restarts(new_node: Node) -> None:
    node = new_node
    node.start()
    plugins = [Application(node, "10"), InOnClose(node, "20"), Forever(node, "30")]
    kubelet = Kubelet(node, plugins)
    for plugin in plugins:
        plugin.begin()
    kubelet.thread.start()
    try:
        for number in range(RESTARTS):
            kubelet.wait_created()
            restart(node, plugins, kubelet, number)
        kubelet.wait_created()
    finally:
        kubelet.finished.set()
        kubelet.thread.join()
        for plugin in plugins:
            plugin.finish()
    print(
        f"{len(kubelet.created)} containers created, {len(kubelet.complete())} of them while all plugins were "
        f"registered; {kubelet.failures} attempts failed"
    )
    assert kubelet.wrong == []
    assert [plugin.sessions for plugin in plugins] == [RESTARTS + 1] * 3


def restart(node: Node, plugins: list[Returning], kubelet: Kubelet, number: int) -> None:
    """Restart once. Afterwards all plugins receive the pods that have survived the restart."""
    how = ("stop", "kill")[number % 2]
    before = {plugin: plugin.sessions for plugin in plugins}
    pods = kubelet.existing()
    began = time.monotonic()
    getattr(node, how)()
    down = time.monotonic()
    node.start()
    up = time.monotonic()
    for plugin, sessions in before.items():
        plugin.wait_back(sessions)
    back = time.monotonic()
    # Without the pods that the kubelet has removed in the meantime.
    survived = pods & kubelet.existing()
    assert survived
    for plugin in plugins:
        assert survived <= plugin.told, type(plugin).__name__
    print(
        f"{number + 1:3}: {how}, down after {down - began:.2f} s, up {up - down:.2f} s later, all plugins back "
        f"{back - up:.2f} s later; {len(survived)} pods went through it, all of them told of",
        flush=True,
    )
