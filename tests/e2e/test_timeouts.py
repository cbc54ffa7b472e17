"""Handlers that take longer than the request timeout, which is two seconds here as on a real node."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nri_sync import api
from nri_sync.errors import ConnectionLost
from tests.e2e.conftest import Connect
from tests.e2e.cri import Pod
from tests.e2e.inside import Inside
from tests.interop.plugins import PROMPTLY, Recorder

__all__: list[str] = []

feature = pytest.mark.feature


class Gate:
    """An answer that waits until the test releases it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, *_arguments: object) -> Any:
        self.reached.set()
        assert self.open.wait(4 * PROMPTLY)
        return self.answer


@pytest.fixture
def slow() -> Iterator[Gate]:
    """Released at the end of the test at the latest."""
    gate = Gate(api.Adjustment().add_env("SLOW", "1"))
    yield gate
    gate.open.set()


@feature("A slow handler with late_reply: the connection is kept")
def test_answered_for(
    pod: Pod, connect: Connect, slow: Gate, closed: queue.SimpleQueue[object]
) -> None:
    stub = connect(Recorder(create_container=slow))
    assert "SLOW" not in Inside(pod.run()).env
    slow.open.set()
    # The session is still the same.
    assert Inside(pod.run()).env["SLOW"] == "1"
    assert stub.started
    assert closed.empty()
    assert stub.counters.late_replies == 1


@feature("A slow handler without late_reply: the connection is closed, and back after start()")
def test_cut_off(pod: Pod, connect: Connect, slow: Gate, closed: queue.SimpleQueue[object]) -> None:
    plugin = Recorder(create_container=slow)
    stub = connect(plugin, late_reply=False)
    assert "SLOW" not in Inside(pod.run()).env
    reason = closed.get(timeout=PROMPTLY)
    assert isinstance(reason, ConnectionLost)
    assert "took longer than the request timeout of 2 s: create_container" in str(reason)
    assert not stub.started
    slow.open.set()
    stub.start()
    while plugin.next_call()[0] != "synchronize":
        pass
    assert Inside(pod.run()).env["SLOW"] == "1"


@feature("Failure policy: a slow handler fails the request, when the stub sees to it by late_reply")
def test_failure_policy_by_the_stub(
    pod: Pod, connect: Connect, slow: Gate, closed: queue.SimpleQueue[object]
) -> None:
    policy = api.FailurePolicy(fail_request=True)
    stub = connect(Recorder(create_container=slow), failure_policy=policy)
    with pytest.raises(
        grpc.RpcError, match=r"10-py has not handled CreateContainer of e2e/\S+ in time"
    ):
        pod.create()
    slow.open.set()
    assert Inside(pod.run()).env["SLOW"] == "1"
    assert stub.started
    assert closed.empty()


@feature("Failure policy: obeyed by the runtime", proves="not in this release of NRI")
def test_failure_policy(
    pod: Pod, connect: Connect, slow: Gate, closed: queue.SimpleQueue[object]
) -> None:
    policy = api.FailurePolicy(fail_request=True, keep_connected=True)
    connect(Recorder(create_container=slow), failure_policy=policy, late_reply=False)
    # The same result as without a plugin: the container is created, and the plugin is disconnected.
    assert "SLOW" not in Inside(pod.run()).env
    assert isinstance(closed.get(timeout=PROMPTLY), ConnectionLost)


@feature("A slow synchronize with late_reply: the connection is kept")
def test_slow_synchronization(
    pod: Pod, connect: Connect, closed: queue.SimpleQueue[object]
) -> None:
    gate = Gate([])

    class Plugin:
        def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
            gate()

        def create_container(self, pod: api.PodSandbox, ctr: api.Container) -> api.Adjustment:
            return api.Adjustment().add_env("THERE", "1")

    try:
        stub = connect(Plugin())
        assert gate.reached.wait(PROMPTLY)
        # The creation waits until all plugins are synchronized.
        assert Inside(pod.run()).env["THERE"] == "1"
        assert stub.started
        assert closed.empty()
    finally:
        gate.open.set()
