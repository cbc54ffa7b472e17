"""A plugin, as the runtime sees it: registration, configuration, state in parts, the end."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any, Callable

import grpc
import pytest

import nri_sync
from nri_sync.api import EventMask, nri_pb2
from nri_sync.errors import ConnectionLost, NRIError, RemoteProtocolError
from nri_sync.runtime import Peer
from nri_sync.session import Session
from nri_sync.ttrpc.router import Router
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE
from tests.plugin.harness import LONG, Recorder, configuration, descriptors

__all__: list[str] = []

MakePeer = Callable[..., Peer]
UPDATE = nri_pb2.ContainerUpdate(container_id="ctr0")


class Plugin:
    """The plugin's side without a stub: what it answers is up to the test, by method name."""

    def __init__(self, sock: socket.socket) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.lost = threading.Event()
        service = nri_pb2.DESCRIPTOR.services_by_name["Plugin"]
        router = Router()
        router.add_registered_method_handlers(
            service.full_name,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._behaviour(method.name),
                    request_deserializer=getattr(nri_pb2, method.input_type.name).FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for method in service.methods
            },
        )
        self.session = Session(
            sock,
            router,
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name="plugin",
            peer="unix:",
            lost=lambda cause: self.lost.set(),
        )
        self.thread = threading.Thread(target=self.session.link.run)
        self.thread.start()

    def _behaviour(self, method: str) -> Any:
        def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
            self.requests.put(request)
            answer = self.answers[method]
            return answer(request) if callable(answer) else answer

        return behaviour

    def call(self, method: str, request: Any) -> bytes:
        stub = self.session.channel.unary_unary(
            f"/nri.pkg.api.v1alpha1.Runtime/{method}",
            request_serializer=type(request).SerializeToString,
        )
        response: bytes = stub(request, timeout=LONG)
        return response

    def register(self, name: str = "test", idx: str = "10", version: str = "v0.12.5") -> None:
        self.call(
            "RegisterPlugin",
            nri_pb2.RegisterPluginRequest(plugin_name=name, plugin_idx=idx, NRI_version=version),
        )

    def close(self) -> None:
        self.session.link.close()
        self.thread.join(LONG)
        assert self.lost.wait(LONG)


@pytest.fixture
def ends() -> Iterator[tuple[MakePeer, Plugin]]:
    """Makes the peer, with options; and the plugin at the other end."""
    before = descriptors()
    ours, theirs = socket.socketpair()
    plugin = Plugin(theirs)
    made: list[Peer] = []

    def make(**options: Any) -> Peer:
        made.append(Peer(ours, **options))
        return made[-1]

    yield make, plugin
    for peer in made:
        peer.close()
        assert peer.wait_closed(LONG)
    plugin.close()
    ours.close()
    assert descriptors() == before


@pytest.fixture
def peer(ends: tuple[MakePeer, Plugin]) -> Peer:
    return ends[0]()


@pytest.fixture
def plugin(ends: tuple[MakePeer, Plugin]) -> Plugin:
    return ends[1]


