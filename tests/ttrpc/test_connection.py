"""Connecting, and that nothing is left when that fails."""

from __future__ import annotations

import gc
import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.errors import ConnectionLost, NRIError
from nri_sync.net.sockets import listen
from nri_sync.ttrpc import connect, connection
from nri_sync.ttrpc.connection import frame
from tests.net.rig import LONG, eventually, in_thread, open_descriptors
from tests.ttrpc.rig import Calls, method, serving, text

__all__: list[str] = []


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1])
def test_frame(size: int) -> None:
    payload = b"x" * size
    buffers = frame(b"header", payload)
    assert b"".join(buffers) == b"header" + payload
    assert len(buffers) == (1 if size <= 16 * 1024 else 2)


def test_an_address_that_is_no_unix_socket_is_refused() -> None:
    with pytest.raises(ValueError, match="not a unix socket"):
        connect("localhost:50051")


def test_no_server(socket_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(f"unix://{socket_dir}/s")


def test_a_server_that_does_not_accept(socket_dir: Path) -> None:
    path = str(socket_dir / "s")
    with listen(path, backlog=0), connect(path), pytest.raises(TimeoutError):
        connect(path, timeout=0.02)


def test_on_close_after_a_loss_and_after_a_close() -> None:
    for lose in (True, False):
        causes: list[NRIError | None] = []
        closed = threading.Event()

        def on_close(cause: NRIError | None, causes: Any = causes, closed: Any = closed) -> None:
            causes.append(cause)
            closed.set()

        with serving() as (server, address):
            channel = connect(address, name="mine", on_close=on_close)
            assert Calls(channel).unary("Echo")(text("x")).value == "x"
            assert any(thread.name == "mine" for thread in threading.enumerate())
            if lose:
                server.stop(None)
            else:
                channel.close()
            assert closed.wait(LONG)
        assert len(causes) == 1
        assert isinstance(causes[0], ConnectionLost) == lose


class TestDropped:
    """A channel without a reference ends its connection, unless a method or a call leads to it."""

    def test_nothing_is_left(self) -> None:
        with serving() as (_, address):
            name = f"ttrpc-accept-{os.path.basename(address)}"
            assert eventually(lambda: name in [thread.name for thread in threading.enumerate()])
            descriptors, threads = open_descriptors(), threading.active_count()
            for _number in range(5):
                assert Calls(connect(address)).unary("Echo")(text("x")).value == "x"
            gc.collect()
            assert eventually(lambda: open_descriptors() <= descriptors)
            assert eventually(lambda: threading.active_count() <= threads)

    def test_on_close_is_called(self) -> None:
        causes: queue.SimpleQueue[object] = queue.SimpleQueue()
        with serving() as (_, address):
            channel = connect(address, on_close=causes.put)
            del channel
            assert causes.get(timeout=LONG) is None

    def test_a_method_keeps_the_channel(self) -> None:
        closed = threading.Event()
        with serving() as (_, address):
            echo = Calls(connect(address, on_close=lambda cause: closed.set())).unary("Echo")
            gc.collect()
            assert echo(text("x")).value == "x"
            assert not closed.is_set()
            del echo
            assert closed.wait(LONG)

    def test_a_call_keeps_the_channel(self) -> None:
        with raw_server_of_one_call() as (future, answer):
            gc.collect()
            answer()
            assert future.result(LONG).value == "y"

    def test_a_subscriber_does_not_keep_the_channel(self) -> None:
        closed = threading.Event()
        seen: queue.SimpleQueue[object] = queue.SimpleQueue()
        with serving() as (_, address):
            channel = connect(address, on_close=lambda cause: closed.set())
            channel.subscribe(seen.put)
            assert seen.get(timeout=LONG)
            del channel
            assert eventually(lambda: gc.collect() >= 0 and closed.is_set())

    def test_the_collector_may_run_while_the_lock_is_held(self) -> None:
        closed = threading.Event()
        with serving() as (_, address):
            channel = connect(address, on_close=lambda cause: closed.set())
            link = channel.end.link
            cycle: list[object] = [channel]
            cycle.append(cycle)
            del channel, cycle

            def collect() -> None:
                with link._lock, link.workers._lock, link.timer._lock, link.writer._lock:
                    gc.collect()

            collector = in_thread(collect)
            collector.join(LONG)
            assert not collector.is_alive()
            assert closed.wait(LONG)


@contextmanager
def raw_server_of_one_call() -> Iterator[tuple[Any, Callable[[], None]]]:
    """A call whose object is all that is left of its channel, and how to have it answered."""
    go = threading.Event()

    def wait(message: Any, context: Any) -> Any:
        assert go.wait(LONG)
        return text("y")

    with serving({"Wait": method("unary_unary", wait)}) as (_, address):
        try:
            yield Calls(connect(address)).unary("Wait").future(text("x")), go.set
        finally:
            go.set()


def test_on_close_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def on_close(cause: object) -> None:
        raise ZeroDivisionError("a bug")

    with serving() as (_, address), connect(address, on_close=on_close):
        pass
    assert eventually(lambda: "a bug" in caplog.text)


@pytest.mark.parametrize("part", ["ClientConnection", "spawn"])
def test_a_failure_leaves_nothing_behind(
    part: str, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of everything")

    path = str(socket_dir / "s")
    with listen(path) as listener:
        before = open_descriptors()
        monkeypatch.setattr(connection, part, refuse)
        with pytest.raises(RuntimeError, match="out of everything"):
            connect(path)
        assert open_descriptors() <= before
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(10) == b""


def test_abstract_addresses() -> None:
    from nri_sync.ttrpc import Server
    from tests.ttrpc.rig import SERVICE, echo

    name = f"unix-abstract:nri_sync-test-{threading.get_native_id()}"
    server = Server()
    server.add_registered_method_handlers(SERVICE, {"Echo": method("unary_unary", echo)})
    server.add_insecure_port(name)
    server.start()
    with connect(name) as channel:
        assert Calls(channel).unary("Echo")(text("x")).value == "x"
    assert server.stop(None).wait(LONG)
    with pytest.raises(ConnectionRefusedError):
        connect(name)
    assert socket.AF_UNIX
