"""A server's life: ports, limits, stopping, and running out of things."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from nri_sync.errors import NoThread, NRIError
from nri_sync.net import sockets
from nri_sync.ttrpc import Server, connect
from nri_sync.ttrpc import server as server_module
from tests.forked import WARNS, in_child
from tests.net.rig import open_descriptors
from tests.threadless import no_threads
from tests.ttrpc.rig import (
    LONG,
    REMOTE_OPEN,
    REQUEST,
    SERVICE,
    Calls,
    StringValue,
    echo,
    error_of,
    eventually,
    in_thread,
    method,
    raw_client,
    request,
    serving,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode


class Gate:
    """A handler that waits for the test; ``entered`` counts."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.handlers = {"Echo": method("unary_unary", echo), "Wait": method("unary_unary", self)}

    def __call__(self, message: StringValue, context: Any) -> StringValue:
        self.entered.release()
        assert self.go.wait(LONG)
        return message

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=LONG)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go.set()


def works(address: str) -> bool:
    with connect(address) as channel:
        return bool(Calls(channel).unary("Echo")(text("x")).value == "x")


@WARNS
def test_a_forked_child_does_not_listen() -> None:
    """Otherwise a client that connects after the end of the parent would wait in vain."""

    def listening() -> list[int]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(int(name))
        return found

    before = len(listening())

    def check() -> None:
        assert len(listening()) == before

    with serving() as (_, address):
        assert len(listening()) == before + 1
        in_child(check)
        assert works(address)


class TestPorts:
    def test_several(self, socket_dir: Path) -> None:
        server = Server()
        server.add_registered_method_handlers(SERVICE, {"Echo": method("unary_unary", echo)})
        addresses = [f"unix://{socket_dir}/{name}" for name in "abc"]
        assert [server.add_insecure_port(address) for address in addresses[:2]] == [1, 1]
        server.start()
        server.add_insecure_port(addresses[2])
        assert all(works(address) for address in addresses)
        assert server.stop(None).wait(LONG)
        assert list(socket_dir.iterdir()) == []

    def test_connections_wait_for_the_start(self, socket_dir: Path) -> None:
        address = f"unix://{socket_dir}/s"
        server = Server(
            handlers=[
                grpc.method_handlers_generic_handler(SERVICE, {"Echo": method("unary_unary", echo)})
            ]
        )
        server.add_insecure_port(address)
        with connect(address) as channel:
            future = Calls(channel).unary("Echo").future(text("x"))
            server.start()
            assert future.result(LONG).value == "x"
        assert server.stop(None).wait(LONG)

    def test_an_address_in_use(self) -> None:
        with serving() as (_, address):
            with pytest.raises(RuntimeError, match="cannot listen") as error:
                Server().add_insecure_port(address)
            assert isinstance(error.value.__cause__, OSError)
            assert error.value.__cause__.errno == errno.EADDRINUSE
            assert works(address)

    def test_no_unix_socket(self) -> None:
        with pytest.raises(ValueError, match="not a unix socket"):
            Server().add_insecure_port("[::]:50051")

    def test_no_security(self) -> None:
        with pytest.raises(ValueError, match="no transport security"):
            Server().add_secure_port("unix:///x", None)


class TestLimits:
    def test_maximum_concurrent_rpcs(self, gate: Gate) -> None:
        with ExitStack() as stack:
            _, address = stack.enter_context(serving(gate.handlers, maximum_concurrent_rpcs=2))
            one, two = stack.enter_context(connect(address)), stack.enter_context(connect(address))
            waiting = [Calls(c).unary("Wait").future(text("x")) for c in (one, two)]
            for _ in waiting:
                gate.wait_entered()
            for channel in (one, two):
                code, details = error_of(lambda c=channel: Calls(c).unary("Echo")(text("")))  # type: ignore[misc]
                assert code is Code.RESOURCE_EXHAUSTED
                assert "maximum" in details
            gate.go.set()
            for future in waiting:
                assert future.result(LONG).value == "x"
            assert eventually(lambda: works_on(one))

    def test_a_lost_connection_frees_its_calls(self, gate: Gate) -> None:
        with serving(gate.handlers, maximum_concurrent_rpcs=1) as (server, address):
            with raw_client(address) as peer:
                peer.send(REQUEST, 1, request("Wait"))
                gate.wait_entered()
            assert eventually(lambda: server._running == 0)
            assert works(address)


def works_on(channel: grpc.Channel) -> bool:
    try:
        return bool(Calls(channel).unary("Echo")(text("x")).value == "x")
    except grpc.RpcError:
        return False


