"""A proxy between a plugin and a runtime that breaks their connection in one chosen way, at one chosen byte.

The proxy knows nothing of NRI: a fault strikes at an offset of the bytes that one side sends. Tests that try every
offset of a short session therefore reach each state of the protocol, on both sides.
"""

from __future__ import annotations

import contextlib
import math
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.net.sockets import ListeningSocket, connect, listen
from nri_sync.testing.common import WITHIN, socket_directory
from nri_sync.threads import Latch, spawn

__all__ = ["FAULT_KINDS", "SENDERS", "Fault", "FaultProxy", "FaultyConnection"]

#: All kinds of faults; :class:`Fault` describes them.
FAULT_KINDS = (
    "cut", "stall", "half-close", "delay", "split", "coalesce", "corrupt", "truncate", "duplicate",
)  # fmt: skip
#: The sides whose bytes a fault may strike.
SENDERS = ("runtime", "plugin")

_CHUNK = 65536
# Seconds that the runtime may take to accept.
_DIAL = 5.0
# How often a full queue of connections is tried again, in seconds.
_RETRY = 0.05
# Poll counts milliseconds in an int.
_LONGEST_POLL = 1 << 30


@dataclass(frozen=True)
class Fault:
    """One fault. It strikes once, when the byte of the sender at ``offset`` comes, counted from 0.

    =============== ============================================================================================
    ``cut``         The proxy closes both sides. The byte at the offset is not forwarded.
    ``stall``       The proxy forwards nothing more of this sender. It cuts the connection after ``seconds``, and
                    without ``seconds`` when one side leaves.
    ``half-close``  The other side reads the end of the stream. The proxy forwards its answers still.
    ``delay``       The proxy waits for ``seconds``, and goes on.
    ``split``       The next ``length`` bytes come one by one.
    ``coalesce``    The proxy holds ``length`` bytes back, and forwards them at once; no longer than ``seconds``.
    ``corrupt``     ``mask`` is XORed to the byte.
    ``truncate``    Up to ``length`` bytes are left out.
    ``duplicate``   Up to ``length`` bytes come twice.
    =============== ============================================================================================

    ``truncate`` and ``duplicate`` take no more than came in one piece: they never wait for bytes.
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
            raise ValueError(f"no fault {self.kind!r}; there are: {', '.join(FAULT_KINDS)}")
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

        One stall of four has no time: the two sides' own timeouts have to end it.
        """
        seconds: float | None = source.uniform(0.001, 0.01)
        if kind == "stall" and source.random() < 0.25:
            seconds = None
        length, mask = source.randint(1, 32), source.randint(1, 255)
        return cls(kind, offset, sender, length=length, seconds=seconds, mask=mask)


