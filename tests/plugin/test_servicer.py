"""Requests of the runtime, and their responses."""

from __future__ import annotations

import logging
import threading
import traceback
from typing import Any

import grpc
import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import BY_EVENT, HANDLERS, Handler
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, Reject, StartError
from nri_sync.kit.intercept import RequestInterceptor
from nri_sync.plugin import parts, servicer
from nri_sync.runtime import Peer
from tests.plugin.conftest import Connect, MakeStub, Serve
from tests.plugin.harness import (
    CONTAINER,
    LONG,
    POD,
    PluginWith,
    Recorder,
    Slow,
    configuration,
)

__all__: list[str] = []

SERVICE = nri_pb2.DESCRIPTOR.services_by_name["Plugin"]
RESOURCES = nri_pb2.LinuxResources(blockio_class=nri_pb2.OptionalString(value="slow"))
OVERHEAD = nri_pb2.LinuxResources(blockio_class=nri_pb2.OptionalString(value="fast"))
UPDATE = nri_pb2.ContainerUpdate(container_id="ctr1")

ADJUSTED = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
SAMPLES: dict[str, Any] = {
    "pod": POD,
    "container": CONTAINER,
    "overhead_linux_resources": OVERHEAD,
    "linux_resources": RESOURCES,
}
EVENT_HANDLERS = [handler for handler in HANDLERS if handler.event]


def request_of(handler: Handler) -> Any:
    """A request with all fields of the event set."""
    request = getattr(nri_pb2, SERVICE.methods_by_name[handler.rpc].input_type.name)()
    for field, value in SAMPLES.items():
        if field in request.DESCRIPTOR.fields_by_name:
            getattr(request, field).CopyFrom(value)
    return request


def ready(plugin: Recorder) -> Recorder:
    plugin.expect("configure")
    plugin.expect("synchronize")
    return plugin


