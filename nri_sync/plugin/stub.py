"""The stub: a thread-safe, restartable handle on a plugin's connection to the runtime."""

from __future__ import annotations

import _thread
import contextlib
import functools
import logging
import os
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
    """The context of the request that the calling handler serves: its deadline, metadata and cancellation.

    The context has the methods of ``grpc.ServicerContext``. Raises RuntimeError outside a handler.
    """
    try:
        return current_context.get()
    except LookupError:
        raise RuntimeError(
            "request_context() is for handlers, while they serve a request"
        ) from None


class Stub:
    """A plugin's handle on the runtime. Any thread may call any method at any time.

    One stub serves many sessions, one after the other. :meth:`start` begins a session; :meth:`stop` or the runtime
    ends the session. After a loss the stub calls ``on_close``, and the application may :meth:`start` again when
    that is safe. The stub never reconnects by itself.

    Handlers, ``on_close``, and a signal handler on the main thread may call the methods, too.
    """

    def __init__(
        self,
        plugin: object,
        *,
        name: str | None = None,
        idx: str | int | None = None,
        socket_path: str | os.PathLike[str] | None = None,
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
        """Check all arguments. Opens no connection.

        Args:
            plugin: an object with at least one handler: see :class:`nri_sync.Plugin`.
            name: the plugin's name. Default: NRI_PLUGIN_NAME, or the file name of the program.
            idx: the plugin's index, "00" to "99", which sets the order of plugins. Default: NRI_PLUGIN_IDX, or
                the number in the file name ``NN-name`` of the program.
            socket_path: the runtime's socket. Default: /var/run/nri/nri.sock.
            connection: a connected socket that replaces ``socket_path`` for one session. The stub owns it.
            dialer: a function that makes each connection. The stub passes the socket path, and gets a connected
                socket.
            on_close: a function that the stub calls with itself, once for each session that did not end by
                ``stop()``. The call comes on another thread, when the stub is IDLE again, and may use any method.
                An exception of it goes to ``threading.excepthook``, except StubStopped: it is the result of a
                start() in ``on_close`` that a stop() has ended, and is logged at INFO.
            registration_timeout: seconds for ``start()``, until the runtime sends its own limit.
            failure_policy: how the runtime treats a request that this plugin fails to answer; from NRI v0.12.4 on.
            late_reply: answer in place of a late handler, just before the runtime's request timeout would
                disconnect the plugin. The answer is empty, or an error if the failure policy has
                ``fail_request``.
            required_events: events that the plugin must get. ``start()`` fails when the runtime lacks one of them,
                or when ``configure`` leaves one out. A validator that the runtime cannot call approves
                everything; require ``EventMask.VALIDATE_CONTAINER_ADJUSTMENT`` to prevent that.
            interceptors: objects around the requests of the runtime and the calls to the runtime; the first is the
                outermost. Each is an :class:`nri_sync.Interceptor`, which the stub attaches here and closes in
                :meth:`close`, or a server or client interceptor of grpc.
            logger: the logger of this stub. Default: ``nri_sync.stub``.

        A plugin that the runtime launched inherits a connection in NRI_PLUGIN_SOCKET. The stub removes that
        variable from the environment, and uses the connection unless ``connection`` is given.

        Raises:
            PluginError: the plugin has no handlers, or a handler has a wrong name or wrong parameters.
            IdentityError: the name, the index or the connection is missing or unusable.
            TypeError, ValueError: another argument has a wrong type or value, or an interceptor cannot be
                attached.
            Unsupported: threads are no real threads in this process, for example after gevent's monkey-patching.
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
            registration=nri_pb2.RegisterPluginRequest(
                plugin_name=identity.name, plugin_idx=identity.idx, NRI_version=api.NRI_VERSION
            ).SerializeToString(),
            source=Source(connection, dialer, socket_path),
        )
        self._on_close = on_close
        self._lifecycle = Lifecycle(full_name, self._spec.defaults)
        servicer = Servicer(self._spec)
        self._router, self._lane = servicer.router, FastLane(self._spec, servicer)
        # The connections that are not over: the current one, and those that wait for their turn. The operations
        # of a dict are atomic: the starter of a connection and its own threads write without a lock.
        self._conns: dict[Connection, None] = {}
        # The latches that the next stop() sets; only their waiters hold them. Each operation on the set is atomic.
        self._until_stopped_latches: set[weakref.ref[Latch]] = set()
        self._is_closed = False
        self._spec.interceptors.attach(self)
        _stubs.add(self)
        fork.in_child(self._after_fork_in_child)

    # Lifecycle

    def start(self, timeout: float | None = None) -> None:
        """Connect to the runtime, and register the plugin. Blocks until the runtime has configured the plugin.

        ``timeout`` is the limit for the whole call, in seconds; default is ``registration_timeout``. While the
        previous session is still ending, the call first waits for that end, but not in a handler: the end may
        wait for the answer of that handler. A failed start releases everything, and can be repeated.

        Raises:
            AlreadyStarted: a session is starting or up.
            StubStopped: ``stop()`` was called during the start.
            StubClosed: ``close()`` was called.
            StartError: the runtime cannot be reached, or refused the plugin, or the connection was lost, or
                ``configure`` raised an exception; ``phase`` names the step that failed.
            StartTimeout: the timeout passed.
        """
        self._start(self._new_connection(timeout))

    def _start_unless(self, stopped: Latch) -> None:
        """As :meth:`start`, but raises StubStopped if ``stopped``, a latch of :meth:`_until_stopped`, is set."""
        self._start(self._new_connection(None), stopped)

    def _new_connection(self, timeout: float | None) -> Connection:
        if self._is_closed:
            raise StubClosed(f"plugin {self.name} is closed; make a new stub to start again")
        state = self.state  # once: the text must not name a later one
        if state in (State.STARTING, State.STARTED):
            raise AlreadyStarted(f"plugin {self.name} is {state.value}")
        here = _thread.get_ident()
        # No generator: an interrupt at the end of a generator is lost.
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
            # stop() knows the connection before it begins: a stop() in between ends it before the beginning.
            self._conns[conn] = None
            conn.start(lambda: self._is_closed or (stopped is not None and stopped.is_set()))
        except BaseException:
            conn.abort()
            raise

    def stop(self, grace: float | None = None) -> None:
        """End the session, or the start that is under way. Idempotent; does nothing without a session or a start.

        Blocks until the sockets are closed and the stub is IDLE, but does not wait for running handlers.
        ``grace`` is the time for the answers to requests in flight, in seconds. Without ``grace`` these answers
        may be dropped; a further ``stop()`` without ``grace`` ends the wait of the first one. ``on_close`` is not
        called.

        In a handler ``stop()`` returns at once, and the session ends after the handler's answer is sent. In a
        signal handler that interrupts another call of this stub, ``stop()`` returns at once, too. The interrupted
        call ends as usual: ``start()`` raises StubStopped, and the other calls return when the session is over.
        """
        here = _thread.get_ident()
        conns: list[Connection] = []
        marked = Latch()

        def mark() -> None:
            # The latches are set before the connections: a start adds its connection, then looks at the latch.
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
        """Close the interceptors, then :meth:`stop` the stub, for good. Idempotent.

        The interceptors come first, so that an :class:`nri_sync.kit.UpdateQueue` can send the remaining updates.
        ``grace`` is the limit for the whole call, in seconds: for the interceptors, then for the requests in
        flight. From the beginning of the call on, ``start()`` raises StubClosed, which ends a loop that keeps the
        stub connected. If several stubs share an interceptor, the last stub that is closed closes it.

        Blocks as long as the interceptors and ``stop()`` do. Any thread may call it; a further call with a smaller
        ``grace`` shortens an earlier call.
        """
        deadline = Deadline(grace)
        self._is_closed = True
        try:
            self._spec.interceptors.close(deadline, self._is_shared)
        finally:
            self.stop(deadline.remaining())

    def _is_shared(self, interceptor: Interceptor) -> bool:
        """Whether another stub, which is not closed, has the same interceptor."""
        others = [stub for stub in list(_stubs) if not stub._is_closed]
        return bool([stub for stub in others if interceptor in stub._spec.interceptors])

    def _until_stopped(self) -> Latch:
        """A latch that the next ``stop()`` or ``close()`` sets."""
        latch = Latch()
        latches = self._until_stopped_latches
        latches.add(weakref.ref(latch, latches.discard))
        return latch

    def _is_nested(self) -> bool:
        """Whether the calling method runs in a signal handler that interrupts another blocking method.

        The stack shows that. A flag that each method sets, and clears at its end, would stay set when a signal
        interrupts the clearing.
        """
        if on_main_thread():
            frame = sys._getframe(1).f_back
            if frame is not None and frame.f_code is Stub.close.__code__:
                # close() calls stop() itself: no signal handler is in between.
                frame = frame.f_back
            while frame is not None:
                if frame.f_code in _BLOCKING and frame.f_locals.get("self") is self:
                    return True
                frame = frame.f_back
        return False

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the current session has ended, for any reason.

        Returns True after the end, and at once without a session. Returns False after ``timeout`` seconds. A
        session that begins meanwhile, for example in ``on_close``, is not waited for.
        """
        conn = self._current()
        if conn is None:
            return True
        # The state is IDLE a moment before the lifecycle forgets the session.
        if conn.attempt.is_over and self.state is State.IDLE:
            return True
        return self._wait(conn, timeout)

    def _current(self) -> Connection | None:
        attempt = self._lifecycle.current
        # No generator: an interrupt at the end of a generator is lost.
        for conn in self._live():
            if conn.attempt is attempt:
                return conn
        return None

    def _wait(self, conn: Connection, timeout: float | None) -> bool:
        served = conn.serving.get(_thread.get_ident())
        if served is not None and self._lifecycle.state is State.STOPPING:
            # The end waits for the answer of this handler, and the handler waits for the end: skip the answer.
            served.when_answered().set()
        return conn.ended.wait(Deadline(timeout))

    def wait_synchronized(self, timeout: float | None = None) -> bool:
        """Block until the plugin is synchronized in the session that is starting or up.

        Returns True when the ``synchronize`` handler has returned, or when the runtime has sent its state to a
        plugin without that handler. The answer to the runtime may still be in flight. Returns False after
        ``timeout`` seconds, and when the session ends before the synchronization. Returns False at once without a
        session, and in a handler that runs before the end of the synchronization.
        """
        conn = self._current()
        if conn is None:
            return False
        if not conn.synchronized and _thread.get_ident() not in conn.serving:
            conn.settled.wait(Deadline(timeout))
        return conn.synchronized

    def run(self) -> None:
        """Start the stub, and block until the session has ended.

        Returns after ``stop()``, even if ``stop()`` came during the start.

        Raises:
            ConnectionLost: the session ended without ``stop()``.
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
                # A garbage collection during the copy has let another thread run.
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
        """Request updates of containers from the runtime, outside of any event. Returns the updates that failed.

        Blocks until the runtime has answered. ``timeout`` is in seconds; default is ``request_timeout``.
        ``evict`` requests the eviction of containers; no known runtime does that yet.

        Raises:
            NotConnected: no session is up.
            WouldDeadlock: a handler made the call, and this runtime cannot answer before the handler has returned.
            CallFailed: the runtime refused the request, or the timeout passed, or the connection was lost.
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
        """Whether a session is up: it is configured, and is neither lost nor being stopped."""
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
        """The reason for the end of the last session: ConnectionLost, or ``None`` after ``stop()``."""
        return self._lifecycle.close_reason

    # The facts of a session outlive it, until the next one is configured.

    @property
    def events(self) -> EventMask:
        """The events that the plugin is subscribed to; before the first session, the events with a handler."""
        return self._lifecycle.facts.events

    @property
    def missing_events(self) -> EventMask:
        """The events that the plugin requests and the runtime lacks."""
        return self._lifecycle.facts.missing_events

    @property
    def registration_timeout(self) -> float:
        """The limit of ``start()`` in seconds: the given one, then the one that the runtime sends."""
        return self._lifecycle.facts.registration_timeout

    @property
    def request_timeout(self) -> float:
        """The time that the runtime waits for a handler, in seconds: 2, then the value that the runtime sends."""
        return self._lifecycle.facts.request_timeout

    @property
    def runtime_name(self) -> str:
        """The name of the runtime: ``"containerd"``, ``"cri-o"``, ...; empty before the first session."""
        return self._lifecycle.facts.runtime_name

    @property
    def runtime_version(self) -> str:
        """The runtime's own release."""
        return self._lifecycle.facts.runtime_version

    @property
    def runtime_nri_version(self) -> str:
        """The runtime's NRI release, sent by the runtime or inferred; ``"unknown"`` where neither is possible."""
        return self._lifecycle.facts.runtime_nri_version

    @property
    def plugin_nri_version(self) -> str:
        """The NRI release that this package implements."""
        return api.NRI_VERSION

    @property
    def counters(self) -> Counters:
        """A snapshot of the counters of all sessions so far."""
        return self._spec.tally.snapshot()

    @property
    def late_by_event(self) -> dict[str, int]:
        """``counters.late_replies`` by event, such as ``"CreateContainer"``. Takes no lock."""
        return self._spec.tally.late_by_event()

    @property
    def timer_delay(self) -> float:
        """The recent delay of the timer thread in seconds: a measure of how busy the process is.

        The stub sends late answers earlier by six times this delay, but not before half of a handler's time has
        passed. The stub measures the delay while requests come, and not with ``late_reply=False``. Takes no lock.
        """
        return self._spec.tally.timer_delay

    def _after_fork_in_child(self) -> None:
        # The connections are the parent's, and their links release them: see nri_sync.net.link.Link.
        self._conns = {}

    def __repr__(self) -> str:
        return f"<nri_sync.Stub {self.name} {self._lifecycle.state.value}>"


# The methods that a signal handler may interrupt and call stop(). Not close(): it calls stop() itself.
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

# All stubs, to find those that share an interceptor.
_stubs: weakref.WeakSet[Stub] = weakref.WeakSet()
