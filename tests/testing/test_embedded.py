"""The runtime side that records its answers."""

from __future__ import annotations

import threading

import pytest

from nri_sync import api
from nri_sync.errors import RequestFailed
from nri_sync.runtime import DefaultValidator, DefaultValidatorConfig
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.embedded import AnswerRecorder, Embedded
from tests.runtime.rig import LONG, PluginWith

__all__: list[str] = []

POD = make_pod()


def embedded(recorder: AnswerRecorder, **plugins: object) -> Embedded:
    return Embedded(
        "test", "1.0", synchronize=lambda sync: sync([], []), update_containers=lambda updates, evict: [],
        socket_path=None, plugin_path=None, metrics=recorder,
        plugins=plugins,
    )  # fmt: skip


class Labeller:
    def create_container(self, pod: api.PodSandbox, container: api.Container) -> object:
        return api.Adjustment().add_env("POD", pod.name), [api.Update("other").set_cpu(shares=3)]


def fail(pod: api.PodSandbox, container: api.Container) -> None:
    raise ValueError("no")


def test_answers_in_order() -> None:
    recorder = AnswerRecorder(lambda: None)
    plugins = {"10-one": Labeller(), "20-two": PluginWith(create_container=fail)}
    runtime = embedded(recorder, **plugins)
    with runtime, recorder.answers() as answers:
        with pytest.raises(RequestFailed):
            runtime.create_container(POD, make_container(POD))
        first, second = answers
        assert (first.plugin, first.event, first.error) == ("10-one", "CreateContainer", None)
        assert first.adjustment == api.Adjustment().add_env("POD", "pod").message
        assert (first.updates, first.evictions) == (1, 0)
        assert first.seconds > 0
        assert (second.plugin, second.adjustment) == ("20-two", None)
        assert isinstance(second.error, ValueError)


def test_each_thread_gets_the_answers_to_its_own_events() -> None:
    recorder = AnswerRecorder(lambda: None)
    runtime = embedded(recorder, **{"10-one": PluginWith(run_pod_sandbox=lambda pod: None)})
    with runtime, recorder.answers() as answers:
        other = threading.Thread(target=runtime.run_pod_sandbox, args=(POD,))
        other.start()
        other.join(LONG)
        assert answers == []
        runtime.run_pod_sandbox(POD)
        assert [answer.event for answer in answers] == ["RunPodSandbox"]
    assert len(answers) == 1


def test_plugins_on_the_socket_can_be_disconnected() -> None:
    plugin = PluginWith(run_pod_sandbox=lambda pod: None)
    validator = DefaultValidator(DefaultValidatorConfig())
    with FakeRuntime(default_validator=validator) as fake, fake.run_plugin(plugin) as stub:
        assert fake.plugins == ("00-default-validator", "10-test")
        for name in ("00-default-validator", "99-other"):
            with pytest.raises(ValueError, match=f"plugin {name} is not connected"):
                fake.disconnect(name)
        fake.disconnect("10-test")
        assert stub.wait(LONG)
