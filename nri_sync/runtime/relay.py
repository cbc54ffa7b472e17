"""Handing an event to one plugin after the other, and what becomes of the request if one of them fails.

An error that a plugin answers with is its answer: the request fails, the plugin stays. No answer at all is a
failure of the plugin, for which it has chosen a policy at its registration::

    what                 keep_connected   the plugin      fail_request   the request
    time is over         no               is dropped      no             goes on without it
    time is over         yes              stays           yes            fails, later plugins are not asked
    connection lost, or  whatever         is dropped      as above
    not understood

Nothing of this applies once the caller's own time is over: that is nobody's fault.
"""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Protocol, Union

import grpc

from nri_sync import api
from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.api.handlers import HANDLERS, Handler
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConnectionLost,
    NoAnswer,
    NRIError,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    RuntimeStopped,
    WouldDeadlock,
)
from nri_sync.logger import get_logger
from nri_sync.runtime.metrics import SafeMetrics
from nri_sync.runtime.request import Request
from nri_sync.runtime.result import CreateResult, StopResult, UpdateResult
from nri_sync.runtime.validation import validation_request

__all__ = ["Member", "Relay", "failure"]

logger = get_logger("nri_sync.runtime")

BY_RPC: dict[str, Handler] = {handler.rpc: handler for handler in HANDLERS}
# Plain numbers: a flag's own operators take longer than all else that is done with it.
_BITS = {handler.rpc: int(EventMask.of(handler.event)) for handler in HANDLERS if handler.event}
# Pods that plugins have failed. The runtime may never say that they are removed.
_UNHEARD_MAX = 10_000
_VALIDATE = "ValidateContainerAdjustment"
# What a plugin's answer can be missing for, if not by its own will.
_Silence = Union[TimeoutError, ConnectionLost, RemoteProtocolError]


class Member(Protocol):
    """A plugin, as a relay needs it: a Peer, or one in this process."""

    events: EventMask
    failure_policy: nri_pb2.FailurePolicy | None

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> PluginId: ...

    @property
    def closed(self) -> bool: ...

    def request(self, request: Request, deadline: Deadline) -> Any: ...

    def request_async(self, request: Request, deadline: Deadline) -> Callable[[], Any]: ...

    def close(self, cause: NRIError | None = None) -> None: ...


def silence(error: Exception) -> _Silence | None:
    """Why there is no answer; None for an error that is the answer."""
    if isinstance(error, grpc.RpcError):
        cause = error.__cause__
        if isinstance(cause, (TimeoutError, ConnectionLost, RemoteProtocolError)):
            return cause
    return None


def failure(plugin: str, event: str, error: Exception) -> RequestFailed:
    """The exception for a request that fails because of a plugin, to be raised from its ``__cause__``."""
    cause = silence(error)
    if cause is not None:
        failed: RequestFailed = NoAnswer(
            f"plugin {plugin} failed to handle {event} request: {cause}",
            plugin=plugin, event=event, reason=str(cause),
        )  # fmt: skip
        failed.__cause__ = cause
        return failed
    reason = str(error) or type(error).__name__
    if isinstance(error, grpc.Call):
        reason = error.details() or error.code().name
    failed = RequestFailed(
        f"plugin {plugin}: {event} failed: {reason}", plugin=plugin, event=event, reason=reason
    )
    failed.__cause__ = error
    return failed


