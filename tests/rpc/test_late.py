"""Answering for handlers that take too long."""

from __future__ import annotations

import math
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.net.link import Link
from nri_sync.net.receiver import Receiver
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.late import LateCall, LatePolicy
from nri_sync.rpc.router import Router
from nri_sync.rpc.server import ServerEnd
from nri_sync.rpc.server_call import ServerCall
from nri_sync.rpc.status import Status
from nri_sync.ttrpc.connection import frame
from tests.ttrpc.rig import (
    INTERNAL,
    LONG,
    REQUEST,
    RESPONSE,
    SERVICE,
    RawPeer,
    StringValue,
    echo,
    encoded,
    eventually,
    in_thread,
    method,
    request,
)

__all__: list[str] = []


class Policy(LatePolicy):
    def __init__(self, answer: Any) -> None:
        self.seconds: float | None = 0.05
        self.result = answer
        self.reported = threading.Event()
        self.over = threading.Event()
        self.reports: list[tuple[str, Status | None]] = []
        self.asked: list[str] = []
        self.delays: list[float] = []
        self.sooner = 0.0
        self.answers: list[tuple[str, Any]] = []

    def clock_ran(self, delay: float) -> None:
        self.delays.append(delay)

    def ahead(self) -> float:
        return self.sooner

    def answered(self, call: LateCall, outcome: Any) -> None:
        self.answers.append((call.method, outcome))

    def limit(self) -> float | None:
        return self.seconds

    def answer(self, call: LateCall) -> Any:
        self.asked.append(call.method)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def finished(self, call: LateCall, error: Status | None) -> None:
        self.reports.append((call.method, error))
        self.reported.set()


