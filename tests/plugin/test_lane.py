"""The fast lane: the same answers and effects as the general way, for any bytes; and which requests it takes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import queue
import re
import socket
import struct
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Callable, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import find_handlers
from nri_sync.api.services import PLUGIN
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, NRIError, Reject
from nri_sync.net.link import Job
from nri_sync.net.receiver import HEADER
from nri_sync.plugin.counters import Counters, Tally
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.ignored import IgnoredFields
from nri_sync.plugin.interceptors import Interceptors
from nri_sync.plugin.lane import FastLane, LaneCall
from nri_sync.plugin.late import Late
from nri_sync.plugin.parts import Parts
from nri_sync.plugin.servicer import Servicer
from nri_sync.plugin.source import Source
from nri_sync.plugin.spec import PluginSpec
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.server_call import ServerCall
from nri_sync.session import Session
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE
from nri_sync.wire.ttrpc import DATA, MESSAGE_MAX, REQUEST
from tests.net.rig import in_thread
from tests.plugin.harness import (
    CONTAINER,
    LONG,
    POD,
    PluginWith,
    RawRuntime,
    Slow,
    configuration,
    encoded,
    eventually,
    request,
)
from tests.threadless import no_idle_threads

__all__: list[str] = []

UPDATE = nri_pb2.ContainerUpdate(container_id="ctr1")


class Conn:
    """The part of a connection that handlers and late answers use."""

    def __init__(self, spec: PluginSpec) -> None:
        self.session: Session
        self.facts = spec.defaults
        self.ignored = IgnoredFields(spec.logger, spec.tally)
        self.parts = Parts()
        self.answer_within: float | None = None

    @property
    def serving(self) -> dict[int, RequestContext]:
        return self.session.server.running

    def learn(self, request: nri_pb2.ConfigureRequest) -> None: ...

    def configured(self, events: EventMask, missing: EventMask) -> None: ...

    def configure_failed(self, error: BaseException, context: RequestContext) -> None: ...

    is_decided = True

    def mark_synchronized(self) -> None: ...


class Way:
    """The plugin's end of a session, with or without the lane. The test is its only thread."""

    def __init__(self, plugin: Any, *, lane: bool) -> None:
        handlers, handled = find_handlers(plugin)
        self.plugin = plugin
        self.tally = Tally()
        spec = PluginSpec(
            name="10-test",
            identity=api.PluginId("10", "test"),
            handlers=handlers,
            handled=handled,
            required_events=EventMask(0),
            failure_policy=None,
            late_reply=True,
            interceptors=Interceptors(()),
            source=Source(None, None, None),
            defaults=Facts(handled, 5.0),
            tally=self.tally,
            logger=logging.LoggerAdapter(logging.getLogger("nri_sync.stub"), {}),
            registration=b"",
        )
        servicer = Servicer(spec)
        self.conn = Conn(spec)
        near, self.far = socket.socketpair()
        self.far.setblocking(False)
        for sock in (near, self.far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_MAX)
        self.session = self.conn.session = Session(
            near,
            servicer.router,
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name="10-test",
            peer="unix:test",
            lost=lambda cause: None,
            late_policy=Late(spec, self.conn),
            owner=self.conn,
        )
        self.link = self.session.link
        if lane:
            FastLane(spec, servicer).open(self.session, self.conn)
        self.link.token.take()
        self.link.workers.is_watched = True
        #: How many requests the lane has taken.
        self.taken = 0
        #: The header of a frame, for which the link waits for the rest before it asks the lane again.
        self.header = b""

    def feed(self, data: bytes) -> tuple[str | None, bytes]:
        """Receive the bytes in one read, and serve the requests in them. Returns the error and the bytes sent."""
        view = memoryview(bytearray(self.header + data))
        self.header = b""
        if self.link.lane is not None:
            has_token = self.link.lane(view, len(view))
            if has_token is HEADER:
                self.header = data
                return None, self._sent()
            if has_token is not None:
                assert has_token
                self.taken += 1
                return None, self._sent()
        jobs: list[Job] = []
        error = None
        try:
            self.session.receive(view, jobs)
        except NRIError as raised:
            error = str(raised)
        for job in jobs:
            self.link.token.release()
            assert self.link.answer(job, job.run())
        return error, self._sent()

    def _sent(self) -> bytes:
        sent = bytearray()
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += self.far.recv(1 << 20)
        return bytes(sent)

    def left(self) -> list[object]:
        """The state after the last request: counters, and calls that are not over."""
        server = self.session.server
        return [
            self.tally.snapshot(),
            server.calls,
            server.running,
            server.wait_idle(Deadline(0.0)),
            self.session.between and not self.header,
            self.link.token.is_held,
            self.link.writer.is_busy,
            self.plugin.seen,
        ]

    def close(self) -> None:
        self.link.abandon()
        self.far.close()