class TestRegistration:
    def test_it_tells_who_the_plugin_is(self, peer: Peer, plugin: Plugin) -> None:
        assert peer.name == f"plugin with pid {os.getpid()}"
        assert peer.pid == os.getpid()
        plugin.register("device-injector", "05")
        peer.registered(LONG)
        assert (peer.name, peer.idx, peer.base_name) == (
            "05-device-injector",
            "05",
            "device-injector",
        )
        assert peer.nri_version == "v0.12.5"

    @pytest.mark.parametrize(
        ("name", "idx", "text"),
        [
            ("", "10", "invalid plugin name: plugin name is empty"),
            ("a b", "10", "invalid plugin name"),
            ("test", "", "invalid plugin index"),
            ("test", "1", "invalid plugin index"),
            ("test", "1x", "invalid plugin index"),
        ],
    )
    def test_who_it_must_not_be(
        self, peer: Peer, plugin: Plugin, name: str, idx: str, text: str
    ) -> None:
        with pytest.raises(grpc.RpcError, match=text) as caught:
            plugin.register(name, idx)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        # As the reference: another attempt on the same connection may do better.
        plugin.register()
        peer.registered(LONG)

    def test_only_once(self, peer: Peer, plugin: Plugin) -> None:
        plugin.register()
        with pytest.raises(grpc.RpcError, match="plugin 10-test is registered already"):
            plugin.register("other", "20")
        assert peer.name == "10-test"

    def test_once_also_at_the_same_time(self, peer: Peer, plugin: Plugin) -> None:
        barrier = threading.Barrier(4)
        outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()

        def register(number: int) -> None:
            barrier.wait(LONG)
            try:
                plugin.register(f"plugin{number}")
            except grpc.RpcError as error:
                outcomes.put(error.code().name)
            else:
                outcomes.put(f"10-plugin{number}")

        threads = [threading.Thread(target=register, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        results = sorted(outcomes.get(timeout=LONG) for _ in threads)
        assert results == [peer.name] + ["FAILED_PRECONDITION"] * 3

    def test_too_late(self, peer: Peer) -> None:
        with pytest.raises(TimeoutError, match=r"has not registered within 0.05 s"):
            peer.registered(0.05)

    def test_gone_before(self, peer: Peer, plugin: Plugin) -> None:
        plugin.close()
        with pytest.raises(ConnectionLost, match=r"with pid \d+: the peer closed the connection"):
            peer.registered(LONG)

    def test_gone_after(self, peer: Peer, plugin: Plugin) -> None:
        plugin.register()
        plugin.close()
        assert peer.wait_closed(LONG)
        with pytest.raises(ConnectionLost, match="10-test"):
            peer.registered(LONG)

    def test_closed_by_this_side(self, peer: Peer) -> None:
        peer.close()
        assert peer.wait_closed(LONG)
        with pytest.raises(ConnectionLost, match="the connection was closed"):
            peer.registered(LONG)


class TestConfiguration:
    def test_it_takes_in_the_answer(self, peer: Peer, plugin: Plugin) -> None:
        policy = nri_pb2.FailurePolicy(fail_request=True)
        plugin.answers["Configure"] = nri_pb2.ConfigureResponse(events=5, failure_policy=policy)
        peer.configure(configuration(config="x"), LONG)
        assert plugin.requests.get(timeout=LONG).config == "x"
        assert peer.events == EventMask.RUN_POD_SANDBOX | EventMask.REMOVE_POD_SANDBOX
        assert peer.failure_policy == policy

    def test_a_policy_may_be_present_and_empty(self, peer: Peer, plugin: Plugin) -> None:
        policy = nri_pb2.FailurePolicy()
        plugin.answers["Configure"] = nri_pb2.ConfigureResponse(events=1, failure_policy=policy)
        peer.configure(configuration(), LONG)
        assert peer.failure_policy == policy
        plugin.answers["Configure"] = nri_pb2.ConfigureResponse(events=1)
        peer.configure(configuration(), LONG)
        assert peer.failure_policy is None

    def test_no_events_are_all_events(self, peer: Peer, plugin: Plugin) -> None:
        plugin.answers["Configure"] = nri_pb2.ConfigureResponse()
        peer.configure(configuration(), LONG)
        assert peer.events == EventMask.ALL

    @pytest.mark.parametrize("events", [1 << 14, 0x4001, -1, -(2**31)])
    def test_unknown_events(self, peer: Peer, plugin: Plugin, events: int) -> None:
        plugin.answers["Configure"] = nri_pb2.ConfigureResponse(events=events)
        with pytest.raises(RemoteProtocolError, match="subscribes to unknown events"):
            peer.configure(configuration(), LONG)
        assert peer.events == EventMask(0)

    def test_failing(self, peer: Peer, plugin: Plugin) -> None:
        with pytest.raises(grpc.RpcError, match="KeyError"):
            peer.configure(configuration(), LONG)


class TestSynchronization:
    def collect(self, plugin: Plugin) -> list[nri_pb2.SynchronizeRequest]:
        """Answer as a plugin does that can take the state in parts."""
        parts: list[nri_pb2.SynchronizeRequest] = []

        def answer(request: nri_pb2.SynchronizeRequest) -> nri_pb2.SynchronizeResponse:
            parts.append(request)
            update = [] if request.more else [UPDATE]
            return nri_pb2.SynchronizeResponse(more=request.more, update=update)

        plugin.answers["Synchronize"] = answer
        return parts

    def test_in_one_part(self, peer: Peer, plugin: Plugin) -> None:
        parts = self.collect(plugin)
        pods, containers = [nri_pb2.PodSandbox(id="p")], [nri_pb2.Container(id="c")]
        assert peer.synchronize(pods, containers, LONG) == [UPDATE]
        assert parts == [nri_pb2.SynchronizeRequest(pods=pods, containers=containers)]

    def test_of_nothing(self, peer: Peer, plugin: Plugin) -> None:
        parts = self.collect(plugin)
        assert peer.synchronize([], [], LONG) == [UPDATE]
        assert parts == [nri_pb2.SynchronizeRequest()]

    def test_in_several_parts(self, peer: Peer, plugin: Plugin) -> None:
        parts = self.collect(plugin)
        pods = [nri_pb2.PodSandbox(id=f"{n}", name="x" * 500_000) for n in range(10)]
        containers = [nri_pb2.Container(id=f"{n}", args=["x" * 700_000]) for n in range(10)]
        assert peer.synchronize(pods, containers, LONG) == [UPDATE]
        assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
        assert [pod for part in parts for pod in part.pods] == pods
        assert [container for part in parts for container in part.containers] == containers
        assert len(parts) == 4

    def test_parts_are_about_as_large_as_they_can_be(self, peer: Peer, plugin: Plugin) -> None:
        parts = self.collect(plugin)
        containers = [nri_pb2.Container(id="x" * 100) for _ in range(80_000)]
        peer.synchronize([], containers, LONG)
        assert [part.ByteSize() // 1_000_000 for part in parts] == [4, 4, 0]

    def test_a_pod_that_is_too_large(self, peer: Peer, plugin: Plugin) -> None:
        self.collect(plugin)
        pods = [nri_pb2.PodSandbox(id="x" * 4_194_304)]
        with pytest.raises(grpc.RpcError) as caught:
            peer.synchronize(pods, [], LONG)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize(
        "answer",
        [
            nri_pb2.SynchronizeResponse(),
            nri_pb2.SynchronizeResponse(more=True, update=[UPDATE]),
        ],
    )
    def test_a_plugin_that_cannot_take_parts(
        self, peer: Peer, plugin: Plugin, answer: nri_pb2.SynchronizeResponse
    ) -> None:
        plugin.answers["Synchronize"] = answer
        pods = [nri_pb2.PodSandbox(id="x" * 4_000_000)] * 2
        with pytest.raises(RemoteProtocolError, match="does not handle split sync requests"):
            peer.synchronize(pods, [], LONG)

    def test_all_parts_share_one_timeout(self, peer: Peer, plugin: Plugin) -> None:
        self.collect(plugin)
        with pytest.raises(grpc.RpcError) as caught:
            peer.synchronize([], [], 0.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class TestCalls:
    def test_a_method_that_the_plugin_does_not_have(self) -> None:
        ours, theirs = socket.socketpair()
        other = Peer(ours)
        session = Session(
            theirs,
            Router(),
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name="old",
            peer="unix:",
            lost=lambda cause: None,
        )
        thread = threading.Thread(target=session.link.run)
        thread.start()
        with pytest.raises(grpc.RpcError) as caught:
            other.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        other.close()
        assert other.wait_closed(LONG)
        thread.join(LONG)

    def test_a_timeout(self, peer: Peer, plugin: Plugin) -> None:
        go_on = threading.Event()

        def answer(request: Any) -> Any:
            go_on.wait(LONG)
            return nri_pb2.Empty()

        plugin.answers["Shutdown"] = answer
        with pytest.raises(grpc.RpcError) as caught:
            peer.call("Shutdown", nri_pb2.Empty(), 0.05)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        go_on.set()
        plugin.answers["Shutdown"] = nri_pb2.Empty()
        assert peer.call("Shutdown", nri_pb2.Empty(), LONG) == nri_pb2.Empty()


class TestUpdates:
    REQUEST = nri_pb2.UpdateContainersRequest(
        update=[UPDATE], evict=[nri_pb2.ContainerEviction(container_id="ctr1", reason="why")]
    )

    def test_they_are_applied(self, ends: tuple[MakePeer, Plugin]) -> None:
        seen = []

        def update(updates: Any, evictions: Any) -> Any:
            seen.append((updates, evictions))
            return updates

        ends[0](update_containers=update)
        response = ends[1].call("UpdateContainers", self.REQUEST)
        assert nri_pb2.UpdateContainersResponse.FromString(response).failed == [UPDATE]
        assert seen == [(list(self.REQUEST.update), list(self.REQUEST.evict))]

    def test_they_fail(self, ends: tuple[MakePeer, Plugin]) -> None:
        def update(updates: Any, evictions: Any) -> Any:
            raise ValueError("no such container")

        ends[0](update_containers=update)
        with pytest.raises(grpc.RpcError, match="no such container"):
            ends[1].call("UpdateContainers", self.REQUEST)

    def test_a_runtime_that_takes_none(self, peer: Peer, plugin: Plugin) -> None:
        with pytest.raises(grpc.RpcError, match="takes no unsolicited updates") as caught:
            plugin.call("UpdateContainers", self.REQUEST)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


class TestEnd:
    def test_on_close_after_a_loss(self, ends: tuple[MakePeer, Plugin]) -> None:
        told: queue.SimpleQueue[tuple[Peer, NRIError | None]] = queue.SimpleQueue()
        peer = ends[0](on_close=lambda peer, cause: told.put((peer, cause)))
        assert not peer.wait_closed(0.0)
        ends[1].close()
        who, cause = told.get(timeout=LONG)
        assert who is peer
        assert isinstance(cause, ConnectionLost)
        assert peer.wait_closed(0.0)

    def test_on_close_after_close(self, ends: tuple[MakePeer, Plugin]) -> None:
        told: queue.SimpleQueue[NRIError | None] = queue.SimpleQueue()
        peer = ends[0](on_close=lambda peer, cause: told.put(cause))
        for _ in range(3):
            peer.close()
        assert told.get(timeout=LONG) is None
        assert ends[1].lost.wait(LONG)
        assert told.empty()

    def test_a_call_in_flight_fails(self, peer: Peer, plugin: Plugin) -> None:
        def answer(request: Any) -> Any:
            peer.close()
            peer.wait_closed(LONG)
            return nri_pb2.Empty()

        plugin.answers["Shutdown"] = answer
        with pytest.raises(grpc.RpcError) as caught:
            peer.call("Shutdown", nri_pb2.Empty(), LONG)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_with_a_stub() -> None:
    ours, theirs = socket.socketpair()
    plugin = Recorder(synchronize=[UPDATE])
    stub = nri_sync.Stub(plugin, name="test", idx=10, connection=theirs)
    peer = Peer(ours, update_containers=lambda updates, evictions: updates)
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        peer.registered(LONG)
        peer.configure(configuration(), LONG)
        outcome.put(peer.synchronize([], [], LONG))

    thread = threading.Thread(target=run)
    thread.start()
    with stub:
        assert outcome.get(timeout=LONG) == [UPDATE]
        assert peer.events == EventMask.ALL
        assert stub.update_containers([UPDATE]) == [UPDATE]
    assert peer.wait_closed(LONG)
    thread.join(LONG)
