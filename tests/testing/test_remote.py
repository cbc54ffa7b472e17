"""The runtime's end of a connection, with a stub or a bare socket at the other end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed, ConnectionLost, RemoteProtocolError
from nri_sync.rpc import envelope_pb2
from nri_sync.testing import make_pod
from nri_sync.testing.remote import RemotePlugin, encoded_request
from nri_sync.testing.script_state import ScriptState
from tests.plugin.harness import RawRuntime, configuration
from tests.runtime.rig import LONG, PluginWith, on_thread

__all__: list[str] = []

# The plugin sends its requests on the second logical connection.
RUNTIME = 2


@pytest.fixture
def state() -> ScriptState:
    return ScriptState()


@pytest.fixture
def ends(state: ScriptState) -> Iterator[tuple[RemotePlugin, socket.socket]]:
    """The runtime's view of a plugin, and the plugin's socket."""
    here, there = socket.socketpair()
    remote = RemotePlugin(here, state, LONG)
    yield remote, there
    remote.close()
    there.close()


@pytest.fixture
def stub(ends: tuple[RemotePlugin, socket.socket]) -> Iterator[nri_sync.Stub]:
    def run(pod: api.PodSandbox) -> None:
        if pod.name == "bad":
            raise ValueError("bad pod")

    plugin = PluginWith(run_pod_sandbox=run)
    stub = nri_sync.Stub(plugin, name="test", idx="10", connection=ends[1])
    starting = on_thread(lambda: stub.start(LONG))
    remote = ends[0]
    remote.answer(remote.registration())
    remote.call("Configure", configuration())
    starting()
    yield stub
    stub.stop()


def test_all_that_a_runtime_does(
    ends: tuple[RemotePlugin, socket.socket], stub: nri_sync.Stub, state: ScriptState
) -> None:
    remote, _ = ends
    assert not remote.call("Synchronize").more
    remote.call("RunPodSandbox", pod=make_pod())
    with pytest.raises(CallFailed, match="bad pod"):
        remote.call("RunPodSandbox", pod=make_pod("bad"))
    assert [(request.plugin_idx, request.plugin_name) for request in state.registrations] == [
        ("10", "test")
    ]
    rpcs = [rpc for rpc, _ in state.answers]
    assert rpcs == ["Configure", "Synchronize", "RunPodSandbox", "RunPodSandbox"]
    assert isinstance(state.answers[-1][1], CallFailed)


def test_answers_in_another_order(
    ends: tuple[RemotePlugin, socket.socket], stub: nri_sync.Stub
) -> None:
    remote, _ = ends
    first = remote.request("RunPodSandbox", pod=make_pod())
    second = remote.request("RunPodSandbox", pod=make_pod())
    assert first != second
    remote.response(second, "RunPodSandbox")
    # This skips the answer to the first request.
    remote.call("RunPodSandbox", pod=make_pod())


def test_updates_are_answered_meanwhile(
    ends: tuple[RemotePlugin, socket.socket], stub: nri_sync.Stub, state: ScriptState
) -> None:
    remote, _ = ends
    serving = on_thread(remote.serve)
    assert stub.update_containers([api.Update("c").set_cpu(shares=1)], timeout=LONG) == []
    stub.stop()
    with pytest.raises(ConnectionLost):
        serving()
    [request] = state.updates
    assert [update.container_id for update in request.update] == ["c"]


def test_too_large(ends: tuple[RemotePlugin, socket.socket], stub: nri_sync.Stub) -> None:
    remote, _ = ends
    with pytest.raises(CallFailed) as raised:
        remote.response(remote.oversized_request(), "RunPodSandbox")
    assert raised.value.code() is StatusCode.RESOURCE_EXHAUSTED
    remote.call("RunPodSandbox", pod=make_pod())
    assert stub.started


def test_a_refusal(ends: tuple[RemotePlugin, socket.socket]) -> None:
    remote, there = ends
    request = api.RegisterPluginRequest(plugin_name="test")
    plugin = RawRuntime(there)
    plugin.send(RUNTIME, 1, 1, _runtime_request("RegisterPlugin", request.SerializeToString()))
    remote.answer(remote.registration(), error="no plugins today")
    assert plugin.response(1, RUNTIME).status.message == "no plugins today"


class TestEnds:
    """Methods that wait for the plugin raise when it disconnects, is silent, or breaks the protocol."""

    def test_closed(self, ends: tuple[RemotePlugin, socket.socket]) -> None:
        remote, there = ends
        there.close()
        with pytest.raises(ConnectionLost, match="the plugin has closed the connection"):
            remote.registration()
        with pytest.raises(ConnectionLost, match="the connection is closed: Broken pipe"):
            remote.request("Configure")
        with pytest.raises(ConnectionLost):
            remote.drain()

    def test_closed_here(self, ends: tuple[RemotePlugin, socket.socket]) -> None:
        remote, _ = ends
        remote.close()
        remote.close()
        with pytest.raises(ConnectionLost, match="the connection is closed"):
            remote.registration()

    def test_interrupted(self, ends: tuple[RemotePlugin, socket.socket]) -> None:
        remote, there = ends
        reading = threading.Event()

        def drain() -> None:
            reading.set()
            remote.drain()

        draining = on_thread(drain)
        assert reading.wait(LONG)
        there.sendall(b"whatever")
        remote.interrupt()
        with pytest.raises(ConnectionLost):
            draining()
        remote.close()
        remote.interrupt()

    def test_silent(self, ends: tuple[RemotePlugin, socket.socket]) -> None:
        remote, there = ends
        remote.timeout = 0.05
        with pytest.raises(TimeoutError, match=r"RegisterPlugin has not come within 0\.05 s"):
            remote.registration()
        # After the timeout, the request can still arrive.
        RawRuntime(there).send(RUNTIME, 1, 1, _runtime_request("RegisterPlugin"))
        remote.timeout = LONG
        assert remote.registration() == 1
        remote.timeout = 0.05
        with pytest.raises(
            TimeoutError, match="the plugin does not read the bytes that it is sent"
        ):
            remote.send(bytes(10_000_000))

    def test_something_else(self, ends: tuple[RemotePlugin, socket.socket]) -> None:
        remote, there = ends
        plugin = RawRuntime(there)
        plugin.send(RUNTIME, 1, 1, _runtime_request("Nonsense"))
        with pytest.raises(RemoteProtocolError, match="has sent Nonsense, not RegisterPlugin"):
            remote.registration()
        plugin.send(RUNTIME, 1, 3, _runtime_request("RegisterPlugin"))
        with pytest.raises(RemoteProtocolError, match="has sent RegisterPlugin, not the end"):
            remote.serve()
        plugin.send(1, 2, 99, b"")
        with pytest.raises(RemoteProtocolError, match="an answer to no request, 99"):
            remote.registration()


def test_a_request_that_plugins_do_not_have() -> None:
    with pytest.raises(
        ValueError, match="'RunPod' is not one of the RPCs of plugins: Configure, Sy"
    ):
        encoded_request(1, "RunPod")
    with pytest.raises(ValueError, match="container"):
        encoded_request(1, "RunPodSandbox", container=nri_pb2.Container())


def _runtime_request(method: str, payload: bytes = b"") -> bytes:
    envelope = envelope_pb2.Request(service="nri.pkg.api.v1alpha1.Runtime", method=method)
    envelope.payload = payload
    return envelope.SerializeToString()
