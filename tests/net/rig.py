"""A link between a test and itself: lines go in, handlers of the test run, lines come out."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

from nri_sync.errors import NRIError
from nri_sync.net.link import Buffer, Job, Link, Receiver
from nri_sync.threads import Latch

__all__ = [
    "LONG",
    "Lines",
    "Peer",
    "Task",
    "eventually",
    "in_thread",
    "linked",
    "open_descriptors",
    "running_threads",
]

#: Longer than anything here takes; a test that gets this far has failed.
LONG = 20.0


class Task(Job):
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


class Lines(Receiver):
    """Serves lines: ``block NAME`` waits for :meth:`release`, ``quiet`` has no answer, ``big N`` a long one.

    Any other line is answered with itself. ``bad`` is a protocol error, ``crash`` one of the receiver.
    """

    def __init__(self) -> None:
        self.link: Link
        self.entered: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._released: set[str] = set()
        self._release = threading.Condition()
        self.jobs: list[Task] = []
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
                task = Task(self, text)
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


def in_thread(function: Callable[[], object], name: str = "test") -> threading.Thread:
    thread = threading.Thread(target=function, name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def linked(
    lines: Lines | None = None, *, kind: type[Link] = Link, run: bool = True, **options: Any
) -> Iterator[tuple[Lines, Peer]]:
    """A running link, and who talks to it. Closed at the end; that it ends is checked."""
    lines = Lines() if lines is None else lines
    near, far = socket.socketpair()
    peer = Peer(far)
    link = lines.link = kind(near, lines, name="rig", **options)
    if run:
        in_thread(link.run, "rig")
        assert lines.has_ticked.wait(LONG)
        if link._callers_read:
            assert eventually(lambda: link._sentinel and not link._token.locked())
    try:
        yield lines, peer
    finally:
        lines.release("*")
        link.close()
        peer.close()
        assert lines.is_lost.wait(LONG)
        assert len(lines.lost_causes) == 1


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether ``condition()`` comes true; for what nothing announces, such as a thread's last breath."""
    give_up = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.002)
    return True


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Threads that the test runner started without the threading module: pytest-xdist's do not count.
_OF_THE_RUNNER = len(os.listdir("/proc/self/task")) - len(threading.enumerate())


def running_threads() -> int:
    """How many threads the kernel knows of; one that has ended may still be on its way out."""
    return len(os.listdir("/proc/self/task")) - _OF_THE_RUNNER
