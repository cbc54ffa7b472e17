"""Signals and the watchdog for a program that works on another thread.

The main thread only waits for signals. Their handlers are empty: the C part of Python writes the number of each
signal to a socket, and the main thread reads it. So no signal interrupts the program's code, no signal is lost,
and none is blocked in child processes.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from typing import Any, Callable

from nri_sync import fork
from nri_sync.kit.program.systemd import Notifier
from nri_sync.logger import get_logger
from nri_sync.threads import off_main, on_main_thread, spawn

__all__ = ["Supervisor"]

logger = get_logger("nri_sync.kit.program")

_ENDS = (signal.SIGTERM, signal.SIGINT)
# No signal has this number.
_DONE = 0


class Supervisor:
    """Waits for signals while the program works: one reloads, one stops, a second one ends the process at once."""

    def __init__(
        self,
        *,
        stop: Callable[[], object],
        reload: Callable[[], object],
        alive: Callable[[], bool],
        notifier: Notifier,
    ) -> None:
        """
        Args:
            stop: called once, at the first SIGTERM or SIGINT. It makes the work end.
            reload: called at each SIGHUP, one call at a time.
            alive: returns whether to report to systemd's watchdog. Must not block.
            notifier: sends the reports to the watchdog.

        ``stop`` and ``reload`` run on their own threads.
        """
        self._stop = stop
        self._reload = reload
        self._alive = alive
        self._notifier = notifier
        self._reloading = threading.Lock()
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the program has received a signal to stop."""
        return self._stopping

    def run(self, work: Callable[[], object]) -> None:
        """Call ``work()`` on a new thread. Blocks until it has returned, and raises its exception.

        On the main thread, the call replaces the handlers of the signals until it returns; on another thread it
        changes none. If the system has no thread for ``stop`` or ``reload``, this thread calls it.

        Raises NoThread if ``work()`` cannot be started.
        """
        failure: list[BaseException] = []

        def call() -> None:
            try:
                work()
            except BaseException as error:
                failure.append(error)
            finally:
                wakeups.wake()

        with _Wakeups() as wakeups:
            ended = spawn("nri-program", call)
            self._wait(wakeups)
            ended.wait()
        if failure:
            raise failure[0]

    def _wait(self, wakeups: _Wakeups) -> None:
        """Handle signals until the work is done."""
        interval = self._notifier.watchdog_interval
        due = time.monotonic()
        while True:
            remaining = None
            if interval is not None:
                remaining = due - time.monotonic()
                if remaining <= 0:
                    if self._alive():
                        self._notifier.alive()
                    due += interval
                    continue
            for number in wakeups.wait(remaining):
                if number == _DONE:
                    return
                self._signalled(number)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            off_main("nri-reload", self._reload_once)
        elif number in _ENDS:
            name = signal.Signals(number).name
            if self._stopping:
                logger.warning("%s again: ending at once", name)
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            logger.info("%s: stopping", name)
            self._stopping = True
            off_main("nri-stop", self._stop)

    def _reload_once(self) -> None:
        with self._reloading:
            self._reload()


class _Wakeups:
    """Wakes the main thread: by the numbers of signals, and by :meth:`wake`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._before: dict[int, Any] = {}
        self._fd_before = -1

    def __enter__(self) -> _Wakeups:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        if on_main_thread():
            self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            for number in (*_ENDS, signal.SIGHUP):
                self._before[number] = signal.signal(number, lambda number, frame: None)
            _present.append(self)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self in _present:
            _present.remove(self)
        self.restore()
        self._reader.close()
        self._writer.close()

    def restore(self) -> None:
        """Restore the former signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._fd_before)

    def wake(self) -> None:
        # A full socket wakes the main thread anyway. Only signals can fill it.
        self._writer.send(bytes([_DONE]))

    def wait(self, timeout: float | None) -> bytes:
        """Return the received bytes; empty after ``timeout`` seconds."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        # Rounded up: otherwise the poll would end repeatedly just before the time is due.
        if poller.poll(None if timeout is None else int(timeout * 1000) + 1):
            return self._reader.recv(4096)
        return b""


# The objects that receive the signals of this process.
_present: list[_Wakeups] = []


def _after_fork_in_child() -> None:
    # A signal to the child would be written to the parent's socket, and would stop the parent instead.
    while _present:
        _present.pop().restore()


fork.in_child(_after_fork_in_child)
