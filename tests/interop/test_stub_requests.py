"""The requests of Go runtimes to a plugin on nri_sync.Stub, and the answers, for each release."""

from __future__ import annotations

import threading

import pytest
from google.protobuf import json_format

from nri_sync.api import nri_pb2
from tests.interop.conftest import Connect, RunPeer
from tests.interop.gopeer import PeerError
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import (
    CONTAINER,
    FULL_ADJUSTMENT,
    POD,
    PROMPTLY,
    RESOURCES,
    Recorder,
    Validator,
    known_to,
    padded,
    padding,
    update_of,
    without_empty,
)  # fmt: skip

__all__: list[str] = []

# For each handler, the fields of its request, in the order of its arguments.
POD_EVENTS = {
    "RunPodSandbox": "run_pod_sandbox",
    "PostUpdatePodSandbox": "post_update_pod_sandbox",
    "StopPodSandbox": "stop_pod_sandbox",
    "RemovePodSandbox": "remove_pod_sandbox",
}
CONTAINER_EVENTS = {
    "CreateContainer": "create_container",
    "PostCreateContainer": "post_create_container",
    "StartContainer": "start_container",
    "PostStartContainer": "post_start_container",
    "PostUpdateContainer": "post_update_container",
    "StopContainer": "stop_container",
    "RemoveContainer": "remove_container",
}
# Handlers for which runtimes up to v0.11 have no methods.
BY_STATE_CHANGE = {*POD_EVENTS, *CONTAINER_EVENTS} - {"CreateContainer", "StopContainer"}
POD_UPDATES = {"UpdatePodSandbox", "PostUpdatePodSandbox"}