class TestStopping:
    def test_without_grace(self, gate: Gate) -> None:
        with serving(gate.handlers) as (server, address), connect(address) as channel:
            future = Calls(channel).unary("Wait").future(text("x"))
            gate.wait_entered()
            stopped = server.stop(None)
            assert stopped.wait(LONG)
            assert future.code() is Code.UNAVAILABLE
            assert server.stop(5) is stopped
            with pytest.raises(FileNotFoundError):
                connect(address)

    def test_a_stream_of_requests_is_not_complete(self) -> None:
        """The handler goes on before the connection ends."""
        outcomes: list[Any] = []
        entered, done = threading.Event(), threading.Event()

        def take(requests: Iterator[Any], context: Any) -> Any:
            entered.set()
            try:
                outcomes.append(list(requests))
            except Exception as error:
                outcomes.append(error)
            finally:
                done.set()
            return text("")

        with (
            serving({"M": method("stream_unary", take)}) as (server, address),
            raw_client(address) as peer,
        ):
            peer.send(REQUEST, 1, request("M"), REMOTE_OPEN)
            assert entered.wait(LONG)
            (connection,) = server._connections
            close = connection.link.close

            def hold_and_close(cause: NRIError | None = None) -> None:
                assert done.wait(LONG)
                close(cause)

            connection.link.close = hold_and_close  # type: ignore[method-assign]
            assert server.stop(None).wait(LONG)
        assert "ended before the stream of requests" in str(outcomes[0])

    def test_grace_lets_calls_finish(self, gate: Gate) -> None:
        for _ in range(20):
            gate.go.clear()
            with serving(gate.handlers) as (server, address), connect(address) as channel:
                futures = [Calls(channel).unary("Wait").future(text("x" * 5000)) for _ in range(3)]
                for _ in futures:
                    gate.wait_entered()
                stopped = server.stop(LONG)
                code, details = error_of(lambda c=channel: Calls(c).unary("Echo")(text("")))  # type: ignore[misc]
                assert (code, details) == (Code.UNAVAILABLE, "the server is stopping")
                assert not stopped.is_set()
                gate.go.set()
                assert [future.result(LONG).value for future in futures] == ["x" * 5000] * 3
                assert stopped.wait(LONG)

    def test_grace_lets_streams_finish(self) -> None:
        go, entered = threading.Event(), threading.Event()

        def stream(message: StringValue, context: Any) -> Iterator[StringValue]:
            entered.set()
            assert go.wait(LONG)
            for number in range(100):
                yield text(str(number))

        handlers = {"M": method("unary_stream", stream)}
        with serving(handlers) as (server, address), connect(address) as channel:
            responses = Calls(channel).stream("M")(text(""))
            assert entered.wait(LONG)
            stopped = server.stop(LONG)
            go.set()
            assert [m.value for m in responses] == [str(number) for number in range(100)]
            assert stopped.wait(LONG)

    def test_grace_is_limited(self, gate: Gate) -> None:
        with serving(gate.handlers) as (server, address), connect(address) as channel:
            future = Calls(channel).unary("Wait").future(text("x"))
            gate.wait_entered()
            began = time.monotonic()
            assert server.stop(0.1).wait(LONG)
            assert 0.1 <= time.monotonic() - began < LONG
            assert future.code() is Code.UNAVAILABLE

    def test_a_shorter_grace_counts(self, gate: Gate) -> None:
        with serving(gate.handlers) as (server, address), connect(address) as channel:
            Calls(channel).unary("Wait").future(text("x"))
            gate.wait_entered()
            began = time.monotonic()
            server.stop(LONG)
            assert server.stop(0.01).wait(LONG)
            assert time.monotonic() - began < LONG / 2

    def test_idle_connections_end_at_once(self) -> None:
        with serving() as (server, address), connect(address), connect(address):
            began = time.monotonic()
            assert server.stop(LONG).wait(LONG)
            assert time.monotonic() - began < LONG / 2

    def test_wait_for_termination(self) -> None:
        with serving() as (server, _):
            assert server.wait_for_termination(0.01)
            stopper = in_thread(lambda: server.stop(None))
            assert not server.wait_for_termination(LONG)
            assert not server.wait_for_termination()
            stopper.join(LONG)

    def test_stop_in_a_signal_handler(self) -> None:
        with serving() as (server, address), connect(address) as channel:
            assert works_on(channel)
            before = signal.signal(signal.SIGUSR1, lambda number, frame: server.stop(None))
            try:
                in_thread(lambda: signal.raise_signal(signal.SIGUSR1)).join(LONG)
                assert not server.wait_for_termination(LONG)
            finally:
                signal.signal(signal.SIGUSR1, before)

    def test_stop_in_a_handler(self) -> None:
        server: Server

        def stop(message: StringValue, context: Any) -> StringValue:
            server.stop(LONG)
            return message

        handlers = {"Stop": method("unary_unary", stop)}
        with serving(handlers) as (server, address), connect(address) as channel:
            assert Calls(channel).unary("Stop")(text("x")).value == "x"
            assert not server.wait_for_termination(LONG)

    def test_before_the_start(self, socket_dir: Path) -> None:
        before = open_descriptors()
        server = Server()
        server.add_insecure_port(f"unix://{socket_dir}/s")
        assert server.stop(None).wait(LONG)
        assert open_descriptors() <= before
        assert list(socket_dir.iterdir()) == []
        with pytest.raises(ValueError, match="once"):
            server.start()
        with pytest.raises(RuntimeError, match="stopped"):
            server.add_insecure_port(f"unix://{socket_dir}/s")
        assert open_descriptors() <= before

    def test_twice(self) -> None:
        with serving() as (server, _), pytest.raises(ValueError, match="once"):
            server.start()

    def test_another_takes_over_the_address(self, socket_dir: Path) -> None:
        address = f"unix://{socket_dir}/s"
        for _ in range(20):
            server = Server()
            server.add_registered_method_handlers(SERVICE, {"Echo": method("unary_unary", echo)})
            server.add_insecure_port(address)
            server.start()
            assert works(address)
            assert server.stop(None).wait(LONG)