class TestEvents:
    @pytest.mark.parametrize("handler", EVENT_HANDLERS, ids=lambda handler: handler.name)
    def test_each_by_its_own_method(self, connect: Connect, handler: Handler) -> None:
        plugin = Recorder()
        _, peer = connect(plugin)
        request = request_of(handler)
        peer.call(handler.rpc, request, LONG)
        expected = tuple(SAMPLES[field] for field in handler.fields) or (request,)
        assert ready(plugin).expect(handler.name) == expected

    @pytest.mark.parametrize("number", sorted(BY_EVENT))
    def test_nine_by_state_change(self, connect: Connect, number: int) -> None:
        plugin = Recorder()
        _, peer = connect(plugin)
        event = nri_pb2.StateChangeEvent(event=number, pod=POD, container=CONTAINER)  # type: ignore[arg-type]
        assert peer.call("StateChange", event, LONG) == nri_pb2.Empty()
        handler = BY_EVENT[number]
        expected = tuple(SAMPLES[field] for field in handler.fields)
        assert ready(plugin).expect(handler.name) == expected

    @pytest.mark.parametrize("number", [0, 4, 8, 10, 12, 14, 15, 99, 2**31 - 1])
    def test_other_numbers_by_state_change_have_no_effect(
        self, connect: Connect, number: int
    ) -> None:
        plugin = Recorder()
        stub, peer = connect(plugin)
        event = nri_pb2.StateChangeEvent(event=number, pod=POD, container=CONTAINER)  # type: ignore[arg-type]
        assert peer.call("StateChange", event, LONG) == nri_pb2.Empty()
        assert ready(plugin).calls.empty()
        assert stub.counters.requests == 2

    @pytest.mark.parametrize("handler", EVENT_HANDLERS, ids=lambda handler: handler.name)
    def test_without_a_handler_the_answer_is_empty(
        self, connect: Connect, handler: Handler
    ) -> None:
        _, peer = connect(PluginWith(configure=lambda config, runtime, version: None))
        response = peer.call(handler.rpc, request_of(handler), LONG)
        assert response.ByteSize() == 0
        event = nri_pb2.StateChangeEvent(event=handler.event)  # type: ignore[arg-type]
        assert peer.call("StateChange", event, LONG) == nri_pb2.Empty()

    def test_absent_fields_are_passed_as_empty(self, connect: Connect) -> None:
        plugin = Recorder()
        _, peer = connect(plugin)
        peer.call("UpdateContainer", nri_pb2.UpdateContainerRequest(), LONG)
        assert ready(plugin).expect("update_container") == (
            nri_pb2.PodSandbox(),
            nri_pb2.Container(),
            nri_pb2.LinuxResources(),
        )
        peer.call("StateChange", nri_pb2.StateChangeEvent(event=nri_pb2.RUN_POD_SANDBOX), LONG)
        assert plugin.expect("run_pod_sandbox") == (nri_pb2.PodSandbox(),)

    def test_shutdown(self, connect: Connect) -> None:
        plugin = Recorder()
        stub, peer = connect(plugin)
        peer.call("Shutdown", nri_pb2.Empty(), LONG)
        assert ready(plugin).expect("shutdown") == ()
        assert stub.started

    def test_replies(self, connect: Connect) -> None:
        adjustment = nri_pb2.ContainerAdjustment(args=["x"])
        plugin = Recorder(
            create_container=(adjustment, [UPDATE]),
            update_container=[UPDATE],
            stop_container=lambda pod, container: iter([UPDATE]),
        )
        _, peer = connect(plugin)
        created = peer.call("CreateContainer", ADJUSTED, LONG)
        assert (created.adjust, list(created.update)) == (adjustment, [UPDATE])
        updated = peer.call("UpdateContainer", nri_pb2.UpdateContainerRequest(), LONG)
        assert list(updated.update) == [UPDATE]
        stopped = peer.call("StopContainer", nri_pb2.StopContainerRequest(), LONG)
        assert list(stopped.update) == [UPDATE]


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code", "details"),
        [
            (ValueError("no such device"), StatusCode.UNKNOWN, "ValueError: no such device"),
            (NotImplementedError("later"), StatusCode.UNKNOWN, "NotImplementedError: later"),
            (TimeoutError(), StatusCode.DEADLINE_EXCEEDED, "TimeoutError"),
            (SystemExit(1), StatusCode.UNKNOWN, "SystemExit: 1"),
        ],
    )
    def test_an_exception_of_a_handler_fails_the_request_alone(
        self, connect: Connect, error: BaseException, code: StatusCode, details: str
    ) -> None:
        stub, peer = connect(Recorder(create_container=error))
        with pytest.raises(CallFailed) as caught:
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert (caught.value.code(), caught.value.details()) == (code, details)
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert stub.counters.errors == 1
        assert stub.started

    def test_by_state_change(self, connect: Connect) -> None:
        _, peer = connect(Recorder(run_pod_sandbox=ValueError("no")))
        with pytest.raises(CallFailed, match="ValueError: no"):
            peer.call("StateChange", nri_pb2.StateChangeEvent(event=nri_pb2.RUN_POD_SANDBOX), LONG)

    def test_a_result_of_a_wrong_type(self, connect: Connect) -> None:
        stub, peer = connect(Recorder(create_container="adjustment"))
        with pytest.raises(CallFailed, match="create_container returned str, but"):
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert stub.counters.errors == 1

    def test_an_abort_never_says_that_the_method_is_not_there(self, connect: Connect) -> None:
        def start_container(pod: object, container: object) -> None:
            nri_sync.request_context().abort(StatusCode.UNIMPLEMENTED, "not today")

        _, peer = connect(PluginWith(start_container=start_container))
        with pytest.raises(CallFailed) as caught:
            peer.call("StartContainer", nri_pb2.StartContainerRequest(), LONG)
        error: Any = caught.value
        assert (error.code(), error.details()) == (StatusCode.UNKNOWN, "not today")

    def test_an_abort(self, connect: Connect) -> None:
        def refuse(pod: object, container: object) -> None:
            nri_sync.request_context().abort(StatusCode.RESOURCE_EXHAUSTED, "no more devices")

        _, peer = connect(PluginWith(create_container=refuse))
        with pytest.raises(CallFailed) as caught:
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "no more devices"

    def test_a_response_that_cannot_be_sent(self, connect: Connect) -> None:
        huge = nri_pb2.ContainerAdjustment(args=["x" * 5_000_000])
        stub, peer = connect(Recorder(create_container=huge))
        with pytest.raises(CallFailed, match="exceeds the 4194304") as caught:
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert stub.started


def abort(reason: str) -> None:
    nri_sync.request_context().abort(StatusCode.RESOURCE_EXHAUSTED, reason)


def reject(reason: str) -> None:
    raise Reject(reason)


