"""Fields that a runtime of an older NRI release ignores."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.plugin.counters import Tally
from nri_sync.plugin.ignored import IgnoredFields
from tests.plugin.conftest import MakeStub, Serve
from tests.plugin.harness import LONG, PluginWith, configuration

__all__: list[str] = []

POD = api.PodSandbox(id="pod0", name="web", namespace="default")
CREATE = api.CreateContainerRequest(pod=POD, container=api.Container(id="ctr0"))


def adjusted(pod: object, container: object) -> api.Adjustment:
    return api.Adjustment().add_env("A", "b").set_sysctl("net.core.somaxconn", "1").set_args(["sh"])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if "ignores a field" in record.getMessage()
    ]


def older(version: str) -> Any:
    """A runtime before NRI v0.12 does not send its release: the stub infers it."""
    return configuration(runtime_name="containerd", runtime_version=version, NRI_version="")


class TestAnswers:
    def test_each_field_is_logged_once_in_a_session_and_counted_each_time(
        self, serve: Serve, make_stub: MakeStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        stub = make_stub(PluginWith(create_container=adjusted))
        for number in (1, 2):
            runtime = serve(config=older("v2.2.0"))  # NRI v0.10.0
            caplog.clear()
            stub.start()
            peer = runtime.peer()
            for _ in range(3):
                response = peer.call("CreateContainer", CREATE, LONG)
                assert response.adjust.linux.sysctl  # sent all the same
            [text] = warnings(caplog)
            assert text == (
                "10-test: the runtime speaks NRI v0.10.0 and ignores a field of CreateContainer that came with "
                "NRI v0.11.0: adjust.linux.sysctl"
            )
            assert stub.counters.ignored_fields == 3 * number
            stub.stop()
            runtime.close()

    @pytest.mark.parametrize("version", ["v0.12.5", "v0.13.0", "something"])
    def test_none_of_a_runtime_that_knows_them_or_might(
        self, serve: Serve, make_stub: MakeStub, caplog: pytest.LogCaptureFixture, version: str
    ) -> None:
        runtime = serve(config=configuration(runtime_name="someone", NRI_version=version))
        stub = make_stub(
            PluginWith(create_container=adjusted),
            failure_policy=api.FailurePolicy(fail_request=True),
        )
        stub.start()
        runtime.peer().call("CreateContainer", CREATE, LONG)
        assert stub.counters.ignored_fields == 0
        assert warnings(caplog) == []

    def test_of_the_runtime_that_has_called(self, serve: Serve, make_stub: MakeStub) -> None:
        """One table of methods serves all sessions of a stub, with any runtimes."""
        runtime = serve(config=older("v1.7.20"))
        stub = make_stub(PluginWith(create_container=adjusted))
        counts = []
        for config in (older("v1.7.20"), configuration(NRI_version="v0.12.5"), older("v1.7.20")):
            runtime.config = config
            stub.start()
            runtime.peer().call("CreateContainer", CREATE, LONG)
            counts.append(stub.counters.ignored_fields)
            stub.stop()
        assert counts[0] > 0
        assert counts == [counts[0], counts[0], 2 * counts[0]]

    def test_fields_that_an_interceptor_adds_count(
        self, serve: Serve, make_stub: MakeStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Adding(nri_sync.Interceptor):
            def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
                reply = proceed(request, context)
                if event == "CreateContainer":
                    reply.adjust.linux.oom_score_adj.value = 5
                return reply

        runtime = serve(config=older("v1.7.20"))  # NRI v0.6.1
        plugin = PluginWith(create_container=lambda pod, container: None)
        stub = make_stub(plugin, interceptors=[Adding()])
        stub.start()
        runtime.peer().call("CreateContainer", CREATE, LONG)
        assert stub.counters.ignored_fields == 1
        assert warnings(caplog)[0].endswith("NRI v0.7.0: adjust.linux.oom_score_adj")

    def test_updates_in_answers_and_by_the_plugin_itself(
        self, serve: Serve, make_stub: MakeStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        pids = api.LinuxResources(pids=api.LinuxPids(limit=5))
        updates = [
            api.ContainerUpdate(container_id=name, linux=api.LinuxContainerUpdate(resources=pids))
            for name in ("a", "b")
        ]
        runtime = serve(config=older("v1.7.20"), update_containers=lambda updates, evictions: [])
        plugin = PluginWith(
            synchronize=lambda pods, containers: updates,
            stop_container=lambda pod, container: updates,
        )
        stub = make_stub(plugin)
        stub.start()
        peer = runtime.peer()
        peer.call("StopContainer", api.StopContainerRequest(), LONG)
        stub.update_containers(updates)
        assert stub.counters.ignored_fields == 6
        path = "update[0].linux.resources.pids"
        assert [text.partition("field of ")[2] for text in warnings(caplog)] == [
            f"{method} that came with NRI v0.7.0: {path}"
            for method in ("Synchronize", "StopContainer", "UpdateContainers")
        ]

    def test_the_failure_policy(
        self, serve: Serve, make_stub: MakeStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        runtime = serve(config=configuration(NRI_version="v0.12.3"))
        stub = make_stub(
            PluginWith(create_container=adjusted),
            failure_policy=api.FailurePolicy(fail_request=True),
        )
        stub.start()
        runtime.peer()
        assert stub.counters.ignored_fields == 1
        assert warnings(caplog)[0].endswith(
            "of Configure that came with NRI v0.12.4: failure_policy"
        )


def test_threads_that_find_the_same_field_at_once_log_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tally = Tally()
    ignored = IgnoredFields(logging.LoggerAdapter(logging.getLogger("test"), {}), tally)
    response = api.CreateContainerResponse()
    response.adjust.args.append("sh")
    ignored.learn("v0.8.0")
    barrier = threading.Barrier(8)

    def check() -> None:
        barrier.wait(LONG)
        ignored.check("CreateContainer", response)

    threads = [threading.Thread(target=check) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert tally.snapshot().ignored_fields == 8
    assert len(warnings(caplog)) == 1
