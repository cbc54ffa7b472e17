"""The stub: a thread-safe, restartable handle on a plugin's connection to the runtime."""

from __future__ import annotations

import _thread
import contextlib
import functools
import logging
import socket
import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable

from nri_sync import api, fork
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import find_handlers
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    AlreadyStarted,
    ConnectionLost,
    NotConnected,
    StubClosed,
    StubStopped,
    WouldDeadlock,
)
from nri_sync.logger import PrefixedLogger, get_logger
from nri_sync.patched import check_unpatched
from nri_sync.plugin.calls import call_runtime
from nri_sync.plugin.connection import Connection
from nri_sync.plugin.counters import Counters, Tally
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.handover import Handover
from nri_sync.plugin.interceptors import Interceptor, Interceptors
from nri_sync.plugin.lane import FastLane
from nri_sync.plugin.lifecycle import Lifecycle
from nri_sync.plugin.phases import handler_of
from nri_sync.plugin.servicer import Servicer
from nri_sync.plugin.source import Dialer, Source, identify
from nri_sync.plugin.spec import PluginSpec
from nri_sync.plugin.state import State
from nri_sync.rpc.context import RequestContext, current_context
from nri_sync.threads import Latch, off_main, on_main_thread

if TYPE_CHECKING:
    from nri_sync.plugin.interceptors import AnyInterceptor

__all__ = ["Stub", "request_context"]


def request_context() -> RequestContext:
    """The context of the request that the calling handler serves: deadline, metadata, cancellation.

    It has the methods of ``grpc.ServicerContext``. Raises RuntimeError outside a handler.
    """
    try:
        return current_context.get()
    except LookupError:
        raise RuntimeError(
            "request_context() is for handlers, while they serve a request"
        ) from None


