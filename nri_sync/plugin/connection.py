"""One connection of a stub, from dialling to its end. A stub makes a new one at each start."""

from __future__ import annotations

import _thread
import logging
import math
import socket
import time
from typing import Any, Protocol

import grpc

from nri_sync.api import EventMask, nri_pb2
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConnectionLost,
    NRIError,
    StartError,
    StartTimeout,
    StubStopped,
)
from nri_sync.net.sockets import peer_credentials
from nri_sync.plugin.counters import Tally
from nri_sync.plugin.lifecycle import Lifecycle
from nri_sync.plugin.servicer import Late, Served, Servicer
from nri_sync.plugin.source import Source
from nri_sync.plugin.state import State
from nri_sync.session import Session
from nri_sync.threads import Latch, spawn
from nri_sync.ttrpc.context import ServicerContext
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Connection", "PluginSide"]

_REGISTER = "/nri.pkg.api.v1alpha1.Runtime/RegisterPlugin"
# How long the last answer may take to reach a peer that does not read, when this side ends a connection.
_DRAIN = 1.0


class PluginSide(Protocol):
    """What a connection needs of its stub."""

    name: str
    idx: str
    base_name: str
    handlers: dict[str, Any]
    handled: EventMask
    events: EventMask
    failure_policy: nri_pb2.FailurePolicy | None
    late_reply: bool
    request_timeout: float
    runtime_nri_version: str
    plugin_nri_version: str
    server_interceptors: list[Any]
    tally: Tally
    source: Source
    lifecycle: Lifecycle
    logger: logging.LoggerAdapter[Any]

    def learn(self, request: nri_pb2.ConfigureRequest) -> None:
        """Take in what the runtime says of itself."""

    def concluded(self, conn: Connection, *, lost: ConnectionLost | None) -> None:
        """``conn`` is over, the state is IDLE. Called once for each, on a thread of the connection."""


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
        #: The thread in start(), as long as it is.
        self.starter: int | None = _thread.get_ident()
        #: How far it got: dial, register, configure, synchronize, serve.
        self.phase = "dial"
        #: The handlers that are running, by thread.
        self.serving: dict[int, Served] = {}
        #: Set when start() is decided: configured, or over.
        self.decided = Latch()
        #: Set when it is over: sockets closed, state IDLE.
        self.ended = Latch()
        self.close_reason: ConnectionLost | None = None
        # Written under the lifecycle's lock.
        self.is_configured = False
        self.over = False
        self.error: Exception | None = None
        self.session: Session | None = None

    # Starting

    def run(self) -> None:
        """Connect, register and serve; on a thread of its own."""
        refused = self.plugin.lifecycle.admit(self)
        if refused is not None:
            self._conclude_refused(refused)
            return
        try:
            self.logger.info("connecting to %s", self.plugin.source.describe())
            sock = self.plugin.source.open(self.deadline)
        except BaseException as error:
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
        self._register(session)
        session.link.run()

    def _make_session(self, sock: socket.socket) -> Session:
        sock.setblocking(True)
        peer = peer_credentials(sock)
        self.logger.debug("connected to process %s", "unknown" if peer is None else peer.pid)
        return Session(
            sock,
            Servicer(self).router(self.plugin.server_interceptors),
            serve=PLUGIN_SERVICE,
            call=RUNTIME_SERVICE,
            name=self.plugin.name,
            peer="unix:" + self.plugin.source.path,
            lost=self._lost,
            tick=self._tick,
            late_policy=Late(self) if self.plugin.late_reply else None,
        )

    def _register(self, session: Session) -> None:
        self.phase = "register"
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
            if self.phase == "register":
                self.phase = "configure"
            self.logger.info("registered with the runtime")
        elif status.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.expire()
        elif self.session is not None and not self.session.link.closing:
            # (When the link is over, it tells so itself.)
            self.fail(
                StartError(
                    f"plugin {self.plugin.name}: the runtime refused the registration: {status.details} "
                    f"({status.code.name})",
                    phase="register",
                )
            )

    def configured(self) -> None:
        """Configure has been handled; its answer is about to be sent."""
        if self.plugin.lifecycle.configured(self):
            self.phase = "synchronize"
            self.plugin.tally.add("sessions")
            self.logger.info("configured, subscribed to %s", self.plugin.events)
            self.decided.set()

    def configure_failed(self, error: BaseException, context: ServicerContext) -> None:
        """The configure handler raised: tell the runtime, then end."""
        if self.is_configured:
            return  # a repeated Configure; the session goes on as it was
        served = Served("configure", time.monotonic(), context)
        failure = StartError(
            f"plugin {self.plugin.name}: configure failed: {error!r}", phase="configure"
        )
        failure.__cause__ = error
        self.fail(failure, after=served.answered())

    def expire(self) -> None:
        """The time for starting is over."""
        if not self.is_configured:
            doing = {
                "dial": "to connect",
                "register": "for the answer to RegisterPlugin; does an NRI runtime listen there?",
            }.get(self.phase, "to be configured; is the runtime busy with another plugin?")
            if self.phase == "configure" and self.serving:
                doing = "for the configure handler"
            where = self.plugin.source.path
            self.fail(
                StartTimeout(
                    f"plugin {self.plugin.name}: no time left while waiting {doing} ({where})",
                    phase=self.phase if self.phase in ("dial", "register") else "configure",
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

    def stop(self, grace: float | None = None, served: Served | None = None) -> None:
        """End it on behalf of ``stop()``. Does not block.

        ``served`` is the request whose handler asks for it: its answer is sent first. ``grace`` is for all
        the others.
        """
        error = StubStopped(
            f"plugin {self.plugin.name}: stopped while it was starting ({self.phase})"
        )
        after = None if served is None else served.answered()
        self.fail(error, after=after, grace=grace)

    def fail(
        self, error: Exception, *, after: Latch | None = None, grace: float | None = None
    ) -> None:
        """End it, with ``error`` for whoever is in start(), once ``after`` is set or within ``grace``."""
        first, session = self.plugin.lifecycle.begin_end(self, error)
        if session is None:
            if first:
                self._conclude(None)
        elif after is None and not grace:
            session.link.close()
        elif first:
            spawn(f"{self.plugin.name}-stop", self._close_gently, session, after, grace)

    def _close_gently(self, session: Session, after: Latch | None, grace: float | None) -> None:
        if after is not None:
            # Past this the runtime gives up on the answer anyway.
            after.wait(Deadline(self.plugin.request_timeout))
        if grace:
            session.server.quiet(Deadline(grace))
        session.link.drain(Deadline(_DRAIN))
        session.link.close()

    def _lost(self, cause: NRIError | None) -> None:
        """The link is over, its descriptors are closed."""
        before = self.plugin.lifecycle.ended(self)
        if before is State.STARTING:
            self.error = self._start_error(cause)
            self._conclude(None)
        elif before is State.STARTED:
            lost = ConnectionLost(self._explain(cause), phase=self.phase)
            lost.__cause__ = cause
            self.close_reason = lost
            self._conclude(lost)
        elif before is State.STOPPING:
            self._conclude(None)

    def _conclude(self, lost: ConnectionLost | None) -> None:
        if not self.is_configured:
            self.plugin.tally.add("failed_starts")
        self.logger.info("disconnected%s", "" if lost is None else f": {lost}")
        self.plugin.concluded(self, lost=lost)

    def _conclude_refused(self, refused: Exception) -> None:
        first, _ = self.plugin.lifecycle.begin_end(self, refused)
        if first:
            self.plugin.concluded(self, lost=None)

    # Explaining

    def _dial_error(self, error: BaseException) -> Exception:
        where = self.plugin.source.path
        kind = StartTimeout if isinstance(error, TimeoutError) else StartError
        failure = kind(
            f"plugin {self.plugin.name}: cannot connect to {where}: {error}", phase="dial"
        )
        failure.__cause__ = error
        return failure

    def _start_error(self, cause: NRIError | None) -> Exception:
        phase = self.phase if self.phase in ("register", "configure") else "configure"
        error = StartError(self._explain(cause), phase=phase)
        error.__cause__ = cause
        return error

    def _explain(self, cause: NRIError | None) -> str:
        """What happened, in which phase, and why it probably did."""
        return f"plugin {self.plugin.name}: {cause} {_WHILE[self.phase]}; {self._likely()}"

    def _likely(self) -> str:
        timeout = self.plugin.request_timeout
        now = time.monotonic()
        slow: list[Served] = [
            served for served in list(self.serving.values()) if now - served.since > 0.9 * timeout
        ]
        if slow:
            names = ", ".join(f"{served.handler} ({now - served.since:.1f} s)" for served in slow)
            return f"a handler took longer than the request timeout of {timeout:g} s: {names}"
        return _LIKELY[self.phase]


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
