"""The socket for plugins: its directory, its path, its end."""

from __future__ import annotations

import os
import queue
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import StartError
from nri_sync.net import sockets
from nri_sync.runtime.listener import Listener
from tests.runtime.rig import LONG

__all__: list[str] = []

Listen = Callable[..., Listener]


@pytest.fixture
def arrived() -> queue.SimpleQueue[socket.socket]:
    return queue.SimpleQueue()


@pytest.fixture
def listen(arrived: queue.SimpleQueue[socket.socket]) -> Iterator[Listen]:
    made: list[Listener] = []

    def listen(path: Path) -> Listener:
        made.append(Listener(str(path), arrived.put))
        return made[-1]

    yield listen
    for listener in made:
        listener.close()
        listener.wait_closed()
    while not arrived.empty():  # connections of probes for a listener
        arrived.get().close()


def test_hands_on_each_connection(
    listen: Listen, arrived: queue.SimpleQueue[socket.socket], socket_dir: Path
) -> None:
    listen(socket_dir / "s")
    for text in (b"a", b"b"):
        with sockets.connect(str(socket_dir / "s"), Deadline(LONG)) as ours:
            with arrived.get(timeout=LONG) as theirs:
                theirs.sendall(text)
            assert ours.recv(1) == text


def test_makes_private_directories(listen: Listen, socket_dir: Path) -> None:
    os.chmod(socket_dir, 0o755)
    listen(socket_dir / "a" / "b" / "s")
    modes = [stat.S_IMODE(os.stat(socket_dir / path).st_mode) for path in ("a", "a/b", ".")]
    assert modes == [0o700, 0o700, 0o755]


@pytest.mark.parametrize("place", ["run/nri", "run"])
def test_warns_of_a_directory_that_others_can_write(
    listen: Listen, socket_dir: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (socket_dir / "run" / "nri").mkdir(parents=True)
    for mode in (0o1777, 0o755):
        (socket_dir / place).chmod(mode)
        listen(socket_dir / "run" / "nri" / f"{mode:o}")
    assert caplog.messages == []
    (socket_dir / place).chmod(0o777)
    path = socket_dir / "run" / "nri" / "s"
    listen(path)
    [text] = caplog.messages
    assert text.startswith(f"other users can replace the socket {path}: ")
    assert "others can write it (mode 0777)" in text


def test_takes_the_place_of_a_stale_socket_and_of_nothing_else(
    listen: Listen, socket_dir: Path
) -> None:
    path = socket_dir / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listen(path)
    with pytest.raises(StartError, match=f"cannot listen for plugins on {path}: .*in use") as error:
        listen(path)
    assert error.value.phase == "listen"
    (socket_dir / "file").touch()
    with pytest.raises(StartError):
        listen(socket_dir / "file")
    assert (socket_dir / "file").exists()


def test_closing_removes_its_own_socket_only(listen: Listen, socket_dir: Path) -> None:
    path = socket_dir / "s"
    listener = listen(path)
    listener.close()
    listener.close()
    assert not path.exists()
    second = listen(path)
    path.unlink()
    listen(path)
    second.close()
    assert path.exists()


def test_accepting_goes_on_after_a_failure(
    listen: Listen,
    arrived: queue.SimpleQueue[socket.socket],
    socket_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Exhausted(sockets.ListeningSocket):
        failed = False

        def accept(self) -> Any:
            if not self.failed:
                self.failed = True
                raise OSError(24, "Too many open files")
            return super().accept()

    monkeypatch.setattr(sockets, "ListeningSocket", Exhausted)
    listen(socket_dir / "s")
    with sockets.connect(str(socket_dir / "s"), Deadline(LONG)):
        arrived.get(timeout=LONG).close()
    assert caplog.messages == ["cannot accept a connection: [Errno 24] Too many open files"]


def test_only_this_user_may_connect(listen: Listen, socket_dir: Path) -> None:
    before = os.umask(0)
    try:
        listen(socket_dir / "s")
    finally:
        os.umask(before)
    assert stat.S_IMODE((socket_dir / "s").stat().st_mode) == 0o600
