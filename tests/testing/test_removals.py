"""Removals without an effect, by kind and by the order of plugins."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.api import Adjustment, Container, CreateContainerRequest, CreateContainerResponse
from nri_sync.runtime.oci_container import adjust_container, container_to_oci
from nri_sync.runtime.result import CreateResult
from nri_sync.testing.removals import NoEffectWarning, ineffective_removals

__all__: list[str] = []

# For each kind: a container that has an entry, adjustments that set and remove the entry, and the entry's name.
KINDS: dict[str, tuple[Container, Adjustment, Adjustment, str]] = {}


def kind(name: str, own: Container, put: Adjustment, remove: Adjustment, key: str) -> None:
    KINDS[name] = own, put, remove, f"{name} {key!r}"


_device = Container()
_device.linux.devices.add(path="/dev/x", type="c", major=1, minor=3)
_sysctl = Container()
_sysctl.linux.sysctl["k"] = "v"
_net = Container()
_net.linux.net_devices["eth1"].name = "n0"
_mount = Container()
_mount.mounts.add(destination="/a", source="/x")
_namespace = Container()
_namespace.linux.namespaces.add(type="ipc")

kind(
    "environment variable",
    Container(env=["A=1"]),
    Adjustment().add_env("A", "2"),
    Adjustment().remove_env("A"),
    "A",
)
kind(
    "device",
    _device,
    Adjustment().add_device("/dev/x", "c", 1, 5),
    Adjustment().remove_device("/dev/x"),
    "/dev/x",
)
kind(
    "mount",
    _mount,
    Adjustment().add_mount("/a", source="/y"),
    Adjustment().remove_mount("/a"),
    "/a",
)
kind(
    "annotation",
    Container(annotations={"k": "v"}),
    Adjustment().add_annotation("k", "2"),
    Adjustment().remove_annotation("k"),
    "k",
)
kind("sysctl", _sysctl, Adjustment().set_sysctl("k", "2"), Adjustment().remove_sysctl("k"), "k")
kind(
    "network device",
    _net,
    Adjustment().add_net_device("eth1", "n1"),
    Adjustment().remove_net_device("eth1"),
    "eth1",
)
kind(
    "namespace",
    _namespace,
    Adjustment().set_namespace("ipc", "/x"),
    Adjustment().remove_namespace("ipc"),
    "ipc",
)


def told(own: Container, *adjustments: Adjustment) -> list[str]:
    """The texts about the answers of plugins 0, 1, 2 ..., after merging and applying them like a runtime."""
    container = Container(id="c")
    container.MergeFrom(own)
    result = CreateResult(CreateContainerRequest(container=container))
    for number, adjustment in enumerate(adjustments):
        result.apply(f"{number}", CreateContainerResponse(adjust=adjustment.message))
    made = adjust_container(container, result.reply.adjust)
    asked = [(f"{number}", item.message) for number, item in enumerate(adjustments)]
    return ineffective_removals(asked, container_to_oci(made))


def about(texts: list[str]) -> list[str]:
    return [text.partition(" has no effect")[0] for text in texts]


@pytest.mark.parametrize("name", KINDS)
def test_of_the_containers_own(name: str) -> None:
    own, _, remove, entry = KINDS[name]
    lost = name in ("environment variable", "device")
    expected = [f"plugin 0: the removal of {entry}"] if lost else []
    assert about(told(own, remove)) == expected


@pytest.mark.parametrize("name", [name for name in KINDS if name != "namespace"])
def test_of_an_earlier_plugins(name: str) -> None:
    _, put, remove, entry = KINDS[name]
    lost = name in ("annotation", "sysctl", "network device")
    expected = [f"plugin 1: the removal of {entry}"] if lost else []
    assert about(told(Container(), put, remove)) == expected


@pytest.mark.parametrize("name", KINDS)
def test_of_nothing(name: str) -> None:
    assert told(Container(), KINDS[name][2]) == []


@pytest.mark.parametrize("name", [name for name in KINDS if name != "namespace"])
def test_an_entry_that_the_same_plugin_sets_again(name: str) -> None:
    own, put, remove, _ = KINDS[name]
    both = Adjustment()
    both.message.MergeFrom(remove.message)
    both.message.MergeFrom(put.message)
    assert told(own, put, both) == []


@pytest.mark.parametrize("name", [name for name in KINDS if name != "namespace"])
def test_an_entry_that_a_later_plugin_sets(name: str) -> None:
    own, put, remove, _ = KINDS[name]
    assert told(own, remove, put) == []


def test_an_entry_that_exists_twice() -> None:
    own = Container()
    for _ in range(2):
        own.mounts.add(destination="/a")
    assert about(told(own, Adjustment().remove_mount("/a"))) == [
        "plugin 0: the removal of mount '/a'"
    ]


def test_a_specification_may_have_anything() -> None:
    spec: dict[str, Any] = {"process": None, "mounts": [{}], "linux": {"devices": [{}]}}
    asked = [("0", Adjustment().remove_mount("/a").remove_device("/b").remove_env("C").message)]
    assert ineffective_removals(asked, spec) == []


def test_the_warning_is_a_user_warning() -> None:
    assert issubclass(NoEffectWarning, UserWarning)
