"""The stub of the reference (NRI v0.12.5, ``pkg/stub/stub.go``) as threads of the scheduler.

Modelled are one mutex over all of ``Start``, ``Stop`` and ``close``, a connection that is kept until ``close`` has
reset a started stub, and callbacks of the ttRPC client and server that take the same mutex. Names are those of the
Go source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tests.model.scenarios import Scenario
from tests.model.story import Session, Story
from tests.model.world import Latch, Lock, Model, Steps, World

__all__ = ["GoWorld"]


class _Conn(Model):
    """A connection with its multiplexer, ttRPC server and ttRPC client."""

    fields: ClassVar[tuple[str, ...]] = ("closed", "done", "session")

    def __init__(self, world: World, session: Session) -> None:
        self.session = session
        #: By this side or the other.
        self.closed = False
        #: doneC: the server has ended.
        self.done = Latch(world)


class GoWorld(World):
    """One stub of the reference, and the threads of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario = scenario
        self.story = Story(self, has_rules_for_on_close=False)
        self.left = {"losses": scenario.losses}
        self.mutex = Lock(self)
        # The fields of the stub.
        self.conn: _Conn | None = None
        self.running: _Conn | None = None
        self.started = False
        for number, calls in enumerate(scenario.threads):
            self.spawn(self.making(calls.split()), f"{number} {calls}")

    def roots(self) -> Sequence[Any]:
        return (self.mutex, self.conn, self.running, self.started, self.story, self.left)

    # The application

    def making(self, names: Sequence[str]) -> Steps:
        # The place of an iterator is not part of the state; a number is.
        for number in range(len(names)):
            yield from self.pause()
            if not self.is_left:
                yield from getattr(self, f"_{names[number]}")()

    def _start(self) -> Steps:
        call = self.story.called("start", is_busy=self.started)
        outcome = yield from self.start()
        self.story.returned(call, outcome)

    def _stop(self) -> Steps:
        call = self.story.called("stop")
        yield from self.locked_close()
        self.story.returned(call)

    def _wait(self) -> Steps:
        call = self.story.called("wait")
        yield from self.mutex.acquire()
        running = self.running if self.started else None
        self.mutex.release()
        if running is not None:
            yield from running.done.wait()
        self.story.returned(call)

    # The stub

    def start(self) -> Steps:
        yield from self.mutex.acquire()
        try:
            if self.started:
                return "AlreadyStarted"
            if self.conn is None:
                self.conn = _Conn(self, self.story.dialled(self.story.own_start()))
            conn = self.running = self.conn
            configured: list[str] = []
            self.spawn(self._serve(conn, configured))
            way = yield from self.pause(lambda: ("closed" if conn.closed else "registered",))
            if way != "registered":
                # close() does nothing, as the stub is not started. The deferred calls close the rest.
                yield from self._shut(conn)
                return "StartError"
            conn.session.is_registered = True
            # <-cfgErrC
            yield from self.pause(lambda: (None,) if configured else ())
            self.started = True
            conn.session.is_configured = True
            return ""
        finally:
            self.mutex.release()

    def locked_close(self) -> Steps:
        """Stop(), and the callback of the client for the end of its connection."""
        yield from self.mutex.acquire()
        if self.started and self.running is not None:
            running = self.running
            yield from self._shut(running)
            yield from running.done.wait()
            self.started = False
            self.conn = None
        self.mutex.release()

    def _shut(self, conn: _Conn) -> Steps:
        yield from self.pause()
        conn.closed = True
        if conn.session.is_open:
            self.story.closed(conn.session)

    # Its connection

    def _ways(self, conn: _Conn, step: str) -> Sequence[str]:
        if conn.closed:
            return ("closed",)
        return (*([step] if step else []), *(["loss"] if self.left["losses"] else []))

    def _serve(self, conn: _Conn, configured: list[str]) -> Steps:
        """The server and the client of a connection, up to its end; then the callback of the client."""
        step = "configure" if not conn.closed else ""
        while True:
            way = yield from self.pause(
                # The runtime configures a plugin that is registered.
                lambda step=step: self._ways(conn, step if conn.session.is_registered else "")  # type: ignore[misc]
            )
            if way != "configure":
                break
            step = ""
            self.spawn(self._configure(configured))
        if way == "loss":
            self.left["losses"] -= 1
            conn.session.is_lost = True
            conn.closed = True
            self.story.closed(conn.session)
        yield from conn.done.set()
        yield from self.pause()
        yield from self.locked_close()
        self.story.on_close(conn.session)
        if conn.session in self.story.sessions:
            self.story.forget(conn.session)

    def _configure(self, configured: list[str]) -> Steps:
        yield from self.pause()
        yield from self.making(self.scenario.configure.split())
        yield from self.pause()
        configured.append("")

    # Rules

    def check_end(self) -> None:
        self.story.check_end(self._waits_for_session)

    def _waits_for_session(self, name: str) -> bool:
        running = self.running
        return running is not None and self.threads[name].waits_on is running.done