class TestLate:
    """Calls whose handlers take too long are answered for."""

    @contextmanager
    def ending(
        self, policy: LatePolicy, behaviour: Any, max_threads: int = 64
    ) -> Iterator[tuple[ServerEnd, RawPeer]]:
        over = threading.Event()

        class Connection(Receiver):
            def lost(self, cause: Any) -> None:
                end.lost(cause)
                over.set()

        router = Router()
        router.add_registered_method_handlers(
            SERVICE, {"Echo": method("unary_unary", echo), "M": method("unary_unary", behaviour)}
        )
        end = ServerEnd(router, frame=frame, peer="test", late_policy=policy)
        connection = Connection()
        connection.receive = end.receive  # type: ignore[method-assign]
        connection.tick = end.tick  # type: ignore[method-assign]
        near, far = socket.socketpair()
        end.link = Link(near, connection, name="test", max_threads=max_threads)
        in_thread(end.link.run)
        peer = RawPeer(far)
        try:
            yield end, peer
        finally:
            end.link.close()
            peer.close()
            assert over.wait(LONG)

    @contextmanager
    def late(self, answer: Any, fails: bool = False) -> Iterator[tuple[Policy, RawPeer, Any]]:
        go = threading.Event()
        contexts: list[Any] = []

        def slow(message: StringValue, context: Any) -> StringValue:
            contexts.append(context)
            if not context.add_callback(policy.over.set):
                policy.over.set()  # the answer came before this thread
            assert go.wait(LONG)
            if fails:
                raise ValueError("too late")
            return message

        policy = Policy(answer)
        with self.ending(policy, slow) as (end, peer):
            peer.send(REQUEST, 1, request("M", encoded("result")))
            yield policy, peer, contexts
            go.set()
            if answer is not None:
                assert policy.reported.wait(LONG)
            assert end.wait_idle(Deadline(LONG))

    def test_with_an_empty_answer(self) -> None:
        with self.late(b"") as (policy, peer, contexts):
            assert peer.expect().payload == b""
            # The handler is still running, and its context is no longer active.
            assert policy.over.wait(LONG)
            assert not contexts[0].is_active()
            policy.seconds = None
            peer.check(3)
        assert policy.reports == [(f"/{SERVICE}/M", None)]

    def test_with_an_error(self) -> None:
        with self.late(Status(StatusCode.DEADLINE_EXCEEDED, "late"), fails=True) as (
            policy,
            peer,
            _,
        ):
            assert peer.expect().status == (4, "late")
        assert policy.reports == [
            (f"/{SERVICE}/M", Status(StatusCode.UNKNOWN, "ValueError: too late"))
        ]

    def test_not_at_all(self) -> None:
        with self.late(None) as (policy, peer, contexts):
            # Once, or more often while the handler's thread parses the request.
            assert eventually(lambda: f"/{SERVICE}/M" in policy.asked)
            peer.check(3)
            assert eventually(lambda: contexts)
            assert contexts[0].is_active()
        assert policy.reports == []

    def test_a_policy_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        with self.late(ZeroDivisionError("a bug")) as (policy, peer, _):
            assert peer.expect().status[0] == INTERNAL
            policy.seconds = None
            peer.check(3)
        assert "cannot answer" in caplog.text

    def test_a_call_in_line_is_answered_for_too(self) -> None:
        go = threading.Event()

        def slow(message: StringValue, context: Any) -> StringValue:
            assert go.wait(LONG)
            return message

        policy = Policy(b"")
        with self.ending(policy, slow, max_threads=3) as (_, peer):
            for stream_id in (1, 3, 5, 7):
                peer.send(REQUEST, stream_id, request("M"))
            assert sorted(peer.expect().stream_id for _ in range(4)) == [1, 3, 5, 7]
            # All threads are busy, and nothing else is due.
            peer.send(REQUEST, 9, request("M"))
            assert peer.expect().stream_id == 9
            peer.send(REQUEST, 11, b"\xff")
            assert peer.expect().stream_id == 11
            go.set()
            assert eventually(lambda: len(policy.reports) >= 5)
        assert set(policy.asked) == {f"/{SERVICE}/M", ""}

    def test_the_answer_cannot_be_written_at_once(self) -> None:
        go = threading.Event()

        def slow(message: StringValue, context: Any) -> StringValue:
            assert go.wait(LONG)
            return message

        policy = Policy(b"")
        with self.ending(policy, slow) as (end, peer):
            filler = struct.pack(">IIBB", 1000, 99, RESPONSE, 0) + b"x" * 1000
            while end.link.try_send([filler]):
                pass
            peer.send(REQUEST, 1, request("M"))
            assert eventually(lambda: policy.asked == [f"/{SERVICE}/M"])
            go.set()
            assert policy.reported.wait(LONG)
            while (answer := peer.expect()).stream_id == 99:
                pass
            assert (answer.stream_id, answer.payload) == (1, b"")
            assert end.wait_idle(Deadline(LONG))

    def test_a_handler_that_returns_before_its_late_answer_is_sent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The call is answered when the late answer is sent, not when the handler returns.
        sending, returned, go = threading.Event(), threading.Event(), threading.Event()
        policy = Policy(b"")

        def slow(message: StringValue, context: Any) -> StringValue:
            assert sending.wait(LONG)
            return message

        def seen(call: ServerCall) -> None:
            sent(call)
            returned.set()

        sent = ServerCall.sent
        monkeypatch.setattr(ServerCall, "sent", seen)
        with self.ending(policy, slow) as (end, peer):
            try_send = end.link.try_send

            def held(buffers: Any) -> bool:
                sending.set()
                assert go.wait(LONG)
                return try_send(buffers)

            monkeypatch.setattr(end.link, "try_send", held)
            peer.send(REQUEST, 1, request("M", encoded("result")))
            assert returned.wait(LONG)
            assert not end.wait_idle(Deadline(0.0))
            go.set()
            assert peer.expect().payload == b""
            assert end.wait_idle(Deadline(LONG))

    def test_in_time(self) -> None:
        policy = Policy(b"")
        policy.seconds = LONG
        with self.ending(policy, echo) as (_, peer):
            assert peer.ask(1, "M", encoded("x")).value == "x"
        assert policy.asked == []

    def test_without_a_limit(self) -> None:
        policy = Policy(b"")
        policy.seconds = None
        with self.ending(policy, echo) as (end, peer):
            assert peer.ask(1, "M", encoded("x")).value == "x"
            assert end.tick(0) == float("inf")

    def waiting(
        self, policy: Policy, *since: float
    ) -> tuple[ServerEnd, list[ServerCall], list[Any]]:
        """An end with calls that arrived at these times and are not served, and the frames that it sends."""
        sent: list[Any] = []

        class Wire:
            name = "test"

            def try_send(self, buffers: Any) -> bool:
                sent.append(buffers)
                return True

        end = ServerEnd(Router(), frame=frame, peer="test", late_policy=policy)
        end.link = Wire()  # type: ignore[assignment]
        jobs: list[Any] = []
        for number, at in enumerate(since):
            data = request("M")
            header = struct.pack(">IIBB", len(data), 2 * number + 1, REQUEST, 0)
            end.receive(memoryview(header + data), jobs)
            # As if it had come then.
            moved = at - jobs[-1].since
            jobs[-1].due += moved
            jobs[-1].late_at += moved
            jobs[-1].since = at
        end._look_at = min(job.due for job in jobs)
        return end, jobs, sent

    def test_the_delay_of_the_thread_is_measured_halfway(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, (call,), sent = self.waiting(policy, 100.0)
        assert call.due == 105.0
        assert end.tick(105.0) == 107.5
        assert end.tick(108.0) == 109.0
        assert end.tick(109.94) == 109.99
        assert end.tick(109.99) == 110.0
        assert sent == []
        assert end.tick(110.25) == float("inf")
        assert policy.delays == pytest.approx([0.0, 0.5, 0.94, 0.0, 0.25])
        assert len(sent) == 1
        assert policy.answers == [("/" + SERVICE + "/M", b"")]

    def test_a_longer_delay_brings_the_answer_forward(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, _, sent = self.waiting(policy, 100.0, 101.0)
        policy.sooner = 2.0
        assert end.tick(106.0) == 107.0
        assert end.tick(107.99) == 108.0
        assert sent == []
        assert end.tick(108.5) == 108.75
        assert len(sent) == 1
        assert end.tick(109.0) == float("inf")
        assert len(sent) == 2

    def test_a_handler_has_half_of_the_time_at_least(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        policy.sooner = 1000.0
        end, _, sent = self.waiting(policy, 100.0)
        assert end.tick(104.99) == 105.0
        assert sent == []
        assert end.tick(105.0) == float("inf")
        assert len(sent) == 1

    def test_a_thread_that_is_woken_early_has_no_delay(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, _, _ = self.waiting(policy, 100.0)
        assert end.tick(104.0) == 107.0
        assert policy.delays == []

    def test_a_call_that_is_over_measures_as_well(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, _, sent = self.waiting(policy, 100.0)
        end.calls.clear()
        assert end.tick(105.5) == float("inf")
        assert policy.delays == [0.5]
        # It is measured once.
        end.tick(107.0)
        assert policy.delays == [0.5]
        assert sent == []

    @pytest.mark.parametrize("state", ["no thread yet", "being parsed", "parsed"])
    def test_a_policy_that_declines_is_asked_again_only_during_parsing(self, state: str) -> None:
        policy = Policy(None)
        policy.seconds = 10.0
        end, (call,), sent = self.waiting(policy, 100.0)
        if state != "no thread yet":
            call.context = RequestContext("/a/b", (), 100.0, None, "unix:x", lambda: True)
            call.context.request = "a request" if state == "parsed" else None
        again = end.tick(110.0)
        assert (again < math.inf) == (state == "being parsed")
        end.tick(min(again, 111.0))
        assert len(policy.asked) == (2 if state == "being parsed" else 1)
        assert sent == []

    def test_a_request_that_is_parsed_right_after_the_look_is_looked_at_again(self) -> None:
        class Declining(Policy):
            def answer(self, call: LateCall) -> Any:
                outcome = super().answer(call)
                assert call.context is not None
                call.context.request = "a request"
                return outcome

        policy = Declining(None)
        policy.seconds = 10.0
        end, (call,), _ = self.waiting(policy, 100.0)
        call.context = RequestContext("/a/b", (), 100.0, None, "unix:x", lambda: True)
        again = end.tick(110.0)
        assert again < math.inf
        end.tick(again)
        assert len(policy.asked) == 2

    def test_a_report_that_fails_keeps_no_answer_back(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        monkeypatch.setattr(policy, "clock_ran", lambda delay: 1 / 0)
        monkeypatch.setattr(policy, "answered", lambda call, outcome: 1 / 0)
        end, _, sent = self.waiting(policy, 100.0)
        end.tick(111.0)
        assert len(sent) == 1
        assert "cannot report a delay" in caplog.text
        assert "cannot report the late answer" in caplog.text

    def test_the_base_has_no_limit(self) -> None:
        assert LatePolicy().limit() is None
        with pytest.raises(NotImplementedError):
            LatePolicy().answer(None)  # type: ignore[arg-type]
        LatePolicy().finished(None, None)  # type: ignore[arg-type]
        LatePolicy().answered(None, b"")  # type: ignore[arg-type]
        LatePolicy().clock_ran(1.0)
        assert LatePolicy().ahead() == 0
