"""One connection with both ends of it: calls in both directions, stray frames, the end."""

from __future__ import annotations

import math
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, ConnectionLost, NRIError, RemoteProtocolError
from nri_sync.rpc.client_call import ClientCall
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.router import MethodHandler, Router
from nri_sync.session import Session
from nri_sync.wire.mux import FRAME_PAYLOAD_MAX, PLUGIN_SERVICE, RUNTIME_SERVICE, frame_message
from nri_sync.wire.ttrpc import REQUEST, encode_header
from tests.forked import WARNS, in_child
from tests.plugin.harness import encoded, request

__all__: list[str] = []

LONG = 20.0


class End:
    """One side of a connection. It answers ``/test/Echo``, and calls back for ``/test/Back``."""

    def __init__(self, sock: socket.socket, serve: int, call: int, **options: Any) -> None:
        self.lost: queue.SimpleQueue[NRIError | None] = queue.SimpleQueue()
        #: The contexts of requests to ``/test/Wait``, which waits for the end of its request.
        self.waiting: queue.SimpleQueue[RequestContext] = queue.SimpleQueue()
        self._ended = threading.Event()
        router = Router()
        behaviours = {
            "Echo": lambda request, context: b"echo " + request,
            "Back": self._back,
            "Wait": self._wait,
        }
        router.add_registered_method_handlers(
            "test",
            {name: MethodHandler(behaviour) for name, behaviour in behaviours.items()},
        )
        self.session = Session(
            sock,
            router,
            serve=serve,
            call=call,
            name=f"end{serve}",
            peer="unix:test",
            lost=self._lost,
            **options,
        )
        self.thread = threading.Thread(target=self.session.link.run)

    def _lost(self, cause: NRIError | None) -> None:
        self.lost.put(cause)
        self._ended.set()

    def _back(self, request: bytes, context: RequestContext) -> bytes:
        return b"back " + self.call("Echo", request)

    def _wait(self, request: bytes, context: RequestContext) -> bytes:
        ended = threading.Event()
        assert context.add_callback(ended.set)
        self.waiting.put(context)
        assert ended.wait(LONG)
        return b""

    def call(self, method: str, request: bytes) -> bytes:
        return self.session.client.result(self.start(method, request))

    def start(self, method: str, request: bytes) -> ClientCall:
        return self.session.client.start(f"/test/{method}", request, deadline=Deadline(LONG))

    def close(self) -> None:
        self.session.link.close()
        assert self._ended.wait(LONG)
        self.thread.join(LONG)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.settimeout(LONG)
    other.settimeout(LONG)
    with one, other:
        yield one, other


@pytest.fixture
def ends(sockets: tuple[socket.socket, socket.socket]) -> Iterator[tuple[End, End]]:
    plugin = End(sockets[0], PLUGIN_SERVICE, RUNTIME_SERVICE)
    runtime = End(sockets[1], RUNTIME_SERVICE, PLUGIN_SERVICE, callers_read=True)
    for end in (plugin, runtime):
        end.thread.start()
    yield plugin, runtime
    for end in (plugin, runtime):
        end.close()


@pytest.fixture
def make_end(sockets: tuple[socket.socket, socket.socket]) -> Iterator[Callable[..., End]]:
    """Makes the plugin's end. The other end is the bare socket."""
    made: list[End] = []

    def make(**options: Any) -> End:
        made.append(End(sockets[0], PLUGIN_SERVICE, RUNTIME_SERVICE, **options))
        made[-1].thread.start()
        return made[-1]

    yield make
    for end in made:
        end.close()


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, 4_000_000])
def test_both_sides_call(ends: tuple[End, End], size: int) -> None:
    for end in ends:
        assert end.call("Echo", b"x" * size) == b"echo " + b"x" * size


def test_a_handler_calls_back(ends: tuple[End, End]) -> None:
    for end in ends:
        assert end.call("Back", b"x") == b"back echo x"