@pytest.mark.parametrize("release", RELEASES, ids=str)
class TestEveryRelease:
    """Behaviour with every release."""

    def test_every_event(self, runtime: GoRuntime, connect: Connect, release: Release) -> None:
        runtime.start(trace=True)
        plugin = Recorder()
        stub = connect(plugin)
        sent = []

        for op, handler in POD_EVENTS.items():
            if op in POD_UPDATES and not release.has_pod_updates_and_validation:
                continue
            runtime.request(op, pod=POD)
            assert plugin.expect(handler) == (POD,)
            sent.append(op)
        for op, handler in CONTAINER_EVENTS.items():
            runtime.request(op, pod=POD, container=CONTAINER)
            pod, container = plugin.expect(handler)
            # The Go implementation sets these for CreateContainer.
            container.ClearField("hooks")
            container.ClearField("linux")
            assert (pod, container) == (POD, CONTAINER)
            sent.append(op)
        runtime.request("UpdateContainer", pod=POD, container=CONTAINER, linux_resources=RESOURCES)
        assert plugin.expect("update_container") == (POD, CONTAINER, RESOURCES)
        sent.append("UpdateContainer")
        if release.has_pod_updates_and_validation:
            overhead = nri_pb2.LinuxResources(cpu=nri_pb2.LinuxCPU(cpus="7"))
            runtime.request(
                "UpdatePodSandbox",
                pod=POD,
                overhead_linux_resources=overhead,
                linux_resources=RESOURCES,
            )
            assert plugin.expect("update_pod_sandbox") == (POD, overhead, RESOURCES)
            sent.append("UpdatePodSandbox")

        methods = [event["data"]["method"] for event in runtime.take_events("rpc")]
        if release.has_method_for_every_event:
            expected = sent
        else:
            expected = ["StateChange" if op in BY_STATE_CHANGE else op for op in sent]
        assert methods == ["Configure", "Synchronize", *expected]
        # Neither failures, nor warnings about a plugin of an old version.
        assert runtime.take_events("log") == []
        assert stub.started

    @pytest.mark.parametrize("size", [100, 4050, 4096, 5000, 65_536, 1 << 20, 3_900 << 10])
    def test_reply_of_size(self, runtime: GoRuntime, connect: Connect, size: int) -> None:
        runtime.start(request_timeout_ms=20_000)
        connect(Recorder(create_container=padded(size)))
        for _ in range(3):
            reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
            assert padding(reply) == "x" * size

    @pytest.mark.parametrize("size", [100, 4050, 4096, 5000, 65_536, 1 << 20, 3_900 << 10])
    def test_request_of_size(self, runtime: GoRuntime, connect: Connect, size: int) -> None:
        runtime.start(request_timeout_ms=20_000)
        plugin = Recorder()
        connect(plugin)
        pod = nri_pb2.PodSandbox(id="pod0", annotations={"padding": "y" * size})
        runtime.request("RunPodSandbox", pod=pod)
        assert plugin.expect("run_pod_sandbox") == (pod,)

    def test_full_adjustment(self, runtime: GoRuntime, connect: Connect, release: Release) -> None:
        runtime.start()
        adjustment = json_format.ParseDict(FULL_ADJUSTMENT, nri_pb2.ContainerAdjustment())
        connect(Recorder(create_container=(adjustment, [update_of("other")])))
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert without_empty(reply.adjust) == known_to(release, FULL_ADJUSTMENT)
        assert without_empty(reply.update[0]) == without_empty(update_of("other"))

    def test_updates_in_answers(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        updates = [update_of("a", 2), update_of("b", 3)]
        connect(Recorder(update_container=updates, stop_container=updates))
        reply = runtime.request(
            "UpdateContainer", pod=POD, container=CONTAINER, linux_resources=RESOURCES
        )
        assert [update.container_id for update in reply.update][:2] == ["a", "b"]
        reply = runtime.request("StopContainer", pod=POD, container=CONTAINER)
        assert [update.container_id for update in reply.update] == ["a", "b"]
        assert [update.linux.resources.cpu.shares.value for update in reply.update] == [2, 3]

    def test_synchronize_20000_containers(
        self, runtime: GoRuntime, make_stub: Connect, release: Release
    ) -> None:
        # About 20 MB, which needs several messages. The oldest release sends only one.
        size = 0 if release.nri == "v0.6.1" else 1000
        runtime.start(
            make_pods=500,
            make_containers=20_000,
            make_size=size,
            request_timeout_ms=30_000,
            trace=True,
        )
        plugin = Recorder(synchronize=[update_of("ctr0")])
        make_stub(plugin).start()
        runtime.wait_connected("10-py")
        plugin.expect("configure")
        pods, containers = plugin.expect("synchronize")
        assert [pod.id for pod in pods] == [f"pod{i}" for i in range(500)]
        assert [container.id for container in containers] == [f"ctr{i}" for i in range(20_000)]
        assert {container.annotations["padding"] for container in containers} == {"x" * size}
        methods = [event["data"]["method"] for event in runtime.take_events("rpc")]
        assert methods.count("Synchronize") > (1 if size else 0)
        done = [event for event in runtime.take_events("synchronized") if event["data"]["updates"]]
        assert [update["container_id"] for update in done[0]["data"]["updates"]] == ["ctr0"]

    def test_unsolicited_updates(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        stub = connect(Recorder())
        updates = [update_of(f"ctr{i}") for i in range(10)]
        assert list(stub.update_containers(updates)) == []
        event = runtime.wait_event("unsolicited")["data"]
        assert [update["container_id"] for update in event["updates"]] == [
            update.container_id for update in updates
        ]
        runtime.call("script", update_fail=["ctr3", "ctr7"])
        assert list(stub.update_containers(updates)) == [updates[3], updates[7]]
        runtime.call("script", update_error="no updates today")
        with pytest.raises(Exception, match="no updates today"):
            stub.update_containers(updates)
        runtime.call("script")
        assert list(stub.update_containers()) == []

    def test_update_deadline(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        stub = connect(Recorder())
        runtime.call("script", update_delay_ms=1500)
        with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
            stub.update_containers([update_of("ctr0")], timeout=0.3)
        runtime.call("script", update_fail_all=True)
        # Up to v0.11, the Go implementation accepts one update at a time.
        failed = stub.update_containers([update_of("ctr1")], timeout=PROMPTLY)
        assert [update.container_id for update in failed] == ["ctr1"]

    def test_a_handler_that_raises(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        plugin = Recorder(
            create_container=ValueError("no such thing"), run_pod_sandbox=NotImplementedError()
        )
        stub = connect(plugin)
        with pytest.raises(PeerError, match="no such thing"):
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        with pytest.raises(PeerError, match="NotImplementedError") as error:
            runtime.request("RunPodSandbox", pod=POD)
        assert error.value.code == "Unknown"
        # An error is an answer, too: the plugin stays connected.
        runtime.request("StopPodSandbox", pod=POD)
        assert stub.started


class TestNewestRelease:
    """Behaviour of the newest release only, or independent of the release."""

    def test_full_adjustment_knows_every_field(self) -> None:
        adjustment = json_format.ParseDict(FULL_ADJUSTMENT, nri_pb2.ContainerAdjustment())
        for message in (adjustment, adjustment.linux, adjustment.linux.resources, adjustment.hooks):
            given = {field.name for field, _ in message.ListFields()}
            assert given == {field.name for field in message.DESCRIPTOR.fields}

    def test_two_plugins_in_the_order_of_their_index(
        self, runtime: GoRuntime, connect: Connect
    ) -> None:
        runtime.start()
        plugins = {idx: Recorder(create_container=padded(0)) for idx in ("30", "20")}
        for idx, plugin in plugins.items():
            plugin.answers["create_container"] = nri_pb2.ContainerAdjustment(
                env=[nri_pb2.KeyValue(key=f"FROM_{idx}", value="1")]
            )
            connect(plugin, idx=idx)
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert [env.key for env in reply.adjust.env] == ["FROM_20", "FROM_30"]
        assert list(plugins["20"].expect("create_container")[1].env) == ["A=B"]
        assert list(plugins["30"].expect("create_container")[1].env) == ["A=B", "FROM_20=1"]

    def test_a_conflict_with_a_go_plugin(
        self, runtime: GoRuntime, connect: Connect, run_peer: RunPeer
    ) -> None:
        runtime.start()
        connect(
            Recorder(
                create_container=nri_pb2.ContainerAdjustment(annotations={"gostub/padding": "mine"})
            )
        )
        arguments = ("-socket", runtime.socket_path, "-size", "10", "-idx", "50")
        run_peer("stubplugin", *arguments).call("start")
        runtime.wait_connected("50-gostub")
        with pytest.raises(PeerError) as error:
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert '"50-gostub" and "10-py" both tried to set' in error.value.message

    def test_update_from_a_handler(self, runtime: GoRuntime, connect: Connect) -> None:
        # The Go implementation accepts the update while a request is in progress; container runtimes do not.
        runtime.start(runtime_name="other", runtime_version="v1.0.0")
        failed = []

        def update(pod: object, container: object) -> None:
            failed.append(stub.update_containers([update_of("other")]))

        plugin = Recorder(post_start_container=update)
        stub = connect(plugin)
        runtime.request("PostStartContainer", pod=POD, container=CONTAINER)
        assert [list(updates) for updates in failed] == [[]]
        assert len(runtime.take_events("unsolicited")) == 1

    def test_updates_from_many_threads(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        stub = connect(Recorder())
        runtime.call("script", update_fail=[f"fail{i}" for i in range(8)])
        failed: dict[int, set[str]] = {i: set() for i in range(8)}

        def update(number: int) -> None:
            for _ in range(50):
                updates = [update_of("fine"), update_of(f"fail{number}")]
                failed[number] |= {u.container_id for u in stub.update_containers(updates)}

        threads = [threading.Thread(target=update, args=(i,)) for i in failed]
        for thread in threads:
            thread.start()
        for _ in range(50):
            runtime.request("RunPodSandbox", pod=POD)
        for thread in threads:
            thread.join(PROMPTLY)
        assert failed == {i: {f"fail{i}"} for i in range(8)}

    def test_an_oversized_reply_fails_that_request_alone(
        self, runtime: GoRuntime, connect: Connect
    ) -> None:
        runtime.start(request_timeout_ms=20_000)
        plugin = Recorder(create_container=padded(5 << 20))
        stub = connect(plugin)
        with pytest.raises(PeerError) as error:
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert error.value.code == "ResourceExhausted"
        plugin.answers["create_container"] = padded(10)
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert padding(reply) == "x" * 10
        assert stub.started


@pytest.mark.parametrize("release", RELEASES[:2], ids=str)
class TestValidation:
    def test_rejection(self, runtime: GoRuntime, connect: Connect) -> None:
        runtime.start()
        plugin = Validator(
            create_container=padded(10),
            validate_container_adjustment=PermissionError("not like that"),
        )
        stub = connect(plugin)
        with pytest.raises(PeerError, match="not like that") as error:
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert 'validator "10-py" rejected container adjustment' in error.value.message
        assert stub.started

    def test_a_validator_sees_the_adjustment_updates_and_owners(
        self, runtime: GoRuntime, connect: Connect
    ) -> None:
        runtime.start()
        plugin = Validator(create_container=(padded(10), [update_of("other")]))
        connect(plugin)
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert padding(reply) == "x" * 10
        plugin.expect("create_container")
        (request,) = plugin.expect("validate_container_adjustment")
        assert (request.pod, request.container.id) == (POD, "ctr0")
        assert "padding" not in request.container.annotations
        assert request.adjust.annotations["padding"] == "x" * 10
        assert [update.container_id for update in request.update] == ["other"]
        assert [(plugin.index, plugin.name) for plugin in request.plugins] == [("10", "py")]
        owners = request.owners.owners["ctr0"].compound[nri_pb2.Field.Annotations].owners
        assert dict(owners) == {"padding": "10-py"}
