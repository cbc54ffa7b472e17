"""One plugin behind a socket: registration, configuration, synchronization, calls, and its end."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync import api
from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, ConnectionLost, NoThread, RemoteProtocolError
from nri_sync.net.sockets import listen
from nri_sync.runtime import Peer
from nri_sync.runtime.request import Request
from tests.runtime.rig import (
    CONTAINER,
    LONG,
    POD,
    SHORT,
    Never,
    RawPlugin,
    on_thread,
    update_of,
)

__all__: list[str] = []

BY_RPC = {handler.rpc: handler for handler in HANDLERS}
BY_STATE_CHANGE = [handler.rpc for handler in HANDLERS if handler.by_state_change]

Pair = Callable[..., "tuple[Peer, RawPlugin]"]


@pytest.fixture
def pair(socket_dir: Path) -> Iterator[Pair]:
    """Makes a peer with the options ``peer``, and a plugin at its other end, before any request."""
    made: list[tuple[Peer, RawPlugin]] = []
    path = str(socket_dir / "s")
    with listen(path) as listener:

        def make(peer: dict[str, Any] | None = None, **options: Any) -> tuple[Peer, RawPlugin]:
            plugin = RawPlugin(path, **options)
            made.append((Peer(listener.accept()[0], **(peer or {})), plugin))
            return made[-1]

        yield make
        for peer, plugin in made:
            peer.close()
            assert peer.wait_closed(LONG)
            plugin.close()


def _ready(peer: Peer, plugin: RawPlugin) -> None:
    result = on_thread(plugin.register)
    peer.wait_registered(LONG)
    result()
    peer.configure(nri_pb2.ConfigureRequest(), LONG)
    plugin.expect("Configure")


def _request(rpc: str) -> Request:
    fields: dict[str, Any] = {"pod": POD}
    if "container" in BY_RPC[rpc].fields:
        fields["container"] = CONTAINER
    return Request(BY_RPC[rpc], getattr(nri_pb2, f"{rpc}Request")(**fields))


class TestRegistration:
    def test_name_index_and_release(self, pair: Pair) -> None:
        peer, plugin = pair()
        assert peer.name == f"plugin with pid {peer.pid}"
        result = on_thread(lambda: plugin.register("abcd-0123+EFGH_4567.ijkl", "07"))
        peer.wait_registered(LONG)
        assert peer.name == "07-abcd-0123+EFGH_4567.ijkl"
        assert peer.nri_version == api.NRI_VERSION
        result()

    @pytest.mark.parametrize(
        ("name", "idx", "text"),
        [
            ("foo,bar", "10", "invalid plugin name: .*','"),
            ("föö", "10", "invalid plugin name"),
            ("", "10", "invalid plugin name: .*empty"),
            ("foo", "1", "invalid plugin index: .*'1'"),
            ("foo", "1a", "invalid plugin index: .*'1a'"),
            ("foo", "١٢", "invalid plugin index"),
        ],
    )
    def test_an_invalid_name_is_refused(self, name: str, idx: str, text: str, pair: Pair) -> None:
        peer, plugin = pair()
        result = on_thread(lambda: plugin.register(name, idx))
        with pytest.raises(RemoteProtocolError, match=text):
            peer.wait_registered(LONG)
        with pytest.raises(CallFailed, match=text) as error:
            result()
        assert error.value.code() is StatusCode.UNKNOWN
        # A refused connection cannot register again.
        with pytest.raises(CallFailed, match="first request was refused: .*" + text) as error:
            plugin.register()
        assert error.value.code() is StatusCode.FAILED_PRECONDITION

    def test_a_name_that_is_too_long(self, pair: Pair) -> None:
        peer, plugin = pair()
        on_thread(lambda: peer.wait_registered(LONG))
        with pytest.raises(CallFailed, match="more than 255 characters") as caught:
            plugin.register("a" * 1_000_000, "10")
        assert len(caught.value.details() or "") < 200

    def test_only_once(self, pair: Pair) -> None:
        peer, plugin = pair()
        _ready(peer, plugin)
        for _ in range(3):  # The reference accepts the second request, and never answers the third.
            with pytest.raises(CallFailed, match="10-raw is registered already"):
                plugin.register("other", "20")
        assert peer.name == "10-raw"

    def test_the_name_of_a_launched_plugin_is_that_of_its_file(self, pair: Pair) -> None:
        peer, plugin = pair({"identity": PluginId("05", "file,name"), "pid": 1})
        result = on_thread(lambda: plugin.register("", "no index"))
        peer.wait_registered(LONG)
        result()
        assert (peer.name, peer.pid) == ("05-file,name", 1)

    def test_silence(self, pair: Pair) -> None:
        peer, _ = pair()
        with pytest.raises(TimeoutError, match=r"has not registered within 0\.05 s"):
            peer.wait_registered(SHORT)

    def test_a_connection_that_is_lost_is_noticed_at_once(self, pair: Pair) -> None:
        peer, plugin = pair()
        result = on_thread(lambda: peer.wait_registered(LONG))
        plugin.close()
        with pytest.raises(ConnectionLost, match="the peer closed the connection"):
            result()

    def test_updates_are_refused_before_the_registration(self, pair: Pair) -> None:
        calls: list[Any] = []
        _, plugin = pair({"update_containers": lambda *call: calls.append(call)})
        with pytest.raises(CallFailed, match="not registered yet") as error:
            plugin.update_containers(update_of("c"))
        assert error.value.code() is StatusCode.FAILED_PRECONDITION
        assert calls == []


class TestConfigure:
    def test_the_request_and_the_answer(self, pair: Pair) -> None:
        policy = nri_pb2.FailurePolicy(fail_request=True)
        peer, plugin = pair(events=0x9, policy=policy)
        result = on_thread(plugin.register)
        peer.wait_registered(LONG)
        result()
        request = nri_pb2.ConfigureRequest(config="c", runtime_name="r", request_timeout=7)
        peer.configure(request, LONG)
        assert plugin.configured == request
        assert peer.events == EventMask.RUN_POD_SANDBOX | EventMask.CREATE_CONTAINER
        assert peer.failure_policy == policy

    def test_no_events_are_all(self, pair: Pair) -> None:
        peer, plugin = pair(events=0)
        _ready(peer, plugin)
        assert peer.events == EventMask.ALL
        assert peer.failure_policy is None

    def test_unknown_events(self, pair: Pair) -> None:
        peer, _ = pair(events=0x4001)
        with pytest.raises(RemoteProtocolError, match="unknown events"):
            peer.configure(nri_pb2.ConfigureRequest(), LONG)

    def test_a_failure(self, pair: Pair) -> None:
        def configure(request: bytes, context: Any) -> Any:
            context.abort(StatusCode.INTERNAL, "no")

        peer, _ = pair(Configure=configure)
        with pytest.raises(CallFailed, match="no"):
            peer.configure(nri_pb2.ConfigureRequest(), LONG)


class TestSynchronize:
    def _containers(self, count: int, size: int) -> list[nri_pb2.Container]:
        return [
            nri_pb2.Container(id=f"c{number}", annotations={"padding": "x" * size})
            for number in range(count)
        ]

    def test_at_once(self, pair: Pair) -> None:
        asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def synchronize(request: bytes, context: Any) -> Any:
            asked.put(request)
            return nri_pb2.SynchronizeResponse(update=[update_of("ctr1")])

        peer, _ = pair(Synchronize=synchronize)
        assert peer.synchronize([POD], [CONTAINER], LONG) == [update_of("ctr1")]
        request = nri_pb2.SynchronizeRequest.FromString(asked.get())
        assert request == nri_pb2.SynchronizeRequest(pods=[POD], containers=[CONTAINER])

    @pytest.mark.parametrize("pods", [0, 40])
    def test_in_parts(self, pods: int, pair: Pair) -> None:
        # Without pods, the reference crashes here.
        got: list[nri_pb2.SynchronizeRequest] = []

        def synchronize(request: bytes, context: Any) -> Any:
            got.append(nri_pb2.SynchronizeRequest.FromString(request))
            more = got[-1].more
            return nri_pb2.SynchronizeResponse(more=more, update=[] if more else [update_of("c1")])

        peer, _ = pair(Synchronize=synchronize)
        containers = self._containers(20, 600_000)
        assert peer.synchronize([POD] * pods, containers, LONG) == [update_of("c1")]
        assert [part.more for part in got] == [True] * (len(got) - 1) + [False]
        assert [c for part in got for c in part.containers] == containers
        assert sum(len(part.pods) for part in got) == pods
        assert len(got) > 3

    @pytest.mark.parametrize(
        "answer",
        [
            nri_pb2.SynchronizeResponse(),
            nri_pb2.SynchronizeResponse(more=True, update=[update_of("c")]),
        ],
    )
    def test_a_plugin_that_does_not_take_parts(self, answer: Any, pair: Pair) -> None:
        peer, _ = pair(Synchronize=lambda request, context: answer)
        with pytest.raises(RemoteProtocolError, match="does not handle split sync requests"):
            peer.synchronize([], self._containers(9, 600_000), LONG)

    def test_one_budget_for_all_parts(self, pair: Pair) -> None:
        never = Never()
        peer, _ = pair(Synchronize=lambda request, context: never() or b"")
        with pytest.raises(CallFailed) as error:
            peer.synchronize([], self._containers(9, 600_000), SHORT)
        assert isinstance(error.value.__cause__, TimeoutError)
        never.release.set()


class TestRelay:
    def test_an_event_with_a_method_uses_that_method(self, pair: Pair) -> None:
        peer, plugin = pair()
        for rpc in BY_STATE_CHANGE:
            peer.request(_request(rpc), Deadline(LONG))
        plugin.expect(*BY_STATE_CHANGE)

    @pytest.mark.parametrize("first", BY_STATE_CHANGE)
    def test_an_older_plugin_gets_state_changes_after_its_first_refusal(
        self, first: str, pair: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        got: list[Any] = []

        def state_change(request: bytes, context: Any) -> Any:
            got.append(nri_pb2.StateChangeEvent.FromString(request))
            return b""

        peer, plugin = pair(unknown=[first], StateChange=state_change)
        for rpc in (first, *BY_STATE_CHANGE, first):
            response = peer.request(_request(rpc), Deadline(LONG))
            assert type(response).__name__ == f"{rpc}Response"
        # After the first StateChange, the peer uses no other RPC for events, even one that the plugin has.
        plugin.expect(*["StateChange"] * 11)
        expected = []
        for rpc in (first, *BY_STATE_CHANGE, first):
            container = CONTAINER if "Container" in rpc else None
            event = BY_RPC[rpc].event
            expected.append(nri_pb2.StateChangeEvent(event=event, pod=POD, container=container))  # type: ignore[arg-type]
        assert got == expected
        # Each event is logged once.
        assert len([m for m in caplog.messages if "deprecated StateChange" in m]) == 9

    @pytest.mark.parametrize("rpc", ["CreateContainer", "UpdateContainer", "StopContainer"])
    def test_other_events_have_no_fallback(self, rpc: str, pair: Pair) -> None:
        peer, _ = pair(unknown=[rpc])
        with pytest.raises(CallFailed) as error:
            peer.request(_request(rpc), Deadline(LONG))
        assert error.value.code() is StatusCode.UNIMPLEMENTED
        assert error.value.__cause__ is None


class TestFailures:
    def test_an_error_in_the_answer(self, pair: Pair) -> None:
        def run(request: bytes, context: Any) -> Any:
            context.abort(StatusCode.DEADLINE_EXCEEDED, "says the plugin")

        peer, _ = pair(RunPodSandbox=run)
        with pytest.raises(CallFailed, match="says the plugin") as error:
            peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert error.value.__cause__ is None

    def test_no_answer_in_time(self, pair: Pair) -> None:
        never = Never()
        peer, _ = pair(RunPodSandbox=lambda request, context: never() or b"")
        for ask in (peer.request, lambda *arguments: peer.request_async(*arguments)()):
            with pytest.raises(CallFailed) as error:
                ask(_request("RunPodSandbox"), Deadline(SHORT))
            assert isinstance(error.value.__cause__, TimeoutError)
        never.release.set()

    def test_a_connection_that_is_lost(self, pair: Pair) -> None:
        holder: list[RawPlugin] = []
        peer, plugin = pair(RunPodSandbox=lambda request, context: holder[0].session.link.close())
        holder.append(plugin)
        with pytest.raises(CallFailed) as error:
            peer.request(_request("RunPodSandbox"), Deadline(LONG))
        assert isinstance(error.value.__cause__, ConnectionLost)
        assert peer.closed
        with pytest.raises(CallFailed) as error:
            peer.request(_request("RunPodSandbox"), Deadline(LONG))
        assert isinstance(error.value.__cause__, ConnectionLost)

    def test_an_answer_that_cannot_be_parsed(self, pair: Pair) -> None:
        peer, _ = pair(CreateContainer=lambda request, context: b"\xff\xff\xff")
        with pytest.raises(CallFailed, match="cannot be parsed") as error:
            peer.request(_request("CreateContainer"), Deadline(LONG))
        assert isinstance(error.value.__cause__, RemoteProtocolError)

    def test_garbage_instead_of_messages(self, pair: Pair) -> None:
        peer, plugin = pair()
        result = on_thread(lambda: peer.wait_registered(LONG))
        plugin.session.link.send([b"\xff" * 64])
        with pytest.raises(ConnectionLost):
            result()
        assert peer.wait_closed(LONG)


class TestUpdates:
    def test_updates_reach_the_callback(self, pair: Pair) -> None:
        got: list[Any] = []

        def update(updates: Any, evictions: Any) -> Any:
            got.append((updates, evictions))
            return updates[1:]

        peer, plugin = pair({"update_containers": update})
        _ready(peer, plugin)
        response = plugin.update_containers(update_of("a"), update_of("b"))
        assert got == [([update_of("a"), update_of("b")], [])]
        assert list(response.failed) == [update_of("b")]

    def test_a_failure_is_reported(self, pair: Pair) -> None:
        def update(updates: Any, evictions: Any) -> Any:
            raise ValueError("of the test")

        peer, plugin = pair({"update_containers": update})
        _ready(peer, plugin)
        with pytest.raises(CallFailed, match="ValueError: of the test"):
            plugin.update_containers()

    def test_a_runtime_without_a_callback_refuses_them(self, pair: Pair) -> None:
        peer, plugin = pair()
        _ready(peer, plugin)
        with pytest.raises(CallFailed, match="no unsolicited updates"):
            plugin.update_containers()


class TestEnd:
    def test_on_close_gets_the_cause(self, pair: Pair) -> None:
        ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        peer, plugin = pair({"on_close": lambda *end: ends.put(end)})
        plugin.close()
        closed, cause = ends.get(timeout=LONG)
        assert closed is peer
        assert isinstance(cause, ConnectionLost)
        assert peer.disconnected
        peer, _ = pair({"on_close": lambda *end: ends.put(end)})
        peer.close(ValueError("why"))  # type: ignore[arg-type]
        peer.close()
        closed, cause = ends.get(timeout=LONG)
        assert closed is peer
        assert str(cause) == "why"
        assert ends.empty()

    def test_without_threads_the_socket_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def spawn(*_arguments: Any) -> None:
            raise NoThread("can't start new thread")

        monkeypatch.setattr("nri_sync.runtime.peer.spawn", spawn)
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(RuntimeError):
            Peer(ours)
        assert ours.fileno() == -1
