"""The faults of a :class:`.FaultProxy`, and the connections in which they strike."""

from __future__ import annotations

import contextlib
import math
import random
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.testing.common import WITHIN
from nri_sync.threads import Latch, spawn

__all__ = ["FAULT_KINDS", "SENDERS", "Fault", "FaultyConnection"]

#: All kinds of faults; :class:`Fault` describes them.
FAULT_KINDS = (
    "cut", "stall", "half-close", "delay", "split", "coalesce", "corrupt", "truncate", "duplicate",
)  # fmt: skip
#: The sides whose bytes a fault may strike.
SENDERS = ("runtime", "plugin")

_CHUNK = 65536
# poll() takes milliseconds as a C int.
_LONGEST_POLL = 1 << 30


@dataclass(frozen=True)
class Fault:
    """One fault. It strikes once, when the sender's byte at ``offset`` (counted from 0) arrives.

    =============== ============================================================================================
    ``cut``         The proxy closes both sides. It does not forward the byte at the offset.
    ``stall``       The proxy forwards no more bytes of this sender. It cuts the connection after ``seconds``, or,
                    without ``seconds``, when one side disconnects.
    ``half-close``  The other side reads the end of the stream. The proxy still forwards that side's bytes.
    ``delay``       The proxy waits for ``seconds``, and continues.
    ``split``       The next ``length`` bytes arrive one by one.
    ``coalesce``    The proxy collects ``length`` bytes, for ``seconds`` at most, and forwards them at once.
    ``corrupt``     The proxy XORs the byte with ``mask``.
    ``truncate``    The proxy drops up to ``length`` bytes.
    ``duplicate``   The proxy sends up to ``length`` bytes twice.
    =============== ============================================================================================

    ``truncate`` and ``duplicate`` affect only bytes that have arrived in one piece: they never wait for more.
    """

    kind: str
    offset: int = 0
    #: The side that sends the bytes, ``"runtime"`` or ``"plugin"``.
    sender: str = "runtime"
    length: int = 1
    seconds: float | None = None
    mask: int = 0xFF

    def __post_init__(self) -> None:
        """Raise ValueError for a fault that cannot strike or has no effect."""
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"no fault {self.kind!r}; the kinds are: {', '.join(FAULT_KINDS)}")
        if self.sender not in SENDERS:
            raise ValueError(f"sender must be one of {', '.join(SENDERS)}, not {self.sender!r}")
        if self.offset < 0:
            raise ValueError(f"offset must not be negative: {self.offset}")
        if self.length < 1:
            raise ValueError(f"length must be positive: {self.length}")
        if not 1 <= self.mask <= 0xFF:
            raise ValueError(f"mask must be from 1 to 255: {self.mask}")
        if self.seconds is None and self.kind in ("delay", "coalesce"):
            raise ValueError(f"a fault of the kind {self.kind} needs seconds")
        if self.seconds is not None and not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds must be a finite time, not {self.seconds}")

    def __str__(self) -> str:
        return f"{self.kind} at byte {self.offset} of the {self.sender}"

    @classmethod
    def draw(cls, kind: str, offset: int, sender: str, source: random.Random) -> Fault:
        """A fault at that place; ``source`` draws the length (up to 32), the mask and the time (up to 10 ms).

        A quarter of the stalls have no time limit, so that the timeouts of the two sides have to end them.
        """
        seconds: float | None = source.uniform(0.001, 0.01)
        if kind == "stall" and source.random() < 0.25:
            seconds = None
        length, mask = source.randint(1, 32), source.randint(1, 255)
        return cls(kind, offset, sender, length=length, seconds=seconds, mask=mask)


