"""The state of a stub, and its current attempt: ONE lock and condition variable guard both.

An :class:`Attempt` is one start, and the session that comes of it. :meth:`Lifecycle.admit` makes it, and the
methods of the lifecycle change it: so the data and its lock stand in this file.

Nothing in here blocks except :meth:`Lifecycle.begin`, and nothing but fields is touched under the lock: no user
code, no socket, no RPC, no join. Only threads that no signal can interrupt may take it: the main thread hands such
work over (see :mod:`nri_sync.threads`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.errors import AlreadyStarted, ConnectionLost, NRIError, StartTimeout, StubStopped
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.state import Move, State, following

if TYPE_CHECKING:
    from nri_sync.session import Session

__all__ = ["Attempt", "Lifecycle"]


class Attempt:
    """One start of a stub, and the session that comes of it. Only its lifecycle changes it, under the lock.

    Reading a field needs no lock: each is replaced as a whole.
    """

    __slots__ = (
        "close_reason", "deadline", "error", "inside_handler", "is_configured", "is_over", "session"
    )  # fmt: skip

    def __init__(self, deadline: Deadline, *, inside_handler: bool) -> None:
        #: When the start has to be over.
        self.deadline = deadline
        #: Made by a handler of this stub that is still running.
        self.inside_handler = inside_handler
        #: Whether Configure has been handled: the start has succeeded.
        self.is_configured = False
        #: Whether the sockets are closed. Nothing of a start or a session follows.
        self.is_over = False
        #: Why the start failed.
        self.error: Exception | None = None
        #: Why the session ended; ``None`` if this side ended it.
        self.close_reason: ConnectionLost | None = None
        self.session: Session | None = None


class Lifecycle:
    """The state of a stub and its current attempt.

    Reading the fields needs no lock: each is replaced as a whole. A forked child finds it IDLE.
    """

    def __init__(self, name: str, facts: Facts) -> None:
        """``name`` is the plugin's, for messages; ``facts`` are those before the first session."""
        self._name = name
        self._make_lock()
        self.state = State.IDLE
        #: The attempt that is starting, started or stopping.
        self.current: Attempt | None = None
        #: Why the last session that was configured ended: ``None`` if this side ended it.
        self.close_reason: ConnectionLost | None = None
        #: The facts that the last current attempt has learned.
        self.facts = facts
        fork.in_child(self._after_fork_in_child)

    def _make_lock(self) -> None:
        # Guards the fields of this object and of its attempts. No other lock is taken while it is held.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def _after_fork_in_child(self) -> None:
        # A thread of the parent may have held the lock; the connection is the parent's.
        self._make_lock()
        self.state = State.IDLE
        self.current = None

    def admit(self, deadline: Deadline, *, inside_handler: bool) -> Attempt:
        """A new attempt, which can be ended from now on, and has to :meth:`begin`. Takes no lock."""
        return Attempt(deadline, inside_handler=inside_handler)

    def begin(self, attempt: Attempt) -> NRIError | None:
        """Make ``attempt`` the current one: IDLE to STARTING. Returns why not, if that is impossible.

        Blocks while the session before is ending, until the deadline of ``attempt``. Does not block for an
        attempt that a handler makes: the end of the session may be waiting for the answer of that handler.
        """
        with self._changed:
            while (
                self.state is State.STOPPING and not attempt.is_over and not attempt.inside_handler
            ):
                if attempt.deadline.expired:
                    return StartTimeout(
                        f"plugin {self._name}: no time left while waiting for the session before to end",
                        phase="dial",
                    )
                self._changed.wait(attempt.deadline.remaining())
            if attempt.is_over:
                return StubStopped(f"plugin {self._name}: stopped before it began to start")
            if self.state is not State.IDLE:
                return AlreadyStarted(f"plugin {self._name} is {self.state.value}")
            self.current = attempt
            self._move_locked(Move.START)
            return None

    def attach(self, attempt: Attempt, session: Session) -> bool:
        """Give ``attempt`` its session; False when it is over already."""
        with self._changed:
            if attempt.is_over:
                return False
            attempt.session = session
            return True

    def learned(self, attempt: Attempt, facts: Facts) -> None:
        """The runtime of ``attempt`` has sent ``facts``."""
        with self._changed:
            if self.current is attempt:
                self.facts = facts

    def configured(self, attempt: Attempt, facts: Facts) -> bool:
        """STARTING to STARTED; False when ``attempt`` is not starting (any more)."""
        with self._changed:
            if self.current is not attempt:
                return False
            is_first = self.state is State.STARTING
            if is_first:
                self._move_locked(Move.CONFIGURED)
                attempt.is_configured = True
            if attempt.is_configured:
                self.facts = facts
            return is_first

    def begin_end(
        self, attempt: Attempt, error: Exception, *, started: bool = False
    ) -> tuple[bool, Session | None]:
        """This side ends ``attempt``, with ``error`` for its starter; ``started``: also if it has started.

        Returns whether this is the first reason, and the session that the caller has to close. Without a session
        the attempt is over at once: the caller must then conclude it.
        """
        with self._changed:
            # A failure of the start may come too late, and must not end a session as stop() would.
            if attempt.is_over or (attempt.is_configured and not started):
                return False, None
            if self.current is not attempt:
                attempt.is_over = True
                attempt.error = error
                self._changed.notify_all()
                return True, None
            first = self.state is not State.STOPPING
            if first:
                attempt.error = error
                self._move_locked(Move.END)
            if attempt.session is None:
                self._end_locked(attempt)
            return first, attempt.session

    def ended(self, attempt: Attempt, failed: Exception, lost: ConnectionLost) -> bool:
        """The sockets of ``attempt`` are closed. Returns whether this is the first call to say so.

        If this side has not ended it: a start fails with ``failed``, a session was ``lost``.
        """
        with self._changed:
            if attempt.is_over:
                return False
            if self.state is State.STARTING:
                attempt.error = failed
            elif self.state is State.STARTED:
                attempt.close_reason = lost
            self._end_locked(attempt)
            return True

    def _move_locked(self, move: Move) -> None:
        assert self._lock.locked()
        self.state = following(self.state, move)
        self._changed.notify_all()

    def _end_locked(self, attempt: Attempt) -> None:
        assert self._lock.locked()
        attempt.is_over = True
        if attempt.is_configured:
            # Here, and not later: by then the reason of the next session could have been overwritten.
            self.close_reason = attempt.close_reason
        self._move_locked(Move.ENDED)
        # After the state: a caller that finds no attempt any more may start the next one.
        self.current = None
