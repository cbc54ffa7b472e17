"""The threads of a link, and the jobs that wait for one of them.

A thread has one task at a time: a job, or one of the two roles that keep the link reading. A task goes to an idle
thread or to a new one. A job, for which there is neither, waits in the backlog until a thread has finished its
job.
"""

from __future__ import annotations

import enum
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Callable, Union

from nri_sync import threads
from nri_sync.errors import NoThread
from nri_sync.logger import get_logger
from nri_sync.net.writer import Buffer

__all__ = ["IDLE_THREADS", "READ", "WATCH", "Job", "Role", "Task", "Workers"]

logger = get_logger("nri_sync.net")

#: How many threads stay for the next burst of requests.
IDLE_THREADS = 8


class Job:
    """A request of the peer, to be served by a worker thread."""

    #: Bytes of memory that the job holds while it waits for a thread. Constant.
    size = 0
    #: When :meth:`Receiver.tick` has to look at the job, on the monotonic clock.
    due = math.inf

    def run(self) -> Sequence[Buffer]:
        """Serve the request. May block. Must not raise. Returns the message to send, if any."""
        raise NotImplementedError

    def sent(self) -> None:
        """The message of :meth:`run` or :meth:`refuse` has been written, or never will be."""

    def refuse(self) -> Sequence[Buffer]:
        """The message to send instead of running the job, when there is neither a thread nor room to wait.

        Called as well when the link is over, and then not sent. Must neither block nor raise.
        """
        raise NotImplementedError


class Role(enum.Enum):
    """The task of a thread that has no job."""

    READER = enum.auto()
    WATCHER = enum.auto()


Task = Union[Job, Role]

# Before Python 3.12, each look-up of a member costs a call.
READ = Role.READER
WATCH = Role.WATCHER


class _IdleWorker:
    """Parks one thread until another thread has a task for it, or the link ends."""

    __slots__ = ("_parked", "_task")

    def __init__(self) -> None:
        self._task: Task | None = None
        self._parked = threading.Lock()
        self._parked.acquire()

    def wait(self) -> Task | None:
        self._parked.acquire()
        return self._task

    def wake(self, task: Task | None) -> None:
        """Called once."""
        self._task = task
        self._parked.release()


class Workers:
    """A bounded number of threads, and a bounded backlog. Methods may be called from any thread."""

    def __init__(
        self,
        work: Callable[[Task], object],
        refuse: Callable[[Job], object],
        *,
        name: str,
        max_threads: int,
        max_backlog: int,
        max_backlog_bytes: int,
    ) -> None:
        """Each new thread runs ``work(task)``, which takes further tasks from :meth:`next_task`.

        ``refuse(job)`` disposes of a job that no thread will run. ``max_threads`` is raised to 3: a reader, a
        watcher, and one thread that serves the backlog.
        """
        self._work = work
        self._refuse = refuse
        self._name = name
        self._max_threads = max(3, max_threads)
        self._max_backlog = max_backlog
        self._max_backlog_bytes = max_backlog_bytes
        #: Whether one of the threads is the watcher, or is about to be. Guarded by the token of the link.
        self.is_watched = False
        # Guards all attributes below. Never held while blocking.
        self._lock = threading.Lock()
        self._is_over = False
        # The thread that calls Link.run() counts from the start.
        self._threads = 1
        self._spawned = 0
        self._idle: list[_IdleWorker] = []
        #: The jobs that wait for a thread. Other modules ask only whether there are any, without the lock.
        self.backlog: deque[Job] = deque()
        self._backlog_bytes = 0

    @property
    def threads(self) -> int:
        """The number of threads, idle ones included."""
        return self._threads

    @property
    def idle(self) -> int:
        """The number of idle threads."""
        return len(self._idle)

    def appoint_watcher(self) -> bool:
        """Make sure that there is a watcher; False if there is no thread for it. Called with the token."""
        if not self.is_watched:
            # Set first: a watcher that wakes at once clears it.
            self.is_watched = True
            self.is_watched = self._start(WATCH)
        return self.is_watched

    def submit(self, job: Job, *, caller_serves: bool = False) -> None:
        """Have another thread run the job, in its turn, or refuse it.

        ``caller_serves``: the calling thread itself will take the next job of the backlog.
        """
        if not self._start(job, may_wait=True, caller_serves=caller_serves):
            self._refuse(job)

    def next_task(self) -> Task | None:
        """The next task of a thread that has none; None: the thread ends. Blocks while the thread is idle."""
        with self._lock:
            job = self._take_locked()
            if job is not None:
                return job
            if self._is_over or len(self._idle) >= IDLE_THREADS:
                self._threads -= 1
                return None
            worker = _IdleWorker()
            self._idle.append(worker)
        return worker.wait()

    def take(self) -> Job | None:
        """The first job of the backlog, for a thread that will run it."""
        with self._lock:
            return self._take_locked()

    def end(self) -> list[Job]:
        """End the idle threads, and take no more tasks. Returns the jobs of the backlog. Idempotent."""
        with self._lock:
            self._is_over = True
            idle, self._idle = self._idle, []
            self._threads -= len(idle)
            dropped = self._clear_locked()
        for worker in idle:
            worker.wake(None)
        return dropped

    def after_fork_in_child(self) -> None:
        """Forget the threads, which the child does not have, and their jobs."""
        self._lock = threading.Lock()
        self._is_over = True
        self._idle.clear()
        self.backlog.clear()

    def _start(self, task: Task, *, may_wait: bool = False, caller_serves: bool = False) -> bool:
        """Give the task to an idle thread, to a new one, or with ``may_wait`` to the backlog."""
        may_spawn = True
        while True:
            with self._lock:
                if self._is_over:
                    return False
                worker = self._idle.pop() if self._idle else None
                if worker is None:
                    if not may_spawn or self._threads >= self._max_threads:
                        if may_wait and isinstance(task, Job):
                            return self._wait_in_line_locked(task, caller_serves)
                        return False
                    self._threads += 1
                    self._spawned += 1
                name = f"{self._name}-{self._spawned}"
            if worker is not None:
                worker.wake(task)
                return True
            try:
                threads.spawn(name, self._work, task)
                return True
            except NoThread as error:
                logger.error("%s: no new thread: %s", self._name, error)
            may_spawn = False
            self._uncount(self.is_watched and task is not WATCH)

    def _uncount(self, is_watched: bool) -> None:
        """Uncount a thread that failed to start, and refuse the backlog if no thread is left to serve it."""
        orphans: list[Job] = []
        with self._lock:
            self._threads -= 1
            if self._threads <= 1 + is_watched:
                orphans = self._clear_locked()
        for job in orphans:
            self._refuse(job)

    def _wait_in_line_locked(self, job: Job, caller_serves: bool) -> bool:
        assert self._lock.locked()
        # The reader and the watcher do not serve the backlog: a third thread must, when its job is done.
        if (
            not (caller_serves or self._threads > 1 + self.is_watched)
            or len(self.backlog) >= self._max_backlog
            or self._backlog_bytes + job.size > self._max_backlog_bytes
        ):
            return False
        self.backlog.append(job)
        self._backlog_bytes += job.size
        return True

    def _take_locked(self) -> Job | None:
        assert self._lock.locked()
        if not self.backlog:
            return None
        job = self.backlog.popleft()
        self._backlog_bytes -= job.size
        return job

    def _clear_locked(self) -> list[Job]:
        assert self._lock.locked()
        jobs = list(self.backlog)
        self.backlog.clear()
        self._backlog_bytes = 0
        return jobs
