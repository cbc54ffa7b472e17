"""Sends each event to one plugin after the other, and decides about the request when a plugin fails.

If a plugin answers with an error, the request fails and the plugin stays connected. If a plugin gives no answer,
the plugin has failed. The failure policy that it chose in Configure then decides::

    failure                keep_connected   the plugin    fail_request   the request
    the timeout passed     no               is closed     no             continues without the plugin
    the timeout passed     yes              stays         yes            fails; later plugins do not get it
    the connection broke,  any              is closed     as above
    or the answer cannot
    be parsed

If the deadline of the caller has passed, no policy applies, because the plugin is not at fault.
"""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable

from nri_sync import api
from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.api.handlers import HANDLERS, Handler
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConnectionLost,
    NRIError,
    RequestTimeout,
    RuntimeStopped,
    WouldDeadlock,
)
from nri_sync.logger import get_logger
from nri_sync.runtime.member import Member, failure, no_answer_cause
from nri_sync.runtime.metrics import SafeMetrics
from nri_sync.runtime.request import Request
from nri_sync.runtime.result import CreateResult, StopResult, UpdateResult
from nri_sync.runtime.validation import validation_request

__all__ = ["Relay"]

logger = get_logger("nri_sync.runtime")

BY_RPC: dict[str, Handler] = {handler.rpc: handler for handler in HANDLERS}
# Plain integers: the operators of a flag class would dominate the cost of this test.
_BITS = {handler.rpc: int(EventMask.of(handler.event)) for handler in HANDLERS if handler.event}
_VALIDATE = "ValidateContainerAdjustment"


