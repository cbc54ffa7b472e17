"""The adjustments of plugins as dicts and lists."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.errors import RequestFailed, ValidationRejected
from nri_sync.testing import NoEffectWarning, make_container, make_pod
from nri_sync.testing.result import Answer, Changes, Result, merge

__all__: list[str] = []

POD = make_pod()
CONTAINER = make_container(POD, env={"OLD": "1"})


def full() -> api.Adjustment:
    return (
        api.Adjustment()
        .add_env("NEW", "2").remove_env("OLD")
        .add_annotation("a", "b").remove_annotation("c")
        .add_mount("/in", source="/out", options=["ro"]).remove_mount("/gone")
        .add_device("/dev/null", "c", 1, 3).remove_device("/dev/zero")
        .add_cdi_device("vendor.com/class=device")
        .set_args(["run", "it"])
        .add_rlimit("RLIMIT_CORE", hard=2, soft=1)
        .set_namespace("network", "/ns").remove_namespace("ipc")
        .set_sysctl("k", "v").remove_sysctl("l")
        .set_cpu(shares=5)
    )  # fmt: skip


def test_each_kind_of_change() -> None:
    changes = Changes(full())
    assert changes.env == {"NEW": "2", "OLD": None}
    assert changes.annotations == {"a": "b", "c": None}
    assert changes.mounts.keys() == {"/in", "/gone"}
    assert changes.mounts["/gone"] is None
    mount = changes.mounts["/in"]
    assert mount is not None
    assert (mount.source, list(mount.options)) == ("/out", ["ro"])
    device = changes.devices["/dev/null"]
    assert device is not None
    assert (device.major, device.minor) == (1, 3)
    assert changes.devices["/dev/zero"] is None
    assert changes.cdi_devices == ["vendor.com/class=device"]
    assert changes.args == ["run", "it"]
    assert {type: (limit.soft, limit.hard) for type, limit in changes.rlimits.items()} == {
        "RLIMIT_CORE": (1, 2)
    }
    assert changes.namespaces == {"network": "/ns", "ipc": None}
    assert changes.sysctl == {"k": "v", "l": None}
    assert changes.resources.cpu.shares.value == 5
    assert not changes.empty


def test_values_are_of_the_types_that_the_page_names() -> None:
    """The values are texts and messages, without further conversion."""
    changes = Changes(full().add_rlimit("RLIMIT_AS", hard=2, soft=1))
    for values in (changes.env, changes.annotations, changes.sysctl, changes.namespaces):
        assert {type(value) for value in values.values()} == {str, type(None)}
    assert {type(value) for value in changes.mounts.values()} == {api.Mount, type(None)}
    assert {type(value) for value in changes.devices.values()} == {api.LinuxDevice, type(None)}
    assert {type(value) for value in changes.rlimits.values()} == {api.POSIXRlimit}
    assert {type(value) for value in (*changes.args, *changes.cdi_devices)} == {str}
    assert type(changes.resources) is api.LinuxResources
    assert type(changes.adjustment) is api.ContainerAdjustment
    assert {type(item) for item in Changes((None, [update()])).updates} == {api.ContainerUpdate}


def update() -> api.Update:
    return api.Update("other").set_cpu(shares=3)


@pytest.mark.parametrize(
    ("answered", "env", "updates"),
    [
        (None, {}, []),
        (api.Adjustment().add_env("A", "b"), {"A": "b"}, []),
        (api.ContainerAdjustment(env=[api.KeyValue(key="A", value="b")]), {"A": "b"}, []),
        ((api.Adjustment().add_env("A", "b"), [update()]), {"A": "b"}, ["other"]),
        (api.CreateContainerResponse(update=[update().message]), {}, ["other"]),
    ],
)
def test_all_that_a_handler_may_return(answered: Any, env: object, updates: list[str]) -> None:
    changes = Changes(answered)
    assert changes.env == env
    assert [update.container_id for update in changes.updates] == updates
    assert changes.empty == (not env and not updates)


def test_values_that_a_handler_may_not_return() -> None:
    with pytest.raises(TypeError, match="create_container returned str"):
        Changes("adjusted")  # type: ignore[arg-type]


def test_a_removed_entry_that_is_set_again_is_set() -> None:
    adjustment = api.Adjustment().remove_env("A").add_env("A", "new")
    assert Changes(adjustment).env == {"A": "new"}
    assert Changes(api.Adjustment().replace_args(["a"])).args == ["a"]


def test_empty_messages_do_not_count_and_arguments_stay() -> None:
    adjustment = api.ContainerAdjustment()
    adjustment.linux.resources.cpu.SetInParent()
    assert Changes(adjustment).empty
    assert adjustment.linux.resources.HasField("cpu")


def test_applied_to_a_specification() -> None:
    """apply() merges first, like a runtime. That drops the removal of a variable of the container itself."""
    spec = {"process": {"env": ["OLD=1", "KEPT=1"]}}
    with pytest.warns(NoEffectWarning, match="'OLD' has no effect") as warned:
        assert Changes(full()).apply(spec)["process"]["env"] == ["OLD=1", "KEPT=1", "NEW=2"]
    assert [warning.filename for warning in warned] == [__file__]
    assert spec == {"process": {"env": ["OLD=1", "KEPT=1"]}}
    assert Changes().apply({}) == {}


def test_a_failed_assertion_shows_the_result() -> None:
    changes = Changes((api.Adjustment().add_env("A", "b"), [update()]))
    assert repr(changes) == '<Changes: env { key: "A" value: "b" }; updates of [\'other\']>'
    assert repr(Changes()) == "<Changes: no adjustment; updates of []>"
    failed = RequestFailed("no", plugin="p", event="e", reason="r")
    assert (
        repr(Result("RunPodSandbox", POD, None, error=failed))
        == "<Result: RunPodSandbox failed: no>"
    )


def test_a_rejection() -> None:
    rejected = Result(
        "CreateContainer", POD, CONTAINER, error=ValidationRejected("10-v", "too much")
    )
    assert rejected.rejected == "too much"
    assert Result("CreateContainer", POD, CONTAINER).rejected is None
    failed = RequestFailed("no", plugin="p", event="e", reason="r")
    assert Result("CreateContainer", POD, CONTAINER, error=failed).rejected is None


def answers() -> list[Answer]:
    return [
        Answer(
            "10-a", "CreateContainer", 0.1, adjustment=api.Adjustment().add_env("A", "1").message
        ),
        Answer("20-b", "CreateContainer", 0.1),
        Answer(
            "30-c", "CreateContainer", 0.1, adjustment=api.Adjustment().remove_env("OLD").message
        ),
    ]


def test_answers_merged_into_the_container() -> None:
    container, owners = merge(POD, CONTAINER, answers())
    assert "A=1" in container.env
    assert "OLD=1" not in container.env
    assert "OLD=1" in CONTAINER.env
    result = Result("CreateContainer", POD, container, owners=owners, answers=answers())
    assert result.owner(api.Field.Env, "A") == "10-a"
    assert result.owner(api.Field.Env, "B") is None
    assert result.owner(api.Field.Args) is None
    assert [answer.plugin for answer in result.answers] == ["10-a", "20-b", "30-c"]


def test_merged_up_to_a_conflict() -> None:
    late = Answer(
        "40-d", "CreateContainer", 0.1, adjustment=api.Adjustment().add_env("A", "2").message
    )
    after = Answer(
        "50-e", "CreateContainer", 0.1, adjustment=api.Adjustment().add_env("E", "2").message
    )
    container, owners = merge(POD, CONTAINER, [*answers(), late, after])
    assert "A=1" in container.env
    assert owners.owner(container.id, api.Field.Env, "E") is None
