"""The watch on the handlers of a plugin under test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import nri_sync
from nri_sync.errors import RequestFailed
from nri_sync.testing import FakeRuntime, common, make_pod
from nri_sync.testing.watch import Watch
from tests.runtime.rig import LONG, Never, PluginWith

__all__: list[str] = []


@pytest.fixture
def watch() -> Watch:
    return Watch("key: value")


@pytest.fixture
def connect(runtime: FakeRuntime, watch: Watch) -> Iterator[Any]:
    """Starts a watched plugin."""
    made: list[nri_sync.Stub] = []

    def connect(**handlers: Any) -> nri_sync.Stub:
        stub = nri_sync.Stub(
            PluginWith(**handlers), name="test", idx="10", socket_path=runtime.socket_path,
            interceptors=[watch], on_close=lambda stub: watch.closed(),
        )  # fmt: skip
        made.append(stub)
        stub.start(LONG)
        return stub

    yield connect
    for stub in made:
        stub.stop()


def test_the_configuration_is_handed_over(connect: Any) -> None:
    configured: list[str] = []

    def configure(config: str, runtime: str, version: str) -> None:
        configured.append(config)

    connect(configure=configure)
    assert configured == ["key: value"]


def test_the_watch_knows_when_the_plugin_is_synchronized(connect: Any, watch: Watch) -> None:
    assert not watch.wait_synchronized(0.001)
    connect(run_pod_sandbox=lambda pod: None)
    assert watch.wait_synchronized(LONG)


def test_the_watch_knows_that_the_synchronization_has_failed(connect: Any, watch: Watch) -> None:
    def synchronize(pods: Any, containers: Any) -> None:
        raise ValueError("no state, please")

    connect(synchronize=synchronize)
    assert not watch.wait_synchronized(LONG)
    assert isinstance(watch.take("Synchronize"), ValueError)


def test_each_exception_is_returned_once(runtime: FakeRuntime, connect: Any, watch: Watch) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyError(len(arguments))

    connect(run_pod_sandbox=fail, create_container=fail)
    assert watch.wait_synchronized(LONG)
    runtime.wait_for(lambda: runtime.plugins)
    with pytest.raises(RequestFailed):
        runtime.run_pod(make_pod())
    assert watch.take("CreateContainer") is None
    error = watch.take("RunPodSandbox")
    assert isinstance(error, KeyError)
    assert error.args == (1,)
    assert watch.take("RunPodSandbox") is None
    assert watch.take() is None


def test_running_handlers(
    runtime: FakeRuntime, connect: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = Never()
    connect(run_pod_sandbox=never)
    assert watch.wait_synchronized(LONG)
    runtime.wait_for(lambda: runtime.plugins)
    teller = threading.Thread(target=runtime.run_pod, args=(make_pod(),), kwargs={"check": False})
    teller.start()
    assert never.called.wait(LONG)
    monkeypatch.setattr("nri_sync.testing.watch.WITHIN", 0.01)
    assert watch.still_running() == ["RunPodSandbox"]
    monkeypatch.setattr("nri_sync.testing.watch.WITHIN", common.WITHIN)
    never.release.set()
    assert watch.still_running() == []
    teller.join()