class TestRefusals:
    """By the policy of a plugin: ordinary, and so one line each."""

    @pytest.mark.parametrize("refuse", [reject, abort])
    @pytest.mark.parametrize("rpc", ["CreateContainer", "StateChange"])
    def test_one_line_with_pod_and_reason(
        self, connect: Connect, caplog: pytest.LogCaptureFixture, refuse: Any, rpc: str
    ) -> None:
        def handler(pod: object, container: object = None) -> None:
            refuse("no more\ndevices")

        plugin = PluginWith(create_container=handler, run_pod_sandbox=handler)
        stub, peer = connect(plugin)
        request = nri_pb2.StateChangeEvent(event=nri_pb2.RUN_POD_SANDBOX, pod=POD)
        about = "RunPodSandbox of default/pod"
        if rpc == "CreateContainer":
            request, about = ADJUSTED, "CreateContainer of default/pod:container"  # type: ignore[assignment]
        with pytest.raises(CallFailed) as caught:
            peer.call(rpc, request, LONG)
        assert caught.value.code() is (
            StatusCode.PERMISSION_DENIED if refuse is reject else StatusCode.RESOURCE_EXHAUSTED
        )
        [record] = [item for item in caplog.records if item.levelno >= logging.WARNING]
        assert record.levelno == logging.WARNING
        assert record.getMessage() == f"10-test: {about} refused: no more\\ndevices"
        assert record.exc_info is None
        assert (stub.counters.rejections, stub.counters.errors) == (1, 0)

    @pytest.mark.parametrize("refuse", [reject, abort])
    def test_by_a_validator(
        self, connect: Connect, caplog: pytest.LogCaptureFixture, refuse: Any
    ) -> None:
        stub, peer = connect(PluginWith(validate_container_adjustment=lambda request: refuse("no")))
        request = nri_pb2.ValidateContainerAdjustmentRequest(pod=POD, container=CONTAINER)
        response = peer.call("ValidateContainerAdjustment", request, LONG)
        assert (response.reject, response.reason) == (True, "no")
        [record] = [item for item in caplog.records if item.levelno >= logging.WARNING]
        assert record.getMessage().endswith("Adjustment of default/pod:container refused: no")
        assert (stub.counters.rejections, stub.counters.errors) == (1, 0)

    def test_by_an_interceptor(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        class Refusing(RequestInterceptor):
            def serve(self, event: str, request: Any, context: Any, behaviour: Any) -> Any:
                if event == "CreateContainer":
                    raise Reject("not here")
                return behaviour(request, context)

        plugin = PluginWith(create_container=lambda pod, container: None)
        _, peer = connect(plugin, interceptors=[Refusing()])
        with pytest.raises(CallFailed, match="not here"):
            peer.call("CreateContainer", ADJUSTED, LONG)
        [record] = [item for item in caplog.records if item.levelno >= logging.WARNING]
        assert record.getMessage().endswith("Plugin/CreateContainer refused: not here")
        assert record.exc_info is None


class TestTracebacks:
    """Of a bug in a handler, from its own frame on."""

    def frames(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        [record] = [item for item in caplog.records if item.levelno >= logging.WARNING]
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[1] is not None
        return [frame.name for frame in traceback.extract_tb(record.exc_info[2])]

    @pytest.mark.parametrize("around", [False, True])
    def test_they_begin_in_the_handler(
        self, connect: Connect, caplog: pytest.LogCaptureFixture, around: bool
    ) -> None:
        class Around(RequestInterceptor):
            def serve(self, event: str, request: Any, context: Any, behaviour: Any) -> Any:
                return behaviour(request, context)

        def helper() -> None:
            raise ValueError("a bug")

        def handler(pod: object, container: object) -> None:
            helper()

        plugin = PluginWith(create_container=handler)
        stub, peer = connect(plugin, interceptors=[Around()] if around else [])
        with pytest.raises(CallFailed):
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert self.frames(caplog) == ["handler", "helper"]
        assert (stub.counters.rejections, stub.counters.errors) == (0, 1)

    def test_in_a_chain(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        def handler(pod: object, container: object) -> None:
            raise ValueError("a bug")

        _, peer = connect(kit.chain(PluginWith(create_container=handler), Recorder()))
        with pytest.raises(CallFailed):
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert self.frames(caplog) == ["handler"]

    def test_in_a_validator(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        def handler(request: object) -> None:
            raise KeyError("a bug")

        stub, peer = connect(PluginWith(validate_container_adjustment=handler))
        request = nri_pb2.ValidateContainerAdjustmentRequest(pod=POD, container=CONTAINER)
        assert peer.call("ValidateContainerAdjustment", request, LONG).reject
        assert self.frames(caplog) == ["handler"]
        assert (stub.counters.rejections, stub.counters.errors) == (1, 1)

    def test_of_a_wrong_answer(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        """No frame of the handler is in it: all of it is kept that comes after the call."""
        _, peer = connect(Recorder(create_container="adjustment"))
        with pytest.raises(CallFailed):
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert self.frames(caplog)


class TestValidation:
    REQUEST = nri_pb2.ValidateContainerAdjustmentRequest(container=CONTAINER)

    def validate(self, connect: Connect, handler: Any) -> Any:
        self.stub, peer = connect(PluginWith(validate_container_adjustment=handler))
        return peer.call("ValidateContainerAdjustment", self.REQUEST, LONG)

    def test_returning_accepts(self, connect: Connect) -> None:
        response = self.validate(connect, lambda request: None)
        assert response == nri_pb2.ValidateContainerAdjustmentResponse()
        assert self.stub.counters.rejections == 0

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ValueError("hooks are not allowed"), "hooks are not allowed"),
            (PermissionError(), "PermissionError"),
            (NotImplementedError("x"), "x"),
        ],
    )
    def test_raising_rejects(self, connect: Connect, error: Exception, reason: str) -> None:
        def handler(request: object) -> None:
            raise error

        response = self.validate(connect, handler)
        assert (response.reject, response.reason) == (True, reason)
        assert self.stub.counters.rejections == 1

    def test_aborting_rejects(self, connect: Connect) -> None:
        def handler(request: object) -> None:
            nri_sync.request_context().abort(StatusCode.PERMISSION_DENIED, "not here")

        response = self.validate(connect, handler)
        assert (response.reject, response.reason) == (True, "not here")

    def test_a_code_that_was_set_before_raising_does_not_make_it_an_error(
        self, connect: Connect
    ) -> None:
        def handler(request: object) -> None:
            nri_sync.request_context().set_code(StatusCode.INTERNAL)
            raise ValueError("no")

        assert self.validate(connect, handler).reason == "no"

    def test_a_wrong_result_rejects(self, connect: Connect) -> None:
        response = self.validate(connect, lambda request: True)
        assert response.reject
        assert "nothing is expected" in response.reason

    def test_a_base_exception_fails_the_request(self, connect: Connect) -> None:
        def handler(request: object) -> None:
            raise SystemExit("bye")

        with pytest.raises(CallFailed, match="SystemExit"):
            self.validate(connect, handler)


class TestConfigure:
    def test_the_handler_gets_the_configuration(self, connect: Connect) -> None:
        plugin = Recorder()
        config = configuration(config="level: 1", runtime_name="containerd")
        connect(plugin, config=config)
        assert plugin.expect("configure") == ("level: 1", "containerd", "v1.0.0")

    def test_the_runtime_is_known_in_the_handler(self, serve: Serve, make_stub: MakeStub) -> None:
        known = []

        def configure(config: str, runtime: str, version: str) -> None:
            known.append((stub.runtime_name, stub.runtime_nri_version, stub.state))

        serve(config=configuration(runtime_name="cri-o", runtime_version="1.34.2", NRI_version=""))
        stub = make_stub(PluginWith(configure=configure))
        stub.start()
        assert known == [("cri-o", "v0.10.0", nri_sync.State.STARTING)]

    @pytest.mark.parametrize("result", [None, EventMask(0), 0])
    def test_all_that_has_a_handler_by_default(self, connect: Connect, result: Any) -> None:
        plugin = PluginWith(
            configure=lambda config, runtime, version: result,
            run_pod_sandbox=lambda pod: None,
            validate_container_adjustment=lambda request: None,
        )
        stub, peer = connect(plugin)
        mask = EventMask.RUN_POD_SANDBOX | EventMask.VALIDATE_CONTAINER_ADJUSTMENT
        assert stub.events == peer.events == mask

    @pytest.mark.parametrize("result", [EventMask.RUN_POD_SANDBOX, 1])
    def test_a_subset(self, connect: Connect, result: Any) -> None:
        stub, peer = connect(Recorder(configure=result))
        assert stub.events == peer.events == EventMask.RUN_POD_SANDBOX

    def test_never_nothing_as_that_means_everything(self, connect: Connect) -> None:
        _, peer = connect(PluginWith(synchronize=lambda pods, containers: None))
        assert peer.events == EventMask.REMOVE_POD_SANDBOX

    @pytest.mark.parametrize("version", ["v0.6.1", "v0.9.0"])
    def test_the_default_is_trimmed_for_an_old_runtime(
        self, connect: Connect, version: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        stub, peer = connect(Recorder(), config=configuration(NRI_version=version))
        assert stub.events == peer.events == EventMask(0x7FF)
        assert (
            f"the runtime speaks NRI {version}, which does not have: UpdatePodSandbox"
            in caplog.text
        )

    def test_nothing_is_left_of_the_default_for_an_old_runtime(self, connect: Connect) -> None:
        plugin = PluginWith(update_pod_sandbox=lambda pod, overhead, resources: None)
        _, peer = connect(plugin, config=configuration(NRI_version="v0.6.1"))
        assert peer.events == EventMask.REMOVE_POD_SANDBOX

    @pytest.mark.parametrize(
        ("name", "version"), [("containerd", "v1.7.20"), ("cri-o", "1.31.0"), ("cri-o", "v1.32.0")]
    )
    def test_it_is_trimmed_for_an_inferred_release_as_well(
        self, connect: Connect, name: str, version: str
    ) -> None:
        config = configuration(runtime_name=name, runtime_version=version, NRI_version="")
        _, peer = connect(Recorder(), config=config)
        assert peer.events == EventMask(0x7FF)

    def test_it_is_not_trimmed_for_an_unknown_release(self, connect: Connect) -> None:
        _, peer = connect(Recorder(), config=configuration(NRI_version=""))
        assert peer.events == EventMask.ALL

    @pytest.mark.parametrize(
        ("mask", "had"),
        [
            (EventMask.ALL, 0x7FF),
            (EventMask.POD, 0x7),
            (EventMask.CONTAINER, 0x7F8),
            (EventMask.parse("pod,createcontainer"), 0xF),
            (EventMask.ALL & ~EventMask.POST_UPDATE_POD_SANDBOX, 0x7FF),
            (EventMask.RUN_POD_SANDBOX | EventMask.UPDATE_POD_SANDBOX.optional(), 0x1),
            (EventMask.UPDATE_POD_SANDBOX.optional(), int(EventMask.REMOVE_POD_SANDBOX)),
        ],
    )
    @pytest.mark.parametrize("release", ["v0.2.0", "v0.8.0", "v0.9.0", "v0.10.0", "v0.12.5"])
    def test_a_group_has_the_events_of_the_runtime(
        self, connect: Connect, mask: EventMask, had: int, release: str
    ) -> None:
        config = configuration(NRI_version=release)
        stub, peer = connect(Recorder(configure=mask), config=config)
        expected = had if release in ("v0.2.0", "v0.8.0", "v0.9.0") else mask
        assert stub.events == peer.events == expected
        assert stub.missing_events == mask & ~api.valid_events(release)

    @pytest.mark.parametrize(
        "mask",
        [
            EventMask.UPDATE_POD_SANDBOX | EventMask.RUN_POD_SANDBOX,
            EventMask.parse("pod,updatepodsandbox"),
            EventMask.of(*EventMask.ALL.numbers),
            0x800,
        ],
    )
    def test_an_event_named_by_itself_that_the_runtime_lacks_is_an_error(
        self, serve: Serve, make_stub: MakeStub, mask: int
    ) -> None:
        serve(config=configuration(NRI_version="v0.6.1"))
        stub = make_stub(Recorder(configure=mask))
        with pytest.raises(
            nri_sync.errors.StartError, match=r"\(NRI v0\.6\.1\) does not have .*UpdatePodSandbox"
        ) as raised:
            stub.start()
        assert raised.value.phase == "configure"

    def test_missing_events_are_logged_once(
        self, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        old = configuration(NRI_version="v0.6.1")
        stub, peer = connect(Recorder(update_pod_sandbox=None), config=old)
        for _ in range(3):
            peer.configure(old, LONG)
        assert caplog.text.count("which does not have") == 1
        peer.configure(configuration(), LONG)
        assert stub.missing_events == 0
        peer.configure(old, LONG)
        assert caplog.text.count("which does not have") == 2

    @pytest.mark.parametrize("asked", [None, EventMask.ALL, EventMask.CONTAINER])
    def test_a_validator_that_is_never_called(
        self, connect: Connect, caplog: pytest.LogCaptureFixture, asked: EventMask | None
    ) -> None:
        old = configuration(runtime_name="containerd", runtime_version="v1.7.28", NRI_version="")
        stub, peer = connect(Recorder(configure=asked), config=old)
        assert EventMask.VALIDATE_CONTAINER_ADJUSTMENT in stub.missing_events
        assert stub.counters.unvalidated_sessions == 1
        errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        assert (
            "containerd v1.7.28 (NRI v0.8.0) cannot call the plugin's validator: containers are "
            "created without it" in errors[0]
        )
        # Unlike other events, in each session.
        peer.configure(old, LONG)
        assert stub.counters.unvalidated_sessions == 2

    @pytest.mark.parametrize(
        ("plugin", "release"),
        [
            (Recorder(), "v0.10.0"),
            # It has chosen to do without.
            (Recorder(configure=EventMask.CREATE_CONTAINER), "v0.8.0"),
            (PluginWith(run_pod_sandbox=lambda pod: None), "v0.8.0"),
        ],
    )
    def test_no_validator_is_missing(
        self, connect: Connect, caplog: pytest.LogCaptureFixture, plugin: object, release: str
    ) -> None:
        stub, _ = connect(plugin, config=configuration(NRI_version=release))
        assert stub.counters.unvalidated_sessions == 0
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    @pytest.mark.parametrize(
        ("asked", "release", "text"),
        [
            (None, "v0.8.0", r"does not have .*: ValidateContainerAdjustment;"),
            (EventMask.ALL, "v0.9.0", r"does not have .*: ValidateContainerAdjustment;"),
            (EventMask.POD, "v0.12.5", r"without .* required_events names: Validate"),
        ],
    )
    def test_it_refuses_to_start_without_a_validator(
        self, serve: Serve, make_stub: MakeStub, asked: EventMask | None, release: str, text: str
    ) -> None:
        serve(config=configuration(NRI_version=release))
        validate = EventMask.VALIDATE_CONTAINER_ADJUSTMENT
        stub = make_stub(Recorder(configure=asked), required_events=validate)
        with pytest.raises(StartError, match=text) as raised:
            stub.start()
        assert raised.value.phase == "configure"
        assert not stub.started

    def test_it_starts_with_the_required_events(self, connect: Connect) -> None:
        required = EventMask.VALIDATE_CONTAINER_ADJUSTMENT
        stub, _ = connect(Recorder(), required_events=required)
        assert stub.events == EventMask.ALL

    def test_any_number_of_times(self, connect: Connect) -> None:
        masks = iter([EventMask.RUN_POD_SANDBOX, EventMask.STOP_POD_SANDBOX, None, None])
        plugin = Recorder(configure=lambda *arguments: next(masks, None))
        stub, peer = connect(plugin)
        peer.configure(configuration(runtime_version="v2", request_timeout=1000), LONG)
        assert (stub.events, peer.events) == (EventMask.STOP_POD_SANDBOX,) * 2
        assert (stub.runtime_version, stub.request_timeout) == ("v2", 1.0)
        for _ in range(5):
            peer.configure(configuration(), LONG)
        assert (stub.events, peer.events) == (EventMask.ALL,) * 2
        assert stub.request_timeout == LONG
        assert stub.counters.sessions == 1

    def test_a_repeated_one_that_fails_ends_nothing(self, connect: Connect) -> None:
        results = iter([EventMask.RUN_POD_SANDBOX])
        stub, peer = connect(Recorder(configure=lambda *arguments: next(results)))
        with pytest.raises(CallFailed):
            peer.configure(configuration(), LONG)
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert stub.started
        assert stub.events == EventMask.RUN_POD_SANDBOX
        # Nor is its answer one that the end of the session waits for.
        [conn] = stub._conns
        assert not conn._last_answers

    @pytest.mark.parametrize(
        ("version", "runtime"), [("", "test-runtime"), ("0.0.0-unknown", "test-runtime")]
    )
    def test_an_unknown_release_is_logged(
        self, connect: Connect, version: str, runtime: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        stub, _ = connect(Recorder(), config=configuration(NRI_version=version))
        assert (
            "the NRI version of runtime 'test-runtime', version 'v1.0.0', is not known"
            in caplog.text
        )
        assert stub.runtime_nri_version == "unknown"

    @pytest.mark.parametrize(
        "policy",
        [
            None,
            nri_pb2.FailurePolicy(),
            nri_pb2.FailurePolicy(fail_request=True),
            nri_pb2.FailurePolicy(keep_connected=True),
        ],
    )
    def test_the_failure_policy_is_in_each_response(self, connect: Connect, policy: Any) -> None:
        _, peer = connect(Recorder(), failure_policy=policy)
        assert peer.failure_policy == policy
        peer.failure_policy = nri_pb2.FailurePolicy(fail_request=True, keep_connected=True)
        peer.configure(configuration(), LONG)
        assert peer.failure_policy == policy

    @pytest.mark.parametrize(
        ("result", "text"),
        [
            (ValueError("bad config"), "configure failed: ValueError('bad config')"),
            ("all", "configure returned str, but an EventMask or None is expected"),
            (EventMask.RUN_POD_SANDBOX, "events that have no handler: RunPodSandbox (0x1)"),
            (-1, "events that have no handler"),
            (1 << 14, "events that have no handler: unknown(15) (0x4000)"),
        ],
    )
    def test_failing(
        self,
        serve: Serve,
        make_stub: MakeStub,
        result: Any,
        text: str,
    ) -> None:
        runtime = serve()

        def configure(config: str, runtime: str, version: str) -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        stub = make_stub(PluginWith(configure=configure, stop_pod_sandbox=lambda pod: None))
        with pytest.raises(StartError) as caught:
            stub.start()
        assert caught.value.phase == "configure"
        assert text in str(caught.value)
        # The runtime gets the error before the connection is closed.
        failure = runtime.failures.get(timeout=LONG)
        assert isinstance(failure, CallFailed)
        assert failure.code() is StatusCode.UNKNOWN
        assert stub.state is nri_sync.State.IDLE


class TestSynchronize:
    def pods(self, *numbers: int) -> list[nri_pb2.PodSandbox]:
        return [nri_pb2.PodSandbox(id=f"pod{number}") for number in numbers]

    def containers(self, *numbers: int) -> list[nri_pb2.Container]:
        return [nri_pb2.Container(id=f"ctr{number}") for number in numbers]

    def part(self, peer: Peer, pods: Any, containers: Any, *, more: bool) -> Any:
        request = nri_pb2.SynchronizeRequest(pods=pods, containers=containers, more=more)
        return peer.call("Synchronize", request, LONG)

    def test_in_one_part(self, connect: Connect) -> None:
        plugin = Recorder(synchronize=[UPDATE])
        _, peer = connect(plugin)
        plugin.expect("configure")
        assert plugin.expect("synchronize") == ([POD], [CONTAINER])
        assert peer.synchronize(self.pods(1), [], LONG) == [UPDATE]
        assert plugin.expect("synchronize") == (self.pods(1), [])

    def test_in_several_parts(self, connect: Connect) -> None:
        plugin = Recorder(synchronize=[UPDATE])
        _, peer = connect(plugin)
        ready(plugin)
        parts = [
            (self.pods(1, 2), self.containers(1)),
            ([], self.containers(2, 3)),
            (self.pods(3), []),
            ([], []),
        ]
        for pods, containers in parts:
            response = self.part(peer, pods, containers, more=True)
            assert response == nri_pb2.SynchronizeResponse(more=True)
            assert plugin.calls.empty()
        response = self.part(peer, self.pods(4), self.containers(4), more=False)
        assert response == nri_pb2.SynchronizeResponse(update=[UPDATE])
        assert plugin.expect("synchronize") == (self.pods(1, 2, 3, 4), self.containers(1, 2, 3, 4))
        # The next one starts from nothing.
        self.part(peer, self.pods(5), [], more=False)
        assert plugin.expect("synchronize") == (self.pods(5), [])

    def test_a_large_part(self, connect: Connect) -> None:
        plugin = Recorder(synchronize=[UPDATE])
        _, peer = connect(plugin)
        ready(plugin)
        containers = [
            nri_pb2.Container(id=f"ctr{number}", args=["x" * 20_000]) for number in range(200)
        ]
        response = self.part(peer, self.pods(1, 2), containers, more=False)
        assert response == nri_pb2.SynchronizeResponse(update=[UPDATE])
        assert plugin.expect("synchronize") == (self.pods(1, 2), containers)

    @pytest.mark.parametrize(("labels", "trims"), [(100, 0), (60_000, 1)])
    def test_the_memory_of_a_large_state_is_given_back(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch, labels: int, trims: int
    ) -> None:
        """Of all parts together, once, when the last one has been answered."""
        given_back: list[tuple[Any, str]] = []
        monkeypatch.setattr(servicer, "give_back_after", lambda *args: given_back.append(args))
        plugin = Recorder()
        _, peer = connect(plugin)
        ready(plugin)
        pod = nri_pb2.PodSandbox(id="pod1", labels={str(key): "value" for key in range(labels)})
        self.part(peer, [pod], [], more=True)
        assert given_back == []
        self.part(peer, [pod], [], more=False)
        assert [name for _, name in given_back] == ["10-test-memory"] * trims
        for answered, _ in given_back:
            assert answered.wait(Deadline(LONG))
        self.part(peer, [], [], more=False)  # which starts from nothing
        assert len(given_back) == trims

    def test_without_a_handler(self, connect: Connect) -> None:
        _, peer = connect(PluginWith(run_pod_sandbox=lambda pod: None))
        assert self.part(peer, self.pods(1), [], more=True) == nri_pb2.SynchronizeResponse(
            more=True
        )
        assert self.part(peer, [], [], more=False) == nri_pb2.SynchronizeResponse()

    def test_the_response_itself_with_more_set_by_mistake(self, connect: Connect) -> None:
        answer = nri_pb2.SynchronizeResponse(update=[UPDATE], more=True)
        _, peer = connect(Recorder(synchronize=lambda pods, containers: answer))
        assert self.part(peer, [], [], more=False) == nri_pb2.SynchronizeResponse(update=[UPDATE])

    def test_failing(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        stub = make_stub(Recorder(synchronize=ValueError("cannot cope")))
        stub.start()
        failure = runtime.failures.get(timeout=LONG)
        assert "cannot cope" in str(failure)
        assert stub.started  # a runtime would close the connection now

    def test_more_than_any_node_has(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parts, "MOST", 3000)
        monkeypatch.setattr(servicer, "MOST", 3000)
        plugin = Recorder()
        _, peer = connect(plugin)
        ready(plugin)
        large = [nri_pb2.Container(id="x" * 600)]
        self.part(peer, [], large, more=True)
        with pytest.raises(
            CallFailed, match=r"larger than 3000 bytes.* 0 pods and 1 containers"
        ) as caught:
            self.part(peer, [], large, more=True)
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        # The collected parts are gone, and do not count any more.
        self.part(peer, self.pods(1), large, more=False)
        assert plugin.expect("synchronize") == (self.pods(1), large)

    def test_objects_count_not_only_their_bytes(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parts, "MOST", 10_000)
        plugin = Recorder()
        _, peer = connect(plugin)
        ready(plugin)
        tiny = [nri_pb2.Container()] * 10
        for pods, containers in (([], tiny), ([nri_pb2.PodSandbox()] * 10, [])):
            with pytest.raises(CallFailed) as caught:
                self.part(peer, pods, containers, more=False)
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        self.part(peer, [], tiny[:9], more=False)
        assert plugin.expect("synchronize") == ([], tiny[:9])


class TestContext:
    def test_inside_a_handler(self, connect: Connect) -> None:
        seen: dict[str, Any] = {}

        def handler(pod: object) -> None:
            context = nri_sync.request_context()
            seen["method"] = context.method
            seen["left"] = context.time_remaining()
            seen["active"] = context.is_active()
            seen["metadata"] = context.invocation_metadata()
            seen["peer"] = context.peer()

        _, peer = connect(PluginWith(run_pod_sandbox=handler))
        client, path = peer._session.client, "/nri.pkg.api.v1alpha1.Plugin/RunPodSandbox"
        call = client.start(path, b"", deadline=Deadline(LONG), metadata=[("trace", "7")])
        client.result(call)
        assert seen["method"].endswith("Plugin/RunPodSandbox")
        assert 0 < seen["left"] <= LONG
        assert seen["active"]
        assert [(item.key, item.value) for item in seen["metadata"]] == [("trace", "7")]
        assert seen["peer"].startswith("unix:")

    @pytest.mark.parametrize("kind", ["plain", "with an interceptor", "with one of grpc"])
    def test_it_is_a_context_of_grpc(self, connect: Connect, kind: str) -> None:
        seen: list[Any] = []

        class OfGrpc(grpc.ServerInterceptor):
            def intercept_service(self, continuation: Any, details: Any) -> Any:
                return continuation(details)

        def handler(pod: object) -> None:
            context = nri_sync.request_context()
            seen.append(isinstance(context, grpc.ServicerContext))
            seen.append(isinstance(context, nri_sync.RequestContext))
            context.set_code(grpc.StatusCode.ABORTED)
            seen.append(context.code())

        interceptors: dict[str, list[Any]] = {
            "plain": [],
            "with an interceptor": [RequestInterceptor()],
            "with one of grpc": [OfGrpc()],
        }
        plugin = PluginWith(run_pod_sandbox=handler)
        _, peer = connect(plugin, interceptors=interceptors[kind])
        with pytest.raises(CallFailed) as caught:
            peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert caught.value.code() is StatusCode.ABORTED
        of_grpc = kind == "with one of grpc"
        assert seen == [True, True, grpc.StatusCode.ABORTED if of_grpc else StatusCode.ABORTED]

    def test_outside(self) -> None:
        with pytest.raises(RuntimeError, match="for handlers, while they serve a request"):
            nri_sync.request_context()

    def test_the_loss_of_the_connection_cancels(self, connect: Connect, slow: Slow) -> None:
        cancelled = threading.Event()

        def handler(pod: object) -> None:
            nri_sync.request_context().add_callback(cancelled.set)
            slow()

        _, peer = connect(PluginWith(run_pod_sandbox=handler))
        caller = threading.Thread(target=self.call_and_be_cut_off, args=(peer,))
        caller.start()
        assert slow.entered.wait(LONG)
        peer.close()
        assert cancelled.wait(LONG)
        caller.join(LONG)

    def call_and_be_cut_off(self, peer: Peer) -> None:
        with pytest.raises(CallFailed):
            peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)


def test_handlers_run_at_the_same_time(connect: Connect) -> None:
    barrier = threading.Barrier(3)

    def meet(*arguments: object) -> None:
        barrier.wait(LONG)

    plugin = PluginWith(create_container=meet, run_pod_sandbox=meet)
    _, peer = connect(plugin)
    calls = [
        threading.Thread(target=peer.call, args=("CreateContainer", ADJUSTED, LONG)),
        threading.Thread(
            target=peer.call, args=("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        ),
    ]
    for call in calls:
        call.start()
    barrier.wait(LONG)
    for call in calls:
        call.join(LONG)
    assert not barrier.broken


def test_the_table_of_versions_knows_the_masks() -> None:
    assert api.valid_events("v0.9.0") == EventMask(0x7FF)
    assert api.valid_events("v0.10.0") == api.valid_events("unknown") == EventMask.ALL
