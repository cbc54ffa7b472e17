"""Events that fail: by an exception, a conflict, a rejection, or without an answer."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.errors import ConflictError, NoAnswer, RequestFailed, ValidationRejected
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.runtime.rig import SHORT, Never, PluginWith, set_request_timeout
from tests.testing import plugins
from tests.testing.plugins import RecordingPlugin

__all__: list[str] = []

STOPPED = api.ContainerState.CONTAINER_STOPPED


class TestFailures:
    def test_a_handler_that_raises(self, runtime: FakeRuntime) -> None:
        pod, error = make_pod(), ValueError("no")
        with runtime.run_plugin(RecordingPlugin(run_pod_sandbox=error)):
            with pytest.raises(
                RequestFailed, match="plugin 10-test: RunPodSandbox failed"
            ) as failed:
                runtime.run_pod(pod)
            result = runtime.run_pod(pod, check=False)
        assert runtime.pods == []
        # The plugin's own exception is the cause; its traceback begins in the plugin.
        assert failed.value.__cause__ is error
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_frame.f_code.co_filename == plugins.__file__
        assert isinstance(result.error, RequestFailed)
        assert result.rejected is None
        assert isinstance(result.answers[0].error, Exception)

    def test_the_events_after_a_failure(self, runtime: FakeRuntime) -> None:
        plugin = RecordingPlugin(
            run_pod_sandbox=ValueError(),
            create_container=ValueError(),
            start_container=ValueError(),
        )
        pod = make_pod()
        container, other = make_container(pod), make_container(pod)
        with runtime.run_plugin(plugin):
            runtime.run_pod(pod, check=False)
            assert plugin.names == ["run_pod_sandbox", "remove_pod_sandbox"]
            runtime.add(pod, other)
            runtime.create_container(pod, container, check=False)
            assert plugin.names == ["create_container", "stop_container", "remove_container"]
            runtime.start_container(other, check=False)
            assert plugin.names == ["start_container", "stop_container"]
        assert runtime.containers == [runtime.container(other)]
        assert runtime.container(other).state == STOPPED

    def test_a_failed_stop_does_not_prevent_the_removal(self, runtime: FakeRuntime) -> None:
        plugin = RecordingPlugin(stop_pod_sandbox=ValueError("stop"))
        pod = make_pod()
        runtime.add(pod, make_container(pod))
        with runtime.run_plugin(plugin), pytest.raises(RequestFailed, match="stop"):
            runtime.remove_pod(pod)
        assert runtime.pods == []
        assert plugin.names[-1] == "remove_pod_sandbox"

    def test_a_conflict(self, runtime: FakeRuntime) -> None:
        pod = make_pod()
        runtime.add(pod)
        adjusters = [
            PluginWith(create_container=lambda pod, container: api.Adjustment().add_env("A", "1"))
            for _ in range(2)
        ]
        with (
            runtime.run_plugin(adjusters[0]),
            runtime.run_plugin(adjusters[1], name="other", idx="20"),
        ):
            result = runtime.create_container(pod, make_container(pod), check=False)
        assert isinstance(result.error, ConflictError)
        assert result.owner(api.Field.Env, "A") == "10-test"
        assert len(result.answers) >= 2
        assert runtime.containers == []

    def test_a_rejection(self, runtime: FakeRuntime) -> None:
        def validate(request: api.ValidateContainerAdjustmentRequest) -> None:
            raise ValueError("too much")

        pod = make_pod()
        runtime.add(pod)
        with runtime.run_plugin(PluginWith(validate_container_adjustment=validate)):
            result = runtime.create_container(pod, make_container(pod), check=False)
            assert result.rejected == "too much"
            with pytest.raises(ValidationRejected):
                runtime.create_container(pod, make_container(pod))

    def test_no_answer(self) -> None:
        never = Never()
        policy = api.FailurePolicy(fail_request=True)
        options: dict[str, Any] = {"failure_policy": policy, "late_reply": False}
        with FakeRuntime() as runtime:
            with runtime.run_plugin(PluginWith(run_pod_sandbox=never), **options):
                set_request_timeout(runtime._started(), SHORT)
                result = runtime.run_pod(make_pod(), check=False)
                never.release.set()
            assert isinstance(result.error, NoAnswer)
