"""One event on its way to plugins: the answers, and the failure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Callable

from nri_sync.api.nri_pb2 import Container, PodSandbox
from nri_sync.errors import (
    ConflictError,
    NRIError,
    RequestFailed,
    RequestTimeout,
    SpecError,
    ValidationRejected,
)
from nri_sync.testing.result import Answer, Result

__all__ = ["SentEvent", "from_handler"]

# The failures of an event that plugins can cause. Other exceptions are mistakes of the test.
_FAILURES = (RequestFailed, ConflictError, ValidationRejected, RequestTimeout, SpecError)


class SentEvent:
    """One event, or several that belong together, with the answers and the first failure. A context manager."""

    def __init__(
        self,
        name: str,
        check: bool,
        explain: Callable[[RequestFailed], object],
        look_at: Callable[[Sequence[Answer]], object],
        *around: Any,
    ) -> None:
        """``around`` are context managers; the last one yields the list of answers.

        At the end, ``look_at`` is called with that list.
        """
        self._name = name
        self._check = check
        self._explain = explain
        self._look_at = look_at
        self._around = around
        self._entered = ExitStack()
        #: The answers of plugins so far.
        self.answers: list[Answer] = []
        #: The return value of the last call by send().
        self.reply: Any = None
        self.error: NRIError | None = None

    def __enter__(self) -> SentEvent:
        with ExitStack() as entered:
            for context in self._around:
                self.answers = entered.enter_context(context)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, kind: object, *_exc_info: object) -> None:
        """Raise the error that has failed the event, if the caller checks it."""
        # pytest then shows the frames of the handler and of the test, and none of this package.
        __tracebackhide__ = True
        self._entered.close()
        self._look_at(self.answers)
        if kind is None and self._check and self.error is not None:
            raise self.error.with_traceback(None)

    def send(self, call: Callable[..., Any], *arguments: Any) -> bool:
        """Call a method of the Runtime, or another function that can fail the event; False if it fails."""
        self.reply = None
        try:
            self.reply = call(*arguments)
        except _FAILURES as error:
            if self.error is None:
                self.error = error
                if isinstance(error, RequestFailed):
                    self._explain(error)
            return False
        return True

    def result(self, pod: PodSandbox, container: Container | None = None, **more: Any) -> Result:
        """The result of the event, with the answers and the error."""
        return Result(self._name, pod, container, answers=self.answers, error=self.error, **more)


def from_handler(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the leading frames of this package; the whole traceback if it has no others."""
    rest = traceback
    while rest is not None and rest.tb_frame.f_globals.get("__name__", "").startswith("nri_sync."):
        rest = rest.tb_next
    return rest or traceback
