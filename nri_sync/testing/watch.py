"""The calls of the handlers of a plugin under test, seen from its stub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nri_sync.deadline import Deadline
from nri_sync.plugin.interceptors import Interceptor, Proceed
from nri_sync.rpc.context import ServicerContext
from nri_sync.testing.common import WITHIN
from nri_sync.threads import Latch, signal_safe

__all__ = ["Watch"]


class Watch(Interceptor):
    """Knows what handlers have raised, which are running, and how often the plugin was synchronized.

    An interceptor, to be the first of a stub's. Thread-safe.
    """

    def __init__(self, config: str = "") -> None:
        """``config`` is what the plugin gets as its configuration, as if the runtime had launched it."""
        self._config = config
        # Guards the following, and is notified of handlers that return.
        self._changed = threading.Condition(threading.Lock())
        # Set with the first session that was synchronized, or lost.
        self._decided = Latch()
        self._raised: list[tuple[str, BaseException]] = []
        self._running: list[str] = []
        self._synchronized = 0
        self._closed = 0

    def serve(self, event: str, request: Any, context: ServicerContext, proceed: Proceed) -> Any:
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
            # What has made the runtime split the state: see node.split().
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
        """The session of the stub was lost."""
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
        """How many sessions of the stub were lost."""
        return self._closed

    def wait_synchronized(self, timeout: float) -> bool:
        """Block until the first session has been synchronized; False if it was lost, or the time is over."""
        self._decided.wait(Deadline(timeout))
        return self._synchronized > 0

    @signal_safe
    def take(self, rpc: str | None = None) -> BaseException | None:
        """The oldest exception that handlers have raised, of that RPC or any; each is returned once."""
        with self._changed:
            for item in self._raised:
                if rpc in (None, item[0]):
                    self._raised.remove(item)
                    return item[1]
        return None

    @signal_safe
    def still_running(self) -> list[str]:
        """The RPCs whose handlers do not return soon."""
        give_up = time.monotonic() + WITHIN / 4
        with self._changed:
            while self._running and time.monotonic() < give_up:
                self._changed.wait(give_up - time.monotonic())
            return list(self._running)
