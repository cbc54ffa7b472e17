"""Everything with everything: a thread is held at each step of the lifecycle, while another one does each
thing that can be done.
"""

from __future__ import annotations

import contextlib
import queue
import socket
from typing import Callable

import pytest

from nri_sync.errors import (
    CallFailed,
    ConnectionLost,
    LifecycleError,
    StartError,
)
from nri_sync.plugin.connection import Connection
from tests.plugin._scene import EVENT, SHORT, SOON, Call, Make, Scene, handled
from tests.plugin.harness import LONG, configuration

__all__: list[str] = []


def _lose(it: Scene) -> None:
    for runtime in list(it.runtimes):
        runtime.sock.shutdown(socket.SHUT_RDWR)


_ACTIONS: dict[str, Callable[[Scene], object]] = {
    "start": lambda it: it.stub.start(0.3),
    "run": lambda it: it.stub.run(),
    "stop": lambda it: it.stub.stop(),
    "stop with grace": lambda it: it.stub.stop(SHORT),
    "wait": lambda it: it.stub.wait(),
    "wait shortly": lambda it: it.stub.wait(SHORT),
    "update_containers": lambda it: it.stub.update_containers(timeout=SHORT),
    "loss": _lose,
}
# Each step, and the operation that brings a session there.
_STEPS = [
    *((step, "start") for step in ("begin", "open", "attach", "configured")),
    *((step, "stop") for step in ("begin_end", "ended", "_release")),
    *((step, "stop in a handler") for step in ("begin_end", "ended", "_release")),
    *((step, "loss") for step in ("ended", "_release")),
]
_EXPECTED = (LifecycleError, StartError, ConnectionLost, CallFailed)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "by"), _STEPS)
@pytest.mark.parametrize("action", _ACTIONS)
def test_each_call_while_another_is_held_at_each_step(
    scene: Make, step: str, by: str, when: str, action: str
) -> None:
    it, _ = handled(scene, "run_pod_sandbox", lambda stub: stub.stop())
    owner = {"open": it.stub._spec.source, "_release": Connection}.get(step)
    gate = it.gate(step, when, owner=owner)
    runtimes = Runtimes(it)
    calls = [Call(it.stub.start, LONG)]
    if by != "start":
        calls[0].result()
        if by == "stop":
            calls.append(Call(it.stub.stop))
        elif by == "loss":
            _lose(it)
        else:
            it.runtimes[-1].call(99, EVENT)
    gate.wait()
    call = Call(_ACTIONS[action], it)
    call.settle()
    gate.open()
    for earlier in calls:
        earlier.outcome()
    Call(it.stub.stop).result(SOON)  # stops the sessions that were started since, too
    error = call.outcome()
    assert error is None or isinstance(error, _EXPECTED), error
    runtimes.end()


class Runtimes:
    """Brings up each connection that a scene makes, on a new thread."""

    def __init__(self, it: Scene) -> None:
        self._it = it
        self._call = Call(self._serve)

    def _serve(self) -> None:
        while True:
            try:
                runtime = self._it.runtime()
            except queue.Empty:
                return
            with contextlib.suppress(StopIteration, OSError):
                runtime.accept_registration()
                runtime.call(1, "Configure", configuration())
                while not runtime.at_end():  # unread data would hold up a gentle end
                    pass

    def end(self) -> None:
        self._it.no_more()
        self._call.result()
