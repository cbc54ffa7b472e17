"""The fake runtime rejects requests that no runtime can fulfil, even those in raw messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nri_sync import api
from nri_sync.errors import SpecError
from nri_sync.testing import Changes, FakeRuntime, make_container, make_pod
from nri_sync.testing.refusals import possible, refuse_adjustments, refuse_updates
from nri_sync.testing.result import Answer
from nri_sync.testing.simulation import FailureKind
from tests.plugin.harness import PluginWith
from tests.testing.simulation import event, life

__all__: list[str] = []


def relative_mount() -> api.ContainerAdjustment:
    return api.ContainerAdjustment(mounts=[api.Mount(destination="data", source="/x")])


def no_cpus(container_id: str, *, ignore: bool = False) -> api.ContainerUpdate:
    update = api.ContainerUpdate(container_id=container_id, ignore_failure=ignore)
    update.linux.resources.cpu.cpus = "a-b"
    return update


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    with FakeRuntime() as made:
        yield made


def test_an_adjustment(runtime: FakeRuntime) -> None:
    pod = make_pod()
    runtime.add(pod)
    plugin = PluginWith(create_container=lambda pod, container: relative_mount())
    with runtime.run_plugin(plugin):
        result = runtime.create_container(pod, make_container(pod), check=False)
    assert isinstance(result.error, SpecError)
    assert str(result.error) == (
        "plugin 10-test requests an impossible change: mount destination 'data' is not an absolute path"
    )
    assert runtime.containers == []


def test_changes_of_one_handler() -> None:
    with pytest.raises(
        SpecError,
        match="the adjustment requests an impossible change: mount destination 'data' is not",
    ):
        Changes(relative_mount()).apply({})


@pytest.mark.parametrize("event", ["create", "update", "stop"])
@pytest.mark.parametrize("ignore", [False, True])
def test_updates_of_an_event(
    runtime: FakeRuntime, event: str, ignore: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod()
    other, container = make_container(pod, "other"), make_container(pod)
    runtime.add(pod, other)
    asked = [no_cpus(other.id, ignore=ignore)]
    plugin = PluginWith(
        create_container=lambda *_: (None, asked if event == "create" else []),
        update_container=lambda *_: asked if event == "update" else [],
        stop_container=lambda *_: asked if event == "stop" else [],
    )
    with runtime.run_plugin(plugin):
        results = [runtime.create_container(pod, container, check=False)]
        if event != "create":
            results.append(runtime.update_container(container, check=False))
            results.append(runtime.stop_container(container, check=False))
    failed = [result.error for result in results if result.error is not None]
    assert [type(error) for error in failed] == ([] if ignore else [SpecError])
    for error in failed:
        assert f"update of container {other.id!r} requests an impossible change: cpus 'a-b'" in str(
            error
        )
    assert ignore == ("cpus 'a-b'" in caplog.text)
    assert runtime.container(other).linux.resources.cpu.cpus != "a-b"


def test_updates_outside_of_an_event(
    runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    pod = make_pod()
    container = make_container(pod)
    runtime.add(pod, container)
    update = no_cpus(container.id)
    with runtime.run_plugin(PluginWith(synchronize=lambda *_: [update])) as stub:
        assert stub.update_containers([update]) == [update]
        assert runtime.container(container).linux.resources.cpu.cpus != "a-b"
    assert caplog.text.count("requests an impossible change: cpus 'a-b'") == 2


def test_a_simulation_names_the_impossible_change() -> None:
    failure = event(
        life(PluginWith(create_container=lambda *_: relative_mount())), "CreateContainer"
    ).failure
    assert failure is not None
    assert failure.kind is FailureKind.SPEC
    assert failure.message.startswith(
        "plugin 10-a requests an impossible change: mount destination"
    )


def test_possible_requests() -> None:
    adjustment = api.Adjustment().add_env("A", "1").message
    refuse_adjustments([Answer("10-a", "CreateContainer", 0.0, adjustment=adjustment)])
    refuse_adjustments([Answer("10-a", "CreateContainer", 0.0)])
    updates = [api.Update("a").set_cpu(cpus="1").message]
    refuse_updates(updates)
    assert list(possible(updates)) == updates
