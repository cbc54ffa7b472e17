"""The devices that are moved, and the time of the moves; tests/e2e moves real devices."""

from __future__ import annotations

from typing import Any

import pytest

from examples.network_device_injector import plugin as module
from examples.network_device_injector.plugin import Config, NetworkDevice, NetworkDeviceInjector
from nri_sync import api
from nri_sync.testing import FakeRuntime, StartPlugin, make_pod

__all__: list[str] = []

NETNS = "/var/run/netns/cni-1"
KEY = "netdevices.noderesource.dev"


def a_pod(key: str = KEY, text: str = "[{name: eth7}]", path: str | None = NETNS) -> api.PodSandbox:
    network = [] if path is None else [api.LinuxNamespace(type="network", path=path)]
    return make_pod("web", annotations={key: text}, namespaces=network)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records the moves. A device named "stuck" cannot be moved."""
    found: list[Any] = []

    def move_in(device: NetworkDevice, namespace: str) -> None:
        if device.name == "stuck":
            raise ValueError("there is no network device stuck")
        found.append(("in", device, namespace))

    def move_out(device: NetworkDevice, namespace: str) -> None:
        found.append(("out", device.name, namespace))
        if device.name == "gone":
            raise ValueError("there is no network device gone")

    monkeypatch.setattr(module, "move_in", move_in)
    monkeypatch.setattr(module, "move_out", move_out)
    return found


def new_plugin() -> NetworkDeviceInjector:
    plugin = NetworkDeviceInjector()
    plugin.config = Config(devices=["eth*", "stuck", "gone"])
    return plugin


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("[{name: eth7}]", NetworkDevice("eth7", "eth7")),
        (
            "[{name: eth7, new_name: net0, address: 10.0.0.2, prefix: 24, mtu: 1400}]",
            NetworkDevice("eth7", "net0", "10.0.0.2", 24, 1400),
        ),
        ("[{name: eth7, address: 10.0.0.2}]", NetworkDevice("eth7", "eth7", "10.0.0.2", 32)),
        ("[{name: eth7, address: 'fd00::2'}]", NetworkDevice("eth7", "eth7", "fd00::2", 128)),
    ],
)
@pytest.mark.parametrize(
    "key",
    [KEY, f"{KEY}/pod", "netdevice.noderesource.dev", "netdevices.nri.containerd.io"],
)
def test_in_and_out(
    key: str,
    text: str,
    device: NetworkDevice,
    moves: list[Any],
    nri_runtime: FakeRuntime,
    nri_plugin: StartPlugin,
) -> None:
    nri_plugin(new_plugin())
    pod = a_pod(key, text)
    nri_runtime.run_pod(pod)
    nri_runtime.remove_pod(pod)
    assert moves == [("in", device, NETNS), ("out", "eth7", NETNS)]


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        (a_pod(path=None), "trying to inject network device on host network Pod"),
        (a_pod(text="[{name: eth7, address: 10.0.0}]"), "error parsing address 10.0.0"),
        (a_pod(text="{name: eth7}"), "expected a list"),
        (
            a_pod(text="[{name: eth7}, {name: wlan0}]"),
            "the network device 'wlan0' is not among those",
        ),
        (a_pod(text="[{name: stuck}]"), "there is no network device stuck"),
    ],
)
def test_an_invalid_request_for_a_device_fails_the_pod(
    pod: api.PodSandbox,
    says: str,
    moves: list[Any],
    nri_runtime: FakeRuntime,
    nri_plugin: StartPlugin,
) -> None:
    nri_plugin(new_plugin())
    assert says in str(nri_runtime.run_pod(pod, check=False).error)
    assert moves == []


def test_a_pod_that_fails_keeps_no_device(moves: list[Any]) -> None:
    with pytest.raises(ValueError, match="stuck"):
        new_plugin().run_pod_sandbox(a_pod(text="[{name: eth7}, {name: stuck}]"))
    assert [move[0] for move in moves] == ["in", "out"]


def test_devices_come_back_without_a_namespace_in_the_event(moves: list[Any]) -> None:
    plugin = new_plugin()
    pod = a_pod(text="[{name: gone}, {name: eth7}]")
    plugin.synchronize([pod], [])
    del pod.linux.namespaces[:]
    plugin.stop_pod_sandbox(pod)
    assert moves == [("out", "gone", NETNS), ("out", "eth7", NETNS)], "one that fails is not all"


def test_without_a_configuration_no_device_may_be_moved(moves: list[Any]) -> None:
    with pytest.raises(PermissionError, match="the network device 'eth7' is not"):
        NetworkDeviceInjector().run_pod_sandbox(a_pod(text="[{name: eth7}]"))
    plugin = new_plugin()
    plugin.config.namespaces = []
    with pytest.raises(PermissionError, match="the namespace"):
        plugin.run_pod_sandbox(a_pod(text="[{name: eth7}]"))
    assert moves == []
