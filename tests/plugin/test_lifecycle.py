"""Who may become, and stay, the current connection of a stub."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nri_sync.api import EventMask
from nri_sync.deadline import Deadline
from nri_sync.errors import AlreadyStarted, ConnectionLost, StartTimeout, StubStopped
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.lifecycle import Lifecycle
from nri_sync.plugin.state import State
from tests.plugin.harness import LONG, eventually

__all__: list[str] = []

FACTS = Facts(EventMask.RUN_POD_SANDBOX, 5.0)
LOST = ConnectionLost("gone", phase="serve")
ERROR = StubStopped("stopped")
SESSION: Any = object()


def make_conn(timeout: float = LONG, *, inside_handler: bool = False) -> Any:
    """What a lifecycle needs of a connection."""
    return SimpleNamespace(
        plugin=SimpleNamespace(name="10-test"),
        deadline=Deadline(timeout),
        inside_handler=inside_handler,
        facts=FACTS,
        over=False,
        is_configured=False,
        session=None,
        error=None,
        close_reason=None,
    )


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle(FACTS)


def started(lifecycle: Lifecycle) -> Any:
    """A connection that is up."""
    conn = make_conn()
    assert lifecycle.admit(conn) is None
    assert lifecycle.attach(conn, SESSION)
    assert lifecycle.configured(conn)
    return conn


def stopping(lifecycle: Lifecycle) -> Any:
    conn = started(lifecycle)
    assert lifecycle.begin_end(conn, ERROR, started=True) == (True, SESSION)
    return conn


def test_a_session_that_is_lost(lifecycle: Lifecycle) -> None:
    assert (lifecycle.state, lifecycle.conn) == (State.IDLE, None)
    conn = make_conn()
    assert lifecycle.admit(conn) is None
    assert (lifecycle.state, lifecycle.conn) == (State.STARTING, conn)
    assert lifecycle.attach(conn, SESSION)
    assert lifecycle.configured(conn)
    assert (lifecycle.state, conn.is_configured) == (State.STARTED, True)
    assert lifecycle.ended(conn, LOST) is State.STARTED
    assert (lifecycle.state, lifecycle.conn, conn.over) == (State.IDLE, None, True)
    assert lifecycle.close_reason is conn.close_reason is LOST


def test_a_session_that_is_stopped(lifecycle: Lifecycle) -> None:
    lifecycle.close_reason = LOST
    conn = stopping(lifecycle)
    assert (lifecycle.state, lifecycle.conn) == (State.STOPPING, conn)
    assert lifecycle.ended(conn, LOST) is State.STOPPING
    assert lifecycle.close_reason is conn.close_reason is None


def test_a_start_that_fails_leaves_the_reason_of_the_session_before(lifecycle: Lifecycle) -> None:
    lifecycle.close_reason = LOST
    conn = make_conn()
    lifecycle.admit(conn)
    assert lifecycle.ended(conn, ConnectionLost("another")) is State.STARTING
    assert lifecycle.close_reason is LOST
    assert conn.close_reason is None


def test_the_first_reason_to_end_counts(lifecycle: Lifecycle) -> None:
    conn = stopping(lifecycle)
    assert lifecycle.begin_end(conn, StartTimeout("later", phase="dial"), started=True) == (
        False,
        SESSION,
    )
    assert conn.error is ERROR


def test_the_end_comes_once(lifecycle: Lifecycle) -> None:
    conn = started(lifecycle)
    lifecycle.ended(conn, LOST)
    assert lifecycle.ended(conn, ConnectionLost("again")) is None
    assert lifecycle.begin_end(conn, ERROR, started=True) == (False, None)
    assert lifecycle.close_reason is LOST


def test_what_fails_a_start_does_not_end_a_session(lifecycle: Lifecycle) -> None:
    conn = started(lifecycle)
    assert lifecycle.begin_end(conn, ERROR) == (False, None)
    assert lifecycle.state is State.STARTED


def test_without_a_session_it_is_over_at_once(lifecycle: Lifecycle) -> None:
    conn = make_conn()
    lifecycle.admit(conn)
    assert lifecycle.begin_end(conn, ERROR) == (True, None)
    assert (lifecycle.state, conn.over, conn.error) == (State.IDLE, True, ERROR)
    # It comes too late now.
    assert not lifecycle.attach(conn, SESSION)
    assert not lifecycle.configured(conn)


@pytest.mark.parametrize("up", [False, True])
def test_there_is_one_at_a_time(lifecycle: Lifecycle, up: bool) -> None:
    if up:
        current = started(lifecycle)
    else:
        current = make_conn()
        lifecycle.admit(current)
    refused = lifecycle.admit(make_conn())
    assert isinstance(refused, AlreadyStarted)
    assert str(refused) == f"plugin 10-test is {lifecycle.state.value}"
    assert lifecycle.conn is current


def test_one_that_was_stopped_before_it_began(lifecycle: Lifecycle) -> None:
    conn = make_conn()
    assert lifecycle.begin_end(conn, ERROR) == (True, None)
    assert isinstance(lifecycle.admit(conn), StubStopped)
    assert lifecycle.state is State.IDLE


class TestWaitingForTheEndOfTheOneBefore:
    def admit(self, lifecycle: Lifecycle, conn: Any) -> queue.SimpleQueue[Any]:
        """Admit on another thread, which is waiting when this returns."""
        outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=lambda: outcome.put(lifecycle.admit(conn))).start()
        eventually(lambda: lifecycle._changed._waiters)  # type: ignore[attr-defined]
        assert outcome.empty()
        return outcome

    def test_it_ends(self, lifecycle: Lifecycle) -> None:
        before, conn = stopping(lifecycle), make_conn()
        outcome = self.admit(lifecycle, conn)
        lifecycle.ended(before, LOST)
        assert outcome.get(timeout=LONG) is None
        assert lifecycle.conn is conn

    def test_a_stop_ends_the_waiting(self, lifecycle: Lifecycle) -> None:
        before, conn = stopping(lifecycle), make_conn()
        outcome = self.admit(lifecycle, conn)
        assert lifecycle.begin_end(conn, ERROR) == (True, None)
        assert isinstance(outcome.get(timeout=LONG), StubStopped)
        assert lifecycle.conn is before

    def test_the_deadline_ends_the_waiting(self, lifecycle: Lifecycle) -> None:
        stopping(lifecycle)
        refused = lifecycle.admit(make_conn(0.02))
        assert isinstance(refused, StartTimeout)
        assert refused.phase == "dial"
        assert "waiting for the session before to end" in str(refused)

    def test_a_handler_does_not_wait(self, lifecycle: Lifecycle) -> None:
        stopping(lifecycle)
        refused = lifecycle.admit(make_conn(inside_handler=True))
        assert isinstance(refused, AlreadyStarted)
        assert "is stopping" in str(refused)


class TestFacts:
    NEW = FACTS._replace(runtime_name="containerd")

    def test_of_the_current_connection(self, lifecycle: Lifecycle) -> None:
        conn = make_conn()
        lifecycle.admit(conn)
        conn.facts = self.NEW
        lifecycle.learned(conn)
        assert lifecycle.facts is self.NEW
        conn.facts = FACTS
        assert lifecycle.configured(conn)
        assert lifecycle.facts is FACTS

    def test_of_a_repeated_configure(self, lifecycle: Lifecycle) -> None:
        conn = started(lifecycle)
        conn.facts = self.NEW
        assert not lifecycle.configured(conn)
        assert lifecycle.facts is self.NEW

    def test_of_a_connection_that_is_over(self, lifecycle: Lifecycle) -> None:
        old = started(lifecycle)
        lifecycle.ended(old, LOST)
        current = make_conn()
        lifecycle.admit(current)
        old.facts = self.NEW
        lifecycle.learned(old)
        assert not lifecycle.configured(old)
        assert lifecycle.facts is FACTS
        assert lifecycle.state is State.STARTING

    def test_of_a_start_that_was_stopped(self, lifecycle: Lifecycle) -> None:
        conn = make_conn()
        lifecycle.admit(conn)
        lifecycle.attach(conn, SESSION)
        lifecycle.begin_end(conn, ERROR)
        conn.facts = self.NEW
        assert not lifecycle.configured(conn)
        assert lifecycle.facts is FACTS
