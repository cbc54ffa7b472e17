"""A runtime of an older NRI release."""

from __future__ import annotations

import warnings
from typing import Any

import grpc
import pytest

from nri_sync import Stub, api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.compat import clear_unknown_fields
from nri_sync.runtime.older import OlderRelease
from nri_sync.testing import FakeRuntime, NoEffectWarning, make_container, make_pod
from tests.runtime.rig import LONG

__all__: list[str] = []

# Releases of containerd, and their NRI releases.
RELEASES = [("1.7.20", "v0.6.1"), ("v2.1.0", "v0.8.0"), ("v2.2.1", "v0.11.0")]


class Methods(grpc.ServerInterceptor):
    """Records the methods that are called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.called.append(details.method.rpartition("/")[2])
        return continuation(details)


class Everything:
    """Records its handlers' calls, and requests one old and one new field."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.containers: list[api.Container] = []

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.calls.append("run_pod_sandbox")

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.ContainerAdjustment:
        self.calls.append("create_container")
        self.containers.append(container)
        adjustment = api.ContainerAdjustment()
        adjustment.env.add(key="OLD", value="1")
        adjustment.linux.oom_score_adj.value = 5  # since v0.7.0
        adjustment.linux.sysctl["net.x"] = "1"  # since v0.11.0
        return adjustment

    def post_create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.calls.append("post_create_container")

    def post_update_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.calls.append("post_update_pod_sandbox")


@pytest.mark.parametrize(("version", "nri_version"), RELEASES)
def test_a_plugin_on_an_older_release(
    version: str, nri_version: str, caplog: pytest.LogCaptureFixture
) -> None:
    plugin, methods = Everything(), Methods()
    pod = make_pod("web")
    container = make_container(pod)
    container.user.uid = 7  # since v0.11.0
    with (
        FakeRuntime(version=version, nri_version=nri_version) as runtime,
        runtime.run_plugin(plugin, interceptors=[methods]) as stub,
    ):
        assert stub.runtime_nri_version == api.infer_nri_version("containerd", version)
        runtime.run_pod(pod)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = runtime.create_container(pod, container)

    missing = {"v0.6.1": ["linux.oom_score_adj", "linux.sysctl"], "v0.8.0": ["linux.sysctl"]}
    fields = tuple(f"adjust.{name}" for name in missing.get(nri_version, []))
    assert {(item.category, item.filename) for item in warned} <= {(NoEffectWarning, __file__)}
    assert result.answers[0].ignored == fields
    assert [str(warning.message) for warning in warned] == [
        f"plugin 10-test: {field} has no effect: NRI {nri_version} does not know it"
        for field in fields
    ]
    logged = [text for text in caplog.messages if "it is ignored" in text]
    assert [text.rpartition(": ")[2] for text in logged] == list(fields)
    assert stub.counters.ignored_fields == len(fields)
    assert plugin.calls == ["run_pod_sandbox", "create_container", "post_create_container"]
    by_event = [name for name in methods.called if name not in ("Configure", "Synchronize")]
    assert by_event[:3] == ["StateChange", "CreateContainer", "StateChange"]
    knows = {name: api.knows(nri_version, name) for name in ("Container.user", "LinuxPids")}
    assert plugin.containers[0].HasField("user") is knows["Container.user"]
    adjust = result.adjustment
    assert adjust.env[0].key == "OLD"
    assert adjust.linux.HasField("oom_score_adj") is knows["LinuxPids"]
    assert bool(adjust.linux.sysctl) is knows["Container.user"]


def test_releases_without_timeouts_send_none() -> None:
    with (
        FakeRuntime(version="1.7.20", nri_version="v0.6.1") as runtime,
        runtime.run_plugin(Everything()) as stub,
    ):
        assert stub.request_timeout == api.DEFAULT_REQUEST_TIMEOUT


def test_an_older_runtime_refuses_events_that_it_lacks() -> None:
    class Eager(Everything):
        def configure(self, config: str, runtime: str, version: str) -> EventMask:
            return EventMask.POST_UPDATE_POD_SANDBOX

    # The plugin cannot infer the release of this runtime, so it subscribes to the event.
    with FakeRuntime("unheard-of", version="1.7.20", nri_version="v0.6.1") as runtime:
        with Stub(Eager(), name="test", idx="10", socket_path=runtime.socket_path) as stub:
            assert stub.wait(LONG)
            assert "refused the events" in str(stub.close_reason)
        assert not runtime.plugins


def test_a_failure_policy_comes_with_its_release() -> None:
    policy = api.FailurePolicy(fail_request=True)
    for release, known in (("v0.12.2", False), ("v0.12.4", True)):
        older = OlderRelease.of(release)
        assert older is not None
        response = nri_pb2.ConfigureResponse(events=1, failure_policy=policy)
        assert older.strip_unknown(response) == ([] if known else ["failure_policy"])
        assert response.HasField("failure_policy") is known


@pytest.mark.parametrize("version", [api.NRI_VERSION, "v99.0.0", "unknown", ""])
def test_no_older_release(version: str) -> None:
    assert OlderRelease.of(version) is None


def test_nested_fields_are_cleared() -> None:
    message = nri_pb2.CreateContainerResponse()
    message.update.add(container_id="x").linux.resources.pids.limit = 3  # since v0.7.0
    message.adjust.annotations["kept"] = "1"
    before = nri_pb2.CreateContainerResponse()
    before.CopyFrom(message)
    clear_unknown_fields(message, "v0.7.0")
    assert message == before
    clear_unknown_fields(message, "v0.6.0")
    assert not message.update[0].linux.resources.HasField("pids")
    assert message.update[0].container_id == "x"
    assert message.adjust == before.adjust
    assert not api.unknown_fields(message, "v0.6.0")
