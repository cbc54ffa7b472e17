"""The differences between the helpers of nri_sync.api and those of the Go package api.

Each test has a Go result that is wrong or silently different, and the right result. D24 and D25 are the numbers of
such defects in docs/.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from nri_sync import api
from nri_sync.api import Adjustment, EventMask, nri_pb2, oci, optional
from tests.interop.gohelpers import GoHelpers, Panic, read, wire

__all__: list[str] = []


@pytest.fixture(scope="module")
def go() -> Iterator[GoHelpers]:
    helpers = GoHelpers()
    yield helpers
    helpers.close()


@pytest.mark.parametrize("text", [" all", "pod ", "createcontainer, container"])
def test_d24_go_does_not_trim_the_names_of_groups(go: GoHelpers, text: str) -> None:
    _, error = go.call("ParseEventMask", text)
    assert "unknown event" in error
    assert EventMask.parse(text) == EventMask.parse(text.replace(" ", ""))


def test_d25_go_wraps_a_negative_cpu_period(go: GoHelpers) -> None:
    theirs, _ = go.each(nri_pb2.ContainerAdjustment(), [("SetLinuxCPUPeriod", [-5])])
    cpu = read(nri_pb2.ContainerAdjustment, theirs).linux.resources.cpu
    assert cpu.period.value == 2**64 - 5
    with pytest.raises(ValueError, match=r"LinuxCPU\.period must be from 0"):
        Adjustment().set_cpu(period=-5)


@pytest.mark.parametrize(
    ("function", "kind", "value"),
    [
        ("Int", "int64", 5),
        ("Int32", "int", 5),
        ("UInt32", "int", 5),
        ("UInt32", "uint64", 5),
        ("Int64", "int32", 5),
        ("UInt64", "uint32", 5),
        ("Bool", "int", 1),
        ("FileMode", "int", 0o666),
        ("String", "int", 5),
    ],
)
def test_d25_go_takes_values_of_other_types_for_absent(
    go: GoHelpers, function: str, kind: str, value: int
) -> None:
    assert go.call(function, {"type": kind, "value": value}) == [None]


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (nri_pb2.Hook(), "timeout", "5"),
        (nri_pb2.LinuxDevice(), "uid", 5.0),
        (nri_pb2.LinuxDevice(), "file_mode", "0666"),
        (nri_pb2.LinuxMemory(), "use_hierarchy", 1),
        (nri_pb2.LinuxMemory(), "limit", True),
        (nri_pb2.LinuxResources(), "rdt_class", 5),
    ],
)
def test_d25_values_of_other_types_are_errors_here(message: Any, field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{field} must be "):
        optional.put(message, field, value)
    # In Python, an int has no width.
    optional.put(nri_pb2.LinuxDevice(), "uid", 5)


@pytest.mark.parametrize(
    ("function", "kind", "value", "wrapped", "message", "field"),
    [
        ("Int64", "uint64", 2**64 - 1, -1, nri_pb2.LinuxMemory(), "limit"),
        ("UInt64", "int64", -1, 2**64 - 1, nri_pb2.LinuxMemory(), "swappiness"),
    ],
)
def test_d25_go_wraps_numbers(
    go: GoHelpers, function: str, kind: str, value: int, wrapped: int, message: Any, field: str
) -> None:
    (theirs,) = go.call(function, {"type": kind, "value": value})
    assert read(type(getattr(message, field)), theirs).value == wrapped
    with pytest.raises(ValueError, match=rf"{field} must be from"):
        optional.put(message, field, value)


def test_d25_go_compares_mounts_without_their_options(go: GoHelpers) -> None:
    left, right = nri_pb2.Mount(options=["ro"]), nri_pb2.Mount(options=["rw"])
    assert go.call("Mount.Cmp", wire(left), wire(right))[1] is True
    assert not api.same_mount(left, right)


def test_d25_go_takes_equal_devices_for_different(go: GoHelpers) -> None:
    left, right = nri_pb2.LinuxDevice(major=1, minor=3), nri_pb2.LinuxDevice(major=1, minor=5)
    assert go.call("LinuxDevice.Cmp", wire(left), wire(left))[1] is False
    assert go.call("LinuxDevice.Cmp", wire(left), wire(right))[1] is True
    assert api.same_device(left, left)
    assert not api.same_device(left, right)


@pytest.mark.parametrize(("mode", "access"), [(0o444, "r"), (0o222, "w"), (0, ""), (0o666, "rw")])
def test_d25_go_gives_access_that_the_mode_denies(go: GoHelpers, mode: int, access: str) -> None:
    device = nri_pb2.LinuxDevice(type="c", file_mode=nri_pb2.OptionalFileMode(value=mode))
    assert go.call("LinuxDevice.AccessString", wire(device))[1] == "rw"
    assert api.device_access(device) == access


def test_d25_go_loses_a_removal_in_a_copy(go: GoHelpers) -> None:
    rdt = nri_pb2.LinuxRdt(remove=True, clos_id=nri_pb2.OptionalString(value="a"))
    _, theirs = go.call("LinuxRdt.Copy", wire(rdt))
    assert read(nri_pb2.LinuxRdt, theirs).remove is False
    ours = nri_pb2.LinuxRdt()
    ours.CopyFrom(rdt)
    assert ours.remove is True


@pytest.mark.parametrize(
    ("function", "written", "field", "from_oci"),
    [
        (
            "FromOCILinuxScheduler",
            {"policy": "SCHED_RR", "flags": ["NO_SUCH"]},
            "flags",
            oci.scheduler_from_oci,
        ),
        ("FromOCILinuxScheduler", {"policy": "NO_SUCH"}, "policy", oci.scheduler_from_oci),
        ("FromOCILinuxIOPriority", {"class": "NO_SUCH"}, "class", oci.io_priority_from_oci),
        ("FromOCILinuxMemoryPolicy", {"mode": "NO_SUCH"}, "mode", oci.memory_policy_from_oci),
        (
            "FromOCILinuxMemoryPolicy",
            {"mode": "MPOL_BIND", "flags": ["NO_SUCH"]},
            "flags",
            oci.memory_policy_from_oci,
        ),
    ],
)
def test_d25_go_takes_unknown_names_for_the_first(
    go: GoHelpers, function: str, written: dict[str, Any], field: str, from_oci: Any
) -> None:
    known = from_oci({**written, field: [] if field == "flags" else None})
    (theirs,) = go.call(function, written)
    got = getattr(read(type(known), theirs), field)
    assert (list(got) if field == "flags" else got) == ([0] if field == "flags" else 0)
    with pytest.raises(ValueError, match=rf"\.{field}.* must be one of .*, not 'NO_SUCH'"):
        from_oci(written)


def test_d25_go_counts_times_from_the_year_1(go: GoHelpers) -> None:
    container = nri_pb2.Container(created_at=1_700_000_000_000_000_000)
    for name in ("CreatedAt", "StartedAt", "FinishedAt"):
        setattr(container, name.replace("At", "_at").lower(), 1_700_000_000_000_000_000)
        _, theirs = go.call(f"Container.Get{name}Time", wire(container))
        assert theirs == "0054-11-14T22:13:20Z"
    right = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert api.created_at(container) == api.started_at(container) == right
    assert api.finished_at(container) == right


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("AddHooks", [None]), ("AddOrReplaceNamespace", [None]), ("RemoveNamespace", [None])],
)
def test_go_panics_on_nothing(go: GoHelpers, method: str, arguments: list[None]) -> None:
    """Some Go functions do not panic, because they only store the argument. They then send an empty entry."""
    calls: list[tuple[str, list[Any]]] = [(method, list(arguments))]
    adjustment = Adjustment()
    if method == "AddOrReplaceNamespace":
        theirs, _ = go.each(nri_pb2.ContainerAdjustment(), calls)
        assert len(read(nri_pb2.ContainerAdjustment, theirs).linux.namespaces) == 1
    else:
        with pytest.raises(Panic, match="nil pointer"):
            go.each(nri_pb2.ContainerAdjustment(), calls)
    with pytest.raises(TypeError):
        getattr(adjustment, "add_hooks" if method == "AddHooks" else "set_namespace")(None)
    assert adjustment == Adjustment()


def test_go_panics_on_a_seccomp_policy_that_is_not_there(go: GoHelpers) -> None:
    with pytest.raises(Panic, match="nil pointer"):
        go.call("FromOCILinuxSeccomp", None)
    assert oci.seccomp_from_oci(None) is None


def test_go_panics_on_a_claim_in_a_message_that_came_in_empty(go: GoHelpers) -> None:
    with pytest.raises(Panic, match="nil map"):
        go.call("OwningPlugins.ClaimArgs", "", "c", "10-a")
    owners = api.Owners(nri_pb2.OwningPlugins())
    owners.claim("c", api.Field.Args, "10-a")
    assert owners.owner("c", api.Field.Args) == "10-a"


@pytest.mark.parametrize("version", ["1.35.0", "1.34.2"])
def test_d20_go_infers_nothing_without_a_v(go: GoHelpers, version: str) -> None:
    release, error = go.call("InferVersionFromRuntime", "cri-o", version)
    assert release == "0.0.0-unknown"
    assert error
    assert api.infer_nri_version("cri-o", version) in ("v0.10.0", "v0.11.0")