@pytest.mark.parametrize("closer", [0, 1])
def test_each_side_gets_the_end_once(ends: tuple[End, End], closer: int) -> None:
    assert ends[0].call("Echo", b"") == b"echo "
    ends[closer].session.link.close()
    assert ends[closer].lost.get(timeout=LONG) is None
    cause = ends[1 - closer].lost.get(timeout=LONG)
    assert isinstance(cause, ConnectionLost)
    assert str(cause) == "the peer closed the connection"
    for end in ends:
        end.thread.join(LONG)
        assert end.lost.empty()


def test_calls_after_the_end_fail(ends: tuple[End, End]) -> None:
    ends[0].session.link.close()
    ends[0].lost.get(timeout=LONG)
    ends[1].lost.get(timeout=LONG)
    for end in ends:
        with pytest.raises(CallFailed) as caught:
            end.call("Echo", b"")
        assert caught.value.code() is StatusCode.UNAVAILABLE


def test_a_call_in_flight_fails_with_the_cause(
    make_end: Callable[..., End], sockets: tuple[socket.socket, socket.socket]
) -> None:
    end = make_end()
    call = end.start("Echo", b"")
    assert sockets[1].recv(4096)
    sockets[1].close()
    with pytest.raises(CallFailed, match="the peer closed the connection"):
        end.session.client.result(call)


def test_a_request_that_is_served_learns_of_the_end(ends: tuple[End, End]) -> None:
    ends[1].start("Wait", b"")
    context = ends[0].waiting.get(timeout=LONG)
    ends[1].session.link.close()
    assert ends[0].lost.get(timeout=LONG) is not None
    assert not context.is_active()


@WARNS
def test_a_forked_child_has_neither_the_calls_nor_the_connection(ends: tuple[End, End]) -> None:
    waiting = ends[1].start("Wait", b"")
    ends[0].waiting.get(timeout=LONG)

    def check() -> None:
        for end in ends:
            assert end.session.server.wait_idle(Deadline(LONG / 2))
            with pytest.raises(CallFailed, match="belongs to the process that forked"):
                end.call("Echo", b"")

    in_child(check)
    assert not waiting.done.is_set()
    assert ends[0].call("Echo", b"x") == b"echo x"