class TestRunningOut:
    @pytest.mark.parametrize(
        ("part", "error"),
        [
            ("spawn", NoThread("can't start new thread")),
            ("ServerConnection", OSError(errno.EMFILE, "too many open files")),
        ],
    )
    def test_a_connection_that_cannot_be_served_is_closed(
        self,
        part: str,
        error: Exception,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.0)
        with serving() as (server, address):
            before = open_descriptors()
            with monkeypatch.context() as patch:
                patch.setattr(server_module, part, refuse)
                with raw_client(address) as peer:
                    assert peer.receive() is None
            assert eventually(lambda: open_descriptors() <= before)
            assert not server._connections
            assert works(address)
        assert "cannot accept" in caplog.text

    def test_accepting_goes_on_after_an_error(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.0)
        failed = threading.Event()

        class Listener(sockets.ListeningSocket):
            def accept(self) -> Any:
                if not failed.is_set():
                    failed.set()
                    raise OSError(errno.EMFILE, "too many open files")
                return super().accept()

        monkeypatch.setattr(sockets, "ListeningSocket", Listener)
        with serving() as (_, address):
            assert failed.wait(LONG)
            assert works(address)
        assert "too many open files" in caplog.text

    def test_no_thread_to_accept_on(self, socket_dir: Path) -> None:
        server = Server()
        for name in ("a", "b"):
            server.add_insecure_port(f"unix://{socket_dir}/{name}")
        before = open_descriptors()
        with no_threads(), pytest.raises(NoThread, match="ttrpc-accept-a"):
            server.start()
        assert server.stop(None).wait(LONG)
        assert list(socket_dir.iterdir()) == []
        assert open_descriptors() == before - 2

    def test_no_thread_for_a_further_port(self, socket_dir: Path) -> None:
        with serving() as (server, address):
            with no_threads(), pytest.raises(RuntimeError, match="cannot listen on"):
                server.add_insecure_port(f"unix://{socket_dir}/s")
            assert list(socket_dir.iterdir()) == []
            server.add_insecure_port(f"unix://{socket_dir}/s")
            assert works(f"unix://{socket_dir}/s")
            assert works(address)

    def test_no_thread_to_stop_on(self) -> None:
        with serving() as (server, address), connect(address) as channel:
            assert Calls(channel).unary("Echo")(text("x")).value == "x"
            with no_threads():
                assert server.stop(0).is_set()
            assert not server.wait_for_termination(LONG)

    @pytest.mark.parametrize("started", [False, True])
    def test_stopping_leaves_the_socket_of_another_server(
        self, socket_dir: Path, started: bool
    ) -> None:
        address = f"unix://{socket_dir}/s"
        first = Server()
        first.add_insecure_port(address)
        if started:
            first.start()
        (socket_dir / "s").unlink()
        second = Server()
        second.add_registered_method_handlers(SERVICE, {"Echo": method("unary_unary", echo)})
        second.add_insecure_port(address)
        second.start()
        first.stop(None).wait(LONG)
        assert works(address)
        second.stop(None).wait(LONG)

    @pytest.mark.parametrize("mode", [None, 0o660])
    def test_the_mode_of_the_socket(self, socket_dir: Path, mode: int | None) -> None:
        server = Server() if mode is None else Server(socket_mode=mode)
        server.add_insecure_port(f"unix://{socket_dir}/s")
        found = stat.S_IMODE((socket_dir / "s").stat().st_mode)
        server.stop(None).wait(LONG)
        assert found == (0o600 if mode is None else mode)

    def test_a_connection_accepted_while_stopping_is_closed(self) -> None:
        with serving() as (server, _):
            near, far = socket.socketpair()
            server._stopping = True
            server._serve("x", near)
            assert near.fileno() == -1
            assert far.recv(10) == b""
            far.close()
            server._stopping = False


def test_nothing_is_left_of_many_connections() -> None:
    with serving() as (server, address):
        assert works(address)
        assert eventually(lambda: not server._connections)
        before = open_descriptors()
        for _ in range(300):
            assert works(address)
        assert eventually(lambda: open_descriptors() <= before)
