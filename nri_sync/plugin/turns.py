"""A lock between processes that ends with its holder, and that shows whether the holder is alive: :class:`Turn`.

An flock(2) on a file: the kernel lifts it when the process ends, however that happens. A process that is stopped
or hangs keeps its flock. Hence the holder touches the file while it works, and a process that waits can replace
the file of a holder that is silent. The file stays when the lock is let go; it holds one word of the holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import stat
import time

from nri_sync import fork

__all__ = ["Silence", "Turn", "open_file"]

# The longest word.
_WORD = 16


class Turn:
    """The lock on one file. All methods may be called from any thread, also where a signal may interrupt them."""

    def __init__(self, path: str) -> None:
        self.path = path
        # The open file while the lock is held. A list for its single-step operations: no lock guards it, as a
        # signal handler may interrupt any method and call another. A file object, so that the descriptor, and with
        # it the flock, goes when an interrupt strikes between two lines.
        self._held: list[io.FileIO] = []
        fork.in_child(self._after_fork_in_child)

    @property
    def is_held(self) -> bool:
        """Whether this object has the lock, as far as it knows: see :meth:`is_mine`."""
        return bool(self._held)

    def take(self) -> bool:
        """Take the lock if it is free, and clear the word. Does not block. Raises OSError."""
        file = self._open(os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        # Another process may have replaced the file between the two steps.
        if not self._is_at_path(file):
            file.close()
            return False
        os.ftruncate(file.fileno(), 0)
        self._held.append(file)
        return True

    def take_over(self) -> None:
        """Take the lock away from its holder, by a new file in place of the old one. Raises OSError.

        The holder notices that by :meth:`is_mine`. Of two processes that do this at once, the last one has it.
        """
        partial = f"{self.path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        file = open_file(partial, os.O_CREAT | os.O_EXCL)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(partial, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        self._held.append(file)

    def is_mine(self) -> bool:
        """Whether this object has the lock, and no process has taken it over."""
        return any(self._is_at_path(file) for file in self._held.copy())

    def sign(self, word: bytes | None = None) -> None:
        """Show that the holder is alive, and ``word``, its state, if given. No effect without the lock."""
        for file in self._held.copy():
            # Closed meanwhile, by another thread.
            with contextlib.suppress(OSError, ValueError):
                if word is not None:
                    os.pwrite(file.fileno(), word.ljust(_WORD), 0)
                os.utime(file.fileno())

    def read(self) -> tuple[bytes, int]:
        """The word of the holder, and the time of its last sign; of no meaning by itself."""
        try:
            with self._open(0) as file:
                return file.read(_WORD).strip(), os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return b"", 0

    def drop(self) -> None:
        """Let go of the lock. Idempotent."""
        while self._held:
            with contextlib.suppress(IndexError):  # another thread was faster
                file = self._held.pop()
                with contextlib.suppress(OSError, ValueError):
                    os.ftruncate(file.fileno(), 0)
                    # Explicitly: a child process may have the descriptor, too.
                    fcntl.flock(file, fcntl.LOCK_UN)
                file.close()

    def _open(self, flags: int) -> io.FileIO:
        return open_file(self.path, flags)

    def _is_at_path(self, file: io.FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except (OSError, ValueError):
            return False

    def _after_fork_in_child(self) -> None:
        # The flock is the parent's: to close the descriptor leaves it alone.
        while self._held:
            self._held.pop().close()


class Silence:
    """Watches for the signs of another process's :class:`Turn`, by this process's own clock."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._seen = turn.read()[1]
        self._since = time.monotonic()

    def seconds(self) -> float:
        """How long no sign has come, since this object was made at most."""
        seen = self._turn.read()[1]
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since


def open_file(path: str, flags: int) -> io.FileIO:
    """The file, if it is one of this user or of root. A read of a named pipe would block."""
    flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if found.st_uid not in (0, os.geteuid()):
            # Its owner could keep the lock for good, or write any word.
            raise PermissionError(errno.EPERM, f"belongs to user {found.st_uid}", path)
    except BaseException:
        os.close(descriptor)
        raise
    return io.FileIO(descriptor, "r+")