def test_data_for_other_connections_is_discarded(
    make_end: Callable[..., End],
    sockets: tuple[socket.socket, socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = make_end()
    caplog.set_level("DEBUG", "nri_sync.session")
    for connection_id in (0, 3, 3, 2**32 - 1, *range(100, 140)):
        sockets[1].sendall(connection_id.to_bytes(4, "big") + b"\0\0\0\5" + b"hello")
    # The connection continues: a request for an unknown method gets an answer.
    sockets[1].sendall(encoded(1, 1, 1, request("Nothing")))
    assert sockets[1].recv(8)[:4] == b"\0\0\0\1"
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    # One warning for each id would be too many.
    assert len(warnings) <= 17
    assert "end1: data for connection 3, which has no service, is discarded" in caplog.text
    sockets[1].close()
    end.lost.get(timeout=LONG)
    assert "end1: 10 bytes for connection 3 discarded" in caplog.text


def test_a_frame_that_is_too_long_ends_it(
    make_end: Callable[..., End], sockets: tuple[socket.socket, socket.socket]
) -> None:
    end = make_end()
    sockets[1].sendall(b"\0\0\0\1" + (FRAME_PAYLOAD_MAX + 1).to_bytes(4, "big"))
    cause = end.lost.get(timeout=LONG)
    assert isinstance(cause, RemoteProtocolError)
    assert "claims 4194315 bytes" in str(cause)
    assert sockets[1].recv(1) == b""


def test_nothing_is_read_before_it_runs(sockets: tuple[socket.socket, socket.socket]) -> None:
    end = End(sockets[0], PLUGIN_SERVICE, RUNTIME_SERVICE)
    sockets[1].sendall(b"\0\0\0\1")
    assert sockets[0].recv(4, socket.MSG_PEEK) == b"\0\0\0\1"
    end.thread.start()
    end.close()
    assert end.lost.get(timeout=LONG) is None


def test_the_clock_ticks_for_the_owner(make_end: Callable[..., End]) -> None:
    ticks: queue.SimpleQueue[float] = queue.SimpleQueue()

    def tick(now: float) -> float:
        ticks.put(now)
        # Twice at the start, and then at the requested times.
        return now + 0.01 if ticks.qsize() < 4 else math.inf

    make_end(tick=tick)
    times = [ticks.get(timeout=LONG) for _ in range(4)]
    assert times == sorted(times)
    assert times[3] >= times[0] + 0.01


_SIZES = st.one_of(st.integers(0, 60), st.just(4086), st.just(9000))


@pytest.mark.timeout(300)
@given(
    messages=st.lists(st.tuples(st.sampled_from((1, 2, 9)), _SIZES), max_size=6),
    # Most reads end at the end of a message.
    cuts=st.lists(st.one_of(st.none(), st.integers(1, 5000)), max_size=8),
)
def test_the_cuts_between_reads_do_not_matter(
    messages: list[tuple[int, int]], cuts: list[int | None]
) -> None:
    one, other = socket.socketpair()
    with one, other:
        session = End(one, PLUGIN_SERVICE, RUNTIME_SERVICE).session
        requests: list[tuple[int, int]] = []
        framed, discarded = [], 0
        for number, (connection_id, size) in enumerate(messages):
            stream_id = 2 * number + 1
            header = encode_header(REQUEST, stream_id, 0, size)
            framed.append(b"".join(frame_message(connection_id, header, bytes(size))))
            if connection_id == PLUGIN_SERVICE:
                requests.append((stream_id, size))
            discarded += len(header) + size if connection_id == 9 else 0
        jobs: list[Any] = []
        rest = b"".join(framed)
        ends = [sum(map(len, framed[: count + 1])) for count in range(len(framed))]
        while rest:
            done = ends[-1] - len(rest)
            whole = next(end for end in ends if end > done) - done
            size = (cuts.pop(0) if cuts else None) or whole
            session.receive(memoryview(rest[:size]), jobs)
            rest = rest[size:]
        assert [(job.stream_id, job.size) for job in jobs] == requests
        assert sum(session.discarded.values()) == discarded
        session.link.abandon()


def _framed(stream_id: int, data: bytes) -> bytes:
    header = encode_header(REQUEST, stream_id, 0, len(data))
    return b"".join(frame_message(PLUGIN_SERVICE, header, data))


@pytest.mark.parametrize("cut", ["in a frame", "between two frames of a message"])
def test_data_that_looks_like_a_message_stays_data(
    sockets: tuple[socket.socket, socket.socket], cut: str
) -> None:
    inner = _framed(5, b"inner")
    size = len(inner)
    if cut == "in a frame":
        first = _framed(1, inner)[:-size]
    else:
        # The first frame has the header only. The second one begins with the header of a frame, which is not data.
        size -= 8
        first = b"".join(frame_message(PLUGIN_SERVICE, encode_header(REQUEST, 1, 0, size), b""))
    session = End(sockets[0], PLUGIN_SERVICE, RUNTIME_SERVICE).session
    jobs: list[Any] = []
    for read in (first, inner, _framed(7, b"next")):
        session.receive(memoryview(read), jobs)
    assert [(job.stream_id, job.size) for job in jobs] == [(1, size), (7, 4)]
    session.link.abandon()


def test_requests_go_to_the_one_side_and_answers_to_the_other(ends: tuple[End, End]) -> None:
    # Stream ids are counted for each direction: both sides use the same ones.
    done = threading.Barrier(3)

    def call(end: End) -> None:
        for number in range(20):
            assert end.call("Echo", b"%d" % number) == b"echo %d" % number
        done.wait(LONG)

    callers = [threading.Thread(target=call, args=(end,)) for end in ends]
    for caller in callers:
        caller.start()
    done.wait(LONG)
    for caller in callers:
        caller.join(LONG)
    for end in ends:
        assert end.session.server.wait_idle(Deadline(LONG))