class Log(logging.Handler):
    """The records of nri_sync, without times and places."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace = None
        if record.exc_info is not None and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            trace = record.exc_info[0], [frame.name for frame in frames]
        self.records.append((record.name, record.levelno, record.getMessage(), trace))


class Both:
    """A plugin's end of each kind. Both get the same bytes, and have to do the same."""

    def __init__(self, make_plugin: Callable[[], Any]) -> None:
        self.lane, self.general = Way(make_plugin(), lane=True), Way(make_plugin(), lane=False)

    def feed(self, data: bytes) -> bytes:
        """Feed both; returns the bytes that both have sent."""
        results = []
        logger = logging.getLogger("nri_sync")
        for way in (self.lane, self.general):
            log = Log()
            logger.addHandler(log)
            level, logger.level = logger.level, logging.DEBUG
            try:
                results.append((way.feed(data), log.records))
            finally:
                logger.level = level
                logger.removeHandler(log)
        assert results[0] == results[1]
        assert self.lane.left() == self.general.left()
        return results[0][0][1]

    def close(self) -> None:
        self.lane.close()
        self.general.close()


def context() -> RequestContext:
    return nri_sync.request_context()


def adjusted(**fields: Any) -> nri_pb2.ContainerAdjustment:
    return nri_pb2.ContainerAdjustment(**fields)


def padded(size: int) -> nri_pb2.ContainerAdjustment:
    """An adjustment whose encoding has ``size`` bytes."""
    low = adjusted(annotations={"a": "x" * max(0, size - 20)})
    missing = size - low.ByteSize()
    return adjusted(annotations={"a": "x" * (max(0, size - 20) + missing)})


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


def set_code(code: Any, details: str | None = None, result: Any = None) -> Callable[[], Any]:
    def act() -> Any:
        context().set_code(code)
        if details is not None:
            context().set_details(details)
        if isinstance(result, BaseException):
            raise result
        return result

    return act


def rich() -> None:
    status = envelope_pb2.Status(code=5, message="gone")
    status.details.add(type_url="type.googleapis.com/x", value=b"1")
    context().set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context().abort(StatusCode.NOT_FOUND, "gone")


def exit_in_a_callback() -> None:
    context().add_callback(raising(SystemExit(1)))


