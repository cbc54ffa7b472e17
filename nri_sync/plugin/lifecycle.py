"""What a stub is doing, with which connection, and what it knows: ONE lock and condition variable guard both.

Only threads of the stub itself, or others that no signal can interrupt, may call these methods: the main
thread hands such work over (see :mod:`nri_sync.threads`). Nothing in here blocks but :meth:`admit`, and
nothing but fields is touched under the lock: no user code, no socket, no RPC, no join.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nri_sync.errors import AlreadyStarted, ConnectionLost, NRIError, StartTimeout, StubStopped
from nri_sync.plugin.state import Move, State, following

if TYPE_CHECKING:
    from nri_sync.plugin.connection import Connection
    from nri_sync.plugin.facts import Facts
    from nri_sync.session import Session

__all__ = ["Lifecycle"]


class Lifecycle:
    """The state of a stub and its current connection.

    Reading the fields needs no lock: each is replaced as a whole.
    """

    def __init__(self, facts: Facts) -> None:
        # Guards the fields below, and of each connection those that say so. Innermost.
        self._changed = threading.Condition(threading.Lock())
        self.state = State.IDLE
        self.conn: Connection | None = None
        #: Why the last connection that was configured ended: ``None`` if this side ended it.
        self.close_reason: ConnectionLost | None = None
        #: What the last connection that was current has learned.
        self.facts = facts

    def _move_locked(self, move: Move) -> None:
        """Requires the lock."""
        self.state = following(self.state, move)
        self._changed.notify_all()

    def admit(self, conn: Connection) -> NRIError | None:
        """Make ``conn`` the current connection: IDLE to STARTING. Returns why not, if it cannot be.

        Blocks while the connection before it is ending, until the deadline of ``conn``; not at all when
        ``conn`` is being made inside a handler, whose answer that end may be waiting for.
        """
        name = conn.plugin.name
        with self._changed:
            while self.state is State.STOPPING and not conn.over and not conn.inside_handler:
                if conn.deadline.expired:
                    return StartTimeout(
                        f"plugin {name}: no time left while waiting for the session before to end",
                        phase="dial",
                    )
                self._changed.wait(conn.deadline.remaining())
            if conn.over:
                return StubStopped(f"plugin {name}: stopped before it began to start")
            if self.state is not State.IDLE:
                return AlreadyStarted(f"plugin {name} is {self.state.value}")
            self.conn = conn
            self._move_locked(Move.START)
            return None

    def attach(self, conn: Connection, session: Session) -> bool:
        """Give ``conn`` its session; False when it is over already."""
        with self._changed:
            if conn.over:
                return False
            conn.session = session
            return True

    def learned(self, conn: Connection) -> None:
        """``conn`` has new facts."""
        with self._changed:
            if self.conn is conn:
                self.facts = conn.facts

    def configured(self, conn: Connection) -> bool:
        """STARTING to STARTED; False when ``conn`` is not starting (any more)."""
        with self._changed:
            if self.conn is not conn:
                return False
            is_first = self.state is State.STARTING
            if is_first:
                self._move_locked(Move.CONFIGURED)
                conn.is_configured = True
            if conn.is_configured:
                self.facts = conn.facts
            return is_first

    def begin_end(
        self, conn: Connection, error: Exception, *, started: bool = False
    ) -> tuple[bool, Session | None]:
        """This side ends ``conn``, with ``error`` for whoever is starting it; ``started``: also if it has.

        Returns whether this is the first reason, and the session that is to be closed. Without a session the
        connection is over at once: the caller must then conclude it.
        """
        with self._changed:
            # What fails a start may come too late, and must not end a session as if stop() had.
            if conn.over or (conn.is_configured and not started):
                return False, None
            first = self.state is not State.STOPPING
            if self.conn is not conn:
                conn.over = True
                conn.error = error
                self._changed.notify_all()
                return True, None
            if first:
                conn.error = error
                self._move_locked(Move.END)
            if conn.session is None:
                self._end_locked(conn)
            return first, conn.session

    def ended(self, conn: Connection, lost: ConnectionLost) -> State | None:
        """``conn`` is over, its sockets are closed: ``lost``, unless this side has ended it.

        Returns the state before; ``None`` if it was known already.
        """
        with self._changed:
            if conn.over:
                return None
            before = self.state
            if before is State.STARTED:
                conn.close_reason = lost
            self._end_locked(conn)
            return before

    def _end_locked(self, conn: Connection) -> None:
        """Requires the lock."""
        conn.over = True
        self.conn = None
        if conn.is_configured:
            # Here, and not later: by then the reason of the next one could have been overwritten.
            self.close_reason = conn.close_reason
        self._move_locked(Move.ENDED)