class Stub:
    """A plugin's handle on the runtime. All methods may be called from any thread, at any time.

    One stub serves many sessions, one after the other: :meth:`start` begins one, which ends by :meth:`stop`,
    or because the runtime ends it; then ``on_close`` is called, and the application may :meth:`start` again when
    it is safe. The stub never reconnects on its own.

    Methods may also be called in a handler, in ``on_close``, and in a signal handler on the main thread.
    """

    def __init__(
        self,
        plugin: object,
        *,
        name: str | None = None,
        idx: str | int | None = None,
        socket_path: str | None = None,
        connection: socket.socket | None = None,
        dialer: Dialer | None = None,
        on_close: Callable[[Stub], object] | None = None,
        registration_timeout: float = api.DEFAULT_REGISTRATION_TIMEOUT,
        failure_policy: nri_pb2.FailurePolicy | None = None,
        late_reply: bool = True,
        required_events: EventMask | None = None,
        interceptors: Sequence[AnyInterceptor] = (),
        logger: logging.Logger | None = None,
    ) -> None:
        """Check everything that can be checked; connect nothing.

        Args:
            plugin: an object with at least one handler: see :class:`nri_sync.Plugin`.
            name: the plugin's name; default NRI_PLUGIN_NAME, or the program's file name.
            idx: its index, "00" to "99", which decides the order of plugins; default NRI_PLUGIN_IDX, or
                from a program called ``NN-name``.
            socket_path: the runtime's socket; default /var/run/nri/nri.sock.
            connection: a connected socket to use instead, for one session; the stub owns it.
            dialer: called with the socket path to make each connection instead; returns a connected socket.
            on_close: called with the stub, once for each session that ended other than by ``stop()``, on
                another thread, when the stub is IDLE again. May call any method. Its exceptions go to
                ``threading.excepthook``.
            registration_timeout: seconds for ``start()``, until the runtime sends its own.
            failure_policy: for the runtime, when this plugin fails to answer; from NRI v0.12.4 on.
            late_reply: answer for a handler just before the runtime's request timeout would disconnect
                the plugin: with an empty reply, or an error if the failure policy has ``fail_request``.
            required_events: events that the plugin must get: ``start()`` fails when the runtime does not have
                one of them, or ``configure`` leaves it out. A validator that the runtime cannot call approves
                everything; require ``EventMask.VALIDATE_CONTAINER_ADJUSTMENT`` to have none of that.
            interceptors: objects around the requests of the runtime and the calls to it; the first is the
                outermost. Each is an :class:`nri_sync.Interceptor`, which is attached here and closed by
                :meth:`close`, or a server or client interceptor of grpc.
            logger: default the logger ``nri_sync.stub``.

        A plugin that the runtime launched inherits its connection by NRI_PLUGIN_SOCKET, which is taken out of
        the environment, and used unless ``connection`` is given.

        Raises:
            PluginError: the plugin has no handlers, or one of a wrong name or shape.
            IdentityError: name, index or connection are missing or unusable.
            TypeError, ValueError: another argument is of a wrong type or value, or an interceptor cannot be
                attached.
            Unsupported: threads are not threads here, as under gevent's monkey-patching.
        """
        check_unpatched("a stub")
        handlers, handled = find_handlers(plugin)
        required_events = EventMask(required_events or 0)
        if required_events & ~handled:
            raise ValueError(
                f"required_events has events without a handler: {required_events & ~handled}"
            )
        identity = identify(name, idx)
        full_name = api.full_name(identity.idx, identity.name)
        for option, value in (("dialer", dialer), ("on_close", on_close)):
            if value is not None and not callable(value):
                raise TypeError(f"{option} must be callable, not {type(value).__name__}")
        if failure_policy is not None and not isinstance(failure_policy, nri_pb2.FailurePolicy):
            raise TypeError(
                f"failure_policy must be an api.FailurePolicy, not {type(failure_policy).__name__}"
            )
        if not registration_timeout > 0:
            raise ValueError(f"registration_timeout must be positive, not {registration_timeout!r}")
        self._spec = PluginSpec(
            name=full_name,
            identity=identity,
            handlers=handlers,
            handled=handled,
            required_events=required_events,
            failure_policy=failure_policy,
            late_reply=late_reply,
            interceptors=Interceptors(interceptors),
            defaults=Facts(handled, float(registration_timeout)),
            tally=Tally(),
            logger=PrefixedLogger(logger or get_logger("nri_sync.stub"), full_name),
            nri_version=api.NRI_VERSION,
            source=Source(connection, dialer, socket_path),
        )
        self._on_close = on_close
        self._lifecycle = Lifecycle(full_name, self._spec.defaults)
        servicer = Servicer(self._spec)
        self._router, self._lane = servicer.router, FastLane(self._spec, servicer)
        # The connections that are not over: the current one, and those that wait to become it. A dict for
        # its single-step operations; written by their starters and their own threads.
        self._conns: dict[Connection, None] = {}
        # The latches that the next stop() sets, held by their waiters. Each step on the set is a single one.
        self._until_stopped_latches: set[weakref.ref[Latch]] = set()
        self._is_closed = False
        self._spec.interceptors.attach(self)
        _stubs.add(self)
        fork.in_child(self._after_fork_in_child)

    # Lifecycle

    def start(self, timeout: float | None = None) -> None:
        """Connect, register and be configured. Blocks until that is done.

        ``timeout`` is in seconds, for all of it; default is ``registration_timeout``. While the session
        before is still ending, the call waits for that end first, except in a handler: the end may be waiting
        for the answer of that handler. When it fails, everything is released, and the stub can be started again.

        Raises:
            AlreadyStarted: a session is starting or up.
            StubStopped: ``stop()`` was called meanwhile.
            StubClosed: ``close()`` was called.
            StartError: the runtime cannot be reached, or refused the plugin, or the connection was lost, or
                ``configure`` raised; ``phase`` says when.
            StartTimeout: the time was over.
        """
        self._start(self._new_connection(timeout))

    def _start_unless(self, stopped: Latch) -> None:
        """:meth:`start`, or StubStopped where a latch of :meth:`_until_stopped` has been set."""
        self._start(self._new_connection(None), stopped)

    def _new_connection(self, timeout: float | None) -> Connection:
        if self._is_closed:
            raise StubClosed(f"plugin {self.name} is closed; make a new stub to start again")
        state = self.state  # once: the text must not name a later one
        if state in (State.STARTING, State.STARTED):
            raise AlreadyStarted(f"plugin {self.name} is {state.value}")
        here = _thread.get_ident()
        # No generator: an interrupt that strikes one as it ends gets lost.
        inside = bool([conn for conn in self._live() if here in conn.serving])
        deadline = Deadline(self.registration_timeout if timeout is None else timeout)
        attempt = self._lifecycle.admit(deadline, inside_handler=inside)
        on_loss = None if self._on_close is None else functools.partial(self._on_close, self)
        return Connection(
            self._spec, self._lifecycle, attempt, self._router, self._lane, self._concluded, on_loss
        )

    def _concluded(self, conn: Connection) -> None:
        self._conns.pop(conn, None)

    def _start(self, conn: Connection, stopped: Latch | None = None) -> None:
        try:
            # Known to stop() first, then begun: one that comes in between ends it before it begins.
            self._conns[conn] = None
            conn.start(lambda: self._is_closed or (stopped is not None and stopped.is_set()))
        except BaseException:
            conn.abort()
            raise

    def stop(self, grace: float | None = None) -> None:
        """End the session, or the start that is under way. Idempotent; does nothing when there is neither.

        Blocks until the sockets are closed and the stub is IDLE, but not for handlers that are still running.
        ``grace`` gives requests in flight so many seconds to be answered; without it their answers may be
        dropped; a further ``stop()`` without it ends the wait for them. ``on_close`` is not called.

        In a handler it returns at once, and the session ends when the handler's answer was sent. In a signal
        handler that interrupts another call of this stub it returns at once, too, and that call goes on to
        its end: ``start()`` to StubStopped, the others to where the session is over.
        """
        here = _thread.get_ident()
        conns: list[Connection] = []
        marked = Latch()

        def mark() -> None:
            # These before the connections: a start makes its connection known, then looks at the latch.
            while self._until_stopped_latches:
                with contextlib.suppress(KeyError):  # the last one may be gone meanwhile
                    latch = self._until_stopped_latches.pop()()
                    if latch is not None:
                        latch.set()
            conns.extend(self._live())
            for conn in conns:
                conn.stop(grace, conn.serving.get(here))
            marked.set()

        if not (self._until_stopped_latches or self._conns):
            return
        off_main(f"{self.name}-stop", mark)
        marked.wait()
        if self._is_nested():
            return
        for conn in conns:
            if here not in conn.serving:
                conn.ended.wait()

    def close(self, grace: float = 5.0) -> None:
        """Be done with the stub for good: close its interceptors, then :meth:`stop`. Idempotent.

        Closing comes first, so that an :class:`nri_sync.kit.UpdateQueue` can send the rest. ``grace`` is in
        seconds, for all of it: the interceptors, then the requests in flight. From the beginning of the call on
        ``start()`` raises StubClosed, which ends a loop that keeps the stub connected. An interceptor that another
        stub has as well is left to that one, unless it is closed, too.

        Blocks as the interceptors and ``stop()`` do. Any thread may call it; a further call with less grace cuts
        an earlier one short.
        """
        deadline = Deadline(grace)
        self._is_closed = True
        try:
            self._spec.interceptors.close(deadline, self._is_shared)
        finally:
            self.stop(deadline.remaining())

    def _is_shared(self, interceptor: Interceptor) -> bool:
        """Whether a stub that is not closed has it as well."""
        others = [stub for stub in list(_stubs) if not stub._is_closed]
        return bool([stub for stub in others if interceptor in stub._spec.interceptors])

    def _until_stopped(self) -> Latch:
        """A latch that the next ``stop()`` or ``close()`` sets."""
        latch = Latch()
        latches = self._until_stopped_latches
        latches.add(weakref.ref(latch, latches.discard))
        return latch

    def _is_nested(self) -> bool:
        """Whether the method that asks runs in a signal handler, which interrupts another of these.

        Seen from the stack: a mark that a method sets, and clears when it is left, would stay when the
        clearing is interrupted.
        """
        if on_main_thread():
            frame = sys._getframe(1).f_back
            if frame is not None and frame.f_code is Stub.close.__code__:
                # Which calls stop() itself: no signal handler is in between.
                frame = frame.f_back
            while frame is not None:
                if frame.f_code in _BLOCKING and frame.f_locals.get("self") is self:
                    return True
                frame = frame.f_back
        return False

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the session that is up now has ended, however it does.

        Returns True, at once if there is none, and False after ``timeout`` seconds. A session that is started
        meanwhile, in ``on_close`` for example, is another one.
        """
        conn = self._current()
        return conn is None or self._wait(conn, timeout)

    def _current(self) -> Connection | None:
        attempt = self._lifecycle.current
        # Not a generator: an interrupt that strikes while one is closed is lost.
        for conn in self._live():
            if conn.attempt is attempt:
                return conn
        return None

    def _wait(self, conn: Connection, timeout: float | None) -> bool:
        served = conn.serving.get(_thread.get_ident())
        if served is not None and self._lifecycle.state is State.STOPPING:
            # The end waits for the answer of this handler, which waits for the end: the answer gives way.
            served.when_answered().set()
        return conn.ended.wait(Deadline(timeout))

    def wait_synchronized(self, timeout: float | None = None) -> bool:
        """Block until the plugin is synchronized in the session that is starting or up.

        Returns True when the ``synchronize`` handler has returned, or the runtime has sent its state to a plugin
        without one; the answer to the runtime may still be on its way. Returns False after ``timeout`` seconds,
        when the session ends before, and at once without a session or in a handler that comes before the end of
        the synchronization.
        """
        conn = self._current()
        if conn is None:
            return False
        if not conn.synchronized and _thread.get_ident() not in conn.serving:
            conn.settled.wait(Deadline(timeout))
        return conn.synchronized

    def run(self) -> None:
        """:meth:`start`, and :meth:`wait` until that session has ended.

        Returns after ``stop()``, also one that came while it was starting.

        Raises:
            ConnectionLost: the session ended otherwise.
            AlreadyStarted, StartError: as :meth:`start`.
        """
        conn = self._new_connection(None)
        try:
            self._start(conn)
            self._wait(conn, None)
        except StubStopped:
            return
        except BaseException:
            conn.abort()
            raise
        if conn.attempt.close_reason is not None:
            raise conn.attempt.close_reason

    def _live(self) -> list[Connection]:
        while True:
            try:
                return list(self._conns.copy())
            except RuntimeError:
                # A garbage collection in the middle of the copy has let another thread in.
                continue

    def __enter__(self) -> Stub:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # Calls to the runtime

    def update_containers(
        self,
        updates: Iterable[nri_pb2.ContainerUpdate | api.Update] = (),
        evict: Iterable[nri_pb2.ContainerEviction] = (),
        timeout: float | None = None,
    ) -> list[nri_pb2.ContainerUpdate]:
        """Ask the runtime to update containers, outside of any event. Returns those that failed.

        Blocks until the runtime has answered. ``timeout`` is in seconds, default is ``request_timeout``.
        ``evict`` asks for containers to be evicted, which no known runtime does yet.

        Raises:
            NotConnected: no session is up.
            WouldDeadlock: called in a handler, with a runtime that cannot answer before the handler has.
            CallFailed: the runtime refused, or the time was over, or the connection was lost.
        """
        conn = self._current()
        session = None if conn is None else conn.attempt.session
        if conn is None or session is None or not conn.attempt.is_configured:
            raise NotConnected(
                f"plugin {self.name} is {self._lifecycle.state.value}: start() it first"
            )
        served = conn.serving.get(_thread.get_ident())
        if (
            served is not None
            and served.handler != "configure"
            and self._runtime_facts().locks_while_relaying
        ):
            raise WouldDeadlock(
                f"update_containers() inside {handler_of(served)}: {self.runtime_name} does not answer it "
                "before the handler has returned; return the updates, or call it from another thread later"
            )
        messages = [item.message if isinstance(item, api.Update) else item for item in updates]
        request = nri_pb2.UpdateContainersRequest(update=messages, evict=evict)
        seconds = self.request_timeout if timeout is None else timeout
        response = call_runtime(
            self._spec, session.client, conn.ignored, "UpdateContainers", request, seconds
        )
        return list(response.failed)

    def _runtime_facts(self) -> api.RuntimeFacts:
        return api.runtime_facts(self.runtime_name, self.runtime_version, self.runtime_nri_version)

    # Facts

    @property
    def name(self) -> str:
        """The full name, ``NN-name``."""
        return self._spec.name

    @property
    def idx(self) -> str:
        """The index, ``"00"`` to ``"99"``."""
        return self._spec.identity.idx

    @property
    def base_name(self) -> str:
        """The name without the index."""
        return self._spec.identity.name

    @property
    def interceptors(self) -> tuple[AnyInterceptor, ...]:
        """The interceptors, as given."""
        return self._spec.interceptors.given

    @property
    def started(self) -> bool:
        """Whether a session is up: configured, and neither lost nor being stopped."""
        return self._lifecycle.state is State.STARTED

    @property
    def state(self) -> State:
        """The state of the lifecycle."""
        return self._lifecycle.state

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._is_closed

    @property
    def handover(self) -> Handover | None:
        """The first :class:`nri_sync.Handover` among the interceptors."""
        for item in self.interceptors:
            if isinstance(item, Handover):
                return item
        return None

    @property
    def close_reason(self) -> ConnectionLost | None:
        """Why the last session ended: ConnectionLost, or ``None`` after ``stop()``."""
        return self._lifecycle.close_reason

    # The facts of a session outlive it, until the next one is configured.

    @property
    def events(self) -> EventMask:
        """The events subscribed to; before the first session, those that have a handler."""
        return self._lifecycle.facts.events

    @property
    def missing_events(self) -> EventMask:
        """The events that the plugin asks for and does not get: the runtime does not have them."""
        return self._lifecycle.facts.missing_events

    @property
    def registration_timeout(self) -> float:
        """How long ``start()`` may take, in seconds: as given, then as the runtime sends it."""
        return self._lifecycle.facts.registration_timeout

    @property
    def request_timeout(self) -> float:
        """How long the runtime waits for a handler, in seconds: 2, then as the runtime sends it."""
        return self._lifecycle.facts.request_timeout

    @property
    def runtime_name(self) -> str:
        """``"containerd"``, ``"cri-o"``, ...; empty before the first session."""
        return self._lifecycle.facts.runtime_name

    @property
    def runtime_version(self) -> str:
        """The runtime's own release."""
        return self._lifecycle.facts.runtime_version

    @property
    def runtime_nri_version(self) -> str:
        """The runtime's NRI release, sent or inferred; "unknown" until and unless that is possible."""
        return self._lifecycle.facts.runtime_nri_version

    @property
    def plugin_nri_version(self) -> str:
        """The NRI release that this package implements."""
        return self._spec.nri_version

    @property
    def counters(self) -> Counters:
        """The numbers of all sessions so far; a snapshot."""
        return self._spec.tally.snapshot()

    @property
    def late_by_event(self) -> dict[str, int]:
        """``counters.late_replies`` by event, such as ``"CreateContainer"``. Takes no lock."""
        return self._spec.tally.late_by_event()

    @property
    def timer_delay(self) -> float:
        """Seconds by which the timer thread has run late recently: how busy the process is.

        Late answers are given earlier by six times as much, after half of the time that a handler has at the
        earliest. The stub measures while requests come, and not with ``late_reply=False``. Takes no lock.
        """
        return self._spec.tally.timer_delay

    def _after_fork_in_child(self) -> None:
        # The connections are the parent's, and their links let go of them: see nri_sync.net.link.Link.
        self._conns = {}

    def __repr__(self) -> str:
        return f"<nri_sync.Stub {self.name} {self._lifecycle.state.value}>"


# The methods in which a thread may be when a signal handler calls stop(). Not close(): it calls stop() itself.
_BLOCKING = frozenset(
    function.__code__
    for function in (
        Stub.start,
        Stub._start_unless,
        Stub.stop,
        Stub.wait,
        Stub.wait_synchronized,
        Stub.run,
        Stub.update_containers,
    )
)

# To find the stubs that share an interceptor.
_stubs: weakref.WeakSet[Stub] = weakref.WeakSet()
