"""The progress of a script, and the messages of the plugin, shared by the test and the script's thread."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from nri_sync.api import nri_pb2

__all__ = ["Closed", "ScriptState"]


class Closed(Exception):
    """The test has ended, and so does the script."""


class ScriptState:
    """The marks, holds and records of one script. Thread-safe."""

    def __init__(self) -> None:
        # Guards all other attributes. Its condition is notified of each change.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = False
        self._done = False
        self._error: BaseException | None = None
        self._marks: set[str] = set()
        self._released: set[str] = set()
        self._log: list[str] = []
        self._registrations: list[nri_pb2.RegisterPluginRequest] = []
        self._answers: list[tuple[str, Any]] = []
        self._updates: list[nri_pb2.UpdateContainersRequest] = []

    # For steps. Waiting methods raise Closed when the test has ended.

    def note(self, text: str) -> None:
        """Add a line to the log."""
        self._add(self._log, text)

    def mark(self, name: str) -> None:
        """Record that the script has reached this mark."""
        with self._changed:
            self._marks.add(name)
            self._changed.notify_all()

    def hold(self, name: str) -> None:
        """:meth:`mark`, and wait until the test releases that name."""
        self.mark(name)
        self._wait(lambda: name in self._released, None)

    def pause(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        self._wait(lambda: False, seconds)

    def registered(self, request: nri_pb2.RegisterPluginRequest) -> None:
        """Record a RegisterPlugin request."""
        self._add(self._registrations, request)

    def answered(self, rpc: str, answer: Any) -> None:
        """Record an answer of the plugin: a message, or a CallFailed."""
        self._add(self._answers, (rpc, answer))

    def updated(self, request: nri_pb2.UpdateContainersRequest) -> None:
        """Record an UpdateContainers request."""
        self._add(self._updates, request)

    def _add(self, items: list[Any], item: Any) -> None:
        with self._changed:
            items.append(item)
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], object], seconds: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or condition(), seconds)
            if self._closed:
                raise Closed

    # For the runtime

    def finish(self, error: BaseException | None) -> None:
        """Record the end of the script, or the error by which it has failed."""
        with self._changed:
            self._done = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """End the script: its waiting methods raise Closed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    # For the test

    @property
    def log(self) -> list[str]:
        with self._changed:
            return list(self._log)

    @property
    def registrations(self) -> list[nri_pb2.RegisterPluginRequest]:
        with self._changed:
            return list(self._registrations)

    @property
    def answers(self) -> list[tuple[str, Any]]:
        with self._changed:
            return list(self._answers)

    @property
    def updates(self) -> list[nri_pb2.UpdateContainersRequest]:
        with self._changed:
            return list(self._updates)

    def release(self, name: str) -> None:
        """Continue a hold of that name, even if the script has not reached it yet."""
        with self._changed:
            self._released.add(name)
            self._changed.notify_all()

    def wait(self, name: str | None, timeout: float) -> None:
        """Block until the script has reached that mark; without one, until its end.

        Raises AssertionError if the script fails, ends without it, or takes more than ``timeout`` seconds.
        """
        give_up = time.monotonic() + timeout
        with self._changed:
            while not (self._done if name is None else name in self._marks):
                remaining = give_up - time.monotonic()
                if self._done or self._closed or remaining <= 0:
                    why = "has ended" if self._done else f"has not got there within {timeout:g} s"
                    what = "its end" if name is None else f"{name!r}"
                    self._check_locked()
                    raise AssertionError(
                        f"the script {why}, without {what}; {self._so_far_locked()}"
                    )
                self._changed.wait(remaining)
            self._check_locked()

    def check(self) -> None:
        """Raise AssertionError if the script has failed."""
        with self._changed:
            self._check_locked()

    def _check_locked(self) -> None:
        assert self._lock.locked()
        if self._error is not None:
            raise AssertionError(
                f"the script has failed: {self._error}; {self._so_far_locked()}"
            ) from self._error

    def _so_far_locked(self) -> str:
        assert self._lock.locked()
        return "so far:\n  " + "\n  ".join(self._log or ["nothing"])
