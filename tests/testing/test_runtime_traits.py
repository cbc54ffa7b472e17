"""The differences between runtimes in a container's lifecycle. tests/recorded has those of real runtimes."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.testing import FakeRuntime, make_container, make_pod

__all__: list[str] = []


class Recorder:
    """Records, for each event, the state, and whether there is a process id."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, bool]] = {}
        self.namespaces: list[list[str]] = []

    def post_start_container(self, pod: Any, container: Any) -> None:
        self._keep("start", container)

    def update_container(self, pod: Any, container: Any, resources: Any) -> None:
        self._keep("update", container)

    def stop_container(self, pod: Any, container: Any) -> None:
        self._keep("stop", container)

    def remove_container(self, pod: Any, container: Any) -> None:
        self._keep("remove", container)

    def remove_pod_sandbox(self, pod: Any) -> None:
        self.namespaces.append([item.type for item in pod.linux.namespaces])

    def _keep(self, event: str, container: Any) -> None:
        self.seen[event] = (container.state, container.pid > 0)


UNKNOWN, CREATED, RUNNING, STOPPED = (
    getattr(api.ContainerState, f"CONTAINER_{name}")
    for name in ("UNKNOWN", "CREATED", "RUNNING", "STOPPED")
)


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (
            "containerd",
            "2.4.2",
            {
                "start": (RUNNING, True),
                "update": (RUNNING, True),
                "stop": (STOPPED, True),
                "remove": (UNKNOWN, False),
            },
        ),
        (
            "cri-o",
            "1.34.0",
            {
                "start": (CREATED, False),
                "update": (RUNNING, False),
                "stop": (STOPPED, False),
                "remove": (STOPPED, False),
            },
        ),
    ],
)
def test_states_and_process_ids(
    name: str, version: str, expected: dict[str, tuple[int, bool]]
) -> None:
    plugin = Recorder()
    pod = make_pod("web")
    container = make_container(pod, "app")
    with FakeRuntime(name=name, version=version) as runtime, runtime.run_plugin(plugin):
        runtime.run_pod(pod)
        runtime.create_container(pod, container)
        runtime.start_container(container)
        runtime.update_container(container, api.Update("any").set_cpu(shares=9).resources)
        runtime.remove_pod(pod)
    assert plugin.seen == expected
    [namespaces] = plugin.namespaces
    assert ("network" in namespaces) is (name == "cri-o")
