"""Late replies: answers for handlers that take too long, before the runtime disconnects the plugin."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from nri_sync import api
from nri_sync.api.services import PLUGIN
from nri_sync.codes import StatusCode
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.parts import Parts, measure
from nri_sync.plugin.spec import PluginSpec
from nri_sync.plugin.subjects import describe
from nri_sync.rpc.late import LateCall, LatePolicy
from nri_sync.rpc.status import Status
from nri_sync.text import printable

__all__ = ["Late", "TimedConnection"]

_VALIDATE = "ValidateContainerAdjustment"
# The requests that a pod may want its required plugins to have handled.
_MAKING = frozenset({"RunPodSandbox", "CreateContainer"})
# Beside busy threads, a thread that comes back from a system call waits for its turn to run. On the runtime's
# clock, the socket is seen, disarmed and read; then the timer thread wakes and answers. One turn is to spare.
_TURNS = 6
# The share of a delay that is left after each look.
_FADING = 0.95
# A delay of the timer thread that counts, in seconds.
_NOTICEABLE = 0.1
_METHODS = frozenset(method.path for method in PLUGIN.methods.values())
# Never answered for: an empty Configure subscribes to everything.
_NEVER_LATE = frozenset({"Configure", "Shutdown"})


class TimedConnection(Protocol):
    """The part of a connection that late answers use."""

    facts: Facts
    #: How many seconds a handler has; ``None``: its request is not answered for it.
    answer_within: float | None
    #: The state of the node, while it comes in parts.
    parts: Parts


class Late(LatePolicy):
    """Answers for handlers just before the runtime would give up on them, and disconnect the plugin.

    The answer is empty, or an error if the failure policy wants requests to fail. A validation always
    fails: an empty answer would approve an adjustment that no code has looked at.
    """

    def __init__(self, plugin: PluginSpec, conn: TimedConnection) -> None:
        self._plugin = plugin
        self._conn = conn

    def limit(self) -> float | None:
        within, due = self._conn.answer_within, self._conn.parts.due
        if within is None or due is None:
            return within
        # All parts of the state have one timeout together: less of it is left for the last part.
        margin = self._conn.facts.request_timeout - within
        return min(within, max(0.0, due - margin - time.monotonic()))

    def ahead(self) -> float:
        return _TURNS * self._plugin.tally.timer_delay

    def clock_ran(self, delay: float) -> None:
        tally = self._plugin.tally
        # Each look sees one turn, short or long. The longest one counts.
        tally.timer_delay = max(delay, tally.timer_delay * _FADING)
        if delay < _NOTICEABLE:
            return
        if not tally.snapshot().timer_delays:
            self._plugin.logger.warning(
                "the timer thread ran %.0f ms late: other threads of the process, or the machine, are busy; "
                "late answers are given earlier (further delays are counted, as timer_delays)",
                delay * 1000,
            )
        tally.add("timer_delays")

    def answer(self, call: LateCall) -> bytes | Status | None:
        rpc = _rpc(call.method)
        if rpc in _NEVER_LATE or (rpc == "Synchronize" and not self._is_last_part(call)):
            return None
        if call.method not in _METHODS:
            # As the router answers. An empty reply would say that the plugin has the method.
            call.about = "UnknownMethod"  # counted: the peer may send any number of names
            return Status(StatusCode.UNIMPLEMENTED, f"method {printable(rpc)}")
        request = _request_of(call, rpc)
        call.about = about = describe(rpc, request)
        policy = self._plugin.failure_policy
        fails = (
            rpc == _VALIDATE
            or (policy is not None and policy.fail_request)
            or self._required(request, about)
        )
        if fails:
            text = f"plugin {self._plugin.name} has not handled {about} in time"
            return Status(StatusCode.DEADLINE_EXCEEDED, text)
        return b""

    def won(self, call: LateCall) -> None:
        self._plugin.tally.add_late(call.about.partition(" ")[0])

    def answered(self, call: LateCall, outcome: bytes | Status) -> None:
        self._plugin.logger.warning(
            "%s has not answered within the request timeout of %g s; answered for it with %s",
            call.about,
            self._conn.facts.request_timeout,
            "an error" if isinstance(outcome, Status) else "an empty reply",
        )

    def _required(self, request: Any, about: str) -> bool:
        """Whether the pod requires this plugin: an empty reply would pass for its work, other than no answer."""
        if about.partition(" ")[0] not in _MAKING:
            return False
        if request is None:
            return True  # it cannot be parsed, so it is not known
        if not request.HasField("pod"):
            return False
        container = "" if not hasattr(request, "container") else request.container.name
        value = api.effective_annotation(request.pod, api.REQUIRED_PLUGINS, container)
        try:
            names = [] if value is None else api.parse_required_plugins(value)
        except ValueError:
            return False  # the validator of the runtime refuses it
        return self._plugin.name in names or self._plugin.identity.name in names

    def _is_last_part(self, call: LateCall) -> bool:
        """Whether a Synchronize is known to be the last.

        An answer for an earlier part would say that its pods and containers have been taken, or that none come.
        """
        try:
            payload = call.payload()
        except Exception:
            return False
        context = call.context
        if context is None:  # it waits for a thread, and the payload is all there
            return not measure(payload).more
        request = context.request  # once: the end of the call sets it to None
        if request is None:  # it is being parsed, which takes long where it is large
            return self._conn.parts.is_complete
        return not request.more

    def finished(self, call: LateCall, error: Status | None) -> None:
        self._plugin.tally.add("late_results")
        outcome = "succeeded" if error is None else f"failed ({error.details})"
        self._plugin.logger.log(
            logging.WARNING if error is None else logging.ERROR,
            "%s %s after it had been answered for; its result is dropped",
            call.about or _rpc(call.method),
            outcome,
        )


def _rpc(method: str) -> str:
    return method.rpartition("/")[2]


def _request_of(call: LateCall, rpc: str) -> Any:
    """The request of a call; None if it cannot be had."""
    # Once: the end of the call sets it to None.
    request = None if call.context is None else call.context.request
    if request is not None:
        return request
    method = PLUGIN.methods.get(rpc)
    if method is None or rpc == "Synchronize":  # which is large, and about no pod
        return None
    try:
        return method.request.FromString(bytes(call.payload()))
    except Exception:
        return None
