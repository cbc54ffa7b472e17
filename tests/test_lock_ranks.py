"""Threads take locks in the order of docs/locks.md."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import nri_sync
from nri_sync.net.link import Link
from nri_sync.net.timer import Timer
from nri_sync.net.token import ReadToken
from nri_sync.net.workers import Workers
from nri_sync.net.writer import Writer
from nri_sync.plugin.counters import Tally
from nri_sync.plugin.lifecycle import Lifecycle
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.router import Router
from nri_sync.rpc.server import ServerEnd
from nri_sync.runtime.pending import PendingConnections
from nri_sync.runtime.registry import PluginRegistry
from nri_sync.runtime.relay import Relay
from nri_sync.runtime.sync_lock import SyncLock
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.ttrpc import Channel, Server, connect
from tests.locks import RANKS, RankedLock, violations, with_ranks
from tests.ttrpc.rig import LONG, Calls, eventually, plain_handlers, serving, text

__all__: list[str] = []

RANKED = (
    Link,
    ReadToken,
    Timer,
    Workers,
    Writer,
    ClientEnd,
    ServerEnd,
    Channel,
    Router,
    Server,
    Lifecycle,
    Tally,
    Relay,
    PluginRegistry,
    SyncLock,
    PendingConnections,
)


def test_the_locks_of_a_connection_have_ranks() -> None:
    owners = {name.partition(".")[0] for name in RANKS}
    assert {cls.__name__ for cls in RANKED} <= owners
    assert RANKS["ClientEnd._lock"] < RANKS["Writer._lock"] < RANKS["ReadToken._lock"]


def test_an_inversion_is_found() -> None:
    outer, inner = RankedLock("a", 2), RankedLock("b", 1)
    with outer, inner:
        pass
    assert violations == []
    with inner, outer:
        pass
    with inner:
        assert outer.acquire(False)
        outer.release()
    assert violations == ["a (2) under b (1)"]
    violations.clear()


def test_a_lock_that_another_thread_releases_is_not_held_any_more() -> None:
    lock, outer = RankedLock("a", 1), RankedLock("b", 2)
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join(LONG)
    with outer:
        pass
    assert violations == []


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for cls in RANKED:
        monkeypatch.setattr(cls, "__init__", with_ranks(cls))
    violations.clear()
    yield
    found = sorted(set(violations))
    violations.clear()
    assert found == []


@pytest.mark.usefixtures("ranked")
def test_calls_streams_and_stops() -> None:
    def one(calls: Calls, number: int) -> None:
        assert calls.unary("Echo")(text("x" * number), timeout=LONG).value == "x" * number
        assert calls.collect("Total")(map(text, "abc"), timeout=LONG).value == "abc"
        stream = calls.stream("Count")(text("20"), timeout=LONG)
        assert next(stream).value == "0"
        # Calls that were cancelled, abandoned, timed out, and consumed.
        stream.cancel()
        for _ in calls.stream("Count")(text("20")):
            break
        with pytest.raises(grpc.RpcError):
            calls.unary("Echo")(text("x"), timeout=0.0)
        future = calls.unary("Echo").future(text("y" * 300_000), timeout=LONG)
        done = threading.Event()
        future.add_done_callback(lambda call: done.set())
        assert done.wait(LONG)
        assert len(list(calls.chat("Upper")(map(text, "abc")))) == 3

    with serving(plain_handlers(), max_threads_per_connection=4) as (server, address):
        with connect(address) as channel, ThreadPoolExecutor(6) as pool:
            states: list[Any] = []
            channel.subscribe(states.append)
            list(pool.map(lambda number: one(Calls(channel), number), range(60)))
            token: object = channel.end.link.token._lock
            assert isinstance(token, RankedLock)
        assert eventually(lambda: len(states) == 2)
        with connect(address) as channel:
            Calls(channel).unary("Echo")(text("x"))
            assert server.stop(1).wait(LONG)


@pytest.mark.usefixtures("ranked")
def test_a_plugin_and_its_runtime() -> None:
    class Plugin(nri_sync.Plugin):
        def create_container(self, pod: Any, container: Any) -> None:
            pass

    pod = make_pod("web")
    with FakeRuntime() as runtime:
        for _ in range(3):
            with runtime.run_plugin(Plugin()) as stub:
                runtime.run_pod(pod)
                with ThreadPoolExecutor(4) as pool:
                    made: list[Any] = [
                        pool.submit(
                            runtime.create_container, pod, make_container(pod, f"c{number}")
                        )
                        for number in range(20)
                    ]
                    asked: list[Any] = [
                        pool.submit(stub.update_containers, [], timeout=LONG) for _ in range(5)
                    ]
                    for future in [*made, *asked]:
                        future.result(LONG)
                runtime.remove_pod(pod)