class Relay:
    """Sends the events of one runtime to its plugins, one event at a time. Plugins rely on that. Thread-safe."""

    def __init__(
        self,
        *,
        members: Callable[[], Sequence[Member]],
        request_timeout: float,
        metrics: SafeMetrics,
        stopped: Callable[[], bool],
        failed_pods_max: int = 10_000,
    ) -> None:
        """``members()`` returns the plugins in the order in which they get requests.

        ``failed_pods_max`` bounds the remembered pods that a plugin failed to handle, because a runtime may never
        send RemovePodSandbox for a pod.

        ``stopped()`` returns True outside the time from the end of start() to the beginning of stop().
        """
        self._members = members
        self._request_timeout = request_timeout
        self._metrics = metrics
        self._stopped = stopped
        # Held for a whole request, by the thread with the identifier _relaying.
        self._lock = threading.Lock()
        self._relaying: int | None = None
        # By pod id, the plugins that failed to handle its RunPodSandbox and are still connected. A plugin that
        # reconnects receives the pod with Synchronize. Guarded by the lock.
        self._failed_pods_max = failed_pods_max
        self._failed_pods: dict[str, weakref.WeakSet[Member]] = {}

    def event(self, rpc: str, message: Any, caller: Deadline) -> None:
        """Send an event whose answers are empty. Raises as :meth:`create`, except the errors about answers."""
        request = Request(BY_RPC[rpc], message)
        send = self._send_run_pod if rpc == "RunPodSandbox" else self._send
        with self._exclusive(rpc, caller):
            for plugin in self._subscribed(rpc):
                send(plugin, request, caller)
            if rpc == "RemovePodSandbox":
                self._failed_pods.pop(message.pod.id, None)

    def create(
        self, message: nri_pb2.CreateContainerRequest, caller: Deadline
    ) -> nri_pb2.CreateContainerResponse:
        """Collect the adjustments of all plugins, and have the validators check the merged result.

        Blocks until the result is complete.

        Raises:
            RequestFailed: a plugin failed.
            ConflictError: two answers conflict.
            ValidationRejected: a validator rejected the result.
            RequestTimeout: the deadline of the caller passed.
            RuntimeStopped: the runtime was stopped.
            WouldDeadlock: this thread is relaying an event already; the call comes from a handler.
        """
        with self._exclusive("CreateContainer", caller):
            result = CreateResult(message)
            request = Request(BY_RPC["CreateContainer"], result.request)
            members = self._members()
            failed_pod = self._failed_pods.get(message.pod.id, ())
            bit, validate = _BITS["CreateContainer"], _BITS[_VALIDATE]
            consulted = []
            for plugin in members:
                if plugin.closed:
                    continue
                if int(plugin.events) & bit:
                    answer = self._send(plugin, request, caller)
                    if answer is None:
                        continue  # not consulted, so a validator that requires the plugin rejects
                    self._apply(result, plugin, request, answer)
                if plugin not in failed_pod:
                    consulted.append(plugin.identity)
            if any(int(plugin.events) & validate for plugin in members):
                self._validate(members, result, consulted, caller)
            return result.reply

    def update(
        self, message: nri_pb2.UpdateContainerRequest, caller: Deadline
    ) -> nri_pb2.UpdateContainerResponse:
        """Collect the updates that all plugins request. Raises as :meth:`create`."""
        with self._exclusive("UpdateContainer", caller):
            result = UpdateResult(message)
            request = Request(BY_RPC["UpdateContainer"], result.request)
            self._collect(result, request, caller)
            return result.reply

    def stop(
        self, message: nri_pb2.StopContainerRequest, caller: Deadline
    ) -> nri_pb2.StopContainerResponse:
        """Collect the updates that all plugins request. Raises as :meth:`create`."""
        with self._exclusive("StopContainer", caller):
            result = StopResult(message)
            request = Request(BY_RPC["StopContainer"], result.request)
            self._collect(result, request, caller)
            return result.reply

    def wait_idle(self, deadline: Deadline) -> None:
        """Block until no request is being relayed, or until the deadline.

        Returns at once on the thread that relays a request.
        """
        if self._relaying == _thread.get_ident():
            return
        if _acquire(self._lock, deadline):
            self._lock.release()

    # One request

    @contextmanager
    def _exclusive(self, rpc: str, caller: Deadline) -> Iterator[None]:
        """Hold the lock for one request."""
        if self._relaying == _thread.get_ident():
            raise WouldDeadlock(
                f"{rpc}: this thread is in a handler of an event that it is relaying"
            )
        if not _acquire(self._lock, caller):
            raise RequestTimeout(f"{rpc}: the timeout passed while other requests were relayed")
        try:
            self._relaying = _thread.get_ident()
            if self._stopped():
                raise RuntimeStopped(f"{rpc}: the runtime is not started")
            yield
        finally:
            self._relaying = None
            self._lock.release()

    def _subscribed(self, rpc: str) -> Iterator[Member]:
        bit = _BITS[rpc]
        for plugin in self._members():
            # Checked just before its request: the plugin may disconnect during the requests to others.
            if int(plugin.events) & bit and not plugin.closed:
                yield plugin

    def _collect(
        self, result: UpdateResult | StopResult, request: Request, caller: Deadline
    ) -> None:
        for plugin in self._subscribed(request.handler.rpc):
            answer = self._send(plugin, request, caller)
            if answer is not None:
                self._apply(result, plugin, request, answer)

    def _apply(self, result: Any, plugin: Member, request: Request, answer: Any) -> None:
        rpc = request.handler.rpc
        creates = isinstance(answer, nri_pb2.CreateContainerResponse)
        adjust = answer.adjust if creates and answer.HasField("adjust") else None
        evict = getattr(answer, "evict", ())
        self._metrics.adjustments(plugin.name, rpc, adjust, len(answer.update), len(evict))
        if answer.ByteSize():
            result.apply(plugin.name, answer)
            request.changed()

    # One plugin

    def _send(self, plugin: Member, request: Request, caller: Deadline) -> Any:
        """Send a request to a plugin; returns its answer, or None if the request continues without it."""
        rpc = request.handler.rpc
        began = time.perf_counter()
        try:
            answer = plugin.request(request, self._limit(caller))
        except Exception as error:
            self._record(plugin, rpc, began, error)
            self._handle_failure(plugin, rpc, error, caller)
            return None
        self._record(plugin, rpc, began, None)
        return answer

    def _send_run_pod(self, plugin: Member, request: Request, caller: Deadline) -> None:
        """Send RunPodSandbox. A plugin that fails it does not count as consulted for the pod's containers."""
        pod_id = request.message.pod.id
        failed = self._failed_pods.get(pod_id)
        handled = False
        try:
            handled = self._send(plugin, request, caller) is not None
        finally:
            if handled and failed is not None:
                failed.discard(plugin)
            elif not handled:
                if len(self._failed_pods) >= self._failed_pods_max:
                    del self._failed_pods[next(iter(self._failed_pods))]
                self._failed_pods.setdefault(pod_id, weakref.WeakSet()).add(plugin)

    def _limit(self, caller: Deadline) -> Deadline:
        limit = Deadline(self._request_timeout)
        if caller.at is not None and (limit.at is None or caller.at < limit.at):
            return caller
        return limit

    def _record(self, plugin: Member, rpc: str, began: float, error: Exception | None) -> None:
        self._metrics.latency(plugin.name, rpc, time.perf_counter() - began)
        self._metrics.invocation(plugin.name, rpc, error)

    def _handle_failure(self, plugin: Member, rpc: str, error: Exception, caller: Deadline) -> None:
        """Apply the failure policy of a plugin: close the plugin or not, raise or not."""
        self._close_failed(plugin, rpc, error, caller)
        cause = no_answer_cause(error)
        policy = plugin.failure_policy
        if cause is None or (policy is not None and policy.fail_request):
            raise failure(plugin.name, rpc, error)
        logger.warning(
            "plugin %s failed to handle %s request, proceeding without it: %s",
            plugin.name, rpc, cause,
        )  # fmt: skip

    def _close_failed(self, plugin: Member, rpc: str, error: Exception, caller: Deadline) -> None:
        """Close a plugin that did not answer, unless its failure policy keeps it connected.

        Raises:
            RuntimeStopped: this side ended the connection, because the runtime was stopped.
            RequestTimeout: the deadline of the caller passed.
        """
        cause = no_answer_cause(error)
        if cause is None:
            return
        if self._stopped():
            raise RuntimeStopped(f"{rpc}: the runtime was stopped meanwhile") from error
        if caller.expired:
            raise RequestTimeout(
                f"{rpc}: the timeout passed before all plugins had answered"
            ) from error
        policy = plugin.failure_policy
        if isinstance(cause, TimeoutError) and policy is not None and policy.keep_connected:
            return
        text = f"closing plugin {plugin.name}, failed to handle {rpc} request: {cause}"
        logger.error("%s", text)
        plugin.close(ConnectionLost(text))

    # Validation

    def _validate(
        self,
        members: Sequence[Member],
        result: CreateResult,
        consulted: list[PluginId],
        caller: Deadline,
    ) -> None:
        """Ask all validators at the same time. If several reject, raise the error of the lowest index."""
        request = Request(BY_RPC[_VALIDATE], validation_request(result, consulted))
        bit = _BITS[_VALIDATE]
        validators = [p for p in members if int(p.events) & bit and not p.closed]
        began = time.perf_counter()
        answers: list[Callable[[], Any]]
        if len(validators) == 1:  # a blocking request is faster
            answers = [partial(validators[0].request, request, self._limit(caller))]
        else:
            answers = [plugin.request_async(request, self._limit(caller)) for plugin in validators]
        failures = [
            self._rejection(plugin, answer, began, caller)
            for plugin, answer in zip(validators, answers)
        ]
        for error in failures:
            if error is not None:
                raise error

    def _rejection(
        self, plugin: Member, answer: Callable[[], Any], began: float, caller: Deadline
    ) -> Exception | None:
        """Wait for the answer of a validator; returns the error to raise, or None if it accepts."""
        try:
            response = answer()
        except Exception as error:
            self._record(plugin, _VALIDATE, began, error)
            try:
                self._close_failed(plugin, _VALIDATE, error, caller)
            except NRIError as stopped:
                return stopped
            return failure(plugin.name, _VALIDATE, error)
        self._record(plugin, _VALIDATE, began, None)
        try:
            api.check_validation(response, plugin.name)
        except NRIError as rejected:
            return rejected
        return None


def _acquire(lock: threading.Lock, deadline: Deadline) -> bool:
    remaining = deadline.remaining()
    return lock.acquire(timeout=-1 if remaining is None else remaining)
