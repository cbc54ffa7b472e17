"""A link between a test and itself: lines go in, handlers of the test run, lines come out."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

from nri_sync.errors import NRIError
from nri_sync.net.link import Buffer, Job, Link
from nri_sync.net.receiver import Receiver
from nri_sync.net.writer import Writer
from nri_sync.threads import Latch

__all__ = [
    "LONG",
    "Hold",
    "Line",
    "Lines",
    "Peer",
    "eventually",
    "fill",
    "in_thread",
    "linked",
    "open_descriptors",
    "read_exactly",
    "running_threads",
]

#: Longer than anything here takes; a test that gets this far has failed.
LONG = 20.0


class Line(Job):
    """A line to be handled."""

    def __init__(self, lines: Lines, text: str) -> None:
        self.text = text
        self.size = len(text)
        self.due = lines.due
        self.was_sent = threading.Event()
        self._lines = lines

    def run(self) -> Sequence[Buffer]:
        return self._lines.handle(self.text)

    def refuse(self) -> Sequence[Buffer]:
        self._lines.refused.append(self.text)
        return [f"refused {self.text}\n".encode()]

    def sent(self) -> None:
        assert not self.was_sent.is_set()
        self.was_sent.set()


class _Events(dict[str, threading.Event]):
    """An event for each name. Two threads that ask for a new name at once get the same event."""

    def __missing__(self, name: str) -> threading.Event:
        return self.setdefault(name, threading.Event())


class Lines(Receiver):
    """Serves lines: ``block NAME`` waits for :meth:`release`, ``quiet`` has no answer, ``big N`` a long one.

    Any other line is answered with itself. ``bad`` is a protocol error, ``crash`` one of the receiver.
    """

    def __init__(self) -> None:
        self.link: Link
        self.entered = _Events()
        self._released: set[str] = set()
        self._release = threading.Condition()
        self.jobs: list[Line] = []
        self.refused: list[str] = []
        self.lost_causes: list[NRIError | None] = []
        self.is_lost = threading.Event()
        self.due = math.inf
        self.received = threading.Semaphore(0)
        self.answers: dict[str, Latch] = {}
        self.has_ticked = threading.Event()
        self.on_tick: Callable[[float], float] = lambda now: math.inf
        self._partial = b""

    def handle(self, text: str) -> Sequence[Buffer]:
        word, _, rest = text.partition(" ")
        self.entered[text].set()
        if word == "block":
            with self._release:
                assert self._release.wait_for(lambda: {rest, "*"} & self._released, LONG), text
        if word == "quiet":
            return ()
        if word == "big":
            return [b"x" * int(rest), b"\n"]
        return [text.encode(), b"\n"]

    def release(self, name: str) -> None:
        """Let ``block NAME`` return; "*" is every name."""
        with self._release:
            self._released.add(name)
            self._release.notify_all()

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        *lines, self._partial = (self._partial + bytes(data)).split(b"\n")
        for line in lines:
            text = line.decode()
            if text == "bad":
                raise NRIError("a bad line")
            if text == "crash":
                raise ZeroDivisionError("a bug")
            if text in self.answers:
                self.answers[text].set()
            else:
                task = Line(self, text)
                self.jobs.append(task)
                jobs.append(task)
        self.received.release()

    def tick(self, now: float) -> float:
        due = self.on_tick(now)
        self.has_ticked.set()
        return due

    def lost(self, cause: NRIError | None) -> None:
        self.lost_causes.append(cause)
        self.is_lost.set()


class Peer:
    """The other end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        sock.settimeout(LONG)

    def send(self, *lines: str) -> None:
        """Send the lines as one write."""
        self.sock.sendall("".join(f"{line}\n" for line in lines).encode())

    def read(self) -> str:
        """The next line; "" at the end."""
        return self.file.readline().decode().rstrip("\n")

    def close(self) -> None:
        self.file.close()
        self.sock.close()


class Hold:
    """A place where threads stop while it is closed."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def close(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait_here(self) -> None:
        if not self._open.is_set():
            self.reached.set()
            assert self._open.wait(LONG)

    def wait_until_reached(self) -> None:
        assert self.reached.wait(LONG)


def in_thread(function: Callable[[], object], name: str = "test") -> threading.Thread:
    thread = threading.Thread(target=function, name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def linked(
    lines: Lines | None = None, *, kind: type[Link] = Link, run: bool = True, **options: Any
) -> Iterator[tuple[Lines, Peer]]:
    """A running link and its peer. The link is closed at the end, and has to end."""
    lines = Lines() if lines is None else lines
    near, far = socket.socketpair()
    peer = Peer(far)
    link = lines.link = kind(near, lines, name="rig", **options)
    if run:
        in_thread(link.run, "rig")
        assert lines.has_ticked.wait(LONG)
        if options.get("callers_read"):
            assert eventually(lambda: link.workers.is_watched and not link.token.is_held)
    try:
        yield lines, peer
    finally:
        lines.release("*")
        link.close()
        peer.close()
        assert lines.is_lost.wait(LONG)
        assert len(lines.lost_causes) == 1


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether ``condition()`` comes true; for changes without an event, such as the end of a thread."""
    give_up = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.002)
    return True


def fill(sender: Link | Writer) -> int:
    """Send until the peer's buffer is full; returns how many bytes that took."""
    filled = 0
    while sender.try_send([b"." * 4096]):
        filled += 4096
    return filled


def read_exactly(peer: Peer, length: int) -> bytes:
    data = peer.file.read(length)
    assert data is not None
    return data


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Threads that the test runner started without the threading module: pytest-xdist's do not count.
_OF_THE_RUNNER = len(os.listdir("/proc/self/task")) - len(threading.enumerate())


def running_threads() -> int:
    """How many threads the kernel knows of; one that has ended may still be on its way out."""
    return len(os.listdir("/proc/self/task")) - _OF_THE_RUNNER