class Relay:
    """Relays the events of one runtime, one at a time: plugins can rely on that. Thread-safe."""

    def __init__(
        self,
        *,
        members: Callable[[], Sequence[Member]],
        request_timeout: float,
        metrics: SafeMetrics,
        stopped: Callable[[], bool],
    ) -> None:
        """``members()`` are the plugins in the order in which they are asked."""
        self._members = members
        self._request_timeout = request_timeout
        self._metrics = metrics
        self._stopped = stopped
        # Held for a whole request, by the thread that _relaying names.
        self._lock = threading.Lock()
        self._relaying: int | None = None
        # By pod, the plugins that have not handled its RunPodSandbox, while they stay connected: a plugin that
        # comes again is told of the pod by Synchronize. Guarded by the lock.
        self._unheard: dict[str, weakref.WeakSet[Member]] = {}

    def event(self, rpc: str, message: Any, caller: Deadline) -> None:
        """Relay an event whose answers say nothing. Raises as :meth:`create`, but for what is about answers."""
        request = Request(BY_RPC[rpc], message)
        ask = self._run_pod if rpc == "RunPodSandbox" else self._ask
        with self._turn(rpc, caller):
            for plugin in self._subscribed(rpc):
                ask(plugin, request, caller)
            if rpc == "RemovePodSandbox":
                self._unheard.pop(message.pod.id, None)

    def create(
        self, message: nri_pb2.CreateContainerRequest, caller: Deadline
    ) -> nri_pb2.CreateContainerResponse:
        """Have all plugins adjust a container, and validators look at the result. Blocks until it is there.

        Raises:
            RequestFailed: a plugin failed.
            ConflictError: the answers do not go together.
            ValidationRejected: a validator rejected the result.
            RequestTimeout: the deadline of the caller passed.
            RuntimeStopped: the runtime was stopped.
            WouldDeadlock: this thread is relaying an event already, it is in a handler.
        """
        with self._turn("CreateContainer", caller):
            result = CreateResult(message)
            request = Request(BY_RPC["CreateContainer"], result.request)
            members = self._members()
            unheard = self._unheard.get(message.pod.id, ())
            bit, validate = _BITS["CreateContainer"], _BITS[_VALIDATE]
            consulted = []
            for plugin in members:
                if plugin.closed:
                    continue
                if int(plugin.events) & bit:
                    answer = self._ask(plugin, request, caller)
                    if answer is None:
                        continue  # it was not consulted, whatever it is required for
                    self._apply(result, plugin, request, answer)
                if plugin not in unheard:
                    consulted.append(plugin.identity)
            if any(int(plugin.events) & validate for plugin in members):
                self._validate(members, result, consulted, caller)
            return result.reply

    def update(
        self, message: nri_pb2.UpdateContainerRequest, caller: Deadline
    ) -> nri_pb2.UpdateContainerResponse:
        """Have all plugins say what else to update. Raises as :meth:`create`."""
        with self._turn("UpdateContainer", caller):
            result = UpdateResult(message)
            request = Request(BY_RPC["UpdateContainer"], result.request)
            self._collect(result, request, caller)
            return result.reply

    def stop(
        self, message: nri_pb2.StopContainerRequest, caller: Deadline
    ) -> nri_pb2.StopContainerResponse:
        """Have all plugins say what to update. Raises as :meth:`create`."""
        with self._turn("StopContainer", caller):
            result = StopResult(message)
            request = Request(BY_RPC["StopContainer"], result.request)
            self._collect(result, request, caller)
            return result.reply

    def wait_idle(self, deadline: Deadline) -> None:
        """Block until no request is being relayed, or the deadline; at once for the thread that relays."""
        if self._relaying == _thread.get_ident():
            return
        if _acquire(self._lock, deadline):
            self._lock.release()

    # One request

    @contextmanager
    def _turn(self, rpc: str, caller: Deadline) -> Iterator[None]:
        if self._relaying == _thread.get_ident():
            raise WouldDeadlock(f"{rpc}: this thread is relaying an event, and is in its handler")
        if not _acquire(self._lock, caller):
            raise RequestTimeout(f"{rpc}: the time was over while other requests were relayed")
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
            # When its turn comes: it may leave while others are asked.
            if int(plugin.events) & bit and not plugin.closed:
                yield plugin

    def _collect(
        self, result: UpdateResult | StopResult, request: Request, caller: Deadline
    ) -> None:
        for plugin in self._subscribed(request.handler.rpc):
            answer = self._ask(plugin, request, caller)
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

    def _ask(self, plugin: Member, request: Request, caller: Deadline) -> Any:
        """The answer of a plugin; None if the request is to go on without it."""
        rpc = request.handler.rpc
        began = time.perf_counter()
        try:
            answer = plugin.request(request, self._limit(caller))
        except Exception as error:
            self._record(plugin, rpc, began, error)
            self._judge(plugin, rpc, error, caller)
            return None
        self._record(plugin, rpc, began, None)
        return answer

    def _run_pod(self, plugin: Member, request: Request, caller: Deadline) -> None:
        """Ask about RunPodSandbox. A plugin that fails it does not count as consulted for the pod's containers."""
        pod_id = request.message.pod.id
        unheard = self._unheard.get(pod_id)
        handled = False
        try:
            handled = self._ask(plugin, request, caller) is not None
        finally:
            if handled and unheard is not None:
                unheard.discard(plugin)
            elif not handled:
                if len(self._unheard) >= _UNHEARD_MAX:
                    del self._unheard[next(iter(self._unheard))]
                self._unheard.setdefault(pod_id, weakref.WeakSet()).add(plugin)

    def _limit(self, caller: Deadline) -> Deadline:
        limit = Deadline(self._request_timeout)
        if caller.at is not None and (limit.at is None or caller.at < limit.at):
            return caller
        return limit

    def _record(self, plugin: Member, rpc: str, began: float, error: Exception | None) -> None:
        self._metrics.latency(plugin.name, rpc, time.perf_counter() - began)
        self._metrics.invocation(plugin.name, rpc, error)

    def _judge(self, plugin: Member, rpc: str, error: Exception, caller: Deadline) -> None:
        """A plugin has failed: drop it, and raise, as its policy wants it."""
        self._drop(plugin, rpc, error, caller)
        cause = silence(error)
        policy = plugin.failure_policy
        if cause is None or (policy is not None and policy.fail_request):
            raise failure(plugin.name, rpc, error)
        logger.warning(
            "plugin %s failed to handle %s request, proceeding without it: %s",
            plugin.name, rpc, cause,
        )  # fmt: skip

    def _drop(self, plugin: Member, rpc: str, error: Exception, caller: Deadline) -> None:
        """Drop a plugin that did not answer, unless its policy keeps it, or it is not to blame.

        Raises:
            RuntimeStopped: it was cut off by this side.
            RequestTimeout: the caller has no more time.
        """
        cause = silence(error)
        if cause is None:
            return
        if self._stopped():
            raise RuntimeStopped(f"{rpc}: the runtime was stopped meanwhile") from error
        if caller.expired:
            raise RequestTimeout(
                f"{rpc}: the time was over before all plugins had answered"
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
        """Ask all validators at once. If several reject, the one with the lowest index counts."""
        request = Request(BY_RPC[_VALIDATE], validation_request(result, consulted))
        bit = _BITS[_VALIDATE]
        validators = [p for p in members if int(p.events) & bit and not p.closed]
        began = time.perf_counter()
        # A single one is asked in the faster way.
        asked: list[Callable[[], Any]]
        if len(validators) == 1:  # there is a faster way
            asked = [partial(validators[0].request, request, self._limit(caller))]
        else:
            asked = [plugin.request_async(request, self._limit(caller)) for plugin in validators]
        failures = [
            self._verdict(plugin, answer, began, caller)
            for plugin, answer in zip(validators, asked)
        ]
        for error in failures:
            if error is not None:
                raise error

    def _verdict(
        self, plugin: Member, answer: Callable[[], Any], began: float, caller: Deadline
    ) -> Exception | None:
        try:
            response = answer()
        except Exception as error:
            self._record(plugin, _VALIDATE, began, error)
            try:
                self._drop(plugin, _VALIDATE, error, caller)
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
