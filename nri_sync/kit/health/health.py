"""The health of a plugin: connecting, standing by, registered, synchronized, or wedged.

:class:`Health` derives the state from the requests that pass through it and from the stub, and has no thread.
:class:`nri_sync.kit.HealthServer` and :class:`nri_sync.kit.HealthFile` show the state.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import nri_sync
from nri_sync import Interceptor, RequestContext, State, Stub, api
from nri_sync.kit.health.metrics import BUCKETS, RequestMetrics
from nri_sync.logger import get_logger
from nri_sync.plugin.interceptors import Proceed
from nri_sync.text import printable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["Exposition", "Health", "HealthReport", "HealthState"]

logger = get_logger("nri_sync.kit.health")

# In request timeouts. A handler that runs this long is not just slow: the runtime gave up on it long ago.
_WEDGED_AFTER_TIMEOUTS = 2.0

_VALIDATE = api.EventMask.VALIDATE_CONTAINER_ADJUSTMENT

# The report mentions a delay of the timer thread from this number of seconds on.
_BUSY = 0.1

# With fewer answers, no share is computed.
_FEWEST_ANSWERS = 3

# The requests that may change the state.
_STATE_EVENTS = frozenset({"Configure", "Synchronize"})


class HealthState(str, enum.Enum):
    """The state of a plugin."""

    #: There is no session: the stub has not started or registered yet, has lost the session, or was stopped.
    CONNECTING = "connecting"
    #: There is no session because another instance of the plugin serves: see :class:`nri_sync.Handover`.
    STANDBY = "standby"
    #: Configured, but not synchronized yet.
    REGISTERED = "registered"
    #: The plugin has handled Synchronize.
    SYNCHRONIZED = "synchronized"
    #: A handler has run longer than ``wedged_after``, and will probably never return.
    WEDGED = "wedged"

    def __str__(self) -> str:
        return str(self.value)


class HealthReport(NamedTuple):
    """The answers to all probes at one moment."""

    state: HealthState
    #: False if the process needs a restart: a handler is wedged.
    live: bool
    #: Whether the plugin serves, or stands by while another instance does.
    ready: bool
    #: The reason, in one readable line.
    reason: str


class Exposition(NamedTuple):
    """Metrics in the form in which a server sends them."""

    body: bytes
    content_type: str


class Health(Interceptor):
    """The health of a stub, and its metrics. An interceptor: pass it to the stub.

    ::

        health = kit.Health()
        stub = nri_sync.Stub(plugin, interceptors=[health])

    Each stub needs its own. All methods may be called from any thread, and none blocks.
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
            wedged_after: the seconds after which a running handler is wedged; default is twice the request timeout
                that the runtime has sent.
            allow_unvalidated: whether a plugin with a validator is also ready if the runtime cannot call the
                validator, and creates containers without it.
            most_unserved: the plugin is not ready while this share of its recent answers, or more, was late or
                failed, from three answers on; None: no limit. Refusals by ``errors.Reject`` and ``abort()`` do not
                count as failures.
            window: the length in seconds of the recent time.
            checks: further conditions for being ready. Each returns None, or the reason why the plugin is not
                ready. They are called if all other conditions hold. They must not block. If one raises, the plugin
                is not ready.
            buckets: the upper bounds of the histogram of durations, in seconds, in ascending order.
            registry: a registry of ``prometheus_client``, which ``/metrics`` serves in addition to the metrics of
                the health; default is ``prometheus_client.REGISTRY``.
        """
        if wedged_after is not None and not wedged_after > 0:
            raise ValueError(f"wedged_after must be positive, not {wedged_after!r}")
        if most_unserved is not None and not 0 < most_unserved <= 1:
            raise ValueError(f"most_unserved must be above 0 and at most 1, not {most_unserved!r}")
        if not window > 0:
            raise ValueError(f"window must be positive, not {window!r}")
        #: The interceptor that counts and times the requests.
        self.requests = RequestMetrics(buckets=buckets, on_done=self._done, window=window)
        self._most_unserved = most_unserved
        self._window = window
        self._wedged_after = wedged_after
        self._allow_unvalidated = allow_unvalidated
        self._checks = tuple(checks)
        self._stub: Stub | None = None
        # The number of the last synchronized session, in the stub's count.
        self._synchronized = 0
        self._listeners: list[Callable[[], object]] = []
        self._registry = registry

    def attach(self, stub: Stub) -> None:
        """Store the stub whose health this is; the stub calls it. Idempotent.

        Raises ValueError if another stub is attached.
        """
        if self._stub not in (None, stub):
            raise ValueError(f"{self._stub!r} is attached already; each stub needs its own Health")
        if self._stub is None and stub.handover is not None:
            stub.handover.on_change(self._notify)
        self._stub = stub

    @property
    def stub(self) -> Stub | None:
        """The attached stub."""
        return self._stub

    @property
    def wedged_after(self) -> float:
        """The seconds after which a running handler counts as wedged."""
        if self._wedged_after is not None:
            return self._wedged_after
        stub = self._stub
        timeout = api.DEFAULT_REQUEST_TIMEOUT if stub is None else stub.request_timeout
        return _WEDGED_AFTER_TIMEOUTS * timeout

    # Observing

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        stub = self._stub
        if stub is None or event not in _STATE_EVENTS:
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
            self._notify()

    def _done(self, event: str, seconds: float) -> None:
        if seconds > self.wedged_after:
            self._notify()

    def on_change(self, listener: Callable[[], object]) -> None:
        """Call ``listener()`` whenever a handler may have changed the state.

        It runs on the handler's thread, and must not block. It is not called for the loss of a session, or for a
        handler that becomes wedged: only :meth:`report` shows these.
        """
        self._listeners.append(listener)

    def _notify(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                logger.exception("a listener of the health failed")

    # Reporting

    def report(self) -> HealthReport:
        """Return the health at this moment."""
        report = self._report()
        return report._replace(reason=printable(report.reason))

    def _report(self) -> HealthReport:
        wedged = self._wedged()
        if wedged:
            return HealthReport(HealthState.WEDGED, False, False, wedged)
        stub = self._stub
        if stub is None:
            return HealthReport(HealthState.CONNECTING, True, False, "no stub is attached")
        # The stub counts a session after it is up. Read in this order, an old session never passes for the new
        # one.
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
            why = _run_check(check)
            if why is not None:
                return HealthReport(HealthState.SYNCHRONIZED, True, False, why)
        reason = f"synchronized with {runtime}"
        if stub.timer_delay >= _BUSY:
            reason += f"; the process is busy: its timer thread runs {stub.timer_delay:.1f} s late"
        return HealthReport(HealthState.SYNCHRONIZED, True, True, reason)

    def _unserved(self) -> str | None:
        """Return why the plugin is not ready, judged by its answers; None if they are good."""
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
        """Return a description of the wedged handlers; empty without one."""
        limit = self.wedged_after
        if self.requests.longest() <= limit:
            return ""
        found = [item for item in self.requests.running() if item.seconds > limit]
        text = ", ".join(f"{item} for {item.seconds:.1f} s" for item in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return text and f"handlers have been running for more than {limit:g} s: {text}{more}"

    def details(self) -> dict[str, Any]:
        """Return the report and the data behind it, as plain values for JSON."""
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
        """The registry of the application's metrics, which :meth:`exposition` includes.

        It does not contain the metrics of the health: they come from :meth:`collect`.
        Raises ModuleNotFoundError without the extra ``metrics``.
        """
        if self._registry is None:
            from nri_sync.kit.health import prometheus

            return prometheus.REGISTRY
        return self._registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the health and its stub, for a registry that another server exposes.

        ::

            registry.register(health)

        Raises ModuleNotFoundError without the extra ``metrics``.
        """
        from nri_sync.kit.health import prometheus

        return prometheus.of_health(self)

    def exposition(self, accept: str = "") -> Exposition:
        """Return the metrics of :meth:`collect` and of :attr:`registry`, in a format of Prometheus.

        ``accept`` is the header of the request, by which ``prometheus_client`` chooses between its text format and
        OpenMetrics. If the registry fails, the error is logged, and the result has only the metrics of the health.
        The registry takes locks: do not call this in a signal handler. Raises ModuleNotFoundError without the
        extra ``metrics``.
        """
        from nri_sync.kit.health import prometheus

        return Exposition(*prometheus.exposition(self, accept))


def _run_check(check: Callable[[], str | None]) -> str | None:
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
