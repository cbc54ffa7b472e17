"""One connected socket and the threads that serve it.

Any number of threads take turns. At every moment one of them holds the *token* and reads; it hands what it
read to the receiver, and gets back the jobs (requests to serve) that it contained. The thread that read a
request also serves it, because handing work to another thread costs more than most handlers do. While it
serves, the token is free and the socket is armed in an epoll set, where one more thread, the *sentinel*,
waits: if anything arrives before the handler is done, the sentinel takes the token and becomes the reader.
Before it sends its answer the first thread takes the token back, where it is still free, and disarms the
socket, so that an exchange of request and answer, one after the other, wakes nobody else::

             +------------------- token taken back, answer sent ------------------+
             v                                                                    |
    +--------+-------+  a request: arm, release the token   +---------------------+-+
    | reader (token) | -----------------------------------> | serving (no token)    |
    +--------+-------+                                      +-----------+-----------+
             ^ socket readable, token taken                             | token is someone else's
    +--------+-------+                                      +-----------v-----------+
    |    sentinel    | <----------------------------------- | idle, or gone         |
    +----------------+   appointed by the reader            +-----------------------+

Invariants: there is at most one reader and one sentinel; no job runs while its thread holds the token; one
of reader and sentinel always waits for the socket, whatever handlers do. The sentinel may wait for the token
of a reader that was faster, which is why the clock has a thread of its own, from when it is first needed.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import logging
import math
import mmap
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Union

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NoThread, NRIError, RemoteProtocolError
from nri_sync.logger import get_logger
from nri_sync.threads import Latch, on_main_thread, signal_safe, spawn

__all__ = ["Buffer", "Job", "Link", "Receiver"]

Buffer = Union[bytes, bytearray, memoryview]

logger = get_logger("nri_sync.net")

_READ_SIZE = 256 * 1024
_ARMED = select.EPOLLIN | select.EPOLLONESHOT
_DISARMED = select.EPOLLONESHOT
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_IDLE_THREADS = 8
# A Go peer may lose data that it has not read yet when it sees the end of the connection.
_LINGER = 0.02
# A flood is slowed down by not reading on while a refusal cannot be written, for so long (seconds).
_PATIENCE = 5.0
# For so long at most (seconds) the first sentinel looks at the time, too, where something is due from the start: a
# link that comes up has no time to lose with starting a clock.
_FIRST_LOOK = 1.0
# In milliseconds: poll() takes no more.
_LONGEST_POLL = 0x7FFFFFFF


class Job:
    """Something that the peer asked for, to be run by a worker thread."""

    #: Bytes of memory that the job holds while it waits for a thread. Then only the link changes it.
    size = 0
    #: Whether it waits for a thread; for the link.
    in_line = False
    #: When :meth:`Receiver.tick` wants to look at it, on the monotonic clock.
    due = math.inf

    def run(self) -> Sequence[Buffer]:
        """Do it. May block. Must not raise. Returns what to send, contiguously."""
        raise NotImplementedError

    def sent(self) -> None:
        """What :meth:`run` returned has been written, or could not be."""

    def refuse(self) -> Sequence[Buffer]:
        """What to send instead of running it, when there is neither a thread nor room to wait.

        Called as well when the link is over, where nothing is sent. Must neither block nor raise.
        """
        raise NotImplementedError


class Receiver:
    """What a link serves. The link calls each method from one thread at a time."""

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        """Take bytes in, and append the jobs in them to ``jobs``. Must not block or run user code.

        ``data`` is only valid during the call. An NRIError raised here ends the link, after the jobs that
        came before it were started.
        """
        raise NotImplementedError

    def tick(self, now: float) -> float:
        """Do what is due, without blocking; returns when to look again (``math.inf``: when woken)."""
        return math.inf

    def lost(self, cause: NRIError | None) -> None:
        """The link is over, its descriptors are closed. ``cause`` is ``None`` after ``close()``. Once."""
        raise NotImplementedError

    def after_fork_in_child(self) -> None:
        """In a forked child, in place of :meth:`lost`: the connection is still the parent's.

        Make new locks, and end what this process waits for; call nothing of the application's.
        """


class _Role(enum.Enum):
    """What a thread is to be, where it has no job."""

    READER = enum.auto()
    SENTINEL = enum.auto()


_Task = Union[Job, _Role]

# To look a member up costs a call before Python 3.12.
_READ = _Role.READER
_WATCH = _Role.SENTINEL


class _Seat:
    """Where an idle thread waits for its next task."""

    __slots__ = ("lock", "task")

    def __init__(self) -> None:
        #: None: the link is over.
        self.task: _Task | None = None
        self.lock = threading.Lock()
        self.lock.acquire()


class Link:
    """A socket, its reading and writing, and its end. Owns the socket.

    Methods may be called from any thread, but not where a signal may interrupt them: the main thread goes
    through another one.
    """

    def __init__(
        self,
        sock: socket.socket,
        receiver: Receiver,
        *,
        name: str,
        callers_read: bool = False,
        max_threads: int = 64,
        max_backlog: int = 1024,
        max_backlog_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """``max_threads`` bounds the threads (at least 3), the others the jobs waiting for one.

        With ``callers_read`` no thread sits reading while nothing happens, but the sentinel watches: so that
        a thread that waits for an answer can read it itself (see :meth:`begin_reading`). Right for a side
        that calls more than it serves.
        """
        sock.setblocking(True)
        self.name = name
        self._sock = sock
        self._fd = sock.fileno()
        self._receiver = receiver
        self._callers_read = callers_read
        # A reader, a sentinel, and one that is neither: it comes for the jobs in line.
        self._max_threads = max(3, max_threads)
        self._max_backlog = max_backlog
        self._max_backlog_bytes = max_backlog_bytes
        self._epoll = select.epoll()
        self._epoll.register(self._fd, _DISARMED)
        # The reader holds it. It guards the receiver's parsers, _view, the registration in the epoll set,
        # _sentinel and _ended. Not re-entrant, and bound to no thread. Taken before _lock.
        self._token = threading.Lock()
        # Takes no more memory, nor time to clear it, than is read at once.
        self._view = memoryview(mmap.mmap(-1, _READ_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._sentinel = False
        self._ended = False
        # When the clock will be looked at next: by the first sentinel (_first_due), later by a thread of its
        # own, for which the alarm makes that now.
        self._wake_at = self._first_due = math.inf
        self._alarm = Latch()
        # Guards what follows and, with it, the lifetime of the descriptors. Innermost; never held while
        # blocking.
        self._lock = threading.Lock()
        self._has_clock = False
        # The one that calls run() counts from the start.
        self._threads = 1
        self._spawned = 0
        self._idle: list[_Seat] = []
        self._backlog: deque[Job] = deque()
        self._backlog_bytes = 0
        self._cause: NRIError | None = None
        self._closing = False
        self._open = True
        # Only for the log.
        self._refused = 0
        # Held while the buffers of one send are written. Taken before _lock.
        self._write_lock = threading.Lock()
        fork.in_child(self._after_fork_in_child)

    # Ending

    def close(self, cause: NRIError | None = None) -> None:
        """End the link, now. Returns at once; :meth:`Receiver.lost` is called when it is done.

        Idempotent: the cause of the first call (or what the peer did before it) counts.
        """
        with self._lock:
            if not self._closing:
                self._closing = True
                self._cause = cause
            if self._open:
                # The reader sees the end of the stream, and ends the link.
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    @property
    def closing(self) -> bool:
        """Whether the link is over, or about to be."""
        return self._closing

    @property
    @signal_safe
    def hung_up(self) -> bool:
        """Whether either side has ended the connection, also where the reader has not seen that yet."""
        with self._lock:
            if not self._open or self._closing:
                return True
            poll = select.poll()
            poll.register(self._fd, select.POLLRDHUP)
            return bool(poll.poll(0))

    def drain(self, deadline: Deadline, *, linger: bool = True) -> None:
        """Block until the peer has read what was sent, with ``linger`` a moment longer, or to the deadline."""
        while not deadline.expired:
            with self._lock:
                if not self._open or self._closing:
                    return
                queued = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if queued == 0:
                break
            time.sleep(0.001)
        if linger:
            remaining = deadline.remaining()
            time.sleep(_LINGER if remaining is None else min(_LINGER, remaining))

    def abandon(self) -> None:
        """Close the descriptors of a link that has no thread, without a word to the peer or the receiver."""
        self._ended = self._closing = True
        self._open = False
        self._close_descriptors()

    def _after_fork_in_child(self) -> None:
        # The other threads are gone, and may have held any lock. Closing the descriptors leaves the connection and
        # the epoll set of the parent as they are.
        self._token = threading.Lock()
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._idle.clear()
        self._backlog.clear()
        self.abandon()
        self._receiver.after_fork_in_child()

    def _close_descriptors(self) -> None:
        self._sock.close()
        self._epoll.close()

    def _end(self, cause: NRIError) -> None:
        """End the link; called with the token, by the reader."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._cause = cause
            self._ended = True
            idle, self._idle = self._idle, []
            dropped = list(self._backlog)
            self._backlog.clear()
            # Writers that are blocked return, and the epoll set reports the socket for good.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._alarm.set()
        for seat in idle:
            seat.lock.release()
        if dropped:
            logger.warning(
                "%s: %d requests were still waiting when it ended", self.name, len(dropped)
            )
        for job in dropped:
            job.refuse()
            job.sent()
        self._epoll.modify(self._fd, select.EPOLLIN)
        if self._sentinel:
            self._token.release()
        else:
            self._finish()

    def _finish(self) -> None:
        """Close the descriptors; called with the token, when no thread uses them for reading any more."""
        # Whoever keeps the link, the garbage collector above all, need not keep that much memory.
        self._view = memoryview(b"")
        with self._write_lock, self._lock:
            self._open = False
            self._close_descriptors()
        self._token.release()
        self._receiver.lost(self._cause)

    # Threads

    def run(self) -> None:
        """Serve the link from the calling thread, and others, until it is over. To be called once.

        Returns when this thread is not needed any more, which may be before the end.
        """
        self._token.acquire()
        if self._ended:  # a thread that waited for an answer has read the end
            self._token.release()
            return
        due = self._tick()
        if due < math.inf and not self._callers_read:
            due = self._wake_at = min(due, time.monotonic() + _FIRST_LOOK)
        self._first_due = due
        if self._callers_read or not self._appoint():
            self._start_clock()
        self._work(_READ)

    def _run(self, job: Job) -> Sequence[Buffer]:
        try:
            return job.run()
        except (
            BaseException
        ):  # a bug, or sys.exit(), which must not take one of the threads with it
            logger.exception("%s: a job failed", self.name)
            return ()

    def _work(self, task: _Task | None) -> None:
        while task is not None:
            if task is _READ:
                task = self._read()
            elif task is _WATCH:
                task = self._watch()
            elif isinstance(task, Job):
                self._answer(task, self._run(task))
                task = self._next()

    def _give(self, task: _Task, *, may_wait: bool = False, coming: bool = False) -> bool:
        """Have another thread do ``task``: an idle one, a new one, or with ``may_wait`` the next free one.

        ``coming``: the calling thread itself will look at the jobs in line.
        """
        may_spawn = True
        while True:
            with self._lock:
                if self._ended:
                    return False
                seat = self._idle.pop() if self._idle else None
                if seat is None:
                    if not may_spawn or self._threads >= self._max_threads:
                        if may_wait and isinstance(task, Job):
                            return self._wait_in_line_locked(task, coming)
                        return False
                    self._threads += 1
                    self._spawned += 1
                name = f"{self.name}-{self._spawned}"
            if seat is not None:
                seat.task = task
                seat.lock.release()
                return True
            try:
                spawn(name, self._work, task)
            except NoThread as error:
                logger.error("%s: no new thread: %s", self.name, error)
                may_spawn = False
            if may_spawn:
                return True
            self._uncount(self._sentinel and task is not _WATCH)

    def _uncount(self, has_sentinel: bool) -> None:
        """A thread that was counted did not come to be: nor will it come for the jobs in line."""
        orphans: list[Job] = []
        with self._lock:
            self._threads -= 1
            if self._threads <= 1 + has_sentinel:
                orphans += self._backlog
                self._backlog.clear()
                self._backlog_bytes = 0
        for job in orphans:
            self._refuse(job)

    def _wait_in_line_locked(self, job: Job, coming: bool) -> bool:
        assert self._lock.locked()
        # Somebody must come for it: a thread that is neither reader nor sentinel is serving, and will.
        if (
            not (coming or self._threads > 1 + self._sentinel)
            or len(self._backlog) >= self._max_backlog
            or self._backlog_bytes + job.size > self._max_backlog_bytes
        ):
            return False
        job.in_line = True
        self._backlog.append(job)
        self._backlog_bytes += job.size
        return True

    def hold(self, job: Job, size: int) -> bool:
        """Count ``size`` more bytes for a job that may be in line; False if all in line would hold too much."""
        with self._lock:
            if job.in_line:
                if self._backlog_bytes + size > self._max_backlog_bytes:
                    return False
                self._backlog_bytes += size
            job.size += size
            return True

    def _next_in_line(self) -> Job | None:
        with self._lock:
            return self._next_in_line_locked()

    def _next_in_line_locked(self) -> Job | None:
        assert self._lock.locked()
        if not self._backlog:
            return None
        job = self._backlog.popleft()
        job.in_line = False
        self._backlog_bytes -= job.size
        return job

    def _next(self) -> _Task | None:
        """The next task of a thread that has none: a waiting job, or what comes while it sits idle."""
        with self._lock:
            job = self._next_in_line_locked()
            if job is not None:
                return job
            if self._ended or len(self._idle) >= _IDLE_THREADS:
                self._threads -= 1
                return None
            seat = _Seat()
            self._idle.append(seat)
        seat.lock.acquire()
        return seat.task

    def _appoint(self) -> bool:
        """See to it that there is a sentinel; called with the token."""
        if not self._sentinel:
            # Set first: the sentinel that starts to work clears it.
            self._sentinel = True
            self._sentinel = self._give(_WATCH)
        return self._sentinel

    def dispatch(self, job: Job) -> None:
        """Have ``job`` run by another thread, in its turn; refused when too many wait, or the link is over.

        Blocks only to deliver a refusal, and not for long: a peer that neither waits for its answers nor
        reads them is cut off.
        """
        self._dispatch(job, coming=False)

    def _dispatch(self, job: Job, *, coming: bool) -> None:
        if self._give(job, may_wait=True, coming=coming):
            return
        self._refuse(job)

    def _refuse(self, job: Job) -> None:
        buffers = job.refuse()
        if buffers and not self._ended:
            self._refused += 1
            level = logging.WARNING if self._refused == 1 else logging.DEBUG
            logger.log(level, "%s: too many requests at once, one was refused", self.name)
            try:
                self.send(buffers, Deadline(_PATIENCE))
            except TimeoutError:
                self.close(
                    RemoteProtocolError("the peer floods the connection and reads no answers")
                )
            except ConnectionLost:
                pass
        job.sent()

    def wake_by(self, due: float) -> None:
        """See to it that :meth:`Receiver.tick` is called at ``due``; to be called once tick() knows it."""
        if due >= self._wake_at:
            return
        with self._lock:
            if self._ended or due >= self._wake_at:
                return
            self._wake_at = due
            start, self._has_clock = not self._has_clock, True
        self._alarm.set()
        if start:
            try:
                spawn(f"{self.name}-clock", self._watch_clock)
            except NoThread as error:
                logger.error("%s: no thread to watch the clock: %s", self.name, error)
                with self._lock:
                    self._has_clock = False
                    self._wake_at = math.inf

    def _start_clock(self) -> None:
        """From here on the sentinel does not look at the time any more."""
        with self._lock:
            due, self._first_due = self._first_due, math.inf
            if not self._has_clock:
                self._wake_at = math.inf
        if not self._closing:  # which is what wakes the sentinel, too
            self.wake_by(due)

    def _watch_clock(self) -> None:
        while True:
            # Set out the alarm, mark, then look: what becomes due from here on finds the mark, and sounds it.
            self._alarm = alarm = Latch()
            if self._ended:
                return
            self._wake_at = math.inf
            self._wake_at = wake_at = self._tick()
            alarm.wait(Deadline(wake_at - time.monotonic()))

    def _tick(self) -> float:
        try:
            return self._receiver.tick(time.monotonic())
        except Exception:
            logger.exception("%s: cannot do what is due", self.name)
            return math.inf

    def _watch(self) -> _Task | None:
        """The sentinel's work: watch the socket while the thread that read from it serves."""
        if self._first_due < math.inf:
            remaining = max(0.0, self._first_due - time.monotonic())
            came = self._epoll.poll(remaining, maxevents=1)
            self._start_clock()
            if not came:
                self._epoll.poll(maxevents=1)
        else:
            self._epoll.poll(maxevents=1)
        self._token.acquire()
        self._sentinel = False
        if self._ended:
            self._finish()
            return None
        self._epoll.modify(self._fd, _DISARMED)
        return _READ

    # Reading

    def _read(self) -> _Task | None:
        """The reader's work; called with the token, returns the thread's next task without it."""
        while True:
            jobs: list[Job] = []
            cause = self._receive(jobs)
            if cause is not None:
                for job in jobs:
                    self.dispatch(job)
                self._end(cause)
                return None
            while jobs or (self._backlog and self._appoint()):
                if not self._serve(jobs):
                    return self._next()
                jobs = []
            if self._callers_read:
                is_watched, self._sentinel = self._sentinel, True
                self._release()
                return self._next() if is_watched else _WATCH

    def _receive(self, jobs: list[Job]) -> NRIError | None:
        """Read once and hand it on; called with the token. Returns why the link is over, if it is."""
        # With callers_read, what woke this thread may have been read by a caller meanwhile.
        flags = socket.MSG_DONTWAIT if self._callers_read else 0
        try:
            count = self._sock.recv_into(self._view, 0, flags)
            if not count:
                return ConnectionLost("the peer closed the connection")
            self._receiver.receive(self._view[:count], jobs)
            for job in jobs:
                if job.due < self._wake_at:
                    self.wake_by(job.due)
        except BlockingIOError:
            pass
        except OSError as error:
            return ConnectionLost(f"reading from the connection failed: {error}")
        except NRIError as error:
            return error
        except Exception as error:
            logger.exception("%s: cannot handle what the peer sent", self.name)
            return RemoteProtocolError(f"what the peer sent could not be handled: {error!r}")
        return None

    def begin_reading(self) -> bool:
        """Take over reading, to wait for an answer that is yet to be asked for; False if somebody else reads.

        When True, the thread must not block until it has called :meth:`read_until` or :meth:`end_reading`.
        """
        return self._callers_read and not on_main_thread() and self._regain()

    def read_until(self, done: Latch, deadline: Deadline) -> None:
        """Read until ``done`` is set, or the deadline, or the end of the link; then let others read."""
        cause = None
        try:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            while cause is None and not done.is_set() and _is_ready(poller, deadline):
                jobs: list[Job] = []
                cause = self._receive(jobs)
                for job in jobs:
                    self.dispatch(job)
        finally:
            if cause is None:
                self._release()
        if cause is not None:
            self._end(cause)

    def end_reading(self) -> None:
        """Let others read again, after :meth:`begin_reading`."""
        self._release()

    def _release(self) -> None:
        """Hand the reading to the sentinel; called with the token."""
        # Armed while the token is still held: so every change of the registration is made under it. The
        # sentinel may wake at once, and waits for the token.
        self._epoll.modify(self._fd, _ARMED)
        self._token.release()

    def _serve(self, jobs: list[Job]) -> bool:
        """Run the first of ``jobs``, or the first in line, here and have the others run; called with the token.

        Returns whether this thread has the token again (else another thread reads).
        """
        if not jobs or self._backlog or not (self._sentinel or self._appoint()):
            for job in jobs:
                self._dispatch(job, coming=self._sentinel)
            first = self._next_in_line() if self._sentinel else None
            if first is None:
                return True
        else:
            first = jobs[0]
            for job in jobs[1:]:
                self._dispatch(job, coming=True)
        self._release()
        buffers = self._run(first)
        if not self._regain():
            self._answer(first, buffers)
            return False
        if buffers:
            return self._answer_reading(first, buffers)
        first.sent()
        return True

    def _answer_reading(self, job: Job, buffers: Sequence[Buffer]) -> bool:
        """Send while holding the token, unless that blocks: then somebody else may read meanwhile.

        Returns whether this thread still has the token.
        """
        rest: Sequence[Buffer] = buffers
        writing = self._write_lock.acquire(False)
        if writing:
            try:
                rest = self._write(buffers)
            except ConnectionLost:
                job.sent()
                return True  # the next read tells
            if not rest:
                self._write_lock.release()
                job.sent()
                return True
        # There is a sentinel: the token was free a moment ago.
        self._release()
        if writing:
            with contextlib.suppress(ConnectionLost):
                self._write_rest(rest)
            job.sent()
        else:
            self._answer(job, buffers)
        return self._regain()

    def _regain(self) -> bool:
        """Take the token back, if nobody else reads, and stop the sentinel from waking."""
        if not self._token.acquire(False):
            return False
        if self._ended:
            self._token.release()
            return False
        self._epoll.modify(self._fd, _DISARMED)
        return True

    # Writing

    def send(self, buffers: Sequence[Buffer], deadline: Deadline | None = None) -> None:
        """Write ``buffers``, with nothing between them.

        Blocks while the peer does not read. What was begun is always finished, if need be by another
        thread after the deadline.

        Raises:
            TimeoutError: the deadline passed; what was not begun will not be sent.
            ConnectionLost: the link is over.
        """
        remaining = None if deadline is None else deadline.remaining()
        if not self._write_lock.acquire(timeout=-1 if remaining is None else remaining):
            raise TimeoutError(
                f"{self.name}: other messages are in the way, the peer does not read"
            )
        rest = self._write(buffers)
        if rest:
            self._write_rest(rest, deadline, begun=rest is not buffers)
        else:
            self._write_lock.release()

    def try_send(self, buffers: Sequence[Buffer]) -> bool:
        """Write ``buffers`` without blocking; False when nothing of them could be written now.

        What was begun is finished by another thread. True as well when the link is over.
        """
        if not self._write_lock.acquire(False):
            return False
        try:
            rest = self._write(buffers)
        except ConnectionLost:
            return True
        if not rest:
            self._write_lock.release()
        elif rest is buffers:
            self._write_lock.release()
            return False
        else:
            self._delegate(rest)
        return True

    def _answer(self, job: Job, buffers: Sequence[Buffer]) -> None:
        if buffers:
            try:
                self.send(buffers)
            except ConnectionLost:
                logger.debug("%s: an answer came after the end of the connection", self.name)
        job.sent()

    def _write(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Write without blocking; called with the write lock. Returns the rest, ``buffers`` if it is all.

        Raises:
            ConnectionLost: the link is over; the lock has been released.
        """
        try:
            if not self._open:
                raise ConnectionLost("the connection is closed")
            try:
                if len(buffers) == 1:
                    sent = self._sock.send(buffers[0], _SEND_FLAGS)
                else:
                    sent = self._sock.sendmsg(buffers, (), _SEND_FLAGS)
            except BlockingIOError:
                return buffers
        except (OSError, ConnectionLost) as error:
            self._write_lock.release()
            lost = ConnectionLost(f"writing to the connection failed: {error}")
            self.close(lost)
            raise lost from error
        for index, buffer in enumerate(buffers):
            if sent < len(buffer):
                return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
            sent -= len(buffer)
        return ()

    def _write_rest(
        self, rest: Sequence[Buffer], deadline: Deadline | None = None, *, begun: bool = True
    ) -> None:
        """Write ``rest`` to its end; called with the write lock, which is released whatever happens."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while rest:
            if not _is_ready(poller, deadline):
                if begun:
                    self._delegate(rest)
                else:
                    self._write_lock.release()
                raise TimeoutError(f"{self.name}: the peer does not read")
            left = self._write(rest)
            begun = begun or left is not rest
            rest = left
        self._write_lock.release()

    def _delegate(self, rest: Sequence[Buffer]) -> None:
        """Have another thread write ``rest``; the write lock goes with it, so there is one such thread."""

        def write() -> None:
            with contextlib.suppress(ConnectionLost):
                self._write_rest(rest)

        try:
            spawn(f"{self.name}-writer", write)
        except NoThread:
            self._write_lock.release()
            self.close(
                ConnectionLost("the peer does not read, and no thread was left to wait for it")
            )


def _is_ready(poller: select.poll, deadline: Deadline | None) -> bool:
    """Block until the descriptor is ready (True) or the deadline has passed (False)."""
    while True:
        remaining = None if deadline is None else deadline.remaining()
        timeout = None if remaining is None else math.ceil(min(remaining * 1000, _LONGEST_POLL))
        if poller.poll(timeout):
            return True
        if remaining == 0.0:
            return False