class FaultProxy:
    """Listens for plugins and connects each one to the runtime. A context manager.

    A connection is forwarded unchanged, in both directions, unless :meth:`inject` has prepared faults for it. When
    one side ends its stream, the proxy ends the other side's. Each connection has two threads, which end with it.
    Methods may be called from any thread.
    """

    def __init__(self, runtime_path: str, socket_path: str | None = None) -> None:
        """Starts nothing.

        Args:
            runtime_path: the socket of the runtime. It need not exist: plugins are cut off while it does not.
            socket_path: where to listen; default is in a new directory with a short path.
        """
        self.runtime_path = runtime_path
        self._path = socket_path or ""
        self._resources = contextlib.ExitStack()
        self._listener: ListeningSocket | None = None
        self._accepting: Latch | None = None
        self._prepared: deque[FaultyConnection] = deque()
        # Guards the two attributes that follow.
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[FaultyConnection] = set()

    def start(self) -> None:
        """Listen. To be called once.

        Raises OSError if the path cannot be used, NoThread if the system has no more threads.
        """
        if not self._path:
            self._path = self._resources.enter_context(socket_directory()) + "/nri.sock"
        try:
            self._listener = listen(self._path)
            self._accepting = spawn("nri-faults", self._accept, self._listener)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cut all connections and remove the socket. Blocks until the proxy's threads have ended. Idempotent."""
        with self._lock:
            self._closed = True
        if self._listener is not None:
            self._listener.stop()
            if self._accepting is not None:
                self._accepting.wait()
            self._listener.close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            connection.cut()
            connection.wait_closed(None)
        self._resources.close()

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def socket_path(self) -> str:
        """Where plugins connect to; there from :meth:`start` on."""
        return self._path

    @property
    def connections(self) -> int:
        """The number of connections that have not ended."""
        return len(self._open)

    def inject(self, *faults: Fault) -> FaultyConnection:
        """Prepare faults for the next connection that has none yet. Returns that connection, to be watched.

        Several calls prepare as many connections, in their order.
        """
        connection = FaultyConnection(faults)
        self._prepared.append(connection)
        return connection

    def forget(self, connection: FaultyConnection) -> None:
        """Take back :meth:`inject`. Without an effect on a connection that has begun."""
        with contextlib.suppress(ValueError):
            self._prepared.remove(connection)

    def cut(self) -> None:
        """Cut all connections that are open now."""
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            connection.cut()

    def _accept(self, listener: ListeningSocket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(_RETRY)  # no descriptor: the plugin waits in the listener's queue
                continue
            try:
                connection = self._prepared.popleft()
            except IndexError:
                connection = FaultyConnection(())
            with self._lock:
                closed = self._closed
                if not closed:
                    self._open.add(connection)
            if closed:
                sock.close()
                return
            try:
                spawn("nri-faults-to-runtime", self._serve, connection, sock)
            except NoThread:
                self._end(connection, sock)

    def _serve(self, connection: FaultyConnection, plugin: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                runtime = connect(self.runtime_path, Deadline(_DIAL))
                with runtime:
                    connection._run(plugin, runtime)
        finally:
            self._end(connection, plugin)

    def _end(self, connection: FaultyConnection, plugin: socket.socket) -> None:
        plugin.close()
        with self._lock:
            self._open.discard(connection)
        connection._ended.set()


class FaultyConnection:
    """One connection through a :class:`FaultProxy`. Methods may be called from any thread."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        #: The faults that were prepared, in the order of their offsets.
        self.faults = tuple(sorted(faults, key=lambda fault: fault.offset))
        #: The faults that have struck, in the order in which they did.
        self.struck: list[Fault] = []
        #: The number of bytes that each side has sent so far.
        self.carried = dict.fromkeys(SENDERS, 0)
        self._struck = Latch()
        self._ended = Latch()
        # Guards the sockets: cut() uses them while another thread closes them.
        self._lock = threading.Lock()
        self._sockets: tuple[socket.socket, ...] = ()
        self._is_cut = False

    @property
    def ended(self) -> bool:
        """Whether both sides are closed, and the threads are about to end."""
        return self._ended.is_set()

    def wait_struck(self, timeout: float | None = WITHIN) -> bool:
        """Block until all faults have struck (True), or for ``timeout`` seconds (False)."""
        return self._struck.wait(Deadline(timeout))

    def wait_closed(self, timeout: float | None = WITHIN) -> bool:
        """Block until both sides are closed (True), or for ``timeout`` seconds (False)."""
        return self._ended.wait(Deadline(timeout))

    def cut(self) -> None:
        """Cut the connection; one that is still to come is cut when it does. Idempotent; does not block."""
        with self._lock:
            self._is_cut = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _run(self, plugin: socket.socket, runtime: socket.socket) -> None:
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

    def _strike(self, fault: Fault) -> None:
        self.struck.append(fault)
        if len(self.struck) == len(self.faults):
            self._struck.set()


class _Cut(Exception):
    """The connection is over, by a fault."""


class _Flow:
    """The bytes of one sender."""

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
        """The pieces to forward, each to be sent by a call of its own."""
        carried = self._connection.carried
        while data := self._source.recv(_CHUNK):
            begin = carried[self._sender]
            carried[self._sender] += len(data)
            while self._faults and self._faults[0].offset < begin + len(data):
                fault = self._faults.popleft()
                # A second fault may be due in bytes that the first one has taken.
                ahead = max(0, fault.offset - begin)
                if ahead:
                    yield data[:ahead]
                self._connection._strike(fault)
                taken = min(fault.length, len(data) - ahead)
                yield from self._struck_by(fault, data[ahead : ahead + taken])
                begin += ahead + taken
                data = data[ahead + taken :]
            if data:
                yield data

    def _struck_by(self, fault: Fault, data: bytes) -> Iterator[bytes]:
        """The pieces that a fault makes of the ``length`` bytes of its place, or of the fewer that have come."""
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
        # Nothing is left of truncated bytes.

    def _collect(self, fault: Fault, data: bytes) -> bytes:
        """``length`` bytes, or those that come within the fault's time."""
        deadline = Deadline(fault.seconds)
        while len(data) < fault.length and _poll([(self._source, select.POLLIN)], deadline):
            more = self._source.recv(fault.length - len(data))
            if not more:
                break
            self._connection.carried[self._sender] += len(more)
            data += more
        return data

    def _pause(self, seconds: float | None) -> None:
        """Wait, but no longer than both sides are there."""
        ends = [(self._source, select.POLLRDHUP), (self._sink, 0)]
        _poll(ends, Deadline(seconds))


def _poll(sockets: Sequence[tuple[socket.socket, int]], deadline: Deadline) -> bool:
    """Block until one of the sockets is ready or hung up (True), or until the deadline (False)."""
    poll = select.poll()
    for sock, events in sockets:
        poll.register(sock, events)
    remaining = deadline.remaining()
    milliseconds = _LONGEST_POLL if remaining is None else math.ceil(remaining * 1000)
    return bool(poll.poll(min(milliseconds, _LONGEST_POLL)))
