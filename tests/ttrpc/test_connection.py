"""Connecting, and what is left when that fails."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from nri_sync.errors import ConnectionLost, NRIError
from nri_sync.net.sockets import listen
from nri_sync.ttrpc import connect, connection
from nri_sync.ttrpc.connection import frame
from tests.net.rig import LONG, eventually, open_descriptors
from tests.ttrpc.rig import Calls, serving, text

__all__: list[str] = []


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1])
def test_frame(size: int) -> None:
    payload = b"x" * size
    buffers = frame(b"header", payload)
    assert b"".join(buffers) == b"header" + payload
    assert len(buffers) == (1 if size <= 16 * 1024 else 2)


def test_it_must_be_a_unix_socket() -> None:
    with pytest.raises(ValueError, match="not a unix socket"):
        connect("localhost:50051")


def test_nobody_there(socket_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(f"unix://{socket_dir}/s")


def test_nobody_accepts(socket_dir: Path) -> None:
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
    from tests.ttrpc.rig import SERVICE, echo, method

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
