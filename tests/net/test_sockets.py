"""Unix sockets: targets, connecting, listening, inherited descriptors, the process of the peer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.deadline import Deadline
from nri_sync.net import sockets
from nri_sync.net.sockets import (
    ListeningSocket,
    adopt,
    connect,
    listen,
    make_directories,
    parse_target,
    peer_credentials,
)
from tests.forked import WARNS, in_child
from tests.net.rig import LONG, in_thread, open_descriptors

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
            connect(path, Deadline(LONG))
        assert error.value.filename == path

    def test_no_listener(self, listener: socket.socket, path: str) -> None:
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            connect(path, Deadline(LONG))

    def test_path_too_long(self) -> None:
        with pytest.raises(OSError, match="too long"):
            connect("/" + "x" * 200, Deadline(LONG))

    def test_gives_up_while_the_queue_is_full(self, path: str) -> None:
        with listen(path, backlog=0), connect(path, Deadline(LONG)):
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
        with listen(path, backlog=0) as listener, connect(path, Deadline(LONG)):
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
        with listen(path), connect(path, Deadline(LONG)):
            pass

    def test_leaves_one_that_is_listened_on(self, listener: socket.socket, path: str) -> None:
        with pytest.raises(OSError, match=path) as error:
            listen(path)
        assert error.value.errno == errno.EADDRINUSE
        connect(path, Deadline(LONG)).close()

    def test_leaves_one_whose_queue_is_full(self, path: str) -> None:
        with listen(path, backlog=0), connect(path, Deadline(LONG)):
            with pytest.raises(OSError, match=path) as error:
                listen(path)
            assert error.value.errno == errno.EADDRINUSE

    def test_leaves_other_files_than_sockets(self, path: str) -> None:
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
        with listen(path), connect(path, Deadline(LONG)):
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
            connect(name, Deadline(LONG)),
            pytest.raises(OSError, match="nri_sync-test"),
        ):
            listen(name)

    def test_a_failure_leaves_no_file(self, path: str) -> None:
        with pytest.raises(OverflowError):
            listen(path, 1 << 40)
        assert not os.path.lexists(path)


class TestMode:
    @pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
    @pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
    def test_is_the_one_asked_for(self, path: str, mode: int, umask: int) -> None:
        with masked(umask), listen(path, mode=mode):
            assert stat.S_IMODE(os.stat(path).st_mode) == mode

    def test_is_of_the_owner_only_by_default(self, path: str) -> None:
        with masked(0), listen(path):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    def test_is_never_wider_than_asked_for(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes: list[int] = []

        class Watched(ListeningSocket):
            def bind(self, address: Any) -> None:
                super().bind(address)
                modes.append(stat.S_IMODE(os.stat(path).st_mode))

        monkeypatch.setattr(sockets, "ListeningSocket", Watched)
        with masked(0), listen(path, mode=0o600):
            assert modes == [0o600]

    def test_that_of_another_file_is_left_alone(
        self, path: str, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # In a directory that others may write, one of them puts a link in the place of the new socket.
        precious = socket_dir / "precious"
        precious.touch(0o600)

        class Swapped(ListeningSocket):
            def bind(self, address: Any) -> None:
                super().bind(address)
                os.unlink(path)
                os.symlink(precious, path)

        monkeypatch.setattr(sockets, "ListeningSocket", Swapped)
        with masked(0o077):
            listen(path, mode=0o666).close()
        assert stat.S_IMODE(precious.stat().st_mode) == 0o600

    def test_directories_are_private_all_the_way(self, socket_dir: Path) -> None:
        with masked(0):
            make_directories(str(socket_dir / "a" / "b"))
            make_directories(str(socket_dir / "a" / "b"))
        for name in ("a", "a/b"):
            assert stat.S_IMODE((socket_dir / name).stat().st_mode) == 0o700


class TestRemove:
    def test_its_file(self, path: str) -> None:
        with listen(path) as sock:
            sock.remove()
            assert not os.path.lexists(path)
            sock.remove()

    def test_a_second_thread_waits_until_the_file_is_gone(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Until then the socket has to listen, and the second thread would close it."""
        unlinks, go_on, returned = threading.Event(), threading.Event(), threading.Event()
        unlink = os.unlink

        def slow(path: str) -> None:
            unlinks.set()
            assert go_on.wait(LONG)
            unlink(path)

        def second() -> None:
            sock.remove()
            returned.set()

        monkeypatch.setattr(sockets, "BIND_WAIT", LONG)
        with listen(path) as sock:
            monkeypatch.setattr(os, "unlink", slow)
            threads = [in_thread(sock.remove)]
            assert unlinks.wait(LONG)
            threads.append(in_thread(second))
            assert not returned.wait(0.1)
            go_on.set()
            for thread in threads:
                thread.join(LONG)
            assert returned.is_set()
            assert not os.path.lexists(path)

    def test_closing_leaves_it(self, path: str) -> None:
        listen(path).close()
        assert os.path.lexists(path)

    @pytest.mark.parametrize("stop", [ListeningSocket.remove, ListeningSocket.stop])
    def test_not_the_file_of_another_socket(
        self, path: str, stop: Callable[[ListeningSocket], None]
    ) -> None:
        with listen(path) as first:
            os.unlink(path)
            with listen(path):
                stop(first)
                connect(path, Deadline(LONG)).close()

    def test_not_the_file_of_the_next_one(self, path: str) -> None:
        with listen(path) as first:
            first.stop()
            with listen(path):
                first.stop()
                connect(path, Deadline(LONG)).close()

    def test_an_abstract_address_has_none(self) -> None:
        with listen(f"\0nri_sync-test-{os.getpid()}") as sock:
            sock.stop()

    def test_stopping_ends_accept(self, path: str) -> None:
        ended = threading.Event()

        def accept() -> None:
            with contextlib.suppress(OSError):
                sock.accept()
            ended.set()

        with listen(path) as sock:
            threading.Thread(target=accept).start()
            sock.stop()
            assert ended.wait(10)

    def test_it_listens_until_another_thread_has_removed_the_file(
        self, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = str(socket_dir / "s")
        removing, go_on, stopped = threading.Event(), threading.Event(), threading.Event()
        unlink = os.unlink

        def slow_unlink(name: str) -> None:
            removing.set()
            assert go_on.wait(10)
            unlink(name)

        def stop() -> None:
            sock.stop()
            stopped.set()

        with listen(path) as sock:
            monkeypatch.setattr(os, "unlink", slow_unlink)
            first = threading.Thread(target=sock.remove)
            first.start()
            assert removing.wait(10)
            second = threading.Thread(target=stop)
            second.start()
            # The path still leads to a socket that listens: another process does not take it for a stale one.
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
            assert not stopped.is_set()
            go_on.set()
            first.join(10)
            second.join(10)
            assert stopped.is_set()
            assert not os.path.exists(path)

    @WARNS
    @pytest.mark.parametrize("stop", [ListeningSocket.remove, ListeningSocket.stop])
    def test_a_forked_child_leaves_the_parents(
        self, path: str, stop: Callable[[ListeningSocket], None]
    ) -> None:
        with listen(path) as sock:
            in_child(lambda: stop(sock))
            connect(path, Deadline(LONG)).close()
            sock.accept()[0].close()


class TestTurns:
    @pytest.mark.parametrize("threads", [8])
    def test_one_of_many_takes_the_place_of_a_stale_socket(self, path: str, threads: int) -> None:
        for _ in range(20):
            listen(path).close()
            start = threading.Barrier(threads)
            listening: list[ListeningSocket] = []
            refused: list[int | None] = []

            def attempt(
                start: threading.Barrier,
                listening: list[ListeningSocket],
                refused: list[int | None],
            ) -> None:
                start.wait(10)
                try:
                    listening.append(listen(path))
                except OSError as error:
                    refused.append(error.errno)

            running = [
                threading.Thread(target=attempt, args=(start, listening, refused))
                for _ in range(threads)
            ]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join(20)
            assert refused == [errno.EADDRINUSE] * (threads - 1)
            (winner,) = listening
            connect(path, Deadline(LONG)).close()
            winner.stop()
            winner.close()

    def test_between_bind_and_listen(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # A socket that is bound and does not listen yet looks stale.
        bound, looked = threading.Event(), threading.Event()

        class Slow(ListeningSocket):
            def listen(self, backlog: int = 0) -> None:
                bound.set()
                assert looked.wait(10)
                super().listen(backlog)

        first: list[ListeningSocket] = []
        with monkeypatch.context() as patch:
            patch.setattr(sockets, "ListeningSocket", Slow)
            thread = threading.Thread(target=lambda: first.append(listen(path)))
            thread.start()
            assert bound.wait(10)
        lock = sockets.is_held

        def is_locked(directory: int) -> bool:
            locked = lock(directory)
            looked.set()
            return locked

        monkeypatch.setattr(sockets, "is_held", is_locked)
        with pytest.raises(OSError, match=path):
            listen(path)
        thread.join(10)
        connect(path, Deadline(LONG)).close()
        first[0].close()

    def test_a_lock_that_another_program_holds_delays_only(
        self, path: str, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sockets, "BIND_WAIT", 0.02)
        directory = os.open(socket_dir, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            listen(path).close()
        finally:
            os.close(directory)

    def test_the_lock_is_that_of_the_directory(
        self, path: str, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sockets, "BIND_WAIT", LONG)
        listens = threading.Event()

        def bind() -> None:
            listen(path).close()
            listens.set()

        directory = os.open(socket_dir, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            thread = in_thread(bind)
            assert not listens.wait(0.1)
        finally:
            os.close(directory)
        thread.join(LONG)
        assert listens.is_set()

    def test_the_lock_leaves_no_descriptor(self, path: str) -> None:
        before = open_descriptors()
        for _ in range(2):
            listen(path).close()
        assert open_descriptors() <= before

    def test_the_lock_is_released_though_a_child_has_the_descriptor(
        self, path: str, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copies: list[int] = []
        lock = sockets.is_held

        def is_locked(directory: int) -> bool:
            copies.append(os.dup(directory))  # as fork() does
            return lock(directory)

        monkeypatch.setattr(sockets, "is_held", is_locked)
        listen(path).close()
        directory = os.open(socket_dir, os.O_RDONLY)
        try:
            assert lock(directory)
        finally:
            for fd in [directory, *copies]:
                os.close(fd)


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


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
