"""Which connection may become, and stay, the current one of a stub."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from nri_sync.api import EventMask
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    AlreadyStarted,
    ConnectionLost,
    StartError,
    StartTimeout,
    StubStopped,
)
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.lifecycle import Attempt, Lifecycle
from nri_sync.plugin.state import State
from tests.plugin.harness import LONG, eventually

__all__: list[str] = []

FACTS = Facts(EventMask.RUN_POD_SANDBOX, 5.0)
LOST = ConnectionLost("gone", phase="serve")
FAILED = StartError("gone", phase="register")
ERROR = StubStopped("stopped")
SESSION: Any = object()


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle("10-test", FACTS)


def admitted(
    lifecycle: Lifecycle, timeout: float = LONG, *, inside_handler: bool = False
) -> Attempt:
    return lifecycle.admit(Deadline(timeout), inside_handler=inside_handler)


def starting(lifecycle: Lifecycle) -> Attempt:
    """An attempt that is the current one."""
    attempt = admitted(lifecycle)
    assert lifecycle.begin(attempt) is None
    return attempt


def started(lifecycle: Lifecycle) -> Attempt:
    """An attempt whose session is up."""
    attempt = admitted(lifecycle)
    assert lifecycle.begin(attempt) is None
    assert lifecycle.attach(attempt, SESSION)
    assert lifecycle.configured(attempt, FACTS)
    return attempt


def stopping(lifecycle: Lifecycle) -> Attempt:
    attempt = started(lifecycle)
    assert lifecycle.begin_end(attempt, ERROR, started=True) == (True, SESSION)
    return attempt


def test_a_session_that_is_lost(lifecycle: Lifecycle) -> None:
    assert (lifecycle.state, lifecycle.current) == (State.IDLE, None)
    attempt = admitted(lifecycle)
    assert lifecycle.begin(attempt) is None
    assert (lifecycle.state, lifecycle.current) == (State.STARTING, attempt)
    assert lifecycle.attach(attempt, SESSION)
    assert lifecycle.configured(attempt, FACTS)
    assert (lifecycle.state, attempt.is_configured) == (State.STARTED, True)
    assert lifecycle.ended(attempt, FAILED, LOST)
    assert (lifecycle.state, lifecycle.current, attempt.is_over) == (State.IDLE, None, True)
    assert lifecycle.close_reason is attempt.close_reason is LOST


def test_a_session_that_is_stopped(lifecycle: Lifecycle) -> None:
    lifecycle.close_reason = LOST
    attempt = stopping(lifecycle)
    assert (lifecycle.state, lifecycle.current) == (State.STOPPING, attempt)
    assert lifecycle.ended(attempt, FAILED, LOST)
    assert lifecycle.close_reason is attempt.close_reason is None


def test_a_start_that_fails_leaves_the_reason_of_the_session_before(lifecycle: Lifecycle) -> None:
    lifecycle.close_reason = LOST
    attempt = admitted(lifecycle)
    lifecycle.begin(attempt)
    assert lifecycle.ended(attempt, FAILED, ConnectionLost("another"))
    assert lifecycle.close_reason is LOST
    assert (attempt.close_reason, attempt.error) == (None, FAILED)


def test_the_first_reason_to_end_counts(lifecycle: Lifecycle) -> None:
    attempt = stopping(lifecycle)
    assert lifecycle.begin_end(attempt, StartTimeout("later", phase="dial"), started=True) == (
        False,
        SESSION,
    )
    assert attempt.error is ERROR


def test_the_end_comes_once(lifecycle: Lifecycle) -> None:
    attempt = started(lifecycle)
    lifecycle.ended(attempt, FAILED, LOST)
    assert not lifecycle.ended(attempt, FAILED, ConnectionLost("again"))
    assert lifecycle.begin_end(attempt, ERROR, started=True) == (False, None)
    assert lifecycle.close_reason is LOST


def test_a_failed_start_does_not_end_a_session(lifecycle: Lifecycle) -> None:
    attempt = started(lifecycle)
    assert lifecycle.begin_end(attempt, ERROR) == (False, None)
    assert lifecycle.state is State.STARTED


def test_without_a_session_it_is_over_at_once(lifecycle: Lifecycle) -> None:
    attempt = admitted(lifecycle)
    lifecycle.begin(attempt)
    assert lifecycle.begin_end(attempt, ERROR) == (True, None)
    assert (lifecycle.state, attempt.is_over, attempt.error) == (State.IDLE, True, ERROR)
    # It comes too late now.
    assert not lifecycle.attach(attempt, SESSION)
    assert not lifecycle.configured(attempt, FACTS)


@pytest.mark.parametrize("up", [False, True])
def test_there_is_one_at_a_time(lifecycle: Lifecycle, up: bool) -> None:
    if up:
        current = started(lifecycle)
    else:
        current = admitted(lifecycle)
        lifecycle.begin(current)
    refused = lifecycle.begin(admitted(lifecycle))
    assert isinstance(refused, AlreadyStarted)
    assert str(refused) == f"plugin 10-test is {lifecycle.state.value}"
    assert lifecycle.current is current


def test_one_that_was_stopped_before_it_began(lifecycle: Lifecycle) -> None:
    attempt = admitted(lifecycle)
    assert lifecycle.begin_end(attempt, ERROR) == (True, None)
    assert isinstance(lifecycle.begin(attempt), StubStopped)
    assert lifecycle.state is State.IDLE


class TestWaitingForTheEndOfTheOneBefore:
    def admit(self, lifecycle: Lifecycle, attempt: Any) -> queue.SimpleQueue[Any]:
        """Admit on another thread, which is waiting when this returns."""
        outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=lambda: outcome.put(lifecycle.begin(attempt))).start()
        eventually(lambda: lifecycle._changed._waiters)  # type: ignore[attr-defined]
        assert outcome.empty()
        return outcome

    def test_it_ends(self, lifecycle: Lifecycle) -> None:
        before, attempt = stopping(lifecycle), admitted(lifecycle)
        outcome = self.admit(lifecycle, attempt)
        lifecycle.ended(before, FAILED, LOST)
        assert outcome.get(timeout=LONG) is None
        assert lifecycle.current is attempt

    def test_a_stop_ends_the_waiting(self, lifecycle: Lifecycle) -> None:
        before, attempt = stopping(lifecycle), admitted(lifecycle)
        outcome = self.admit(lifecycle, attempt)
        assert lifecycle.begin_end(attempt, ERROR) == (True, None)
        assert isinstance(outcome.get(timeout=LONG), StubStopped)
        assert lifecycle.current is before

    def test_the_deadline_ends_the_waiting(self, lifecycle: Lifecycle) -> None:
        stopping(lifecycle)
        refused = lifecycle.begin(admitted(lifecycle, 0.02))
        assert isinstance(refused, StartTimeout)
        assert refused.phase == "dial"
        assert "waiting for the session before to end" in str(refused)

    def test_a_handler_does_not_wait(self, lifecycle: Lifecycle) -> None:
        stopping(lifecycle)
        refused = lifecycle.begin(admitted(lifecycle, inside_handler=True))
        assert isinstance(refused, AlreadyStarted)
        assert "is stopping" in str(refused)


class TestFacts:
    NEW = FACTS._replace(runtime_name="containerd")

    def test_of_the_current_connection(self, lifecycle: Lifecycle) -> None:
        attempt = admitted(lifecycle)
        lifecycle.begin(attempt)
        lifecycle.learned(attempt, self.NEW)
        assert lifecycle.facts is self.NEW
        assert lifecycle.configured(attempt, FACTS)
        assert lifecycle.facts is FACTS

    def test_of_a_repeated_configure(self, lifecycle: Lifecycle) -> None:
        attempt = started(lifecycle)
        assert not lifecycle.configured(attempt, self.NEW)
        assert lifecycle.facts is self.NEW

    def test_of_a_connection_that_is_over(self, lifecycle: Lifecycle) -> None:
        old = started(lifecycle)
        lifecycle.ended(old, FAILED, LOST)
        current = admitted(lifecycle)
        lifecycle.begin(current)
        lifecycle.learned(old, self.NEW)
        assert not lifecycle.configured(old, self.NEW)
        assert lifecycle.facts is FACTS
        assert lifecycle.state is State.STARTING

    def test_of_a_start_that_was_stopped(self, lifecycle: Lifecycle) -> None:
        attempt = admitted(lifecycle)
        lifecycle.begin(attempt)
        lifecycle.attach(attempt, SESSION)
        lifecycle.begin_end(attempt, ERROR)
        assert not lifecycle.configured(attempt, self.NEW)
        assert lifecycle.facts is FACTS