class Unshowable:
    """Cannot be shown; the arguments of an exception may be of any type."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class UnshowableError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


A, B = nri_pb2.KeyValue(key="A", value="1"), nri_pb2.KeyValue(key="A", value="2")

#: The action of a handler, by the name of the pod of its request.
ACTS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "an adjustment": lambda: adjusted(env=[A, nri_pb2.KeyValue(key="B")], args=["x"]),
    "an empty adjustment": adjusted,
    "a builder": lambda: api.Adjustment().add_env("A", "1").add_mount("/m", source="/s"),
    "a builder for Linux": lambda: api.Adjustment().add_device("/dev/x", "c", 1, 2),
    "with updates": lambda: (adjusted(env=[A]), [UPDATE, UPDATE]),
    "a response": lambda: nri_pb2.CreateContainerResponse(adjust=adjusted(env=[A, A])),
    "an update": lambda: [UPDATE],
    "an equal repeat": lambda: adjusted(env=[A, A]),
    "a different repeat": lambda: adjusted(env=[A, B]),
    "a repeat of an empty key": lambda: adjusted(env=[nri_pb2.KeyValue(), nri_pb2.KeyValue()]),
    "a wrong type": lambda: 5,
    "bytes": lambda: b"\x0a\x00",
    "a refusal": raising(Reject("no")),
    "an empty refusal": raising(Reject()),
    "a refusal that cannot be shown": raising(Reject(Unshowable())),
    "an error": raising(RuntimeError("boom")),
    "an error that cannot be shown": raising(ValueError(Unshowable())),
    "an error whose text exits": raising(UnshowableError()),
    "a failed call with a wrong code": raising(CallFailed("/a/b", cast(Any, "x"), "gone")),
    "a failed call with wrong details": raising(CallFailed("/a/b", StatusCode.NOT_FOUND, cast(Any, 5))),
    "an error with a surrogate": raising(ValueError("\udc80")),
    "an error that is too long": raising(ValueError("x" * (MESSAGE_MAX + 1))),
    "a generator": lambda: (update for update in [UPDATE]),
    "a generator that fails": lambda: (raising(ValueError("x"))() for _ in [UPDATE]),
    "a callback that exits": exit_in_a_callback,
    "an error of the system": raising(FileNotFoundError(2, "gone")),
    "an exit": raising(SystemExit(3)),
    "an abort": lambda: context().abort(StatusCode.NOT_FOUND, "gone"),
    "an abort without a code": lambda: context().abort(StatusCode.OK, "x"),
    "a rich abort": rich,
    "a code": set_code(StatusCode.ABORTED),
    "a code and details": set_code(StatusCode.ABORTED, "why"),
    "a code and a result": set_code(StatusCode.ABORTED, "why", adjusted(env=[A])),
    "a code and an error": set_code(StatusCode.ABORTED, None, ValueError("x")),
    "the code OK": set_code(StatusCode.OK),
    "the code OK and an error": set_code(StatusCode.OK, None, ValueError("x")),
    "unimplemented": set_code(StatusCode.UNIMPLEMENTED, "x"),
    "unimplemented and an error": set_code(StatusCode.UNIMPLEMENTED, None, ValueError("x")),
    "not implemented": raising(NotImplementedError()),
    "details alone": lambda: context().set_details("x"),
    **{f"{size} bytes": functools.partial(padded, size) for size in (30, 123, 124, 125, 126, 127, 128, 129)},
    **{f"{size} bytes": functools.partial(padded, size) for size in (4074, 4078, 4079, 4080, 4081, 4083, 4084)},
    **{f"{size} bytes": functools.partial(padded, size) for size in (16382, 16390, 300_000)},
    "the longest": lambda: padded(MESSAGE_MAX - 10),
    "too long": lambda: padded(MESSAGE_MAX + 1),
}  # fmt: skip


class Actor(nri_sync.Plugin):
    """Does the action of ACTS, and records each call with its context."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def _act(self, handler: str, *arguments: Any) -> Any:
        here = context()
        remaining = here.time_remaining()
        self.seen.append((
            handler, arguments, here.method, here.handler, here.peer(), here.invocation_metadata(),
            None if remaining is None else round(remaining, -1), here.is_active(), here.code(),
            here.details(), here.trailing_metadata(), here.request, here.runtime,
        ))  # fmt: skip
        ended: list[object] = []
        here.add_callback(lambda: self.seen.append(("over", handler)))
        here.add_callback(lambda: ended.append(1 / 0))
        return ACTS.get(arguments[0].name, lambda: None)()


def _handler(name: str) -> Any:
    return lambda self, *arguments: self._act(name, *arguments)


for _name in ("run_pod_sandbox", "stop_pod_sandbox", "update_pod_sandbox", "create_container"):
    setattr(Actor, _name, _handler(_name))
for _name in ("update_container", "stop_container", "remove_container", "start_container"):
    setattr(Actor, _name, _handler(_name))


def message_of(rpc: str, act: str = "nothing") -> Any:
    message = PLUGIN.methods[rpc].request()
    for field, value in (("pod", nri_pb2.PodSandbox(name=act, id="p")), ("container", CONTAINER)):
        if field in message.DESCRIPTOR.fields_by_name:
            getattr(message, field).CopyFrom(value)
    return message


def call(stream_id: int, rpc: str, act: str = "nothing", **fields: Any) -> bytes:
    payload = message_of(rpc, act).SerializeToString()
    return encoded(PLUGIN_SERVICE, REQUEST, stream_id, request(rpc, payload, **fields))


@pytest.fixture
def both() -> Iterator[Both]:
    both = Both(Actor)
    yield both
    both.close()


