"""How a plugin is doing: connecting, standing by, registered, synchronized, or wedged.

:class:`Health` derives the state from the requests that pass through it and from the stub, and has no thread.
:class:`nri_sync.kit.HealthServer` and :class:`nri_sync.kit.HealthFile` show the state.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import nri_sync
from nri_sync import Interceptor, State, Stub, api
from nri_sync.kit.health.metrics import BUCKETS, RequestMetrics
from nri_sync.logger import get_logger
from nri_sync.plugin.interceptors import Proceed
from nri_sync.text import printable
from nri_sync.ttrpc import ServicerContext

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["Exposition", "Health", "HealthReport", "HealthState"]

logger = get_logger("nri_sync.kit.health")

# A handler that has not returned by then is not just slow: the runtime gave up on it long ago.
_WEDGED_AFTER_TIMEOUTS = 2.0

_VALIDATE = api.EventMask.VALIDATE_CONTAINER_ADJUSTMENT

# A delay of the timer thread that the report names, in seconds.
_BUSY = 0.1

# Of fewer answers no share is taken.
_FEWEST_ANSWERS = 3

# The requests after which the state may be another.
_TURNS = frozenset({"Configure", "Synchronize"})


class HealthState(str, enum.Enum):
    """What a plugin is doing, as far as its health is concerned."""

    #: There is no session: not started, not registered yet, lost, or stopped.
    CONNECTING = "connecting"
    #: There is no session, as another instance of the plugin serves: see :class:`nri_sync.Handover`.
    STANDBY = "standby"
    #: Configured, and not synchronized yet.
    REGISTERED = "registered"
    #: The plugin has handled Synchronize.
    SYNCHRONIZED = "synchronized"
    #: A handler has been running for so long that it will hardly ever return.
    WEDGED = "wedged"

    def __str__(self) -> str:
        return str(self.value)


class HealthReport(NamedTuple):
    """The answer to all probes, at one moment."""

    state: HealthState
    #: False calls for a restart of the process: only when a handler is wedged.
    live: bool
    #: Whether the plugin serves, or stands by while another instance does.
    ready: bool
    #: One line for people.
    reason: str


class Exposition(NamedTuple):
    """Metrics as a server sends them."""

    body: bytes
    content_type: str


class Health(Interceptor):
    """The health of a stub, and its figures. An interceptor, to be passed to the stub.

    ::

        health = kit.Health()
        stub = nri_sync.Stub(plugin, interceptors=[health])

    One for each stub. All methods may be called from any thread, and none blocks.
    """

    def __init__(
        self,
        *,
        wedged_after: float | None = None,
        allow_unvalidated: bool = False,
        most_unserved: float | None = 0.5,
        window: float = 300.0,
        checks: Sequence[Callable[[], str | None]] = (),
        buckets: Sequence[float] = BUCKETS,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """
        Args:
            wedged_after: seconds that a handler may run; default twice the request timeout that the
                runtime has sent.
            allow_unvalidated: whether a plugin with a validator is ready, too, when the runtime cannot call
                the validator, and creates containers without it.
            most_unserved: the plugin is not ready while this share of its recent answers, or more, was late or
                failed, of three answers at least; None: however many. Refusals by ``errors.Reject`` and
                ``abort()`` are no failures.
            window: how far back "recent" goes, in seconds.
            checks: further conditions of being ready; each returns None, or why the plugin is not. Asked when
                it is ready otherwise. They must not block. One that raises counts as not ready.
            buckets: the upper bounds of the histogram of durations, in seconds, in ascending order.
            registry: a registry of ``prometheus_client``, which ``/metrics`` serves beside the metrics of the
                health; default is ``prometheus_client.REGISTRY``.
        """
        if wedged_after is not None and not wedged_after > 0:
            raise ValueError(f"wedged_after must be positive, not {wedged_after!r}")
        if most_unserved is not None and not 0 < most_unserved <= 1:
            raise ValueError(f"most_unserved must be above 0 and at most 1, not {most_unserved!r}")
        if not window > 0:
            raise ValueError(f"window must be positive, not {window!r}")
        #: Counts and times the requests.
        self.requests = RequestMetrics(buckets=buckets, on_done=self._done, window=window)
        self._most_unserved = most_unserved
        self._window = window
        self._wedged_after = wedged_after
        self._allow_unvalidated = allow_unvalidated
        self._checks = tuple(checks)
        self._stub: Stub | None = None
        # The number of the last session that was synchronized, as the stub counts them.
        self._synchronized = 0
        self._listeners: list[Callable[[], object]] = []
        self._registry = registry

    def attach(self, stub: Stub) -> None:
        """Learn whose health this is; the stub calls it. Idempotent.

        Raises ValueError when another stub is attached.
        """
        if self._stub not in (None, stub):
            raise ValueError(
                f"{self._stub!r} is attached already; each stub needs a Health of its own"
            )
        if self._stub is None and stub.handover is not None:
            stub.handover.on_change(self._tell)
        self._stub = stub

    @property
    def stub(self) -> Stub | None:
        """The stub that is attached."""
        return self._stub

    @property
    def wedged_after(self) -> float:
        """How long a handler may run before it counts as wedged, in seconds."""
        if self._wedged_after is not None:
            return self._wedged_after
        stub = self._stub
        timeout = api.DEFAULT_REQUEST_TIMEOUT if stub is None else stub.request_timeout
        return _WEDGED_AFTER_TIMEOUTS * timeout

    # Watching

    def serve(self, event: str, request: Any, context: ServicerContext, proceed: Proceed) -> Any:
        stub = self._stub
        if stub is None or event not in _TURNS:
            return self.requests.serve(event, request, context, proceed)
        if event == "Configure" and not stub.started:
            self._synchronized = 0
        session = stub.counters.sessions
        # A request of an old session must not count for the next session.
        wanted = event == "Synchronize" and context.is_active()
        try:
            reply = self.requests.serve(event, request, context, proceed)
            if wanted and not request.more:
                self._synchronized = session
            return reply
        finally:
            self._tell()

    def _done(self, event: str, seconds: float) -> None:
        if seconds > self.wedged_after:
            self._tell()

    def on_change(self, listener: Callable[[], object]) -> None:
        """Have ``listener()`` called when a handler may have changed the state.

        Called on the thread of the handler: it must not block. A session that is lost, and a handler that
        has become wedged, are seen by asking only.
        """
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                logger.exception("a listener of the health failed")

    # Asking

    def report(self) -> HealthReport:
        """How the plugin is doing now."""
        report = self._report()
        return report._replace(reason=printable(report.reason))

    def _report(self) -> HealthReport:
        wedged = self._wedged()
        if wedged:
            return HealthReport(HealthState.WEDGED, False, False, wedged)
        stub = self._stub
        if stub is None:
            return HealthReport(HealthState.CONNECTING, True, False, "no stub is attached")
        # The stub counts a session after it is up: in this order, an old session never passes for it.
        if stub.handover is not None and stub.handover.is_waiting:
            return HealthReport(HealthState.STANDBY, True, True, "another instance serves")
        if not stub.started:
            return HealthReport(HealthState.CONNECTING, True, False, _why_not_started(stub))
        runtime = f"{stub.runtime_name} {stub.runtime_version}".strip() or "the runtime"
        if stub.counters.sessions != self._synchronized:
            reason = f"configured by {runtime}, waiting to be synchronized"
            return HealthReport(HealthState.REGISTERED, True, False, reason)
        if _VALIDATE in stub.missing_events and not self._allow_unvalidated:
            reason = (
                f"{runtime} speaks NRI {stub.runtime_nri_version} and cannot call the validator: "
                "containers are created without it"
            )
            return HealthReport(HealthState.SYNCHRONIZED, True, False, reason)
        for check in (self._unserved, *self._checks):
            why = _ask(check)
            if why is not None:
                return HealthReport(HealthState.SYNCHRONIZED, True, False, why)
        reason = f"synchronized with {runtime}"
        if stub.timer_delay >= _BUSY:
            reason += f"; the process is busy: its timer thread runs {stub.timer_delay:.1f} s late"
        return HealthReport(HealthState.SYNCHRONIZED, True, True, reason)

    def _unserved(self) -> str | None:
        """Why the plugin is not ready, by its answers; None if the answers are good."""
        answers = self.requests.answers()
        if self._most_unserved is None or answers.total < _FEWEST_ANSWERS:
            return None
        if answers.share < self._most_unserved:
            return None
        return (
            f"of {answers.total} answers in the last {self._window:g} s {answers.late} were late and "
            f"{answers.failed} failed"
        )

    def _wedged(self) -> str:
        """Which handlers are, or an empty text."""
        limit = self.wedged_after
        if self.requests.longest() <= limit:
            return ""
        found = [item for item in self.requests.running() if item.seconds > limit]
        text = ", ".join(f"{item} for {item.seconds:.1f} s" for item in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return text and f"handlers have been running for more than {limit:g} s: {text}{more}"

    def details(self) -> dict[str, Any]:
        """The report and its grounds, as plain values that JSON can carry."""
        report = self.report()
        found: dict[str, Any] = {**report._asdict(), "state": report.state.value}
        stub = self._stub
        if stub is not None:
            found["plugin"] = {
                "name": stub.name,
                "nri_version": stub.plugin_nri_version,
                "nri_sync": nri_sync.__version__,
                "events": str(stub.events),
                "missing_events": str(stub.missing_events),
            }
            found["runtime"] = {
                "name": stub.runtime_name,
                "version": stub.runtime_version,
                "nri_version": stub.runtime_nri_version,
                "request_timeout": stub.request_timeout,
            }
            found["session"] = {
                "state": stub.state.value,
                "close_reason": None if stub.close_reason is None else str(stub.close_reason),
                "timer_delay": stub.timer_delay,
            }
            counters = stub.counters
            found["counters"] = {**counters._asdict(), "restarts": counters.restarts}
        found["in_flight"] = [item._asdict() for item in self.requests.running()]
        found["slowest"] = [item._asdict() for item in self.requests.slowest()]
        return found

    # Metrics

    @property
    def registry(self) -> CollectorRegistry:
        """The registry for metrics of the application, which :meth:`exposition` shows.

        The metrics of the health are not in it: they come from :meth:`collect`.
        Raises ModuleNotFoundError without the extra ``metrics``.
        """
        if self._registry is None:
            from nri_sync.kit.health import prometheus

            return prometheus.REGISTRY
        return self._registry

    def collect(self) -> Iterator[Metric]:
        """The metrics of the health and its stub, for a registry that another server shows.

        ::

            registry.register(health)

        Raises ModuleNotFoundError without the extra ``metrics``.
        """
        from nri_sync.kit.health import prometheus

        return prometheus.of_health(self)

    def exposition(self, accept: str = "") -> Exposition:
        """The metrics of :meth:`collect` and of :attr:`registry`, as Prometheus reads them.

        ``accept`` is the header of the request, by which ``prometheus_client`` chooses between its text format and
        OpenMetrics. Where the registry fails, the error is logged, and the metrics of the health come alone. The
        registry takes locks: not for signal handlers. Raises ModuleNotFoundError without the extra ``metrics``.
        """
        from nri_sync.kit.health import prometheus

        return Exposition(*prometheus.exposition(self, accept))


def _ask(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except Exception as error:
        return f"a check failed: {error!r}"


def _why_not_started(stub: Stub) -> str:
    if stub.state is State.STARTING:
        return "connecting to the runtime, or waiting to be configured"
    if stub.state is State.STOPPING:
        return "the stub is being stopped"
    if stub.close_reason is not None:
        return f"the last session was lost: {stub.close_reason}"
    failed = stub.counters.failed_starts
    return f"the stub is idle, after {failed} failed starts" if failed else "the stub is idle"
