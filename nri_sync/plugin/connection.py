"""One connection of a stub, from dialling to its end: how a start, a stop and a loss go.

The threads of a connection, and the thread that starts it, meet in its :class:`Attempt`: the lifecycle decides
which of them comes first (see :mod:`nri_sync.plugin.lifecycle`), and this module acts on that.

====== ====================================================================================================
start  :meth:`Connection.start` -> :meth:`~Connection.run`: begin, open, attach, register -> (the runtime)
       :meth:`~Connection.learn`, :meth:`~Connection.configured` -> start() returns
stop   :meth:`Connection.stop` -> begin_end -> the link closes -> :meth:`~Connection._lost` -> ended -> concluded
fail   :meth:`Connection.fail` or :meth:`~Connection.expire` -> begin_end -> as for a stop; start() raises
loss   the link ends -> :meth:`~Connection._lost` -> ended -> concluded -> ``on_close``
====== ====================================================================================================
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections import deque
from typing import Any, Callable

from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.services import RUNTIME
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConnectionLost,
    NRIError,
    RemoteProtocolError,
    StartError,
    StubStopped,
)
from nri_sync.net.sockets import peer_credentials
from nri_sync.plugin import phases
from nri_sync.plugin.ignored import IgnoredFields
from nri_sync.plugin.lane import FastLane
from nri_sync.plugin.late import Late
from nri_sync.plugin.lifecycle import Attempt, Lifecycle
from nri_sync.plugin.parts import Parts
from nri_sync.plugin.spec import PluginSpec
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.router import Router
from nri_sync.session import Session
from nri_sync.text import quoted
from nri_sync.threads import Latch, off_main, spawn
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["DRAIN", "Connection"]

_REGISTER = RUNTIME.methods["RegisterPlugin"].path
# How long the last answer may take to reach a peer that does not read, when this side ends a connection.
DRAIN = 1.0


class Connection:
    """One attempt to start, and the session that comes of it.

    The reason of its end is recorded once, in :attr:`attempt`: a remaining thread of it cannot touch the next
    connection. All methods belong to threads that no signal can interrupt, except the constructor, :meth:`start`
    and :meth:`abort`.
    """

    def __init__(
        self,
        plugin: PluginSpec,
        lifecycle: Lifecycle,
        attempt: Attempt,
        router: Router,
        lane: FastLane,
        concluded: Callable[[Connection], object],
        on_loss: Callable[[], object] | None,
    ) -> None:
        """``router`` finds the methods of a Servicer, ``lane`` serves plain requests.

        Each called once at the end, on a thread of the connection, when the state is IDLE: ``concluded(self)``;
        then ``on_loss()``, if a session was lost.
        """
        self._plugin = plugin
        self._lifecycle = lifecycle
        self._router = router
        self._lane = lane
        self._concluded = concluded
        self._on_loss = on_loss
        self.attempt = attempt
        self._logger = plugin.logger
        #: Whether the runtime has accepted the registration, and has sent the state of the node.
        self.registered = False
        self.synchronized = False
        #: Set when start() is decided: configured, or over.
        self.decided = Latch()
        #: Set when it is synchronized, or over.
        self.settled = Latch()
        #: Set when it is over: sockets closed, state IDLE.
        self.ended = Latch()
        # Each is set when an answer has been sent: that of a handler that has asked to end the connection.
        self._last_answers: deque[Latch] = deque()
        #: Fields that the plugin sets and that its runtime does not know.
        self.ignored = IgnoredFields(self._logger, plugin.tally)
        #: The facts that its runtime has sent.
        self.facts = lifecycle.facts
        #: How many seconds a handler has before its request is answered for it; ``None``: as many as it needs,
        #: before the session is configured.
        self.answer_within: float | None = None
        #: The state of the node, while it comes in parts.
        self.parts = Parts()

    @property
    def serving(self) -> dict[int, RequestContext]:
        """The requests that are being served, by thread: handlers, and interceptors around them."""
        session = self.attempt.session
        return {} if session is None else session.server.running

    @property
    def is_decided(self) -> bool:
        """Whether the start has succeeded or failed."""
        attempt = self.attempt
        return attempt.is_configured or attempt.is_over or attempt.error is not None

    @property
    def phase(self) -> str:
        """How far it got, see :mod:`nri_sync.plugin.phases`. Never goes back."""
        if self.attempt.is_configured:
            return "serve" if self.synchronized else "synchronize"
        if self.attempt.session is None:
            return "dial"
        return "configure" if self.registered else "register"

    # The starting thread, which a signal may interrupt at every step: the connection's own threads do the rest

    def start(self, is_unwanted: Callable[[], bool]) -> None:
        """Start it, and block until it is decided; raises why it failed. ``is_unwanted()``: end it at once."""
        name = self._plugin.name
        if is_unwanted():
            off_main(f"{name}-stop", self.stop)
        try:
            spawn(name, self.run)
        except (RuntimeError, MemoryError) as error:
            raise StartError(
                f"plugin {name}: no thread to start with: {error}", phase="dial"
            ) from error
        if not self.decided.wait(self.attempt.deadline):
            off_main(f"{name}-timeout", self.expire)
            self.decided.wait()
        if not self.attempt.is_configured:
            assert self.attempt.error is not None
            raise self.attempt.error

    def abort(self) -> None:
        """Have it ended. Blocks until its state says so, and not until it has ended."""
        marked = Latch()

        def mark() -> None:
            try:
                self.stop()
            finally:
                marked.set()

        off_main(f"{self._plugin.name}-stop", mark)
        marked.wait()

    # Starting

    def run(self) -> None:
        """Connect, register and serve. For a new thread: returns when that is not needed any more."""
        refused = self._lifecycle.begin(self.attempt)
        if refused is not None:
            first, _ = self._lifecycle.begin_end(self.attempt, refused)
            if first:
                self._release()
            return
        source = self._plugin.source
        try:
            self._logger.info("connecting to %s", source.describe())
            sock = source.open(self.attempt.deadline, lambda: self.attempt.is_over)
        except BaseException as error:
            if isinstance(error, TimeoutError) and self.attempt.deadline.expired:
                self.expire()
            else:
                self._dial_failed(error)
            return
        try:
            session = self._make_session(sock)
        except BaseException as error:
            sock.close()
            self._dial_failed(error)
            return
        if not self._lifecycle.attach(self.attempt, session):
            session.link.abandon()
            return
        try:
            self._register(session)
            self._lane.open(session, self)  # while the runtime handles the request
        except BaseException as error:
            self._dial_failed(error)
        session.link.run()

    def _dial_failed(self, error: BaseException) -> None:
        self.fail(phases.dial_failed(self._plugin.name, error, self._plugin.source))

    def _make_session(self, sock: socket.socket) -> Session:
        if self._logger.isEnabledFor(logging.DEBUG):
            peer = peer_credentials(sock)
            self._logger.debug("connected to process %s", "unknown" if peer is None else peer.pid)
        return Session(
            sock,
            self._router,
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name=self._plugin.name,
            peer="unix:" + self._plugin.source.path,
            lost=self._lost,
            tick=self._tick,
            late_policy=Late(self._plugin, self) if self._plugin.late_reply else None,
            owner=self,
        )

    def _register(self, session: Session) -> None:
        call = session.client.start(
            _REGISTER,
            self._plugin.registration,
            deadline=self.attempt.deadline,
            on_done=self._registered,
        )
        self._logger.debug("registering (stream %d)", call.stream_id)

    def _registered(self, call: Any) -> None:
        """RegisterPlugin has been answered, or has failed. Must not block."""
        status = call.status
        session = self.attempt.session
        if status.number == 0:
            self.registered = True
            self._logger.info("registered with the runtime")
        elif status.code is StatusCode.DEADLINE_EXCEEDED:
            self.expire()
        elif session is not None and not session.link.closing:
            # (A link that is over says so itself.)
            reason = f"the runtime refused the registration: {status.details} ({status.code.name})"
            self.fail(StartError(f"plugin {self._plugin.name}: {reason}", phase="register"))
            # For a runtime that has configured the plugin all the same, this is an end like any other.
            session.link.close(RemoteProtocolError(reason))

    def learn(self, request: nri_pb2.ConfigureRequest) -> None:
        """Take in the runtime's names, versions and timeouts."""
        self.registered = True  # though the reply may still be on its way
        self.facts = facts = self.facts.with_configure(request, self._plugin.defaults)
        self.ignored.learn(facts.runtime_nri_version)
        self._lifecycle.learned(self.attempt, facts)
        if facts.runtime_nri_version == "unknown":
            self._logger.warning(
                "the NRI version of runtime %r, version %r, is not known",
                facts.runtime_name,
                facts.runtime_version,
            )

    def configured(self, events: EventMask, missing: EventMask) -> None:
        """Configure has been handled; its answer, a subscription to ``events``, is about to be sent.

        ``missing`` are the events that the plugin does without.
        """
        self.facts = self.facts._replace(events=events, missing_events=missing)
        self.answer_within = self.facts.answer_within
        if self._lifecycle.configured(self.attempt, self.facts):
            self._plugin.tally.add("sessions")
            # Before any code of the application runs, such as its logger: nothing else would end start().
            self.decided.set()
            self._logger.info("configured, subscribed to %s", events)

    def configure_failed(self, error: BaseException, context: RequestContext) -> None:
        """The configure handler raised: send that to the runtime, then end."""
        if self.attempt.is_configured:
            return  # a repeated Configure; the session goes on as it was
        failure = StartError(
            f"plugin {self._plugin.name}: configure failed: {quoted(error, 1000)}",
            phase="configure",
        )
        failure.__cause__ = error
        self.fail(failure, after=context.when_answered())

    def mark_synchronized(self) -> None:
        """The plugin has handled the state of the node."""
        self.synchronized = True
        self.settled.set()

    def expire(self) -> None:
        """The time for starting is over."""
        phase = self.phase
        if self.attempt.is_configured:
            return
        is_current = self._lifecycle.current is self.attempt
        in_configure = bool(self.serving)
        name = self._plugin.name
        self.fail(phases.timed_out(name, phase, is_current=is_current, in_configure=in_configure))

    def _tick(self, now: float) -> float:
        # The thread in start() has the same deadline; this one holds even where that was interrupted.
        at = self.attempt.deadline.at
        if self.attempt.is_configured or self.attempt.is_over or at is None:
            return math.inf
        if now >= at:
            self.expire()
            return math.inf
        return at

    # Ending

    def stop(self, grace: float | None = None, served: RequestContext | None = None) -> None:
        """End it on behalf of ``stop()``. Does not block.

        ``served`` is the request whose handler asks for it: its answer is sent first. ``grace`` is for all
        the others.
        """
        error = StubStopped(
            f"plugin {self._plugin.name}: stopped while it was starting ({self.phase})"
        )
        after = None if served is None else served.when_answered()
        self._end(error, after, grace, started=True)

    def fail(self, error: Exception, *, after: Latch | None = None) -> None:
        """The start has failed: end it, once ``after`` is set. Does nothing when it has succeeded."""
        self._end(error, after, None, started=False)

    def _end(
        self, error: Exception, after: Latch | None, grace: float | None, *, started: bool
    ) -> None:
        if after is not None:
            self._last_answers.append(after)
        first, session = self._lifecycle.begin_end(self.attempt, error, started=started)
        if session is None:
            if first:
                self._conclude()
        elif after is None and not grace:
            session.link.close()
        elif first:
            # A request that comes now could still be handled, but its answer would come too late.
            session.server.stop_accepting()
            try:
                spawn(f"{self._plugin.name}-stop", self._close_gently, session, grace)
            except (RuntimeError, MemoryError):
                self._logger.warning("no thread to end the session gently; it ends now")
                session.link.close()

    def _close_gently(self, session: Session, grace: float | None) -> None:
        # Past this the runtime gives up on the answers anyway.
        deadline = Deadline(self.facts.request_timeout)
        quiet_by = Deadline(grace or 0.0)
        while True:
            while self._last_answers:
                self._last_answers.popleft().wait(deadline)
            if grace:
                session.server.wait_idle(quiet_by)
            session.link.drain(Deadline(min(DRAIN, grace or DRAIN)))
            if not self._last_answers:
                break
        session.link.close()

    def _lost(self, cause: NRIError | None) -> None:
        """The link is over, its descriptors are closed: ``cause`` is the reason, unless this side has ended it."""
        phase = self.phase
        # A copy is made in one step, while handlers come and go.
        serving = self.serving.copy().values()
        timeout = self.facts.request_timeout
        text = phases.lost(self._plugin.name, cause, phase, serving, time.monotonic(), timeout)
        failed = StartError(text, phase=phase)
        lost = ConnectionLost(text, phase=phase)
        failed.__cause__ = lost.__cause__ = cause
        if self._lifecycle.ended(self.attempt, failed, lost):
            self._conclude()

    def _conclude(self) -> None:
        """It is over, the state is IDLE: say so, release all threads that wait for it, call ``on_loss``."""
        lost = self.attempt.close_reason
        if not self.attempt.is_configured:
            self._plugin.tally.add("failed_starts")
        try:
            if self.attempt.session is not None:
                self._logger.info("disconnected%s", "" if lost is None else f": {lost}")
        finally:  # even if a logger of the application's raises
            self._release()

    def _release(self) -> None:
        is_lost = self.attempt.close_reason is not None
        if is_lost:
            self._plugin.tally.add("losses")
        self._concluded(self)
        self.decided.set()
        self.settled.set()
        self.ended.set()
        if is_lost and self._on_loss is not None:
            # The thread that has closed the connection has nothing else to do: on_loss() needs no new one.
            threading.current_thread().name = f"{self._plugin.name}-on-close"
            try:
                self._on_loss()
            except StubStopped as stopped:
                # on_close() has restarted the stub, and a stop() has ended that start: a regular end, no mistake.
                self._logger.info("on_close has ended: %s", stopped)
