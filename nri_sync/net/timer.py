"""One timer: a thread that calls a function whenever its next time has come."""

from __future__ import annotations

import math
import threading
import time
from typing import Callable

from nri_sync import threads
from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.logger import get_logger
from nri_sync.threads import Latch

__all__ = ["Timer"]

logger = get_logger("nri_sync.net")


class Timer:
    """Calls ``tick(now)`` when a time has come. Its thread starts with the first :meth:`wake_by`.

    ``tick()`` returns the time of the next call, or ``math.inf``. It must not block. An exception is logged, and
    counts as ``math.inf``. Times are on the monotonic clock. Methods may be called from any thread that signals do
    not interrupt.
    """

    def __init__(self, tick: Callable[[float], float], *, name: str) -> None:
        self._tick = tick
        self._name = name
        #: The time of the next call. Read without a lock, to save a call of :meth:`wake_by`.
        self.due = math.inf
        # Ends the sleep of the thread.
        self._wakeup = Latch()
        # Guards _is_running, _is_stopped, and the changes of ``due`` by other threads than the timer's.
        self._lock = threading.Lock()
        self._is_running = False
        self._is_stopped = False

    @property
    def is_running(self) -> bool:
        """Whether the thread has been started."""
        return self._is_running

    def wake_by(self, due: float) -> None:
        """Call ``tick()`` at ``due`` at the latest. Call this when ``tick()`` already knows that time.

        Does not block. Without a thread to be had, an error is logged and the next call tries again.
        """
        if due >= self.due:
            return
        with self._lock:
            if self._is_stopped or due >= self.due:
                return
            self.due = due
            start, self._is_running = not self._is_running, True
        self._wakeup.set()
        if start:
            try:
                threads.spawn(f"{self._name}-timer", self._run)
            except NoThread as error:
                logger.error("%s: no thread for the timer: %s", self._name, error)
                with self._lock:
                    self._is_running = False
                    self.due = math.inf

    def stop(self) -> None:
        """End the thread; ``tick()`` may be called once more. Idempotent, and does not block."""
        with self._lock:
            self._is_stopped = True
        self._wakeup.set()

    def after_fork_in_child(self) -> None:
        """Forget the thread, which the child does not have."""
        self._lock = threading.Lock()
        self._is_stopped = True

    def _run(self) -> None:
        while True:
            # Order matters: publish the latch, reset ``due``, then call tick(). A time that is added after the
            # reset is earlier than ``due``, and sets the latch.
            self._wakeup = wakeup = Latch()
            if self._is_stopped:
                return
            self.due = math.inf
            self.due = due = self._call()
            wakeup.wait(Deadline(due - time.monotonic()))

    def _call(self) -> float:
        try:
            return self._tick(time.monotonic())
        except Exception:
            logger.exception("%s: cannot handle what is due", self._name)
            return math.inf