@pytest.mark.parametrize("lane", [True, False])
def test_a_bug_is_answered(lane: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call gets an answer, and ends, whichever way has the bug."""
    over: list[bool] = []

    def fail(*arguments: Any) -> Any:
        context().add_callback(lambda: over.append(True))
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ServerCall, "failure", fail)
    way = Way(Actor(), lane=lane)
    with contextlib.closing(way):
        _, sent = way.feed(call(1, "CreateContainer", "an error"))
        status = envelope_pb2.Response.FromString(sent[18:]).status
        assert (status.code, status.message) == (StatusCode.INTERNAL, "nri_sync failed: a bug")
        assert over == [True]
        assert not way.session.server.calls
        assert not way.session.server.running
        assert way.feed(call(3, "CreateContainer"))[1]


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("nri_sync.ttrpc", "an error"),
        ("nri_sync.ttrpc", "a wrong type"),
        ("nri_sync.stub", "a refusal"),
        ("nri_sync.stub", "an abort"),
    ],
)
def test_a_log_filter_that_raises(
    both: Both, monkeypatch: pytest.MonkeyPatch, name: str, act: str
) -> None:
    sent = both.feed(call(1, "CreateContainer", act))

    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError("a bug of the filter")

    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
    logger = logging.getLogger(name)
    logger.addFilter(fail)
    try:
        with_filter = both.feed(call(3, "CreateContainer", act))
    finally:
        logger.removeFilter(fail)
    assert with_filter == sent.replace(b"\0\0\0\1\2", b"\0\0\0\3\2")
    assert set(reported) == {ZeroDivisionError}


class TestTheSame:
    @pytest.mark.parametrize("act", ACTS)
    @pytest.mark.parametrize("rpc", ["CreateContainer", "UpdateContainer", "RunPodSandbox"])
    def test_for_each_outcome(self, both: Both, rpc: str, act: str) -> None:
        assert both.feed(call(1, rpc, act))
        assert both.feed(call(3, rpc))
        assert both.lane.taken == 2

    @pytest.mark.parametrize("rpc", PLUGIN.methods)
    def test_for_each_method(self, both: Both, rpc: str) -> None:
        assert both.feed(call(1, rpc))
        handled = {name.replace("_", "") for name in vars(Actor) if not name.startswith("_")}
        assert both.lane.taken == (rpc.lower() in handled)

    @pytest.mark.parametrize("fields", [
        {"timeout_nano": 1}, {"timeout_nano": 2_000_000_000}, {"timeout_nano": 2**63 - 1},
        {"timeout_nano": -1}, {"metadata": [envelope_pb2.KeyValue(key="a", value="b")]},
    ])  # fmt: skip
    def test_for_each_field_of_an_envelope(self, both: Both, fields: dict[str, Any]) -> None:
        assert both.feed(call(1, "RunPodSandbox", **fields))
        plain = fields.get("timeout_nano", -1) > 0
        assert both.lane.taken == plain

    @pytest.mark.parametrize(("end", "plain"), [
        (b"\x20\x01", True), (b"\x20\x80\x00", True), (b"\x20" + b"\x80" * 8 + b"\x01", True),
        (b"\x20" + b"\x80" * 9 + b"\x01", False), (b"\x20", False), (b"\x20\x80", False),
        (b"\x20\x01\x01", False), (b"\x20\x01\x20\x81\x01", False), (b"\x28\x01", False), (b"\x2a\x00", False),
    ])  # fmt: skip
    def test_for_each_end_of_an_envelope(self, both: Both, end: bytes, plain: bool) -> None:
        envelope = request("RunPodSandbox", message_of("RunPodSandbox").SerializeToString())
        assert both.feed(encoded(PLUGIN_SERVICE, REQUEST, 1, envelope + end))
        assert both.lane.taken == plain

    @pytest.mark.parametrize("stream_id", [0, 1, 2, 3, 5, 2**32 - 1])
    def test_for_each_stream(self, both: Both, stream_id: int) -> None:
        both.feed(call(3, "RunPodSandbox"))
        assert both.feed(call(stream_id, "RunPodSandbox"))
        assert both.lane.taken == 1 + (stream_id in (5, 2**32 - 1))

    def test_for_a_payload_that_is_no_message(self, both: Both) -> None:
        for number, payload in enumerate(
            [b"\xff", b"\x0a\x7f", b"\x08\x01", b"x" * 40, b"\x12\x00"]
        ):
            envelope = request("CreateContainer", payload)
            assert both.feed(encoded(PLUGIN_SERVICE, REQUEST, 2 * number + 1, envelope))

    @pytest.mark.parametrize("flags", [1, 2, 3, 4, 8, 255])
    def test_for_each_flag(self, both: Both, flags: int) -> None:
        envelope = request("RunPodSandbox", message_of("RunPodSandbox").SerializeToString())
        both.feed(encoded(PLUGIN_SERVICE, REQUEST, 1, envelope, flags))
        assert both.lane.taken == 0

    @pytest.mark.parametrize("more", [-1, 1, 20])
    def test_for_a_wrong_length_of_the_payload(self, both: Both, more: int) -> None:
        payload = message_of("RunPodSandbox").SerializeToString()
        envelope = bytearray(request("RunPodSandbox", payload))
        envelope[-len(payload) - 1] += more
        assert both.feed(encoded(PLUGIN_SERVICE, REQUEST, 1, bytes(envelope)))
        assert both.lane.taken == 0

    def test_when_the_time_is_limited(self, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
        woken: list[float] = []
        monkeypatch.setattr(both.lane.link.timer, "wake_by", woken.append)
        for way in (both.lane, both.general):
            way.conn.answer_within = 100.0
        assert both.feed(call(1, "CreateContainer"))
        # Halfway to the late answer. In the general way the link wakes the timer.
        (due,) = woken
        assert 0 < due - time.monotonic() < 51

    def test_while_a_frame_or_a_message_is_begun(self, both: Both) -> None:
        data = call(1, "CreateContainer", "an adjustment")
        for cut in (1, 7, 9, 17, 18, 19, 50, len(data) - 1):
            whole = call(2 * cut + 1, "CreateContainer", "an adjustment")
            assert not both.feed(whole[:cut])
            assert both.feed(whole[cut:])
        assert both.lane.taken == 0
        assert both.feed(call(9999, "CreateContainer"))
        assert both.lane.taken == 1

    def test_when_the_header_of_the_frame_comes_alone(self, both: Both) -> None:
        for stream_id in (1, 3):
            whole = call(stream_id, "CreateContainer", "an adjustment")
            assert not both.feed(whole[:8])
            assert both.lane.header
            assert both.feed(whole[8:])
            assert both.feed(call(stream_id + 10, "RunPodSandbox"))
        assert both.lane.taken == 3

    @pytest.mark.parametrize(
        "rest",
        [
            b"\0",
            call(1, "CreateContainer")[8:20],
            call(1, "Shutdown")[8:],
            call(1, "RunPodSandbox")[8:] + b"\0",
        ],
    )
    def test_when_the_header_comes_alone_and_the_rest_is_not_plain(
        self, both: Both, rest: bytes
    ) -> None:
        both.feed(call(1, "RunPodSandbox")[:8])
        both.feed(rest)
        both.feed(b"\0" * 300 + call(5, "RunPodSandbox"))
        assert both.lane.taken == 0

    @pytest.mark.parametrize(("connection", "size"), [
        (PLUGIN_SERVICE, MESSAGE_MAX + 11), (PLUGIN_SERVICE, 10), (PLUGIN_SERVICE, 0),
        (RUNTIME_SERVICE, 100), (7, 100),
    ])  # fmt: skip
    def test_a_header_that_is_not_of_a_request_is_not_kept(
        self, both: Both, connection: int, size: int
    ) -> None:
        both.feed(struct.pack(">II", connection, size))
        assert not both.lane.header

    def test_no_header_is_kept_inside_a_frame_or_when_jobs_wait(self, both: Both) -> None:
        header = call(1, "CreateContainer")[:8]
        for way in (both.lane, both.general):
            way.link.workers.backlog.append(Job())
        both.feed(header)
        assert not both.lane.header
        for way in (both.lane, both.general):
            way.link.workers.backlog.clear()
        both.feed(header)
        assert not both.lane.header

    def test_for_two_in_one_read(self, both: Both) -> None:
        assert both.feed(call(1, "CreateContainer") + call(3, "RunPodSandbox"))
        assert both.lane.taken == 0

    def test_when_no_more_calls_are_taken(self, both: Both) -> None:
        for way in (both.lane, both.general):
            way.session.server.stop_accepting()
        assert not both.feed(call(1, "CreateContainer"))
        assert both.lane.plugin.seen == []

    def test_when_the_runtime_does_not_know_all_fields(self, both: Both) -> None:
        for way in (both.lane, both.general):
            way.conn.ignored.learn("v0.3.0")
        assert both.feed(call(1, "CreateContainer", "an adjustment"))
        assert both.lane.taken == 0
        assert both.lane.tally.snapshot().ignored_fields > 0

    def test_when_jobs_wait(self, both: Both) -> None:
        for way in (both.lane, both.general):
            way.link.workers.backlog.append(Job())
        assert both.feed(call(1, "CreateContainer"))
        assert both.lane.taken == 0
        for way in (both.lane, both.general):
            way.link.workers.backlog.clear()


def mutated(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    changed = bytearray(data)
    for at, length, new in edits:
        at %= len(changed) + 1
        changed[at : at + length] = new
    return bytes(changed)


EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), max_size=3
)
ENVELOPES = st.builds(
    request,
    st.sampled_from([*PLUGIN.methods, "Other"]).filter(lambda rpc: rpc != "Synchronize"),
    st.one_of(
        st.builds(
            lambda rpc, act: message_of(rpc, act).SerializeToString(),
            st.sampled_from(["CreateContainer", "UpdatePodSandbox"]),
            st.sampled_from(
                [act for act in ACTS if not act.endswith(("long", "longest", "exits"))]
            ),
        ),
        st.binary(max_size=40),
    ),
    timeout_nano=st.integers(-(2**63), 2**63 - 1) | st.just(0),
)
MESSAGES = st.builds(
    encoded,
    st.sampled_from([PLUGIN_SERVICE] * 6 + [RUNTIME_SERVICE, 7]),
    st.sampled_from([REQUEST] * 6 + [DATA, 2, 9]),
    st.sampled_from([1, 3, 5, 7, 9, 11, 13, 2, 0]),
    st.builds(mutated, ENVELOPES, EDITS),
    st.sampled_from([0] * 6 + [1, 2, 4, 255]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.builds(mutated, MESSAGES, st.just([]) | EDITS), min_size=1, max_size=4))
def test_the_same_for_any_bytes(chunks: list[bytes]) -> None:
    both = Both(Actor)
    try:
        for chunk in chunks:
            if chunk:
                both.feed(chunk)
    finally:
        both.close()


@settings(deadline=None, max_examples=200)
@given(st.lists(EDITS, min_size=1, max_size=5))
def test_the_same_for_mutations_of_a_plain_request(
    edits: list[list[tuple[int, int, bytes]]],
) -> None:
    both = Both(Actor)
    try:
        for number, edit in enumerate(edits):
            data = call(2 * number + 1, "CreateContainer", "an adjustment", timeout_nano=2 * 10**9)
            both.feed(mutated(data, edit) or b"\0")
    finally:
        both.close()


Start = Callable[..., "tuple[nri_sync.Stub, RawRuntime]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a stub whose runtime is the test."""
    with contextlib.ExitStack() as stack:

        def start_stub(plugin: Any, **options: Any) -> tuple[nri_sync.Stub, RawRuntime]:
            near, far = socket.socketpair()
            stack.callback(far.close)
            config = options.pop("config", configuration())
            stub = nri_sync.Stub(plugin, name="test", idx="10", connection=near, **options)
            stack.callback(stub.stop)
            starter = in_thread(stub.start)
            runtime = RawRuntime(far)
            runtime.accept_registration()
            runtime.call(1, "Configure", config)
            runtime.response(1)
            starter.join(LONG)
            assert stub.started
            return stub, runtime

        yield start_stub


class TestInASession:
    def test_plain_requests_are_taken(self, start: Start) -> None:
        kinds: list[type] = []
        plugin = PluginWith(create_container=lambda pod, container: kinds.append(type(context())))
        _, runtime = start(plugin)
        for number in range(5):
            runtime.call(2 * number + 3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
            runtime.response(2 * number + 3)
        assert kinds == [LaneCall] * 5

    def test_not_with_an_interceptor(self, start: Start) -> None:
        class Around(nri_sync.Interceptor):
            def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
                return proceed(request, context)

        kinds: list[type] = []
        plugin = PluginWith(run_pod_sandbox=lambda pod: kinds.append(type(context())))
        _, runtime = start(plugin, interceptors=[Around()])
        runtime.call(3, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
        runtime.response(3)
        assert kinds == [RequestContext]

    def test_a_second_request_is_served_meanwhile(self, start: Start) -> None:
        slow = Slow()
        plugin = PluginWith(create_container=slow, run_pod_sandbox=lambda pod: None)
        _, runtime = start(plugin)
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert slow.entered.wait(LONG)
        for stream_id in range(5, 50, 2):
            runtime.call(stream_id, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
            runtime.response(stream_id)
        slow.go_on.set()
        runtime.response(3)
        runtime.call(51, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
        runtime.response(51)

    def test_data_on_its_stream_ends_it(self, start: Start) -> None:
        slow = Slow()
        stub, runtime = start(PluginWith(create_container=slow, run_pod_sandbox=lambda pod: None))
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert slow.entered.wait(LONG)
        runtime.send(PLUGIN_SERVICE, DATA, 3, b"x")
        assert "data is not allowed" in runtime.response(3).status.message
        slow.go_on.set()
        # No second answer.
        runtime.call(5, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
        runtime.response(5)
        assert stub.started

    @pytest.mark.parametrize("fails", [False, True])
    def test_cancelled_by_its_handler(self, start: Start, fails: bool) -> None:
        seen: queue.SimpleQueue[list[bool]] = queue.SimpleQueue()

        def create(pod: Any, container: Any) -> None:
            # The first cancel() has another thread send the answer.
            seen.put([context().cancel(), context().is_active(), context().cancel()])
            if fails:
                raise ValueError("boom")

        stub, runtime = start(PluginWith(create_container=create, run_pod_sandbox=lambda pod: None))
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert runtime.response(3).status.code == StatusCode.CANCELLED
        assert seen.get(timeout=LONG) == [True, False, False]
        # The request whose handler is running is over when the handler has ended.
        eventually(lambda: not stub._live()[0].serving)
        runtime.call(5, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
        runtime.response(5)
        assert stub.counters.errors == fails

    @pytest.mark.parametrize("outcome", [None, ValueError("boom")])
    def test_a_late_answer(
        self, start: Start, outcome: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        slow = Slow(outcome)
        plugin = PluginWith(create_container=slow, run_pod_sandbox=lambda pod: None)
        stub, runtime = start(plugin, config=configuration(request_timeout=300))
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert runtime.response(3) == envelope_pb2.Response()
        # Before the next request, which a busy machine may serve late, too.
        assert stub.counters.late_replies == 1
        slow.go_on.set()
        eventually(lambda: stub.counters.late_results == 1)
        text = "succeeded after it" if outcome is None else "failed (ValueError: boom) after it"
        eventually(lambda: text in caplog.text)
        runtime.call(5, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
        runtime.response(5)

    def test_the_timer_and_an_exception_race(self, start: Start) -> None:
        """Each request has one answer, by whichever thread is first."""

        def fail(pod: Any, container: Any) -> None:
            assert not threading.Event().wait(0.05)
            raise ValueError("boom")

        stub, runtime = start(
            PluginWith(create_container=fail), config=configuration(request_timeout=100)
        )
        answered = []
        for stream_id in range(3, 43, 2):
            runtime.call(stream_id, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
            answered.append(runtime.response(stream_id).status.code)
        assert set(answered) <= {0, StatusCode.UNKNOWN}
        eventually(lambda: stub.counters.errors == 20)
        eventually(lambda: stub.counters.late_results == answered.count(0))

    def test_an_answer_that_is_sent_in_part(self, start: Start) -> None:
        size = 3 * 1024 * 1024
        plugin = PluginWith(
            create_container=lambda pod, container: padded(size), run_pod_sandbox=lambda pod: None
        )
        _, runtime = start(plugin)
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        runtime.call(5, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD))
        answers = {
            message.stream_id: bytes(message.data)
            for _, message in (runtime.next(), runtime.next())
        }
        assert answers.keys() == {3, 5}
        payload = envelope_pb2.Response.FromString(answers[3]).payload
        assert nri_pb2.CreateContainerResponse.FromString(payload).adjust == padded(size)

    def test_stop_in_a_handler(self, start: Start) -> None:
        stubs: list[nri_sync.Stub] = []
        stub, runtime = start(PluginWith(create_container=lambda pod, container: stubs[0].stop()))
        stubs.append(stub)
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert runtime.response(3) == envelope_pb2.Response()
        assert runtime.at_end()

    def test_a_stop_with_grace_waits_for_it(self, start: Start) -> None:
        slow = Slow(nri_pb2.ContainerAdjustment(args=["x"]))
        stub, runtime = start(PluginWith(create_container=slow))
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert slow.entered.wait(LONG)
        stopper = in_thread(lambda: stub.stop(grace=LONG))
        eventually(lambda: stub.state is nri_sync.State.STOPPING)
        slow.go_on.set()
        assert runtime.response(3).payload
        assert runtime.at_end()
        stopper.join(LONG)

    def test_the_connection_is_lost_meanwhile(self, start: Start) -> None:
        slow = Slow()
        ended: list[bool] = []
        contexts: list[RequestContext] = []

        def create(pod: Any, container: Any) -> None:
            contexts.append(context())
            context().add_callback(lambda: ended.append(True))
            slow()

        stub, runtime = start(PluginWith(create_container=create))
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        assert slow.entered.wait(LONG)
        runtime.sock.close()
        assert stub.wait(LONG)
        eventually(lambda: ended == [True])
        assert not contexts[0].is_active()
        slow.go_on.set()

    def test_nothing_is_kept_of_a_request(self, start: Start) -> None:
        kept: list[weakref.ref[Any]] = []

        def create(pod: Any, container: Any) -> api.Adjustment:
            adjustment = api.Adjustment().add_env("A", "1")
            kept.extend([weakref.ref(adjustment), weakref.ref(context())])
            return adjustment

        _, runtime = start(PluginWith(create_container=create))
        runtime.call(3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        runtime.response(3)
        eventually(lambda: [reference() for reference in kept] == [None, None])

    def test_the_context_outlives_its_call(self, start: Start) -> None:
        contexts: list[RequestContext] = []
        plugin = PluginWith(create_container=lambda pod, container: contexts.append(context()))
        _, runtime = start(plugin)
        runtime.call(
            3, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD), timeout_nano=10**12
        )
        runtime.response(3)
        (here,) = contexts
        eventually(lambda: here.request is None)
        assert 900 < (here.time_remaining() or math.inf) <= 1000
        assert (here.cancel(), here.is_active(), here.handler) == (False, False, "create_container")
        assert here.method.endswith("/CreateContainer")


def test_the_page_lists_the_functions_of_a_request(start: Start) -> None:
    """The table of docs/request.md, compared with a trace."""
    first, last = ("plugin/lane.py", "serve"), ("rpc/server.py", "mark_sent")
    ways: list[list[tuple[str, str]]] = []
    way: list[tuple[str, str]] = []
    serving: set[int] = set()
    package = str(Path(nri_sync.__file__).parent) + "/"

    def trace(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(package):
            return
        function = code.co_filename[len(package) :], code.co_name
        thread = threading.get_ident()
        if function == first:
            serving.add(thread)
            way.clear()
        if thread in serving:
            way.append(function)
            if function == last:
                serving.remove(thread)
                ways.append(list(way))

    adjustment = adjusted(env=[A], mounts=[nri_pb2.Mount(destination="/m")])
    with no_idle_threads():  # only new threads are traced
        threading.setprofile(trace)
        try:
            _, runtime = start(PluginWith(create_container=lambda pod, container: adjustment))
        finally:
            threading.setprofile(None)
    page = (Path(__file__).parents[2] / "docs" / "request.md").read_text()
    table = page[page.index("<!-- lane -->") : page.index("<!-- end -->")]
    listed = re.findall(r"^\| `([\w/.]+)` \| `(\w+)` \|", table, re.MULTILINE)
    # Some requests wake the timer as well, and on a busy machine other threads change the way. One takes this way.
    stream_ids = itertools.count(3, 2)

    def takes_it() -> bool:
        stream_id = next(stream_ids)
        runtime.call(stream_id, "CreateContainer", nri_pb2.CreateContainerRequest(pod=POD))
        runtime.response(stream_id)
        return listed in ways[1:]  # Configure is the first, by the general way

    eventually(takes_it)
    functions, files = len(listed) + 1, len({file for file, _ in listed})
    assert f"These are {functions} functions in {files} files" in page


def test_counters_count_the_same() -> None:
    both = Both(Actor)
    for number, act in enumerate(["nothing", "an error", "a refusal", "an abort", "a wrong type"]):
        both.feed(call(2 * number + 1, "CreateContainer", act))
    expected = Counters(requests=5, errors=2, rejections=2)
    assert both.lane.tally.snapshot() == both.general.tally.snapshot() == expected
    both.close()
