from __future__ import annotations

import threading

import pytest

import nri_sync
from nri_sync import kit
from nri_sync.kit.fields.runtimes import RuntimeId, runtime_of_request
from nri_sync.testing import FakeRuntime, make_container, make_pod

__all__: list[str] = []

WITHIN = 20.0


class Asks:
    """Calls it in a handler, on a thread of a pool, and on a thread without the context of the request."""

    def __init__(self) -> None:
        self.background = kit.Background(threads=1)
        self.found: list[RuntimeId] = []
        self.configured = RuntimeId()

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.configured = runtime_of_request()

    def create_container(self, pod: object, container: object) -> None:
        def elsewhere() -> None:
            self.found.append(runtime_of_request())

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(WITHIN)
        self.background.submit(elsewhere).result(WITHIN)
        self.found.append(RuntimeId.of(None))


def test_the_runtime_of_a_request() -> None:
    plugin = Asks()
    with FakeRuntime("cri-o", "1.34.0") as runtime, runtime.run_plugin(plugin) as stub:
        pod = make_pod()
        runtime.run_pod(pod)
        runtime.create_container(pod, make_container(pod))
        crio = RuntimeId("cri-o", "1.34.0")
        assert RuntimeId.of(stub) == crio
    plugin.background.close(WITHIN)
    nowhere, pool, handler = plugin.found
    assert (pool, handler, plugin.configured) == (crio, crio, crio)
    assert nowhere == runtime_of_request() == RuntimeId()


def test_two_runtimes_in_one_process() -> None:
    """Each request has its own runtime."""
    one, other = Asks(), Asks()
    crio, containerd = FakeRuntime("cri-o", "1.34.0"), FakeRuntime("containerd", "2.1.0")
    with crio, containerd, crio.run_plugin(one), containerd.run_plugin(other):
        for runtime in (crio, containerd):
            pod = make_pod()
            runtime.run_pod(pod)
            runtime.create_container(pod, make_container(pod))
    assert one.found[-1].runtime_name == "cri-o"
    assert other.found[-1].runtime_name == "containerd"
    for plugin in (one, other):
        plugin.background.close(WITHIN)


def test_a_stub_that_is_not_connected_knows_no_runtime() -> None:
    stub = nri_sync.Stub(Asks(), name="asks", idx="10", socket_path="/nowhere")
    assert RuntimeId.of(stub) == RuntimeId()


@pytest.mark.parametrize(
    ("version", "release"),
    [("1.37.0", (1, 37, 0)), ("v2.1.4", (2, 1, 4)), ("", None), ("unknown", None)],
)
def test_releases(version: str, release: tuple[int, int, int] | None) -> None:
    assert RuntimeId("cri-o", version).release() == release
