"""Updates that a handler sends by a queue, with the Go runtime: neither side waits for the other."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import nri_sync
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.kit import PendingUpdate, UpdateQueue
from tests.interop.conftest import Connect
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import CONTAINER, POD, PROMPTLY, Recorder, update_of

__all__: list[str] = []

pytestmark = pytest.mark.parametrize("release", RELEASES, ids=str)


def unsolicited(runtime: GoRuntime) -> list[dict[str, Any]]:
    updates: list[dict[str, Any]] = runtime.wait_event("unsolicited")["data"]["updates"]
    return updates


class TestInHandlers:
    def test_a_call_that_a_handler_waits_for(
        self, runtime: GoRuntime, connect: Connect, release: Release
    ) -> None:
        # These releases hold one lock for events and updates; the queue avoids the deadlock.
        locks = release.nri != "v0.12.5"
        runtime.start()
        outcomes: list[Any] = []

        def handler(pod: object, container: object) -> None:
            def call() -> None:
                try:
                    outcomes.append(stub.update_containers([update_of("ctr1")], timeout=0.3))
                except CallFailed as error:
                    outcomes.append(error.code())

            thread = threading.Thread(target=call)
            thread.start()
            thread.join(PROMPTLY)

        stub = connect(Recorder(post_start_container=handler))
        runtime.request("PostStartContainer", pod=POD, container=CONTAINER)
        assert outcomes == [StatusCode.DEADLINE_EXCEEDED if locks else []]

    def test_the_queue(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        futures: list[PendingUpdate] = []
        calls_meanwhile = []
        updates = UpdateQueue()

        def handler(pod: object, container: object) -> None:
            for shares in (2, 3, 4):
                futures.append(updates.put(update_of("ctr1", shares)))
            calls_meanwhile.append(updates.counters.calls)

        plugin = Recorder(create_container=handler, post_start_container=handler)
        stub = attached(connect, plugin, updates)
        for op in ("CreateContainer", "PostStartContainer"):
            runtime.request(op, pod=POD, container=CONTAINER)
            assert futures[-1].exception(PROMPTLY) is None
            assert [update["container_id"] for update in unsolicited(runtime)] == ["ctr1"]
        assert calls_meanwhile == [0, 1]
        assert [future.exception(0) for future in futures] == [None] * 6
        assert stub.counters.late_replies == 0
        assert stub.started
        assert updates.close()

    def test_from_other_threads_while_events_pour_in(
        self, runtime: GoRuntime, connect: Connect
    ) -> None:
        runtime.start()
        updates = UpdateQueue()

        def handler(pod: object, container: object) -> None:
            updates.put(update_of("ctr1"))

        plugin = Recorder(start_container=handler)
        stub = attached(connect, plugin, updates)
        ended = threading.Event()
        futures: list[PendingUpdate] = []

        def put() -> None:
            while not ended.is_set():
                futures.append(updates.put(update_of("ctr2"), timeout=None))
                futures[-1].exception(PROMPTLY)

        thread = threading.Thread(target=put)
        thread.start()
        try:
            for _ in range(50):
                runtime.request("StartContainer", pod=POD, container=CONTAINER)
        finally:
            ended.set()
            thread.join(PROMPTLY)
        assert updates.close(PROMPTLY)
        assert {future.exception(0) for future in futures} == {None}
        counters = updates.counters
        assert counters.put == counters.applied + counters.merged == 50 + len(futures)
        assert stub.counters.late_replies == 0

    def test_after_a_restart_of_the_runtime(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start(make_pods=1, make_containers=3)
        updates = UpdateQueue()
        plugin = Recorder()
        stub = attached(connect, plugin, updates)
        runtime.call("stop")
        assert stub.wait(PROMPTLY)
        kept, gone = updates.put(update_of("ctr1", 7)), updates.put(update_of("nobody"))
        runtime.start(make_pods=1, make_containers=3)
        stub.start()
        assert kept.exception(PROMPTLY) is None
        assert "the container is gone" in str(gone.exception(PROMPTLY))
        (update,) = unsolicited(runtime)
        assert update["linux"]["resources"]["cpu"]["shares"]["value"] == "7"
        assert updates.close()


def attached(connect: Connect, plugin: Recorder, updates: UpdateQueue) -> nri_sync.Stub:
    stub = connect(plugin, interceptors=[updates])
    return stub
