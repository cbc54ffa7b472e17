"""Messages out: each message is written in one piece, by whichever thread has it to send."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
from collections.abc import Sequence
from typing import Callable, Union

from nri_sync import threads
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NoThread

__all__ = ["Buffer", "Writer", "is_ready"]

Buffer = Union[bytes, bytearray, memoryview]

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
# Milliseconds. poll() takes no larger number.
_LONGEST_POLL = 0x7FFFFFFF


class Writer:
    """The sending half of a socket. Methods may be called from any thread that signals do not interrupt.

    A message is a sequence of buffers. Its bytes stay together, and a message that has been begun is always
    finished: by the calling thread, or by a thread that takes the rest over.
    """

    def __init__(
        self, sock: socket.socket, broken: Callable[[ConnectionLost], object], *, name: str
    ) -> None:
        """``broken(error)`` is called when the socket fails, without the lock held. It must not block."""
        self._name = name
        self._sock = sock
        self._broken = broken
        # Held while the buffers of one message are written. The thread that releases it may be another one than
        # the thread that took it.
        self._lock = threading.Lock()
        self._is_open = True

    @property
    def is_busy(self) -> bool:
        """Whether a message is being written."""
        return self._lock.locked()

    def send(self, buffers: Sequence[Buffer], deadline: Deadline | None = None) -> None:
        """Write a message. Blocks while the peer does not read, until the deadline at most.

        Raises:
            TimeoutError: the deadline has passed. The message will not be sent, or its rest by another thread.
            ConnectionLost: the connection is over.
        """
        remaining = None if deadline is None else deadline.remaining()
        if not self._lock.acquire(timeout=-1 if remaining is None else remaining):
            raise TimeoutError(
                f"{self._name}: other messages are in the way, the peer does not read"
            )
        rest = self._write_locked(buffers)
        if rest:
            self._finish_locked(rest, deadline, begun=rest is not buffers)
        else:
            self._lock.release()

    def try_send(self, buffers: Sequence[Buffer]) -> bool:
        """Write a message without blocking; False when nothing of it could be written.

        True when a part was written, whose rest another thread writes, and when the connection is over.
        """
        try:
            rest = self.begin(buffers)
        except ConnectionLost:
            return True
        if rest is None:
            return False
        if rest is buffers:
            self._lock.release()
            return False
        if rest:
            self._delegate_locked(rest)
        return True

    def begin(self, buffers: Sequence[Buffer]) -> Sequence[Buffer] | None:
        """Write a message as far as possible without blocking. Returns the rest, or None while another is written.

        A caller that gets a rest has to call :meth:`finish` with it: the writer stays busy until then.

        Raises:
            ConnectionLost: the connection is over.
        """
        if not self._lock.acquire(False):
            return None
        if len(buffers) == 1 and self._is_open:  # the common case, in one step
            (buffer,) = buffers
            try:
                sent = self._sock.send(buffer, _FLAGS)
            except BlockingIOError:
                return buffers
            except OSError as error:
                raise self._fail_locked(error) from error
            if sent < len(buffer):
                return [memoryview(buffer)[sent:]]
            self._lock.release()
            return ()
        rest = self._write_locked(buffers)
        if not rest:
            self._lock.release()
        return rest

    def finish(self, rest: Sequence[Buffer]) -> None:
        """Write the rest that :meth:`begin` has returned. Blocks while the peer does not read.

        Raises:
            ConnectionLost: the connection is over.
        """
        self._finish_locked(rest)

    def close(self) -> None:
        """Write nothing any more. Blocks until the message under way is written or has failed.

        The caller has shut the socket down, which ends that message. Idempotent.
        """
        with self._lock:
            self._is_open = False

    def after_fork_in_child(self) -> None:
        """Forget the message that a thread of the parent was writing."""
        self._lock = threading.Lock()
        self._is_open = False

    # The methods below are called with the lock, which need not be this thread's.

    def _write_locked(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Write without blocking. Returns the rest: ``buffers`` itself when nothing was written.

        Raises:
            ConnectionLost: the connection is over; the lock has been released.
        """
        assert self._lock.locked()
        try:
            if not self._is_open:
                raise ConnectionLost("the connection is closed")
            try:
                sent = self._sock.sendmsg(buffers, (), _FLAGS)
            except BlockingIOError:
                return buffers
        except (OSError, ConnectionLost) as error:
            raise self._fail_locked(error) from error
        for index, buffer in enumerate(buffers):
            if sent < len(buffer):
                return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
            sent -= len(buffer)
        return ()

    def _fail_locked(self, error: Exception) -> ConnectionLost:
        """Release the lock, and report that the socket has failed. Returns the exception to raise."""
        assert self._lock.locked()
        self._lock.release()
        lost = ConnectionLost(f"writing to the connection failed: {error}")
        self._broken(lost)
        return lost

    def _finish_locked(
        self, rest: Sequence[Buffer], deadline: Deadline | None = None, *, begun: bool = True
    ) -> None:
        """Write ``rest`` to its end, and release the lock. ``begun``: a part of the message has been written."""
        assert self._lock.locked()
        poller = select.poll()
        poller.register(self._sock, select.POLLOUT)
        while rest:
            if not is_ready(poller, deadline):
                if begun:
                    self._delegate_locked(rest)
                else:
                    self._lock.release()
                raise TimeoutError(f"{self._name}: the peer does not read")
            left = self._write_locked(rest)
            begun = begun or left is not rest
            rest = left
        self._lock.release()

    def _delegate_locked(self, rest: Sequence[Buffer]) -> None:
        """Have another thread write ``rest`` and release the lock. So there is one such thread at most."""
        assert self._lock.locked()

        def write() -> None:
            with contextlib.suppress(ConnectionLost):
                self._finish_locked(rest)

        try:
            threads.spawn(f"{self._name}-writer", write)
        except NoThread:
            self._lock.release()
            self._broken(
                ConnectionLost("the peer does not read, and no thread was left to wait for it")
            )


def is_ready(poller: select.poll, deadline: Deadline | None) -> bool:
    """Block until the descriptor of ``poller`` is ready (True) or the deadline has passed (False)."""
    while True:
        remaining = None if deadline is None else deadline.remaining()
        timeout = None if remaining is None else math.ceil(min(remaining * 1000, _LONGEST_POLL))
        if poller.poll(timeout):
            return True
        if remaining == 0.0:
            return False
