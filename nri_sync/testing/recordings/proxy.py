"""A proxy between a runtime and its plugins: forwards bytes unchanged, and yields the decoded messages."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.net.sockets import ListeningSocket, connect, listen, peer_credentials
from nri_sync.testing.recordings.decoding import Decoder, Framed, Framing
from nri_sync.testing.recordings.entries import CLOSED, LOST, OPENED, PLUGIN, RUNTIME, Entry
from nri_sync.threads import Latch, signal_safe, spawn

__all__ = ["QUEUE_MAX", "Proxy"]

_CHUNK = 65536
# The maximum size of entries that wait for the consumer: several times the largest message.
QUEUE_MAX = 64 << 20
# Time limit for connecting to the runtime, in seconds.
_DIAL = 5.0
# The size that the limit assumes for an entry without its message.
_OVERHEAD = 512


class Proxy:
    """Listens for plugins, connects each to the runtime, and yields their messages. A context manager.

    The proxy forwards all bytes before it decodes them. When one side ends its stream or disconnects, the proxy
    does the same on the other side. Each connection has one thread, which never waits for the consumer of the
    entries: up to 64 MiB of entries wait, and the proxy drops further entries, and counts them.

    Only one thread may iterate. Any thread may call the methods.
    """

    def __init__(
        self,
        listen_path: str | os.PathLike[str],
        runtime_path: str | os.PathLike[str],
        *,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        """Starts nothing. ``queue_max`` is the greatest size in bytes of the entries that wait to be consumed."""
        self.listen_path = os.fspath(listen_path)
        self.runtime_path = os.fspath(runtime_path)
        self._began = time.monotonic()
        self._queue = _EntryQueue(queue_max)
        self._listener: ListeningSocket | None = None
        # By connection. Only the iterating thread uses it.
        self._decoders: dict[int, Decoder] = {}
        # Guards the flag and the two sets.
        self._lock = threading.Lock()
        self._closed = False
        self._relays: set[_Relay] = set()
        # One latch for each thread that has not ended.
        self._running: set[Latch] = set()

    @signal_safe
    def start(self) -> None:
        """Listen. Call it once. After an interrupt the proxy may listen, until :meth:`close`.

        Raises OSError if the path is unusable, NoThread if the system has no more threads.
        """
        self._listener = listen(self.listen_path)
        try:
            self._run("nri-proxy", self._accept)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket and all connections. The iteration ends after the waiting entries. Idempotent."""
        with self._lock:
            self._closed = True
        # It stays in the attribute, so that a second call completes one that was interrupted.
        listener = self._listener
        if listener is not None:
            listener.stop()
        while True:
            with self._lock:
                relays, running = list(self._relays), list(self._running)
            if not running:
                break
            for relay in relays:
                relay.interrupt()
            for ended in running:
                ended.wait()
        if listener is not None:
            listener.close()
        self._queue.close()

    def __enter__(self) -> Proxy:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Entry]:
        """The entries, when they arrive. The iteration ends after :meth:`close`."""
        decoders = self._decoders
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, Entry):
                if item.kind == CLOSED:
                    decoders.pop(item.connection, None)
                yield item
            else:
                decoder = decoders.setdefault(item.connection, Decoder(item.connection))
                yield decoder.decode(item.sender, item.framed, item.time)

    def _run(self, name: str, target: Any, *arguments: Any) -> None:
        ended = Latch()

        def run() -> None:
            try:
                target(*arguments)
            finally:
                self._end(ended)

        with self._lock:
            self._running.add(ended)
        try:
            spawn(name, run)
        except BaseException:
            self._end(ended)
            raise

    def _end(self, ended: Latch) -> None:
        with self._lock:
            self._running.discard(ended)
        ended.set()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _accept(self) -> None:
        listener = self._listener
        number = 0
        while listener is not None:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._closed:
                    return
                # The process probably has no free descriptor: the plugin waits in the listener's queue.
                time.sleep(0.1)
                continue
            number += 1
            if self._closed:
                sock.close()
                return
            try:
                self._run(f"nri-proxy-{number}", self._serve, number, sock)
            except NoThread as error:
                # The plugin reconnects. Other connections continue.
                self._put(Entry(OPENED, number, self._now(), note=_process_of(sock)))
                sock.close()
                self._put(Entry(CLOSED, number, self._now(), note=str(error)))

    def _serve(self, number: int, plugin: socket.socket) -> None:
        with plugin:
            self._put(Entry(OPENED, number, self._now(), note=_process_of(plugin)))
            try:
                runtime = connect(self.runtime_path, Deadline(_DIAL))
            except OSError as error:
                reason = error.strerror or str(error)
                note = f"the runtime cannot be reached at {self.runtime_path}: {reason}"
            else:
                with runtime:
                    note = self._relay(_Relay(number, plugin, runtime))
        self._put(Entry(CLOSED, number, self._now(), note=note))

    def _relay(self, relay: _Relay) -> str:
        with self._lock:
            self._relays.add(relay)
            if self._closed:
                relay.interrupt()
        try:
            relay.run(self._record)
        finally:
            with self._lock:
                self._relays.discard(relay)
        return relay.note

    def _record(self, number: int, sender: str, framed: Framed, at: float) -> None:
        size = _OVERHEAD + (0 if framed.message is None else framed.message.length)
        self._queue.put(_Seen(number, sender, framed, at - self._began), size, number)

    def _put(self, entry: Entry) -> None:
        self._queue.put(entry, _OVERHEAD, entry.connection, must=True)


