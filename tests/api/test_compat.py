from __future__ import annotations

import pytest

from nri_sync.api import EventMask, knows, nri_pb2, since, unknown_fields, valid_events

__all__: list[str] = []


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
    # A build on the way to v0.9.1 is older than v0.10.0.
    assert not knows("v0.9.1-0.20250219030224-e597e7849f24", "ContainerAdjustment.args")
    assert knows("v0.9.1-0.20250219030224-e597e7849f24", "PodSandbox.ips")


@pytest.mark.parametrize("release", [None, "", "(devel)", "unknown"])
def test_knows_for_a_release_that_is_none(release: str | None) -> None:
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


def test_valid_events() -> None:
    assert valid_events("v0.12.5") == valid_events("v0.10.0") == EventMask.ALL
    assert valid_events("v0.9.0") == valid_events("v0.2.0") == 0x7FF
    assert valid_events("v0.9.1-0.20250219030224-e597e7849f24") == 0x7FF
    assert valid_events(None) == valid_events("unknown") == EventMask.ALL
