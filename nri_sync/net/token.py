"""The right to read a socket, and the wait for bytes of the thread that reads next."""

from __future__ import annotations

import select
import threading

__all__ = ["ReadToken"]

_ARMED = select.EPOLLIN | select.EPOLLONESHOT
_DISARMED = select.EPOLLONESHOT


class ReadToken:
    """One thread at a time holds the token, and reads. While it is free, the socket is armed in an epoll set.

    Not re-entrant, and bound to no thread: another thread may release it. Each change of the epoll set is made
    with the token. The holder also guards state of other objects, which say so.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._epoll.register(fd, _DISARMED)
        #: Whether a holder has seen the end of the connection: there is nothing to read any more.
        self.is_over = False

    @property
    def is_held(self) -> bool:
        """Whether a thread holds the token."""
        return self._lock.locked()

    def take(self) -> None:
        """Take the token, and leave the socket armed or disarmed as it is. Blocks while another thread reads."""
        self._lock.acquire()

    def regain(self) -> bool:
        """Take the token, unless another thread has it or all is over, and disarm the socket."""
        if not self._lock.acquire(False):
            return False
        if self.is_over:
            self._lock.release()
            return False
        self._epoll.modify(self._fd, _DISARMED)
        return True

    def release(self) -> None:
        """Arm the socket, and release the token."""
        # Armed first, with the token. The watcher may wake at once, and waits for the token.
        self._epoll.modify(self._fd, _ARMED)
        self._lock.release()

    def wait(self, timeout: float | None = None) -> int:
        """Block until the armed socket is readable, or all is over. Called without the token, by one thread.

        Returns the events of epoll: EPOLLHUP also without arming, when both sides have ended the connection.
        Returns 0 after ``timeout`` seconds.
        """
        found = self._epoll.poll(timeout, maxevents=1)
        return found[0][1] if found else 0

    def disarm(self) -> None:
        """Let no thread wake when bytes arrive. Called with the token."""
        self._epoll.modify(self._fd, _DISARMED)

    def end(self) -> None:
        """All is over: wake the thread in :meth:`wait`. Called with the token, on a socket that is shut down."""
        self.is_over = True
        self._epoll.modify(self._fd, select.EPOLLIN)

    def drop(self) -> None:
        """Release the token, after :meth:`end` or :meth:`take`, and arm nothing."""
        self._lock.release()

    def close(self) -> None:
        """Close the epoll set. Idempotent."""
        self.is_over = True
        self._epoll.close()

    def after_fork_in_child(self) -> None:
        """Free the token of a thread of the parent."""
        self._lock = threading.Lock()
