"""Watches the handlers of a plugin under test, from inside its stub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nri_sync.deadline import Deadline
from nri_sync.plugin.interceptors import Interceptor, Proceed
from nri_sync.rpc.context import RequestContext
from nri_sync.testing.common import WITHIN
from nri_sync.threads import Latch, signal_safe

__all__ = ["Watch"]


class Watch(Interceptor):
    """Records the exceptions of handlers, the running handlers, and the number of synchronizations.

    It has to be the first interceptor of the stub. Thread-safe.
    """

    def __init__(self, config: str = "") -> None:
        """The plugin gets ``config`` as its configuration, like a plugin that the runtime has launched."""
        self._config = config
        # Guards the lists and counters. Notified when a handler returns.
        self._changed = threading.Condition(threading.Lock())
        # Set when the first session has been synchronized, or lost.
        self._decided = Latch()
        self._raised: list[tuple[str, BaseException]] = []
        self._running: list[str] = []
        self._synchronized = 0
        self._closed = 0

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        self._prepare(event, request)
        with self._watched(event):
            response = proceed(request, context)
        if event == "Synchronize" and not request.more:
            self._count(synchronized=True)
        return response

    def _prepare(self, rpc: str, request: Any) -> None:
        if rpc == "Configure" and self._config:
            request.config = self._config
        elif rpc == "Synchronize":
            # Remove the padding by which node.split() makes the runtime split the state.
            for item in (*request.pods, *request.containers):
                item.DiscardUnknownFields()

    @contextmanager
    def _watched(self, rpc: str) -> Iterator[None]:
        with self._changed:
            self._running.append(rpc)
        try:
            yield
        except BaseException as error:
            with self._changed:
                self._raised.append((rpc, error))
            raise
        finally:
            with self._changed:
                self._running.remove(rpc)
                self._changed.notify_all()

    def closed(self) -> None:
        """Note that the stub has lost a session."""
        self._count(synchronized=False)

    @signal_safe
    def _count(self, *, synchronized: bool) -> None:
        with self._changed:
            if synchronized:
                self._synchronized += 1
            else:
                self._closed += 1
        self._decided.set()

    @property
    def losses(self) -> int:
        """The number of sessions that the stub has lost."""
        return self._closed

    def wait_synchronized(self, timeout: float) -> bool:
        """Block until the first session has been synchronized. False: it was lost, or the timeout has passed."""
        self._decided.wait(Deadline(timeout))
        return self._synchronized > 0

    @signal_safe
    def take(self, rpc: str | None = None) -> BaseException | None:
        """The oldest exception of a handler of that RPC, or of any. Each call returns another exception."""
        with self._changed:
            for item in self._raised:
                if rpc in (None, item[0]):
                    self._raised.remove(item)
                    return item[1]
        return None

    @signal_safe
    def still_running(self) -> list[str]:
        """The RPCs of the handlers that are still running. Waits a moment for them to return."""
        give_up = time.monotonic() + WITHIN / 4
        with self._changed:
            while self._running and time.monotonic() < give_up:
                self._changed.wait(give_up - time.monotonic())
            return list(self._running)
