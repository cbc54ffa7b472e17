from __future__ import annotations

import json
from typing import Any, Callable

import pytest

from nri_sync.api import KeyValue, LinuxScheduler, LinuxSeccomp, MpolFlag, MpolMode, oci, optional

__all__: list[str] = []

# Each case is converted in both directions.
PARTS: list[tuple[Callable[[Any], Any], Callable[[Any], Any], Any]] = [
    (oci.env_from_oci, oci.env_to_oci, ["A=1", "B=", "=x", "C=a=b"]),
    (
        oci.mounts_from_oci,
        oci.mounts_to_oci,
        [
            {"destination": "/a"},
            {"destination": "/b", "type": "bind", "source": "/c", "options": ["ro", "relabel"]},
        ],
    ),
    (
        oci.hooks_from_oci,
        oci.hooks_to_oci,
        {
            "prestart": [{"path": "/a"}],
            "createRuntime": [{"path": "/b", "args": ["b", "-x"], "env": ["A=1"], "timeout": 0}],
            "createContainer": [{"path": "/c"}],
            "startContainer": [{"path": "/d"}],
            "poststart": [{"path": "/e"}],
            "poststop": [{"path": "/f", "timeout": 5}],
        },
    ),
    (
        oci.rlimits_from_oci,
        oci.rlimits_to_oci,
        [
            {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            {"type": "a", "hard": 2**64 - 1, "soft": 1},
        ],
    ),
    (
        oci.devices_from_oci,
        oci.devices_to_oci,
        [
            {"path": "/dev/a", "type": "c", "major": 0, "minor": 0},
            {"path": "/b", "type": "b", "major": 1, "minor": 2, "fileMode": 0, "uid": 0, "gid": 9},
        ],
    ),
    (
        oci.namespaces_from_oci,
        oci.namespaces_to_oci,
        [{"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net"}],
    ),
    (oci.net_devices_from_oci, oci.net_devices_to_oci, {"eth0": {}, "eth1": {"name": "net0"}}),
    (
        oci.resources_from_oci,
        oci.resources_to_oci,
        {
            "devices": [
                {"allow": False},
                {"allow": True, "type": "c", "major": 0, "minor": 3, "access": "rw"},
            ],
            "memory": {
                "limit": 0,
                "reservation": 1,
                "swap": -1,
                "kernel": 2,
                "kernelTCP": 3,
                "swappiness": 60,
                "disableOOMKiller": False,
                "useHierarchy": True,
            },
            "cpu": {
                "shares": 2,
                "quota": -1,
                "period": 3,
                "realtimeRuntime": 4,
                "realtimePeriod": 5,
                "cpus": "0-3",
                "mems": "0",
            },
            "pids": {"limit": 7},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "unified": {"memory.high": "max"},
        },
    ),
    (oci.resources_from_oci, oci.resources_to_oci, {"cpu": {}, "memory": {}}),
    (
        oci.seccomp_from_oci,
        oci.seccomp_to_oci,
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/s",
            "listenerMetadata": "m",
            "syscalls": [
                {
                    "names": ["socket"],
                    "action": "SCMP_ACT_ALLOW",
                    "errnoRet": 0,
                    "args": [
                        {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
                        {"index": 1, "value": 5, "valueTwo": 6, "op": "SCMP_CMP_MASKED_EQ"},
                    ],
                }
            ],
        },
    ),
    (
        oci.io_priority_from_oci,
        oci.io_priority_to_oci,
        {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
    ),
    (oci.io_priority_from_oci, oci.io_priority_to_oci, {"class": "", "priority": 3}),
    (
        oci.scheduler_from_oci,
        oci.scheduler_to_oci,
        {
            "policy": "SCHED_DEADLINE",
            "nice": -5,
            "priority": 3,
            "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"],
            "runtime": 1,
            "deadline": 2,
            "period": 3,
        },
    ),
    (
        oci.memory_policy_from_oci,
        oci.memory_policy_to_oci,
        {"mode": "MPOL_DEFAULT", "nodes": "", "flags": ["MPOL_F_STATIC_NODES"]},
    ),
    (
        oci.rdt_from_oci,
        oci.rdt_to_oci,
        {"closID": "", "schemata": [], "enableMonitoring": False},
    ),
]


@pytest.mark.parametrize(("from_oci", "to_oci", "part"), PARTS)
def test_both_directions(
    from_oci: Callable[[Any], Any], to_oci: Callable[[Any], Any], part: Any
) -> None:
    before = json.dumps(part)
    written = to_oci(from_oci(part))
    assert written == part
    json.dumps(written)
    assert json.dumps(part) == before


@pytest.mark.parametrize(
    "from_oci",
    [
        *(oci.hooks_from_oci, oci.resources_from_oci, oci.seccomp_from_oci, oci.rdt_from_oci),
        *(oci.io_priority_from_oci, oci.scheduler_from_oci, oci.memory_policy_from_oci),
    ],
)
def test_an_object_that_is_not_there(from_oci: Callable[[Any], Any]) -> None:
    assert from_oci(None) is None
    empty = from_oci({})
    assert empty is not None
    assert empty.SerializeToString() == b""


@pytest.mark.parametrize(
    "from_oci",
    [
        *(oci.env_from_oci, oci.mounts_from_oci, oci.devices_from_oci, oci.namespaces_from_oci),
        *(oci.rlimits_from_oci, oci.net_devices_from_oci),
    ],
)
def test_a_list_that_is_not_there(from_oci: Callable[[Any], Any]) -> None:
    assert not from_oci(None)
    assert from_oci(None) is not None


def test_env_without_a_value() -> None:
    assert oci.env_from_oci(["A", ""]) == [KeyValue(key="A"), KeyValue()]
    assert oci.env_to_oci([KeyValue(key="A"), KeyValue()]) == ["A=", "="]


def test_unlimited_processes() -> None:
    resources = oci.resources_from_oci({"pids": {"limit": -1}})
    assert resources is not None
    assert resources.pids.limit == oci.UNLIMITED_PIDS
    assert oci.resources_to_oci(resources)["pids"] == {}
    resources = oci.resources_from_oci({"pids": {}})
    assert resources is not None
    assert oci.resources_to_oci(resources)["pids"] == {"limit": 0}


def test_classes_are_no_oci_resources() -> None:
    resources = oci.resources_from_oci({})
    assert resources is not None
    optional.put(resources, "blockio_class", "gold")
    assert oci.resources_to_oci(resources) == {"cpu": {}, "memory": {}}


def test_no_policy_is_no_scheduler() -> None:
    assert oci.scheduler_to_oci(LinuxScheduler(nice=5)) is None


def test_nulls_and_keys_without_a_field_are_ignored() -> None:
    (mount,) = oci.mounts_from_oci([{"destination": "/a", "options": None, "uidMappings": [{}]}])
    assert oci.mounts_to_oci([mount]) == [{"destination": "/a"}]


def test_an_enum_value_of_a_newer_peer_is_not_written() -> None:
    policy = oci.memory_policy_from_oci({"mode": "MPOL_BIND"})
    assert policy is not None
    assert policy.mode == MpolMode.MPOL_BIND
    policy.flags.append(MpolFlag.MPOL_F_NUMA_BALANCING)
    policy.mode = 99  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"LinuxMemoryPolicy\.mode must be one of .*, not 99"):
        oci.memory_policy_to_oci(policy)