def _process_of(plugin: socket.socket) -> str:
    credentials = peer_credentials(plugin)
    return f"pid {credentials.pid}" if credentials is not None and credentials.pid else ""


@dataclass
class _Seen:
    connection: int
    sender: str
    framed: Framed
    time: float


class _EntryQueue:
    """A queue whose size is limited in bytes. It counts the items that it drops."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[tuple[Any, int]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._size = 0
        self._dropped: dict[int, int] = {}
        self._closed = False

    def put(self, item: Any, size: int, connection: int, *, must: bool = False) -> None:
        with self._changed:
            if self._size + size > self._most and not must:
                self._dropped[connection] = self._dropped.get(connection, 0) + 1
                return
            for number, count in self._dropped.items():
                note = f"{count} messages dropped: they arrived faster than they were consumed"
                self._append(Entry(LOST, number, item.time, note=note), _OVERHEAD)
            self._dropped.clear()
            self._append(item, size)

    def _append(self, item: Any, size: int) -> None:
        self._items.append((item, size))
        self._size += size
        self._changed.notify()

    def get(self) -> Any:
        with self._changed:
            while not self._items:
                if self._closed:
                    return None
                self._changed.wait()
            item, size = self._items.popleft()
            self._size -= size
            return item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass
class _Flow:
    """One direction. The thread reads from ``source`` only after it has written all earlier bytes to ``sink``."""

    sender: str
    source: socket.socket
    sink: socket.socket
    framing: Framing = field(default_factory=Framing)
    pending: memoryview = field(default_factory=lambda: memoryview(b""))
    ended: bool = False


class _Relay:
    """Both directions of one connection, on one thread, so that an answer never overtakes its request."""

    def __init__(self, number: int, plugin: socket.socket, runtime: socket.socket) -> None:
        self.note = ""
        self._number = number
        self._flows = (_Flow(RUNTIME, runtime, plugin), _Flow(PLUGIN, plugin, runtime))
        for flow in self._flows:
            flow.source.setblocking(False)

    def interrupt(self) -> None:
        """Let :meth:`run` return. Any thread may call it."""
        for flow in self._flows:
            with contextlib.suppress(OSError):
                flow.source.shutdown(socket.SHUT_RDWR)

    def run(self, record: Any) -> None:
        with selectors.DefaultSelector() as selector:
            while not all(flow.ended for flow in self._flows):
                self._register(selector)
                for key, events in selector.select():
                    for flow in self._flows:
                        if events & selectors.EVENT_WRITE and key.fileobj is flow.sink:
                            self._write(flow)
                        if events & selectors.EVENT_READ and key.fileobj is flow.source:
                            self._read(flow, record)

    def _register(self, selector: selectors.BaseSelector) -> None:
        wanted: dict[socket.socket, int] = {flow.source: 0 for flow in self._flows}
        for flow in self._flows:
            if flow.pending:
                wanted[flow.sink] |= selectors.EVENT_WRITE
            elif not flow.ended:
                wanted[flow.source] |= selectors.EVENT_READ
        registered = {key.fileobj: key.events for key in selector.get_map().values()}
        for sock, events in wanted.items():
            if registered.get(sock, 0) == events:
                continue
            if sock not in registered:
                selector.register(sock, events)
            elif events:
                selector.modify(sock, events)
            else:
                selector.unregister(sock)

    def _read(self, flow: _Flow, record: Any) -> None:
        if flow.pending or flow.ended:
            return
        try:
            data = flow.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(flow, flow.sender)
            return
        at = time.monotonic()
        flow.pending = memoryview(data)
        self._write(flow)
        for framed in flow.framing.receive(data):
            record(self._number, flow.sender, framed, at)

    def _write(self, flow: _Flow) -> None:
        try:
            while flow.pending:
                sent = flow.sink.send(flow.pending)
                flow.pending = flow.pending[sent:]
        except BlockingIOError:
            return
        except OSError:
            # The sink has disconnected. The other direction still reads its last bytes, and then ends.
            flow.pending = memoryview(b"")
            self._end(flow, PLUGIN if flow.sender == RUNTIME else RUNTIME)

    def _end(self, flow: _Flow, by: str) -> None:
        flow.ended = True
        self.note = self.note or f"by the {by}"
        with contextlib.suppress(OSError):
            flow.sink.shutdown(socket.SHUT_WR)
