"""One connection of a stub, from dialling to its end. A stub makes a new one at each start."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections import deque
from typing import Any, Protocol

import grpc

from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.services import RUNTIME
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConnectionLost,
    ConnectionSpent,
    NRIError,
    RemoteProtocolError,
    StartError,
    StartTimeout,
    StubStopped,
)
from nri_sync.net.sockets import peer_credentials
from nri_sync.plugin.counters import Tally
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.ignored import IgnoredFields
from nri_sync.plugin.interceptors import Interceptors
from nri_sync.plugin.lifecycle import Lifecycle
from nri_sync.plugin.servicer import Late, Servicer
from nri_sync.plugin.source import Source
from nri_sync.plugin.state import State
from nri_sync.session import Session
from nri_sync.threads import Latch, spawn
from nri_sync.ttrpc.context import ServicerContext
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Connection", "PluginSide", "handler_of"]

_REGISTER = RUNTIME.methods["RegisterPlugin"].path
# How long the last answer may take to reach a peer that does not read, when this side ends a connection.
_DRAIN = 1.0


class PluginSide(Protocol):
    """What a connection needs of its stub."""

    name: str
    idx: str
    base_name: str
    handlers: dict[str, Any]
    handled: EventMask
    required_events: EventMask
    defaults: Facts
    failure_policy: nri_pb2.FailurePolicy | None
    late_reply: bool
    plugin_nri_version: str
    interceptors: Interceptors
    tally: Tally
    source: Source
    lifecycle: Lifecycle
    logger: logging.LoggerAdapter[Any]

    def concluded(self, conn: Connection, *, lost: ConnectionLost | None) -> None:
        """``conn`` is over, the state is IDLE. Called once for each, on a thread of the connection."""


def handler_of(served: ServicerContext) -> str:
    """The handler that serves a request; in an interceptor, with none called yet, the method."""
    return served.handler or served.method.rpartition("/")[2]


class Connection:
    """One start, and the session that came of it.

    What ends it is recorded once, here: nothing that is left of it can touch the next one. All methods but
    the constructor belong to threads that no signal can interrupt.
    """

    def __init__(self, plugin: PluginSide, deadline: Deadline, *, inside_handler: bool) -> None:
        self.plugin = plugin
        self.logger = plugin.logger
        self.deadline = deadline
        #: Made by a handler of this stub that is still running.
        self.inside_handler = inside_handler
        #: Whether the runtime has accepted the registration, and has told what exists.
        self.registered = False
        self.synchronized = False
        #: Set when start() is decided: configured, or over.
        self.decided = Latch()
        #: Set when it is synchronized, or over.
        self.settled = Latch()
        #: Set when it is over: sockets closed, state IDLE.
        self.ended = Latch()
        # Set when they have been sent: the answers of the handlers that have asked to end it.
        self._last_answers: deque[Latch] = deque()
        #: What the plugin sets, and its runtime does not know.
        self.ignored = IgnoredFields(self.logger, plugin.tally)
        #: What its runtime has told.
        self.facts = plugin.lifecycle.facts
        #: How many seconds a handler has before it is answered for; ``None``: it is not, before the session
        #: is configured.
        self.answer_within: float | None = None
        # Written under the lifecycle's lock.
        self.close_reason: ConnectionLost | None = None
        self.is_configured = False
        self.over = False
        self.error: Exception | None = None
        self.session: Session | None = None

    @property
    def serving(self) -> dict[int, ServicerContext]:
        """The requests that are being served, by thread: handlers, and interceptors around them."""
        return {} if self.session is None else self.session.server.running

    @property
    def phase(self) -> str:
        """How far it got: dial, register, configure, synchronize, serve. Never goes back."""
        if self.is_configured:
            return "serve" if self.synchronized else "synchronize"
        if self.session is None:
            return "dial"
        return "configure" if self.registered else "register"

    # Starting

    def run(self) -> None:
        """Connect, register and serve; on a thread of its own."""
        refused = self.plugin.lifecycle.admit(self)
        if refused is not None:
            self._conclude_refused(refused)
            return
        try:
            self.logger.info("connecting to %s", self.plugin.source.describe())
            sock = self.plugin.source.open(self.deadline, lambda: self.over)
        except BaseException as error:
            if isinstance(error, TimeoutError) and self.deadline.expired:
                self.expire()
            else:
                self.fail(self._dial_error(error))
            return
        try:
            session = self._make_session(sock)
        except BaseException as error:
            sock.close()
            self.fail(self._dial_error(error))
            return
        if not self.plugin.lifecycle.attach(self, session):
            session.link.abandon()
            return
        try:
            self._register(session)
        except BaseException as error:
            self.fail(self._dial_error(error))
        session.link.run()

    def _make_session(self, sock: socket.socket) -> Session:
        sock.setblocking(True)
        peer = peer_credentials(sock)
        self.logger.debug("connected to process %s", "unknown" if peer is None else peer.pid)
        return Session(
            sock,
            Servicer(self).router(),
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name=self.plugin.name,
            peer="unix:" + self.plugin.source.path,
            lost=self._lost,
            tick=self._tick,
            late_policy=Late(self) if self.plugin.late_reply else None,
        )

    def _register(self, session: Session) -> None:
        request = nri_pb2.RegisterPluginRequest(
            plugin_name=self.plugin.base_name,
            plugin_idx=self.plugin.idx,
            NRI_version=self.plugin.plugin_nri_version,
        )
        call = session.client.start(
            _REGISTER, request.SerializeToString(), deadline=self.deadline, on_done=self._registered
        )
        self.logger.debug("registering (stream %d)", call.stream_id)

    def _registered(self, call: Any) -> None:
        """The runtime has answered RegisterPlugin, or never will. Must not block."""
        status = call.status
        if status.number == 0:
            self.registered = True
            self.logger.info("registered with the runtime")
        elif status.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.expire()
        elif self.session is not None and not self.session.link.closing:
            # (When the link is over, it tells so itself.)
            reason = f"the runtime refused the registration: {status.details} ({status.code.name})"
            self.fail(StartError(f"plugin {self.plugin.name}: {reason}", phase="register"))
            # For a runtime that has configured the plugin all the same, this is an end like any other.
            self.session.link.close(RemoteProtocolError(reason))

    def learn(self, request: nri_pb2.ConfigureRequest) -> None:
        """Take in what the runtime says of itself."""
        self.registered = True  # though the reply may still be on its way
        self.facts = facts = self.facts.told(request, self.plugin.defaults)
        self.plugin.lifecycle.learned(self)
        if facts.runtime_nri_version == "unknown":
            self.logger.warning(
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
        if self.plugin.lifecycle.configured(self):
            self.plugin.tally.add("sessions")
            # Before anything of the application's runs, as its logger: nothing else would end start().
            self.decided.set()
            self.logger.info("configured, subscribed to %s", events)

    def configure_failed(self, error: BaseException, context: ServicerContext) -> None:
        """The configure handler raised: tell the runtime, then end."""
        if self.is_configured:
            return  # a repeated Configure; the session goes on as it was
        failure = StartError(
            f"plugin {self.plugin.name}: configure failed: {error!r}", phase="configure"
        )
        failure.__cause__ = error
        self.fail(failure, after=context.when_answered())

    def expire(self) -> None:
        """The time for starting is over."""
        phase = self.phase
        if self.is_configured:
            return
        doing = _WAITING[phase]
        if self.plugin.lifecycle.conn is not self:
            doing = "for the session before to end"
        elif phase == "configure" and self.serving:
            doing = "for the plugin's own configure handler to return"
        self.fail(
            StartTimeout(
                f"plugin {self.plugin.name}: the time for starting was over while waiting {doing}",
                phase=phase,
            )
        )

    def _tick(self, now: float) -> float:
        # Whoever is in start() has the same deadline; this one holds even where that was interrupted.
        at = self.deadline.at
        if self.is_configured or self.over or at is None:
            return math.inf
        if now >= at:
            self.expire()
            return math.inf
        return at

    # Ending

    def stop(self, grace: float | None = None, served: ServicerContext | None = None) -> None:
        """End it on behalf of ``stop()``. Does not block.

        ``served`` is the request whose handler asks for it: its answer is sent first. ``grace`` is for all
        the others.
        """
        error = StubStopped(
            f"plugin {self.plugin.name}: stopped while it was starting ({self.phase})"
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
        first, session = self.plugin.lifecycle.begin_end(self, error, started=started)
        if session is None:
            if first:
                self._conclude(None)
        elif after is None and not grace:
            session.link.close()
        elif first:
            # A request that comes now could still be handled, but its answer would come too late.
            session.server.take_no_more()
            try:
                spawn(f"{self.plugin.name}-stop", self._close_gently, session, grace)
            except (RuntimeError, MemoryError):
                self.logger.warning("no thread to end the session gently; it ends now")
                session.link.close()

    def _close_gently(self, session: Session, grace: float | None) -> None:
        # Past this the runtime gives up on the answers anyway.
        deadline = Deadline(self.facts.request_timeout)
        quiet_by = Deadline(grace or 0.0)
        while True:
            while self._last_answers:
                self._last_answers.popleft().wait(deadline)
            if grace:
                session.server.quiet(quiet_by)
            session.link.drain(Deadline(min(_DRAIN, grace or _DRAIN)))
            if not self._last_answers:
                break
        session.link.close()

    def _lost(self, cause: NRIError | None) -> None:
        """The link is over, its descriptors are closed."""
        phase, text = self.phase, self._explain(cause)
        error = StartError(text, phase=phase)
        lost = ConnectionLost(text, phase=phase)
        error.__cause__ = lost.__cause__ = cause
        before = self.plugin.lifecycle.ended(self, lost)
        if before is State.STARTING:
            self.error = error
        if before is not None:
            self._conclude(self.close_reason)

    def _conclude(self, lost: ConnectionLost | None) -> None:
        if not self.is_configured:
            self.plugin.tally.add("failed_starts")
        try:
            self.logger.info("disconnected%s", "" if lost is None else f": {lost}")
        finally:  # whatever a logger of the application's does
            self.plugin.concluded(self, lost=lost)

    def _conclude_refused(self, refused: Exception) -> None:
        first, _ = self.plugin.lifecycle.begin_end(self, refused)
        if first:
            self.plugin.concluded(self, lost=None)

    # Explaining

    def _dial_error(self, error: BaseException) -> Exception:
        if isinstance(error, ConnectionSpent):
            return ConnectionSpent(f"plugin {self.plugin.name}: {error}", phase="dial")
        kind = StartTimeout if isinstance(error, TimeoutError) else StartError
        failure = kind(
            f"plugin {self.plugin.name}: cannot connect: {self.plugin.source.explain(error)}",
            phase="dial",
        )
        failure.__cause__ = error
        return failure

    def _explain(self, cause: NRIError | None) -> str:
        """What happened, in which phase, and why it probably did."""
        phase = self.phase
        likely = self._slow() or _LIKELY[phase]
        return f"plugin {self.plugin.name}: {cause} {_WHILE[phase]}; {likely}"

    def _slow(self) -> str:
        timeout = self.facts.request_timeout
        now = time.monotonic()
        # A copy is made in one step, while handlers come and go.
        serving = self.serving.copy().values()
        slow = [served for served in serving if now - served.since > 0.9 * timeout]
        if not slow:
            return ""
        names = ", ".join(f"{handler_of(served)} ({now - served.since:.1f} s)" for served in slow)
        return f"a handler took longer than the request timeout of {timeout:g} s: {names}"


_WAITING = {
    "dial": "to connect; does the runtime still accept connections?",
    "register": "for an answer to RegisterPlugin; does an NRI runtime listen there, and is it alive?",
    "configure": "to be configured; is the runtime busy with other plugins?",
}
_WHILE = {
    "register": "before it answered RegisterPlugin",
    "configure": "after the registration, before the plugin was configured",
    "synchronize": "before the plugin was synchronized",
    "serve": "while the plugin was serving",
}
_LIKELY = {
    "register": "is this the socket of an NRI runtime? one that is stopping, or busy, closes it too",
    "configure": "the runtime took too long over others, or stopped; its log tells",
    "synchronize": "the runtime refused the events subscribed to, or an answer, or stopped; its log tells",
    "serve": "the runtime was stopped or restarted, or it cut the plugin off; its log tells",
}
