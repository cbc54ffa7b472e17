"""Our runtime acting as an older release, compared with that release of the Go implementation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import nri_pb2
from nri_sync.api.compat import clear_unknown_fields
from nri_sync.runtime import Runtime
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.makers import Maker
from tests.interop.plugins import PROMPTLY

__all__: list[str] = []

CASES = 20


class Wire(grpc.ServerInterceptor):
    """Records each request unchanged: the method and the message."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)

        def note(request: Any, context: grpc.ServicerContext) -> Any:
            kept = type(request)()
            kept.CopyFrom(request)
            self.seen.append((details.method.rpartition("/")[2], kept))
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            note, handler.request_deserializer, handler.response_serializer
        )


class Observer:
    """Has the events of the oldest release. Its answers have old and new fields."""

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None: ...

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.ContainerAdjustment:
        adjustment = api.ContainerAdjustment(args=["sh"])
        adjustment.env.add(key="OLD", value="1")
        adjustment.CDI_devices.add(name="vendor.com/class=a")
        adjustment.linux.oom_score_adj.value = 5
        adjustment.linux.resources.pids.limit = 7
        adjustment.linux.sysctl["net.x"] = "1"
        adjustment.linux.memory_policy.nodes = "0"
        return adjustment

    def post_create_container(self, pod: api.PodSandbox, container: api.Container) -> None: ...

    def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None: ...


@contextmanager
def connected(path: Path) -> Iterator[Wire]:
    wire = Wire()
    with nri_sync.Stub(
        Observer(), name="older", idx="10", socket_path=str(path), interceptors=[wire]
    ):
        yield wire


def known(message: Any, release: Release) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    clear_unknown_fields(copy, release.nri)
    return copy


@pytest.mark.parametrize("release", RELEASES, ids=str)
def test_the_same_on_the_wire(release: Release, socket_dir: Path) -> None:
    paths = [socket_dir / name for name in ("go", "ours")]
    with ExitStack() as stack:
        go = stack.enter_context(GoRuntime(release, paths[0]))
        go.start(request_timeout_ms=int(PROMPTLY * 1000))
        runtime = Runtime(
            "containerd",
            release.containerd,
            nri_version=release.nri,
            synchronize=lambda sync: sync([], []),
            update_containers=lambda updates, evictions: [],
            socket_path=str(paths[1]),
            plugin_path=None,
            request_timeout=PROMPTLY,
        )
        runtime.start()
        stack.callback(runtime.stop)
        theirs, ours = [stack.enter_context(connected(path)) for path in paths]
        go.wait_connected("10-older")
        assert runtime.wait_for_plugins(lambda names: "10-older" in names, PROMPTLY)
        told = [wire.seen[0][1] for wire in (theirs, ours)]
        for request in told:
            request.registration_timeout = min(request.registration_timeout, 1)
        assert told[0] == told[1]

        for wire in (theirs, ours):
            wire.seen.clear()
        for number in range(CASES):
            maker = Maker(random.Random(number), density=0.8)
            pod, container = maker.make(nri_pb2.PodSandbox), maker.make(nri_pb2.Container)
            known_pod, known_container = known(pod, release), known(container, release)
            go.request("RunPodSandbox", pod=known_pod)
            expected = go.request("CreateContainer", pod=known_pod, container=known_container)
            go.request("PostCreateContainer", pod=known_pod, container=known_container)
            go.request("RemoveContainer", pod=known_pod, container=known_container)
            runtime.run_pod_sandbox(pod)
            answer = runtime.create_container(pod, container)
            runtime.post_create_container(pod, container)
            runtime.remove_container(pod, container)
            # Releases differ in the empty messages of an answer.
            assert api.strip(answer.adjust) == api.strip(expected.adjust)
        assert [method for method, _ in ours.seen] == [method for method, _ in theirs.seen]
        for (_, mine), (_, other) in zip(ours.seen, theirs.seen):
            assert mine == other