class FaultyConnection:
    """One connection through a :class:`FaultProxy`. Any thread may call the methods."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        #: The faults that were prepared, in the order of their offsets.
        self.faults = tuple(sorted(faults, key=lambda fault: fault.offset))
        #: The faults that have struck, in that order.
        self.struck: list[Fault] = []
        #: The number of bytes that each side has sent so far.
        self.carried = dict.fromkeys(SENDERS, 0)
        self._struck = Latch()
        self._ended = Latch()
        # Guards the sockets: cut() uses them while another thread may close them.
        self._lock = threading.Lock()
        self._sockets: tuple[socket.socket, ...] = ()
        self._is_cut = False

    def end(self) -> None:
        """Record that both sides are closed. For the proxy."""
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether both sides are closed. The threads of the connection end at about that time."""
        return self._ended.is_set()

    def wait_struck(self, timeout: float | None = WITHIN) -> bool:
        """Block until all faults have struck (True), or for ``timeout`` seconds (False)."""
        return self._struck.wait(Deadline(timeout))

    def wait_closed(self, timeout: float | None = WITHIN) -> bool:
        """Block until both sides are closed (True), or for ``timeout`` seconds (False)."""
        return self._ended.wait(Deadline(timeout))

    def cut(self) -> None:
        """Cut the connection; a future one is cut when it begins. Idempotent; does not block."""
        with self._lock:
            self._is_cut = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def run(self, plugin: socket.socket, runtime: socket.socket) -> None:
        """Forward both directions. Blocks until both have ended. For the proxy."""
        with self._lock:
            self._sockets = (plugin, runtime)
            if self._is_cut:
                return
        try:
            to_plugin = _Flow(self, "runtime", runtime, plugin)
            ended = spawn("nri-faults-to-plugin", to_plugin.run)
            _Flow(self, "plugin", plugin, runtime).run()
            ended.wait()
        except NoThread:
            pass  # the caller closes both sides
        finally:
            with self._lock:
                self._sockets = ()

    def strike(self, fault: Fault) -> None:
        """Record that a fault strikes now."""
        self.struck.append(fault)
        if len(self.struck) == len(self.faults):
            self._struck.set()


class _Cut(Exception):
    """A fault has ended the connection."""


class _Flow:
    """The bytes from one side to the other, with the faults of the sending side."""

    def __init__(
        self, connection: FaultyConnection, sender: str, source: socket.socket, sink: socket.socket
    ) -> None:
        self._connection = connection
        self._sender = sender
        self._source = source
        self._sink = sink
        self._faults = deque(fault for fault in connection.faults if fault.sender == sender)

    def run(self) -> None:
        try:
            with contextlib.suppress(OSError):
                for data in self._pieces():
                    self._sink.sendall(data)
        except _Cut:
            self._connection.cut()
        finally:
            with contextlib.suppress(OSError):
                self._sink.shutdown(socket.SHUT_WR)

    def _pieces(self) -> Iterator[bytes]:
        """The pieces to forward. Each needs a separate send()."""
        carried = self._connection.carried
        while data := self._source.recv(_CHUNK):
            begin = carried[self._sender]
            carried[self._sender] += len(data)
            while self._faults and self._faults[0].offset < begin + len(data):
                fault = self._faults.popleft()
                # The first fault may have consumed the byte at which the second one was to strike.
                ahead = max(0, fault.offset - begin)
                if ahead:
                    yield data[:ahead]
                self._connection.strike(fault)
                taken = min(fault.length, len(data) - ahead)
                yield from self._struck_by(fault, data[ahead : ahead + taken])
                begin += ahead + taken
                data = data[ahead + taken :]
            if data:
                yield data

    def _struck_by(self, fault: Fault, data: bytes) -> Iterator[bytes]:
        """The pieces that replace the ``length`` bytes at the fault's place; fewer bytes may have arrived."""
        if fault.kind == "cut":
            raise _Cut
        elif fault.kind == "stall":
            self._pause(fault.seconds)
            raise _Cut
        elif fault.kind == "half-close":
            self._sink.shutdown(socket.SHUT_WR)
            while self._source.recv(_CHUNK):
                pass
        elif fault.kind == "delay":
            self._pause(fault.seconds)
            yield data
        elif fault.kind == "split":
            for number in range(len(data)):
                yield data[number : number + 1]
        elif fault.kind == "coalesce":
            yield self._collect(fault, data)
        elif fault.kind == "corrupt":
            yield bytes([data[0] ^ fault.mask]) + data[1:]
        elif fault.kind == "duplicate":
            yield data + data
        # "truncate" yields nothing.

    def _collect(self, fault: Fault, data: bytes) -> bytes:
        """``length`` bytes, or the bytes that arrive within the fault's time."""
        deadline = Deadline(fault.seconds)
        while len(data) < fault.length and _poll([(self._source, select.POLLIN)], deadline):
            more = self._source.recv(fault.length - len(data))
            if not more:
                break
            self._connection.carried[self._sender] += len(more)
            data += more
        return data

    def _pause(self, seconds: float | None) -> None:
        """Wait for ``seconds``, or until one side disconnects."""
        ends = [(self._source, select.POLLRDHUP), (self._sink, 0)]
        _poll(ends, Deadline(seconds))


def _poll(sockets: Sequence[tuple[socket.socket, int]], deadline: Deadline) -> bool:
    """Block until one of the sockets is ready or closed by its peer (True), or until the deadline (False)."""
    poll = select.poll()
    for sock, events in sockets:
        poll.register(sock, events)
    remaining = deadline.remaining()
    milliseconds = _LONGEST_POLL if remaining is None else math.ceil(remaining * 1000)
    return bool(poll.poll(min(milliseconds, _LONGEST_POLL)))
