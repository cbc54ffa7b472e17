"""The result of a request after plugins have failed: every case of the failure policies."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Callable

import pytest

from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    CallFailed,
    ConflictError,
    ConnectionLost,
    LocalProtocolError,
    NoAnswer,
    NRIError,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    RuntimeStopped,
    ValidationRejected,
    WouldDeadlock,
)
from nri_sync.runtime.member import Member
from nri_sync.runtime.metrics import SafeMetrics
from nri_sync.runtime.relay import Relay
from nri_sync.runtime.request import Request
from tests.runtime.rig import CONTAINER, LONG, POD, Figures, on_thread, update_of

__all__: list[str] = []

NEVER = Deadline(None)
EVERYTHING = EventMask.ALL & ~EventMask.VALIDATE_CONTAINER_ADJUSTMENT
VALIDATES = EventMask.VALIDATE_CONTAINER_ADJUSTMENT


class Scripted:
    """A plugin with a given answer or exception."""

    def __init__(
        self,
        name: str,
        outcome: Any = None,
        *,
        events: EventMask = EVERYTHING,
        policy: nri_pb2.FailurePolicy | None = None,
    ) -> None:
        idx, _, base = name.partition("-")
        self.name = name
        self.identity = PluginId(idx, base)
        self.events = events
        self.failure_policy = policy
        self.outcome = outcome
        self.closed = False
        self.closed_for: NRIError | None = None
        #: The messages of its requests, and the remaining time of each.
        self.asked: list[Any] = []
        self.limits: list[Deadline] = []

    def request(self, request: Request, deadline: Deadline) -> Any:
        message = type(request.message)()
        message.ParseFromString(request.payload)
        self.asked.append(message)
        self.limits.append(deadline)
        outcome = self.outcome(request) if callable(self.outcome) else self.outcome
        if isinstance(outcome, Exception):
            raise outcome
        return getattr(nri_pb2, f"{request.handler.rpc}Response")() if outcome is None else outcome

    def request_async(self, request: Request, deadline: Deadline) -> Callable[[], Any]:
        return lambda: self.request(request, deadline)

    def close(self, cause: NRIError | None = None) -> None:
        self.closed, self.closed_for = True, cause


def _relay(
    members: Sequence[Member], figures: Figures | None = None, stopped: bool = False, **options: int
) -> Relay:
    metrics = SafeMetrics(figures or Figures())
    return Relay(
        members=lambda: members, request_timeout=LONG, metrics=metrics, stopped=lambda: stopped,
        **options,
    )  # fmt: skip


def _silent(cause: Exception, code: StatusCode = StatusCode.UNAVAILABLE) -> CallFailed:
    """The failure of a call that this side gave up."""
    error = CallFailed("/method", code, str(cause))
    error.__cause__ = cause
    return error


def _told(code: StatusCode, text: str = "boom") -> CallFailed:
    """The failure of a call that the plugin answered with an error."""
    return CallFailed("/method", code, text)


TIMEOUT = _silent(TimeoutError("no answer before the deadline"), StatusCode.DEADLINE_EXCEEDED)
LOST = _silent(ConnectionLost("the peer closed the connection"))
BROKEN = _silent(RemoteProtocolError("garbage"))
#: For each cause, whether keep_connected keeps the plugin.
FATAL = {"timeout": (TIMEOUT, True), "lost": (LOST, False), "broken": (BROKEN, False)}
OTHER = {
    "an error": _told(StatusCode.UNKNOWN),
    "a deadline of the plugin's own": _told(StatusCode.DEADLINE_EXCEEDED),
    "cancelled": _told(StatusCode.CANCELLED),
    "unimplemented": _told(StatusCode.UNIMPLEMENTED),
    "unavailable, says the plugin": _told(StatusCode.UNAVAILABLE),
    "too large to be sent": _silent(LocalProtocolError("too large"), StatusCode.RESOURCE_EXHAUSTED),
    "an exception of one in this process": ZeroDivisionError("boom"),
    "a timeout within one in this process": TimeoutError("boom"),
}
POLICIES = {
    "none": None,
    "empty": nri_pb2.FailurePolicy(),
    "fail": nri_pb2.FailurePolicy(fail_request=True),
    "keep": nri_pb2.FailurePolicy(keep_connected=True),
    "fail and keep": nri_pb2.FailurePolicy(fail_request=True, keep_connected=True),
}


def _run(relay: Relay, caller: Deadline = NEVER) -> None:
    relay.event("RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD), caller)


def _create(relay: Relay, caller: Deadline = NEVER) -> nri_pb2.CreateContainerResponse:
    return relay.create(nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER), caller)


class TestPolicy:
    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("kind", FATAL)
    def test_no_answer(self, kind: str, policy: str) -> None:
        error, may_stay = FATAL[kind]
        plugin = Scripted("10-a", error, policy=POLICIES[policy])
        later = Scripted("20-b")
        relay = _relay([plugin, later])
        if "fail" in policy:
            with pytest.raises(NoAnswer) as failed:
                _run(relay)
            assert failed.value.__cause__ is error.__cause__
            assert (failed.value.plugin, failed.value.event) == ("10-a", "RunPodSandbox")
            text = f"plugin 10-a failed to handle RunPodSandbox request: {error.__cause__}"
            assert str(failed.value) == text
            assert later.asked == []
        else:
            _run(relay)
            assert len(later.asked) == 1
        assert plugin.closed is not (may_stay and "keep" in policy)
        assert plugin.closed_for is None or isinstance(plugin.closed_for, ConnectionLost)

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("kind", OTHER)
    def test_an_error_is_an_answer(self, kind: str, policy: str) -> None:
        error = OTHER[kind]
        plugin = Scripted("10-a", error, policy=POLICIES[policy])
        later = Scripted("20-b")
        with pytest.raises(RequestFailed) as failed:
            _run(_relay([plugin, later]))
        assert type(failed.value) is RequestFailed
        assert failed.value.__cause__ is error
        assert failed.value.reason in ("boom", "too large")
        assert str(failed.value) == f"plugin 10-a: RunPodSandbox failed: {failed.value.reason}"
        assert later.asked == []
        assert not plugin.closed

    @pytest.mark.parametrize("kind", FATAL)
    @pytest.mark.parametrize("policy", POLICIES)
    def test_no_plugin_is_at_fault_after_the_callers_timeout(self, kind: str, policy: str) -> None:
        plugin = Scripted("10-a", FATAL[kind][0], policy=POLICIES[policy])
        with pytest.raises(RequestTimeout) as failed:
            _run(_relay([plugin]), Deadline(0.0))
        assert isinstance(failed.value, TimeoutError)
        assert "10-a" not in str(failed.value)
        assert not plugin.closed

    def test_an_error_stays_one_when_the_time_of_the_caller_is_over(self) -> None:
        with pytest.raises(RequestFailed, match="boom"):
            _run(_relay([Scripted("10-a", _told(StatusCode.UNKNOWN))]), Deadline(0.0))

    def test_every_event_and_every_time(self) -> None:
        plugin = Scripted("10-a", TIMEOUT, policy=POLICIES["fail and keep"])
        relay = _relay([plugin])
        for rpc in ("StopPodSandbox", "RemovePodSandbox", "PostUpdatePodSandbox"):
            with pytest.raises(NoAnswer, match=rpc):
                relay.event(rpc, getattr(nri_pb2, f"{rpc}Request")(pod=POD), NEVER)
        stop = nri_pb2.StopContainerRequest(pod=POD, container=CONTAINER)
        update = nri_pb2.UpdateContainerRequest(pod=POD, container=CONTAINER)
        remove = nri_pb2.RemoveContainerRequest(pod=POD, container=CONTAINER)
        with pytest.raises(NoAnswer, match="StopContainer"):
            relay.stop(stop, NEVER)
        with pytest.raises(NoAnswer, match="UpdateContainer"):
            relay.update(update, NEVER)
        with pytest.raises(NoAnswer, match="RemoveContainer"):
            relay.event("RemoveContainer", remove, NEVER)
        assert len(plugin.asked) == 6

    def test_no_plugin_is_at_fault_after_a_stop(self) -> None:
        stopped = [False]

        def outcome(request: Request) -> Any:
            stopped[0] = True
            return LOST

        plugin = Scripted("10-a", outcome)
        metrics = SafeMetrics(Figures())
        relay = Relay(
            members=lambda: [plugin],
            request_timeout=LONG,
            metrics=metrics,
            stopped=lambda: stopped[0],
        )
        with pytest.raises(RuntimeStopped, match="stopped meanwhile"):
            _run(relay)
        with pytest.raises(RuntimeStopped, match="not started"):
            _run(relay)
        assert not plugin.closed


class TestOrder:
    def test_open_subscribed_plugins_are_called_one_after_the_other(self) -> None:
        asked: list[str] = []

        def note(name: str) -> Callable[[Request], None]:
            return lambda request: asked.append(name)

        members = [Scripted(name, note(name)) for name in ("00-a", "10-b", "10-c", "20-d", "99-e")]
        members[1].events = EventMask.STOP_POD_SANDBOX
        members[3].closed = True
        _run(_relay(members))
        assert asked == ["00-a", "10-c", "99-e"]

    def test_a_plugin_that_leaves_during_the_call_of_another_is_skipped(self) -> None:
        later = Scripted("20-b", LOST, policy=POLICIES["fail"])
        first = Scripted("10-a", lambda request: later.close())
        _run(_relay([first, later]))
        _create(_relay([Scripted("10-a"), later]))
        assert later.asked == []

    def test_each_call_has_the_shorter_of_both_timeouts(self) -> None:
        plugin = Scripted("10-a")
        caller = Deadline(LONG / 2)
        _run(_relay([plugin]), caller)
        assert plugin.limits[0] is caller
        _run(_relay([plugin]), Deadline(LONG * 2))
        remaining = plugin.limits[1].remaining()
        assert remaining is not None
        assert remaining <= LONG

    def test_one_event_at_a_time(self) -> None:
        inside, go_on = threading.Event(), threading.Event()

        def outcome(request: Request) -> None:
            inside.set()
            assert go_on.wait(LONG)

        relay = _relay([Scripted("10-a", outcome)])
        first = on_thread(lambda: _run(relay))
        assert inside.wait(LONG)
        with pytest.raises(RequestTimeout, match="while other requests were relayed"):
            _run(relay, Deadline(0.01))
        relay.wait_idle(Deadline(0.01))
        go_on.set()
        first()
        relay.wait_idle(NEVER)
        _run(relay)

    def test_an_event_within_an_event_would_wait_for_itself(self) -> None:
        relay: list[Relay] = []

        def outcome(request: Request) -> None:
            relay[0].wait_idle(NEVER)
            with pytest.raises(WouldDeadlock):
                _run(relay[0])

        relay.append(_relay([Scripted("10-a", outcome)]))
        _run(relay[0])
        relay[0].wait_idle(NEVER)


def _adjusting(**env: str) -> nri_pb2.CreateContainerResponse:
    response = nri_pb2.CreateContainerResponse()
    for key, value in env.items():
        response.adjust.env.add(key=key, value=value)
    return response


class TestAnswers:
    def test_later_plugins_see_changes_and_the_callers_message_stays(self) -> None:
        members = [Scripted("10-a", _adjusting(A="1")), Scripted("20-b", _adjusting(B="2"))]
        message = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
        before = nri_pb2.CreateContainerRequest()
        before.CopyFrom(message)
        reply = _relay(members).create(message, NEVER)
        assert [list(plugin.asked[0].container.env) for plugin in members] == [[], ["A=1"]]
        assert [(env.key, env.value) for env in reply.adjust.env] == [("A", "1"), ("B", "2")]
        assert message == before

    def test_a_conflict_ends_the_relay(self) -> None:
        members = [Scripted(name, _adjusting(A="1")) for name in ("10-a", "20-b", "30-c")]
        with pytest.raises(
            ConflictError, match='plugins "20-b" and "10-a" both tried to set Env A'
        ):
            _create(_relay(members))
        assert members[2].asked == []

    def test_a_plugin_without_an_answer_changes_nothing(self) -> None:
        members = [Scripted("00-slow", TIMEOUT), Scripted("10-b", _adjusting(B="2"))]
        reply = _create(_relay(members))
        assert [env.key for env in reply.adjust.env] == ["B"]

    def test_no_container_is_an_error(self) -> None:
        relay = _relay([Scripted("10-a")])
        with pytest.raises(ValueError, match="no container"):
            relay.create(nri_pb2.CreateContainerRequest(pod=POD), NEVER)
        with pytest.raises(ValueError, match="no container"):
            relay.update(nri_pb2.UpdateContainerRequest(pod=POD), NEVER)

    def test_updates_of_stop_and_update(self) -> None:
        stop = nri_pb2.StopContainerResponse(update=[update_of("x")])
        relay = _relay([Scripted("10-a", stop)])
        message = nri_pb2.StopContainerRequest(pod=POD, container=CONTAINER)
        assert [update.container_id for update in relay.stop(message, NEVER).update] == ["x"]
        update = nri_pb2.UpdateContainerResponse(update=[update_of("ctr1"), update_of("x")])
        relay = _relay([Scripted("10-a", update)])
        request = nri_pb2.UpdateContainerRequest(pod=POD, container=CONTAINER)
        updates = relay.update(request, NEVER).update
        assert [update.container_id for update in updates] == ["x", "ctr1"]


def _accepted(request: Request) -> Any:
    return nri_pb2.ValidateContainerAdjustmentResponse()


def _verdict(reason: str) -> nri_pb2.ValidateContainerAdjustmentResponse:
    return nri_pb2.ValidateContainerAdjustmentResponse(reject=True, reason=reason)


class TestValidation:
    def test_the_request_to_validators(self) -> None:
        validator = Scripted("90-v", events=VALIDATES)
        members = [
            Scripted("10-a", _adjusting(A="1")),
            Scripted("20-deaf", events=EventMask.STOP_CONTAINER),
            Scripted("30-slow", TIMEOUT),
            Scripted("40-kept", TIMEOUT, policy=POLICIES["keep"]),
            Scripted("50-lost", LOST),
            validator,
        ]
        members[4].closed = True
        reply = _create(_relay(members))
        [request] = validator.asked
        assert request.pod == POD
        assert request.container.id == CONTAINER.id
        assert list(request.container.env) == []
        assert request.adjust == reply.adjust
        assert request.owners.owners["ctr1"].compound[nri_pb2.Field.Env].owners == {"A": "10-a"}
        # The consulted plugins. The reference also lists 30-slow and 40-kept.
        consulted = [(plugin.index, plugin.name) for plugin in request.plugins]
        assert consulted == [("10", "a"), ("20", "deaf"), ("90", "v")]

    @pytest.mark.parametrize("count", [1, 3])
    def test_the_first_by_index_counts(self, count: int) -> None:
        names = ["70-a", "80-b", "90-c"][-count:]
        validators = [Scripted(name, _verdict(name), events=VALIDATES) for name in names]
        with pytest.raises(ValidationRejected) as rejected:
            _create(_relay([Scripted("10-a"), *validators]))
        assert (rejected.value.validator, rejected.value.reason) == (names[0], names[0])
        assert [len(plugin.asked) for plugin in validators] == [1] * count

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("kind", FATAL)
    def test_no_answer_is_a_rejection_with_any_policy(self, kind: str, policy: str) -> None:
        error, may_stay = FATAL[kind]
        validator = Scripted("90-v", error, events=VALIDATES, policy=POLICIES[policy])
        other = Scripted("95-w", events=VALIDATES)
        with pytest.raises(NoAnswer, match="90-v") as failed:
            _create(_relay([validator, other]))
        assert failed.value.__cause__ is error.__cause__
        assert validator.closed is not (may_stay and "keep" in policy)
        assert len(other.asked) == 1

    def test_an_error_is_a_rejection(self) -> None:
        validator = Scripted("90-v", _told(StatusCode.UNKNOWN), events=VALIDATES)
        with pytest.raises(RequestFailed, match="90-v: ValidateContainerAdjustment failed: boom"):
            _create(_relay([validator]))
        assert not validator.closed

    def test_no_plugin_is_at_fault_after_the_callers_timeout(self) -> None:
        validator = Scripted("90-v", TIMEOUT, events=VALIDATES)
        with pytest.raises(RequestTimeout):
            _create(_relay([validator]), Deadline(0.0))
        assert not validator.closed

    def test_a_closed_validator_is_skipped(self) -> None:
        validator = Scripted("90-v", LOST, events=VALIDATES)
        validator.closed = True
        _create(_relay([validator]))
        assert validator.asked == []


class TestRequired:
    """A plugin that failed to handle a pod does not count as consulted for its containers."""

    REMOVED = nri_pb2.RemovePodSandboxRequest(pod=POD)

    def consulted(self, relay: Relay, validator: Scripted) -> list[str]:
        _create(relay)
        return [plugin.name for plugin in validator.asked[-1].plugins]

    @pytest.mark.parametrize("outcome", [TIMEOUT, _told(StatusCode.DEADLINE_EXCEEDED)])
    def test_a_plugin_counts_as_missing_until_it_has_handled_the_pod(
        self, outcome: Exception
    ) -> None:
        plugin = Scripted("10-a", outcome, policy=POLICIES["keep"])
        validator = Scripted("99-v", _accepted, events=VALIDATES)
        relay = _relay([plugin, validator])
        if outcome is TIMEOUT:
            _run(relay)
        else:
            with pytest.raises(RequestFailed):
                _run(relay)
        plugin.outcome = None
        assert "a" not in self.consulted(relay, validator)
        _run(relay)
        assert "a" in self.consulted(relay, validator)

    def test_another_pod_and_the_next_of_that_id(self) -> None:
        plugin = Scripted("10-a", TIMEOUT, policy=POLICIES["keep"])
        validator = Scripted("99-v", _accepted, events=VALIDATES)
        relay = _relay([plugin, validator])
        relay.event(
            "RunPodSandbox",
            nri_pb2.RunPodSandboxRequest(pod=nri_pb2.PodSandbox(id="other")),
            NEVER,
        )
        plugin.outcome = None
        assert "a" in self.consulted(relay, validator)
        plugin.outcome = TIMEOUT
        _run(relay)
        plugin.outcome = None
        relay.event("RemovePodSandbox", self.REMOVED, NEVER)
        assert "a" in self.consulted(relay, validator)

    def test_a_plugin_that_comes_again(self) -> None:
        """A new connection received the pod with Synchronize."""
        plugin = Scripted("10-a", TIMEOUT, policy=POLICIES["keep"])
        validator = Scripted("99-v", _accepted, events=VALIDATES)
        members: list[Member] = [plugin, validator]
        relay = _relay(members)
        _run(relay)
        members[0] = Scripted("10-a")
        assert "a" in self.consulted(relay, validator)

    def test_the_failed_pods_are_bounded(self) -> None:
        plugin = Scripted("10-a", TIMEOUT, policy=POLICIES["keep"])
        validator = Scripted("99-v", _accepted, events=VALIDATES)
        relay = _relay([plugin, validator], failed_pods_max=3)
        for number in range(10):
            pod = nri_pb2.PodSandbox(id=str(number))
            relay.event("RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=pod), NEVER)
        plugin.outcome = None
        consulted = []
        for number in range(10):
            pod = nri_pb2.PodSandbox(id=str(number))
            relay.create(nri_pb2.CreateContainerRequest(pod=pod, container=CONTAINER), NEVER)
            names = [plugin.name for plugin in validator.asked[-1].plugins]
            consulted += [number] if "a" in names else []
        # The oldest are forgotten: their plugin counts as one that handled the pod.
        assert consulted == [0, 1, 2, 3, 4, 5, 6]


class TestMetrics:
    def test_of_an_event(self) -> None:
        figures = Figures()
        members = [Scripted("10-a"), Scripted("20-b", events=EventMask.STOP_CONTAINER)]
        _run(_relay(members, figures))
        assert figures.calls == [
            ("latency", "10-a", "RunPodSandbox"),
            ("invocation", "10-a", "RunPodSandbox", None),
        ]

    def test_of_a_failure_before_any_policy(self) -> None:
        figures = Figures()
        _run(_relay([Scripted("10-a", TIMEOUT)], figures))
        assert figures.calls[1] == ("invocation", "10-a", "RunPodSandbox", TIMEOUT)

    def test_of_answers(self) -> None:
        figures = Figures()
        create = _adjusting(A="1")
        create.update.append(update_of("x"))
        create.evict.add(container_id="y")
        _create(_relay([Scripted("10-a", create)], figures))
        assert figures.calls[-1] == ("adjustments", "10-a", "CreateContainer", True, 1, 1)
        update = nri_pb2.UpdateContainerResponse(update=[update_of("x"), update_of("z")])
        relay = _relay([Scripted("10-a", update)], figures)
        relay.update(nri_pb2.UpdateContainerRequest(container=CONTAINER), NEVER)
        assert figures.calls[-1] == ("adjustments", "10-a", "UpdateContainer", False, 2, 0)
        stop = nri_pb2.StopContainerResponse(update=[update_of("x")])
        relay = _relay([Scripted("10-a", stop)], figures)
        relay.stop(nri_pb2.StopContainerRequest(container=CONTAINER), NEVER)
        assert figures.calls[-1] == ("adjustments", "10-a", "StopContainer", False, 1, 0)

    def test_of_a_validation(self) -> None:
        figures = Figures()
        _create(_relay([Scripted("90-v", events=VALIDATES)], figures))
        assert [call[:3] for call in figures.calls] == [
            ("latency", "90-v", "ValidateContainerAdjustment"),
            ("invocation", "90-v", "ValidateContainerAdjustment"),
        ]
