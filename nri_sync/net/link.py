"""One connected socket, and the threads that read it and serve its requests.

The threads take turns. At every moment one thread holds the *token*, and reads; the receiver turns the bytes into
jobs (requests to serve). The thread that has read a request also serves it, because handing work to another thread
costs more than most handlers do. While it serves, the token is free and the socket is armed in an epoll set, where
one more thread waits, the *watcher*: if bytes arrive before the handler is done, the watcher takes the token and
becomes the reader. Before the first thread sends its answer it takes the token back, where the token is still
free, and disarms the socket. So an exchange of request and answer, one after the other, wakes no other thread::

             +------------------- token taken back, answer sent ------------------+
             v                                                                    |
    +--------+-------+  a request: arm, release the token   +---------------------+-+
    | reader (token) | -----------------------------------> | serving (no token)    |
    +--------+-------+                                      +-----------+-----------+
             ^ socket readable, token taken                             | another thread has the token
    +--------+-------+                                      +-----------v-----------+
    |     watcher    | <----------------------------------- | idle, or ended        |
    +----------------+   appointed by the reader            +-----------------------+

Invariants: there is at most one reader and one watcher; no job runs while its thread holds the token; the reader
or the watcher always waits for the socket, however long handlers take. The watcher may have to wait for the token
of a faster reader, which is why deadlines have a thread of their own, the timer.

The parts: :mod:`.token` decides which thread reads, :mod:`.workers` has the threads and the backlog,
:mod:`.writer` sends, :mod:`.timer` keeps deadlines, :mod:`.receiver` has the interfaces of the code above; this
module reads, and ends the connection.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Sequence

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NRIError, RemoteProtocolError
from nri_sync.logger import get_logger
from nri_sync.net.receiver import HEADER, Lane, Receiver
from nri_sync.net.timer import Timer
from nri_sync.net.token import ReadToken
from nri_sync.net.workers import READ, WATCH, Job, Task, Workers
from nri_sync.net.writer import Buffer, Writer, is_ready
from nri_sync.threads import Latch, on_main_thread, signal_safe

__all__ = ["LINGER", "PATIENCE", "TIMER_DELAY", "Buffer", "Job", "Link"]

logger = get_logger("nri_sync.net")

_READ_SIZE = 256 * 1024
#: A Go peer may lose data that it has not read yet when it sees the end of the connection. Seconds.
LINGER = 0.02
#: How long the watcher of a new link stands in for the timer thread, in seconds. The start of a thread would delay
#: start() and the answer to Synchronize.
TIMER_DELAY = 0.25
#: How long the write of a refusal may block the reading, which slows a flood down, before the link ends. Seconds.
PATIENCE = 5.0


# The lane has served a request, and another thread has the token.
_SERVED = NRIError("served")


class Link:
    """A connected socket: its reading and its end. Owns the socket, the threads, the writer and the timer.

    Methods may be called from any thread that signals do not interrupt: the main thread uses another thread.
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
        """``max_threads`` bounds the threads (at least 3), the others the jobs that wait for one.

        With ``callers_read`` no thread waits in ``recv()`` while nothing happens: the watcher watches the socket,
        and a thread that waits for an answer can read it itself (see :meth:`begin_reading`). Right for a side that
        calls more than it serves.
        """
        sock.setblocking(True)
        self.name = name
        self._sock = sock
        self._fd = sock.fileno()
        self._receiver = receiver
        self._callers_read = callers_read
        self.writer = Writer(sock, self.close, name=name)
        #: Serves requests ahead of the receiver, if there is one. Set before :meth:`run`, not with
        #: ``callers_read``.
        self.lane: Lane | None = None
        self.timer = Timer(receiver.tick, name=name)
        self.workers = Workers(
            self._work,
            self._refuse,
            name=name,
            max_threads=max_threads,
            max_backlog=max_backlog,
            max_backlog_bytes=max_backlog_bytes,
        )
        # Its holder is the reader. It guards the receiver's parsers, _view and workers.is_watched as well.
        self.token = ReadToken(self._fd)
        # Anonymous memory: pages that were never read into are never allocated, nor cleared.
        self._view = memoryview(mmap.mmap(-1, _READ_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        # Until this time the first watcher stands in for the timer; 0.0 from then on.
        self._stands_in_until = 0.0
        # Whether the timer has to know of a time when the watcher does not stand in any more.
        self._needs_timer = False
        # Whether the watcher waits for the token, and not in epoll any more. Only the watcher changes it.
        self._watcher_is_back = False
        # Guards the attributes below, and with _is_open the lifetime of the descriptors.
        self._lock = threading.Lock()
        self._cause: NRIError | None = None
        self._closing = False
        self._is_open = True
        # Only for the log.
        self._refused = 0
        fork.in_child(self._after_fork_in_child)

    # Ending

    def close(self, cause: NRIError | None = None) -> None:
        """End the link, now. Returns at once; :meth:`Receiver.lost` is called when all is closed.

        Idempotent: the cause of the first call counts, or the peer's end of the connection before it.
        """
        with self._lock:
            if not self._closing:
                self._closing = True
                self._cause = cause
            if self._is_open:
                # The reader sees the end of the stream, and ends the link.
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    @property
    def closing(self) -> bool:
        """Whether the link is over, or about to be."""
        return self._closing

    @property
    def is_open(self) -> bool:
        """Whether the descriptors are open."""
        return self._is_open

    @property
    @signal_safe
    def hung_up(self) -> bool:
        """Whether either side has ended the connection, even if the reader has not seen that yet."""
        with self._lock:
            if not self._is_open or self._closing:
                return True
            poll = select.poll()
            poll.register(self._fd, select.POLLRDHUP)
            return bool(poll.poll(0))

    def drain(self, deadline: Deadline, *, linger: bool = True) -> None:
        """Block until the peer has read all sent bytes, with ``linger`` a moment longer, or to the deadline."""
        while not deadline.expired:
            with self._lock:
                if not self._is_open or self._closing:
                    return
                queued = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if queued == 0:
                break
            time.sleep(0.001)
        if linger:
            remaining = deadline.remaining()
            time.sleep(LINGER if remaining is None else min(LINGER, remaining))

    def abandon(self) -> None:
        """Close the descriptors of a link that has no thread. Neither the peer nor the receiver notices."""
        self._closing = True
        self._is_open = False
        self.writer.close()
        self.timer.stop()
        self.workers.end()
        self.close_descriptors()

    def _after_fork_in_child(self) -> None:
        # The other threads are gone, and may have held any lock. Closing the descriptors leaves the connection and
        # the epoll set of the parent as they are.
        self._lock = threading.Lock()
        for part in (self.token, self.writer, self.timer, self.workers):
            part.after_fork_in_child()
        self.abandon()
        self._receiver.after_fork_in_child()

    def close_descriptors(self) -> None:
        """The last step of the end, called by the link itself: once, or twice in a forked child."""
        self._sock.close()
        self.token.close()

    def _end(self, cause: NRIError) -> None:
        """End the link; called with the token, by the reader."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._cause = cause
            # Writers that are blocked return, and the epoll set reports the socket from now on.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        # Before the jobs are refused: no refusal is sent from now on.
        self.token.end()
        self.timer.stop()
        dropped = self.workers.end()
        if dropped:
            logger.warning(
                "%s: %d requests were still waiting when it ended", self.name, len(dropped)
            )
        for job in dropped:
            job.refuse()
            job.sent()
        # Nothing may be closed while the watcher is in epoll. The end wakes both threads, so the watcher is back
        # as a rule; else it closes. With callers_read this may be the thread of a caller, which has other work.
        if self.workers.is_watched and (self._callers_read or not self._watcher_is_back):
            self.token.drop()
        else:
            self._finish()

    def _finish(self) -> None:
        """Close the descriptors; called with the token, when no thread uses them for reading any more."""
        # The link may stay referenced until the next garbage collection; the read buffer need not.
        self._view = memoryview(b"")
        self.writer.close()
        with self._lock:
            self._is_open = False
            self.close_descriptors()
        self.token.drop()
        self._receiver.lost(self._cause)

    # Threads

    def run(self) -> None:
        """Serve the link from the calling thread, and others, until it is over. To be called once.

        Returns when this thread is not needed any more, which may be before the end.
        """
        self.token.take()
        if self.token.is_over:  # a thread that waited for an answer has read the end
            self.token.drop()
            return
        now = time.monotonic()
        due = self._receiver.tick(now)
        if not self._callers_read:
            self._stands_in_until = min(now + TIMER_DELAY, due)
            if not self.workers.appoint_watcher():
                self._stands_in_until = 0.0
        if due < math.inf:
            self.wake_by(due)
        self._work(READ)

    def _work(self, task: Task | None) -> None:
        while task is not None:
            if task is READ:
                task = self._read()
            elif task is WATCH:
                task = self._watch()
            elif isinstance(task, Job):
                self._answer(task, self._run(task))
                task = self.workers.next_task()

    def _run(self, job: Job) -> Sequence[Buffer]:
        try:
            return job.run()
        except BaseException:  # a bug, or sys.exit(), which must not end one of the threads
            logger.exception("%s: a job failed", self.name)
            return ()

    def dispatch(self, job: Job) -> None:
        """Have another thread run the job, in its turn; refuse it when too many wait, or the link is over.

        Blocks only to send a refusal, for seconds at most: the link ends if a peer neither waits for its answers
        nor reads them.
        """
        self.workers.submit(job)

    def wake_by(self, due: float) -> None:
        """Call :meth:`Receiver.tick` at ``due`` at the latest, which has to know that time already."""
        # Mark, then look: the watcher does it the other way round. So either the watcher sees the mark, or this
        # thread calls the timer.
        self._needs_timer = True
        if not 0.0 < self._stands_in_until <= due:
            self.timer.wake_by(due)

    def _refuse(self, job: Job) -> None:
        buffers = job.refuse()
        if buffers and not self.token.is_over:
            self._refused += 1
            level = logging.WARNING if self._refused == 1 else logging.DEBUG
            logger.log(level, "%s: too many requests at once, one was refused", self.name)
            try:
                self.send(buffers, Deadline(PATIENCE))
            except TimeoutError:
                self.close(
                    RemoteProtocolError("the peer floods the connection and reads no answers")
                )
            except ConnectionLost:
                pass
        job.sent()

    # Reading

    def _watch(self) -> Task | None:
        """The watcher's task: wait until the socket is readable while the thread that has read from it serves."""
        until = self._stands_in_until
        events = self.token.wait(max(0.0, until - time.monotonic()) if until else None)
        if until:
            self._stands_in_until = 0.0
            # The end, by either side, makes the socket readable, too. Then there is no time to keep.
            if self._needs_timer and not (self._closing or events & select.EPOLLHUP):
                self.timer.wake_by(time.monotonic())
        if not events:
            self.token.wait()
        self._watcher_is_back = True
        self.token.take()
        self._watcher_is_back = False
        self.workers.is_watched = False
        if self.token.is_over:
            if self._is_open:
                self._finish()
            else:
                self.token.drop()
            return None
        self.token.disarm()
        return READ

    def _read(self) -> Task | None:
        """The reader's task. Called with the token, returns the thread's next task without it."""
        workers = self.workers
        while True:
            jobs: list[Job] = []
            cause = self._receive(jobs)
            if cause is _SERVED:
                return workers.next_task()
            if cause is not None:
                for job in jobs:
                    workers.submit(job)
                self._end(cause)
                return None
            while jobs or (workers.backlog and workers.appoint_watcher()):
                if not self._serve(jobs):
                    return workers.next_task()
                jobs = []
            if self._callers_read:
                was_watched, workers.is_watched = workers.is_watched, True
                self.token.release()
                return workers.next_task() if was_watched else WATCH

    def _receive(self, jobs: list[Job]) -> NRIError | None:
        """Read, and turn the bytes into jobs; before that, serve all requests that the lane takes. With the token.

        Returns why the link ends, or None; _SERVED without the token, which another thread has.
        """
        # With callers_read, a calling thread may have read the bytes that woke this thread.
        flags = socket.MSG_DONTWAIT if self._callers_read else 0
        lane, view, backlog = self.lane, self._view, self.workers.backlog
        try:
            count = self._sock.recv_into(view, 0, flags)
            while lane is not None:
                served = lane(view, count)
                if served is None:
                    break
                if served is HEADER:
                    rest = self._sock.recv_into(view[count:])
                    count = count + rest if rest else 0
                    continue
                if not served:
                    return _SERVED
                if backlog:
                    return None  # this thread is free for a job
                count = self._sock.recv_into(view)
            if not count:
                return ConnectionLost("the peer closed the connection")
            self._find_jobs(view[:count], jobs)
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

    def _find_jobs(self, data: memoryview, jobs: list[Job]) -> None:
        """Have the receiver turn the bytes into jobs, and the timer know when they are due."""
        self._receiver.receive(data, jobs)
        for job in jobs:
            if job.due < self.timer.due:
                self.wake_by(job.due)

    def _serve(self, jobs: list[Job]) -> bool:
        """Run the first of ``jobs``, or of the backlog, here and have the others run. Called with the token.

        Returns whether this thread has the token again, or else another thread reads.
        """
        workers = self.workers
        if not jobs or workers.backlog or not (workers.is_watched or workers.appoint_watcher()):
            for job in jobs:
                workers.submit(job, caller_serves=workers.is_watched)
            first = workers.take() if workers.is_watched else None
            if first is None:
                return True
        else:
            first = jobs[0]
            for job in jobs[1:]:
                workers.submit(job, caller_serves=True)
        self.token.release()
        return self.answer(first, self._run(first))

    def answer(self, job: Job, buffers: Sequence[Buffer]) -> bool:
        """Take the token back, if it is free, and send the message of a job that this thread has run, if any.

        Returns whether this thread has the token again, or else another thread reads.
        """
        if not self.token.regain():
            self._answer(job, buffers)
            return False
        if buffers:
            try:
                rest = self.writer.begin(buffers)
            except ConnectionLost:  # which the next read finds as well
                rest = ()
            if rest is None or rest:
                return self._answer_later(job, buffers, rest)
        job.sent()
        return True

    def begin_reading(self) -> bool:
        """Start to read, ahead of a request whose answer this thread waits for; False if another thread reads.

        When True, the thread must not block until it has called :meth:`read_until` or :meth:`end_reading`.
        """
        return self._callers_read and not on_main_thread() and self.token.regain()

    def read_until(self, done: Latch, deadline: Deadline) -> None:
        """Read until ``done`` is set, or the deadline, or the end of the link; then let other threads read.

        Returns earlier where the receiver may block, so that the thread does not miss its deadline.
        """
        cause = None
        try:
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            while cause is None and not done.is_set() and is_ready(poller, deadline):
                if self._receiver.may_block():
                    break
                jobs: list[Job] = []
                cause = self._receive(jobs)
                for job in jobs:
                    self.workers.submit(job)
        finally:
            if cause is None:
                self.token.release()
        if cause is not None:
            self._end(cause)

    def end_reading(self) -> None:
        """Let other threads read again, after :meth:`begin_reading`."""
        self.token.release()

    # Writing

    def send(self, buffers: Sequence[Buffer], deadline: Deadline | None = None) -> None:
        """As :meth:`Writer.send`."""
        self.writer.send(buffers, deadline)

    def try_send(self, buffers: Sequence[Buffer]) -> bool:
        """As :meth:`Writer.try_send`."""
        return self.writer.try_send(buffers)

    def _answer(self, job: Job, buffers: Sequence[Buffer]) -> None:
        if buffers:
            try:
                self.writer.send(buffers)
            except ConnectionLost:
                logger.debug("%s: an answer came after the end of the connection", self.name)
        job.sent()

    def _answer_later(
        self, job: Job, buffers: Sequence[Buffer], rest: Sequence[Buffer] | None
    ) -> bool:
        """Let another thread read while this one sends the rest, or all when the writer was busy (None)."""
        # There is a watcher: the token was free a moment ago.
        self.token.release()
        if rest is None:
            self._answer(job, buffers)
        else:
            with contextlib.suppress(ConnectionLost):
                self.writer.finish(rest)
            job.sent()
        return self.token.regain()
