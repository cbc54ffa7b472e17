from __future__ import annotations

import pytest

from nri_sync.api import EventMask, knows, nri_pb2, since, unknown_fields, valid_events
from nri_sync.api.compat import (
    clear_unknown_fields,
    fields_unknown_to,
    ignores_any,
    since_of,
)

__all__: list[str] = []

_NAMES = [
    f"{kind.name}.{field.name}"
    for kind in nri_pb2.DESCRIPTOR.message_types_by_name.values()
    for field in kind.fields
]
# Each release that has added a field, and two more.
_RELEASES = sorted({"v0.1.0", "v0.12.5", *map(since, _NAMES)})


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("Container", "v0.2.0"),
        ("Container.id", "v0.2.0"),
        ("Container.user", "v0.11.0"),
        ("ContainerAdjustment.CDI_devices", "v0.7.0"),
        ("LinuxRdt", "v0.11.0"),
        ("LinuxRdt.schemata", "v0.11.0"),
        ("LogRequest.Level.LEVEL_INFO", "v0.9.0"),
        ("Event.LAST", "v0.2.0"),
        ("Event.UPDATE_POD_SANDBOX", "v0.10.0"),
        ("Plugin.Configure", "v0.2.0"),
        ("Plugin.StartContainer", "v0.12.0"),
    ],
)
def test_since(name: str, release: str) -> None:
    assert since(name) == release


@pytest.mark.parametrize("name", ["", "Container.nobody", "Nobody", "Container.", "container.id"])
def test_since_of_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="the NRI protocol has no"):
        since(name)


def test_knows() -> None:
    assert knows("v0.11.0", "Container.user")
    assert knows("0.12.5", "Container.user")
    assert not knows("v0.10.0", "Container.user")
    # A build before v0.9.1 is older than v0.10.0.
    assert not knows("v0.9.1-0.20250219030224-e597e7849f24", "ContainerAdjustment.args")
    assert knows("v0.9.1-0.20250219030224-e597e7849f24", "PodSandbox.ips")


@pytest.mark.parametrize("release", [None, "", "(devel)", "unknown"])
def test_knows_for_an_unknown_release(release: str | None) -> None:
    assert knows(release, "Container.id") is False
    assert knows(release, "Container.id", unsure=True) is True


def test_unknown_fields() -> None:
    adjustment = nri_pb2.ContainerAdjustment(args=["sh"])
    adjustment.annotations["key"] = "value"
    adjustment.linux.sysctl["net.core.somaxconn"] = "1024"
    adjustment.linux.resources.pids.limit = 5
    assert unknown_fields(adjustment, "v0.12.5") == []
    assert unknown_fields(adjustment, "v0.10.0") == ["linux.sysctl"]
    assert unknown_fields(adjustment, "v0.6.1") == ["linux.resources.pids", "linux.sysctl", "args"]
    assert unknown_fields(adjustment, None) == []


def test_unknown_fields_in_a_list() -> None:
    response = nri_pb2.UpdateContainerResponse()
    response.update.add(container_id="a")
    response.update.add(container_id="b").linux.resources.pids.limit = 5
    assert unknown_fields(response, "v0.6.1") == ["update[1].linux.resources.pids"]


@pytest.mark.parametrize("release", [None, "unknown", "v0.2.0", "v0.6.1", "v0.11.0", "v0.12.5"])
def test_unknown_fields_are_found_by_looking_at_each(release: str | None) -> None:
    """The sets of unknown fields agree with knows(), for all fields of all messages."""
    for name, kind in nri_pb2.DESCRIPTOR.message_types_by_name.items():
        expected = [
            field.name
            for field in kind.fields
            if not knows(release, f"{name}.{field.name}", unsure=True)
        ]
        direct = [path for path in fields_unknown_to(kind, release) if "." not in path]
        assert direct == expected


@pytest.mark.parametrize(
    ("release", "ignores"), [("v0.12.5", False), ("v0.12.3", True), ("v0.8.0", True), (None, False)]
)
def test_releases_that_ignore_fields(release: str | None, ignores: bool) -> None:
    assert ignores_any(release) is ignores
    assert bool(fields_unknown_to(nri_pb2.ConfigureResponse.DESCRIPTOR, release)) is ignores


@pytest.mark.parametrize("release", _RELEASES)
def test_ignores_any_agrees_with_the_fields(release: str) -> None:
    kinds = nri_pb2.DESCRIPTOR.message_types_by_name.values()
    assert ignores_any(release) is any(fields_unknown_to(kind, release) for kind in kinds)


def test_fields_unknown_to_a_release() -> None:
    kind = nri_pb2.CreateContainerResponse.DESCRIPTOR
    assert fields_unknown_to(kind, "v0.11.0") == ["adjust.linux.memory_policy"]
    of_08 = fields_unknown_to(kind, "v0.8.0")
    assert {"adjust.args", "adjust.linux.sysctl", "adjust.linux.namespaces"} <= set(of_08)
    assert not any("pids" in path for path in of_08)
    assert "update.linux.resources.pids" in fields_unknown_to(kind, "v0.6.1")


def test_the_release_of_a_path() -> None:
    response = nri_pb2.CreateContainerResponse()
    assert since_of(response, "adjust.linux.sysctl") == "v0.11.0"
    assert since_of(response, "update[12].linux.resources.pids") == "v0.7.0"
    assert since_of(nri_pb2.ConfigureResponse(), "failure_policy") == "v0.12.4"


def test_cleared_fields_are_named() -> None:
    response = nri_pb2.CreateContainerResponse()
    response.adjust.linux.sysctl["a"] = "b"
    response.adjust.args.append("sh")
    assert clear_unknown_fields(response, "v0.10.0") == ["adjust.linux.sysctl"]
    assert clear_unknown_fields(response, "v0.10.0") == []
    assert list(response.adjust.args) == ["sh"]


def test_valid_events() -> None:
    assert valid_events("v0.12.5") == valid_events("v0.10.0") == EventMask.ALL
    assert valid_events("v0.9.0") == valid_events("v0.2.0") == 0x7FF
    assert valid_events("v0.9.1-0.20250219030224-e597e7849f24") == 0x7FF
    assert valid_events(None) == valid_events("unknown") == EventMask.ALL