@pytest.mark.parametrize(
    ("from_oci", "part", "error", "message"),
    [
        (oci.hooks_from_oci, [], TypeError, r"hooks must be an object, not list"),
        (oci.hooks_from_oci, {"poststop": {}}, TypeError, r"hooks\.poststop must be an array"),
        (
            oci.hooks_from_oci,
            {"poststop": [{"path": 5}]},
            TypeError,
            r"hooks\.poststop\[0\]\.path must be a str, not int: 5",
        ),
        (oci.hooks_from_oci, {"poststop": [3]}, TypeError, r"hooks\.poststop\[0\] must be an obj"),
        (oci.mounts_from_oci, {}, TypeError, r"mounts must be an array"),
        (oci.mounts_from_oci, [{"options": "ro"}], TypeError, r"mounts\[0\]\.options must be an a"),
        (oci.mounts_from_oci, [{"options": [1]}], TypeError, r"mounts\[0\]\.options\[0\] must be"),
        (oci.env_from_oci, "A=1", TypeError, r"env must be a sequence of str"),
        (oci.devices_from_oci, [{"major": 1.0}], TypeError, r"devices\[0\]\.major must be an int"),
        (oci.devices_from_oci, [{"major": 2**63}], ValueError, r"devices\[0\]\.major must be from"),
        (oci.devices_from_oci, [{"uid": -1}], ValueError, r"LinuxDevice\.uid must be from"),
        (oci.resources_from_oci, {"cpu": 3}, TypeError, r"resources\.cpu must be an object"),
        (oci.resources_from_oci, {"unified": []}, TypeError, r"resources\.unified must be an obj"),
        (
            oci.resources_from_oci,
            {"unified": {"a": 1}},
            TypeError,
            r"resources\.unified\['a'\] must be a str",
        ),
        (
            oci.resources_from_oci,
            {"devices": [{"allow": 1}]},
            TypeError,
            r"resources\.devices\[0\]\.allow must be a bool",
        ),
        (
            oci.namespaces_from_oci,
            [{"type": "\ud800"}],
            ValueError,
            r"namespaces\[0\]\.type cannot",
        ),
        (oci.net_devices_from_oci, {1: {}}, TypeError, r"network device must be a str"),
        (oci.io_priority_from_oci, {"class": "X"}, ValueError, r"ioPriority\.class must be one of"),
        (oci.scheduler_from_oci, {"policy": 1}, TypeError, r"scheduler\.policy must be a str"),
        (oci.memory_policy_from_oci, {"mode": ""}, ValueError, r"memoryPolicy\.mode must be one"),
    ],
)
def test_bad_parts(
    from_oci: Callable[[Any], Any], part: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        from_oci(part)


def test_seccomp_without_anything() -> None:
    assert oci.seccomp_to_oci(LinuxSeccomp()) == {"defaultAction": ""}
