"""The events that an application and a runtime see of a stub, and the rules of docs/lifecycle.md for them.

The rules know calls, sessions and ``on_close``, and nothing of how a stub is made: they are the same for the stub
of this package and for the reference's.
"""

from __future__ import annotations

from typing import Any, Callable, ClassVar

from tests.model.world import Model, Violation, World

__all__ = ["REFUSED", "Call", "Session", "Story"]

#: Outcomes of a start that is refused because of another one.
REFUSED = "AlreadyStarted"


class Session(Model):
    """A connection that a stub has made, from the dialling to the end of its reading thread."""

    fields: ClassVar[tuple[str, ...]] = (
        "closes", "has_failed", "is_configured", "is_lost", "is_open", "is_registered", "is_stopped"
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_registered = False
        #: The start has succeeded.
        self.is_configured = False
        #: Its sockets are open.
        self.is_open = True
        #: The runtime has ended it; the configure handler has raised; a stop() that concerns it was called.
        self.is_lost = False
        self.has_failed = False
        self.is_stopped = False
        #: Calls of on_close for it.
        self.closes = 0

    @property
    def is_up(self) -> bool:
        return self.is_configured and self.is_open


class Call(Model):
    """A call of the application that has not returned, and the reasons for its outcome."""

    fields: ClassVar[tuple[str, ...]] = (
        "found",
        "name",
        "own",
        "sessions",
        "was_crowded",
        "was_late",
        "was_stopped",
    )

    def __init__(self, name: str, *, inside_handler: bool) -> None:
        self.name = name
        self.inside_handler = inside_handler
        #: For a stop or a wait: the sessions that the call has to end or wait for; for a stop also their attempts.
        self.sessions: list[Session] = []
        self.found: list[Any] = []
        #: For a start: the connection it has made; another start or session was there; a stop() came; its
        #: time was over.
        self.own: Session | None = None
        self.was_crowded = False
        self.was_stopped = False
        self.was_late = False


class Story(Model):
    """The past events that the rules need."""

    fields: ClassVar[tuple[str, ...]] = ("calls", "sessions")

    def __init__(self, world: World, *, has_rules_for_on_close: bool = True) -> None:
        self._world = world
        self._has_rules_for_on_close = has_rules_for_on_close
        self.sessions: list[Session] = []
        #: By the names of their threads: one after the other, and in handlers and on_close one in the other.
        self.calls: dict[str, list[Call]] = {}

    # Calls of the application

    def _under_way(self, name: str) -> list[Call]:
        return [call for calls in self.calls.values() for call in calls if call.name == name]

    def called(self, name: str, *, is_busy: bool = False, inside_handler: bool = False) -> Call:
        """``is_busy``: a session is starting, up or ending."""
        call = Call(name, inside_handler=inside_handler)
        starts = self._under_way("start")
        if name == "wait":
            call.sessions = [session for session in self.sessions if session.is_up]
        elif name == "stop":
            call.sessions = [session for session in self.sessions if session.is_registered]
            for session in self.sessions:
                session.is_stopped = True
            for other in starts:
                other.was_stopped = True
        elif name == "start":
            call.was_crowded = bool(starts) or is_busy
            call.was_stopped = bool(self._under_way("stop"))
            for other in starts:
                other.was_crowded = True
        self.calls.setdefault(self._world.current.name, []).append(call)
        return call

    def own_start(self) -> Call | None:
        """The start that the current thread makes."""
        calls = self.calls.get(self._world.current.name)
        return calls[-1] if calls and calls[-1].name == "start" else None

    def returned(self, call: Call, outcome: str = "") -> None:
        """``outcome`` is the name of the exception; empty for success."""
        calls = self.calls[self._world.current.name]
        calls.remove(call)
        if not calls:
            del self.calls[self._world.current.name]
        if call.name == "start":
            self._check_start(call, outcome)
        elif outcome:
            raise Violation(f"{call.name}() raised {outcome}")
        elif not call.inside_handler and any(session.is_open for session in call.sessions):
            raise Violation(f"{call.name}() has returned, and a session that it had found is open")

    def _check_start(self, call: Call, outcome: str) -> None:
        own = call.own
        reasons = {
            "": own is not None and own.is_configured,
            REFUSED: call.was_crowded,
            "StubStopped": call.was_stopped,
            "StartError": own is not None and (own.is_lost or own.has_failed),
            "StartTimeout": call.was_late,
        }
        if not reasons[outcome]:
            raise Violation(f"start() ended with {outcome or 'success'} without a reason")
        if outcome and own is not None and own.is_configured:
            raise Violation(f"start() raised {outcome}, though its session was configured")

    # Sessions

    def dialled(self, call: Call | None) -> Session:
        """A connection of the start that ``call`` is."""
        session = Session()
        session.is_stopped = bool(self._under_way("stop"))
        self.sessions.append(session)
        if call is not None:
            call.own = session
        return session

    def registered(self, session: Session) -> None:
        for other in self.sessions:
            if other is not session and other.is_registered and other.is_open:
                raise Violation("a second session, while the sockets of the first are open")
        session.is_registered = True

    def closed(self, session: Session) -> None:
        """Its sockets are closed."""
        session.is_open = False
        if session.is_configured and not (session.is_lost or session.is_stopped):
            raise Violation("a session has ended without a loss or a stop()")

    def on_close(self, session: Session) -> None:
        session.closes += 1
        if not self._has_rules_for_on_close:
            return
        if not session.is_configured:
            raise Violation("on_close after a start that has failed")
        if session.closes > 1:
            raise Violation("a second on_close for one session")
        if not session.is_lost:
            raise Violation("on_close for a session that was not lost")
        if session.is_open:
            raise Violation("on_close before the sockets are closed")

    def forget(self, session: Session) -> None:
        """Nothing of it follows."""
        self.sessions.remove(session)
        if session.is_open:
            raise Violation("the sockets of a session that has ended stay open")
        lost = session.is_lost and session.is_configured and not session.is_stopped
        if lost and not session.closes and self._has_rules_for_on_close:
            raise Violation("no on_close for a session that was lost")

    def check_end(self, waits_for_session: Callable[[str], bool]) -> None:
        """No thread can go on. ``waits_for_session(thread)``: it waits for the end of a session that is up."""
        for thread, calls in self.calls.items():
            for call in calls:
                if call.name != "wait" or not waits_for_session(thread):
                    raise Violation(f"deadlock: {call.name}() of {thread} never returns")
        if not all(session.is_up for session in self.sessions):
            raise Violation("the sockets of a start that has failed stay open")
