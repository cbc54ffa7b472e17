"""Keeps the plugin's health in a file for exec probes. :mod:`nri_sync.kit.probe` checks the file.

Lines of ``name: value``::

    state: synchronized
    live: yes
    ready: yes
    reason: synchronized with containerd v2.1.4
    pid: 4711

A change replaces the whole file, so no reader gets half of it. Each heartbeat touches the file, so an old file
shows that the process has ended. A symbolic link at the path is replaced, not followed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.files import replace_file
from nri_sync.kit.health.health import Health
from nri_sync.logger import get_logger
from nri_sync.threads import Latch, off_main, signal_safe, spawn

__all__ = ["HealthFile"]

logger = get_logger("nri_sync.kit.health")

# The seconds for which stop() waits for a file system that hangs.
_STOP = 5.0


class HealthFile:
    """Keeps the health of a plugin in a file between ``start()`` and ``stop()``.

    ``start()`` and ``stop()`` may be called from any thread, any number of times. As a context manager:
    ``start()`` ... ``stop()``.
    """

    def __init__(
        self,
        health: Health,
        path: str | os.PathLike[str],
        *,
        interval: float = 5.0,
        mode: int = 0o600,
    ) -> None:
        """``interval`` is the seconds between two heartbeats. They show the changes that no request brings: the
        loss of a session, and a wedged handler. ``mode`` is the mode of the file for any umask. The default lets
        only probes of this user read it.
        """
        if not interval > 0:
            raise ValueError(f"interval must be positive, not {interval!r}")
        self._health = health
        self._path = os.fspath(path)
        self._interval = interval
        self._mode = mode
        # Serialises calls of start().
        self._starting = threading.Lock()
        # The running keeper, if any. dict.pop() is atomic: one thread stops the keeper.
        self._keepers: dict[None, _Keeper] = {}
        self._last: _Keeper | None = None
        fork.in_child(self._after_fork_in_child)
        health.on_change(self.beat)

    def start(self) -> None:
        """Write the file, and update it from a new thread. Has no effect if the file is kept already.

        An interrupted call is undone. Raises OSError if the file cannot be written.
        """
        made: list[_Keeper] = []
        try:
            self._start(made)
        except BaseException:
            self._undo(made)
            raise

    @signal_safe
    def _start(self, made: list[_Keeper]) -> None:
        """Add the new keeper to the list, if there is one."""
        with self._starting:
            if self._keepers:
                return
            if self._last is not None:
                self._last.ended.wait(Deadline(_STOP))  # until it has removed the file
            keeper = _Keeper(self._health, self._path, self._interval, self._mode)
            keeper.write(keeper.text())
            self._last = self._keepers[None] = keeper
            made.append(keeper)
            try:
                spawn("nri-health-file", keeper.run)
            except BaseException:
                self._keepers.pop(None, None)
                keeper.remove()
                raise

    def stop(self) -> None:
        """Remove the file. Blocks until it is removed. Has no effect if the file is not kept."""
        last = self._end()
        if last is not None:
            last.ended.wait(Deadline(_STOP))

    @signal_safe
    def _end(self) -> _Keeper | None:
        """Request the end of the thread. Returns the last keeper."""
        keeper = self._keepers.pop(None, None)
        if keeper is not None:
            keeper.end()
        return self._last

    def _undo(self, made: Iterable[_Keeper]) -> None:
        for keeper in made:
            if self._keepers.get(None) is keeper:
                self.stop()

    def __enter__(self) -> HealthFile:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    def beat(self) -> None:
        """Update the file now, for example because the application knows of a change. Returns at once."""
        keeper = self._keepers.get(None)
        if keeper is not None:
            off_main("nri-health-beat", keeper.due.set)

    def _after_fork_in_child(self) -> None:
        # The file belongs to the parent.
        self._starting = threading.Lock()
        self._keepers = {}
        self._last = None


class _Keeper:
    """Updates the file from start() to stop()."""

    def __init__(self, health: Health, path: str, interval: float, mode: int) -> None:
        self._health = health
        self._path = path
        self._mode = mode
        self._interval = interval
        self._pid = os.getpid()
        self._written = ""
        self._file: tuple[int, ...] | None = None
        self._failing = False
        self._stopping = False
        #: Wakes the thread.
        self.due = threading.Event()
        self.ended = Latch()

    def end(self) -> None:
        """Make the thread remove the file, and end."""
        self._stopping = True
        self.due.set()

    def run(self) -> None:
        try:
            while not self._stopping:
                self.due.wait(self._interval)
                self.due.clear()
                if not self._stopping:
                    self._beat()
        except BaseException:
            logger.exception("the health file %s is no longer updated", self._path)
        finally:
            self.remove()

    def text(self) -> str:
        report = self._health.report()
        reason = " ".join(report.reason.split())
        return (
            f"state: {report.state}\nlive: {_yes(report.live)}\nready: {_yes(report.ready)}\n"
            f"reason: {reason}\npid: {self._pid}\n"
        )

    def _beat(self) -> None:
        try:
            text = self.text()
            # Another process may have removed or replaced the file.
            if text == self._written and self._file == self._found() is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._path, follow_symlinks=False)
                    self._failing = False
                    return
            self.write(text)
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("cannot write the health file: %s", error)
            self._failing = True

    def write(self, text: str) -> None:
        replace_file(self._path, text.encode(errors="replace"), self._mode)
        self._written = text
        self._file = self._found()

    def _found(self) -> tuple[int, ...] | None:
        """Return the identity of the file at the path. The inode is not enough: a new file may reuse it."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_size

    def remove(self) -> None:
        """Remove the file, unless another process has put its own there, and set :attr:`ended`."""
        with contextlib.suppress(OSError):
            if self._found() == self._file:
                os.unlink(self._path)
        self.ended.set()


def _yes(value: bool) -> str:
    return "yes" if value else "no"
