"""Late answers of nri_sync.Stub or its handlers, and their effect on the plugin and the request."""

from __future__ import annotations

import queue
import time

import pytest

import nri_sync
from nri_sync import errors
from nri_sync.api import nri_pb2
from tests.interop.conftest import Connect
from tests.interop.gopeer import PeerError
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import (
    CONTAINER,
    POD,
    PROMPTLY,
    Recorder,
    Slow,
    padded,
    padding,
    without_empty,
)  # fmt: skip

__all__: list[str] = []


@pytest.mark.parametrize("release", RELEASES, ids=str)
class TestEveryRelease:
    def test_timeouts(self, runtime: GoRuntime, connect: Connect, release: Release) -> None:
        runtime.start(registration_timeout_ms=7000, request_timeout_ms=3000)
        stub = connect(Recorder())
        if release.nri == "v0.6.1":
            # This release does not send the timeouts, so the defaults stay.
            assert (stub.registration_timeout, stub.request_timeout) == (5.0, 2.0)
        else:
            assert (stub.registration_timeout, stub.request_timeout) == (7.0, 3.0)

    def test_registration_unanswered(self, runtime: GoRuntime, make_stub: Connect) -> None:
        runtime.start(register_delay_ms=60_000)
        stub = make_stub(Recorder())
        began = time.monotonic()
        with pytest.raises(errors.StartTimeout) as error:
            stub.start(timeout=0.5)
        assert error.value.phase == "register"
        assert 0.4 < time.monotonic() - began < PROMPTLY
        assert not stub.started

    def test_a_slow_handler_is_cut_off(
        self,
        runtime: GoRuntime,
        connect: Connect,
        slow: Slow,
        closed: queue.SimpleQueue[object],
    ) -> None:
        runtime.start(request_timeout_ms=300)
        stub = connect(slow, late_reply=False)
        # The container is created without the plugin.
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert without_empty(reply.adjust) == {}
        assert closed.get(timeout=PROMPTLY) is not None
        assert not stub.started
        # The handler that still runs does not disturb.
        slow.answers["create_container"] = padded(20)
        stub.start()
        runtime.wait_connected("10-py")
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert padding(reply) == "x" * 20

    def test_a_slow_handler_is_answered_for(
        self, runtime: GoRuntime, connect: Connect, slow: Slow
    ) -> None:
        # With the default timeout of 2 s: the oldest release cannot send another.
        runtime.start()
        stub = connect(slow)
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert without_empty(reply.adjust) == {}
        runtime.request("RunPodSandbox", pod=POD)
        assert stub.started

    def test_the_connection_is_cut_in_mid_call(
        self,
        runtime: GoRuntime,
        connect: Connect,
        slow: Slow,
        closed: queue.SimpleQueue[object],
    ) -> None:
        runtime.start(request_timeout_ms=20_000)
        stub = connect(slow)
        request = runtime.begin("request", op="CreateContainer", request={"container": {"id": "c"}})
        assert slow.entered.wait(PROMPTLY)
        assert runtime.call("cut") == 1
        assert closed.get(timeout=PROMPTLY) is not None
        assert "annotations" not in request.result(PROMPTLY)["adjust"]
        stub.start()
        runtime.wait_connected("10-py")

    def test_a_handler_knows_how_long_it_has(self, runtime: GoRuntime, connect: Connect) -> None:
        left: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        runtime.start()
        connect(
            Recorder(
                run_pod_sandbox=lambda pod: left.put(nri_sync.request_context().time_remaining())
            )
        )
        runtime.request("RunPodSandbox", pod=POD)
        assert 1.0 < (left.get(timeout=PROMPTLY) or 0.0) <= 2.0


class TestNewestRelease:
    """Behaviour of the newest release only."""

    def test_keep_connected(self, runtime: GoRuntime, connect: Connect, slow: Slow) -> None:
        runtime.start(request_timeout_ms=300)
        policy = nri_pb2.FailurePolicy(keep_connected=True)
        stub = connect(slow, failure_policy=policy, late_reply=False)
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert without_empty(reply.adjust) == {}
        runtime.request("RunPodSandbox", pod=POD)
        assert slow.expect("create_container")
        assert slow.expect("run_pod_sandbox")
        assert stub.started

    def test_fail_request(
        self,
        runtime: GoRuntime,
        connect: Connect,
        slow: Slow,
        closed: queue.SimpleQueue[object],
    ) -> None:
        runtime.start(request_timeout_ms=300)
        policy = nri_pb2.FailurePolicy(fail_request=True)
        connect(slow, failure_policy=policy, late_reply=False)
        with pytest.raises(PeerError, match="10-py failed to handle CreateContainer") as error:
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert error.value.code == "deadline"
        assert closed.get(timeout=PROMPTLY) is not None

    def test_fail_request_with_a_late_reply(
        self, runtime: GoRuntime, connect: Connect, slow: Slow
    ) -> None:
        runtime.start(request_timeout_ms=1000)
        stub = connect(slow, failure_policy=nri_pb2.FailurePolicy(fail_request=True))
        with pytest.raises(PeerError) as error:
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert error.value.code == "DeadlineExceeded"
        runtime.request("RunPodSandbox", pod=POD)
        assert stub.started
