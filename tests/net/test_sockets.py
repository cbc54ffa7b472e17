"""Unix sockets: targets, connecting, listening, inherited descriptors, who the peer is."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_sync.deadline import Deadline
from nri_sync.net import sockets
from nri_sync.net.sockets import adopt, connect, listen, parse_target, peer_credentials

__all__: list[str] = []


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("unix:///run/a.sock", "/run/a.sock"),
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:a.sock", "a.sock"),
        ("/run/a.sock", "/run/a.sock"),
        ("unix-abstract:name", "\0name"),
    ],
)
def test_targets(target: str, path: str) -> None:
    assert parse_target(target) == path


@pytest.mark.parametrize(
    "target",
    [
        "localhost:80",
        "dns:///x",
        "",
        "a.sock",
        "unix:",
        "unix://host/a",
        "unix://",
        "unix-abstract:",
    ],
)
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        parse_target(target)


@pytest.fixture
def path(socket_dir: Path) -> str:
    return str(socket_dir / "s")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    with listen(path) as sock:
        yield sock


class TestConnect:
    def test_connects(self, listener: socket.socket, path: str) -> None:
        with connect(path, Deadline(None)) as near:
            far, _ = listener.accept()
            with far:
                assert near.getblocking()
                near.sendall(b"x")
                assert far.recv(10) == b"x"

    def test_nothing_there(self, path: str) -> None:
        with pytest.raises(FileNotFoundError) as error:
            connect(path, Deadline(1))
        assert error.value.filename == path

    def test_nobody_listens(self, listener: socket.socket, path: str) -> None:
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            connect(path, Deadline(1))

    def test_path_too_long(self) -> None:
        with pytest.raises(OSError, match="too long"):
            connect("/" + "x" * 200, Deadline(1))

    def test_gives_up_while_the_queue_is_full(self, path: str) -> None:
        with listen(path, backlog=0), connect(path, Deadline(1)):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="accepts no more"):
                connect(path, Deadline(0.05))
            assert time.monotonic() - began >= 0.05

    @pytest.mark.parametrize("timeout", [None, 30.0])
    def test_waits_while_the_queue_is_full(
        self, path: str, timeout: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried_in_vain = threading.Event()

        class Time:
            @staticmethod
            def sleep(seconds: float) -> None:
                tried_in_vain.set()
                time.sleep(seconds)

        monkeypatch.setattr(sockets, "time", Time)
        connected: list[socket.socket] = []
        with listen(path, backlog=0) as listener, connect(path, Deadline(1)):
            thread = threading.Thread(
                target=lambda: connected.append(connect(path, Deadline(timeout)))
            )
            thread.start()
            assert tried_in_vain.wait(10)
            for _ in range(2):
                listener.accept()[0].close()
            thread.join(10)
        connected[0].close()


class TestListen:
    def test_takes_the_place_of_a_stale_socket(self, path: str) -> None:
        listen(path).close()
        with listen(path), connect(path, Deadline(1)):
            pass

    def test_leaves_one_that_is_listened_on(self, listener: socket.socket, path: str) -> None:
        with pytest.raises(OSError, match=path) as error:
            listen(path)
        assert error.value.errno == errno.EADDRINUSE
        connect(path, Deadline(1)).close()

    def test_leaves_one_whose_queue_is_full(self, path: str) -> None:
        with listen(path, backlog=0), connect(path, Deadline(1)):
            with pytest.raises(OSError, match=path) as error:
                listen(path)
            assert error.value.errno == errno.EADDRINUSE

    def test_leaves_what_is_no_socket(self, path: str) -> None:
        Path(path).write_text("precious")
        with pytest.raises(OSError, match=path):
            listen(path)
        assert Path(path).read_text() == "precious"

    def test_a_stale_socket_may_vanish_meanwhile(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listen(path).close()
        lstat = os.lstat

        def vanish(name: str) -> os.stat_result:
            if name == path:
                os.unlink(path)
            return lstat(name)

        monkeypatch.setattr(os, "lstat", vanish)
        with listen(path), connect(path, Deadline(1)):
            pass

    def test_path_too_long(self) -> None:
        with pytest.raises(OSError, match="too long"):
            listen("/" + "x" * 200)

    def test_no_such_directory(self, path: str) -> None:
        with pytest.raises(FileNotFoundError, match=path):
            listen(path + "/s")

    def test_abstract_addresses_are_never_stale(self) -> None:
        name = f"\0nri_sync-test-{os.getpid()}"
        with (
            listen(name),
            connect(name, Deadline(1)),
            pytest.raises(OSError, match="nri_sync-test"),
        ):
            listen(name)


class TestAdopt:
    def test_takes_over_the_descriptor(self) -> None:
        near, far = socket.socketpair()
        near.set_inheritable(True)
        near.setblocking(False)
        fd = near.detach()
        with adopt(fd) as sock, far:
            assert sock.fileno() == fd
            assert not sock.get_inheritable()
            assert sock.getblocking()
            far.sendall(b"x")
            assert sock.recv(10) == b"x"

    @pytest.mark.parametrize("fd", [-1, 1_000_000])
    def test_no_descriptor(self, fd: int) -> None:
        with pytest.raises(OSError, match="descriptor") as error:
            adopt(fd)
        assert error.value.errno == errno.EBADF

    def test_no_socket(self) -> None:
        with open(os.devnull) as file, pytest.raises(OSError, match="socket") as error:
            adopt(file.fileno())
        assert error.value.errno == errno.ENOTSOCK

    @pytest.mark.parametrize(
        ("family", "type", "number"),
        [
            (socket.AF_INET, socket.SOCK_STREAM, errno.EPROTOTYPE),
            (socket.AF_UNIX, socket.SOCK_DGRAM, errno.EPROTOTYPE),
            (socket.AF_UNIX, socket.SOCK_STREAM, errno.ENOTCONN),
        ],
    )
    def test_a_wrong_socket_stays_the_callers(
        self, family: socket.AddressFamily, type: socket.SocketKind, number: int
    ) -> None:
        with socket.socket(family, type) as sock:
            with pytest.raises(OSError, match=r"\[Errno") as error:
                adopt(sock.fileno())
            assert error.value.errno == number
            os.fstat(sock.fileno())


class TestPeerCredentials:
    def test_tells_the_process(self) -> None:
        near, far = socket.socketpair()
        with near, far:
            found = peer_credentials(near)
        assert found == (os.getpid(), os.getuid(), os.getgid())
        assert found is not None
        assert found.pid == os.getpid()

    def test_unknown(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.close()
        assert peer_credentials(sock) is None
