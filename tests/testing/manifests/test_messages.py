"""Messages made from specifications."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.testing.manifests.messages import container_message, pod_message

__all__: list[str] = []

SPEC = {
    "process": {
        "args": ["sh"], "env": ["A=1"], "oomScoreAdj": 0,
        "user": {"uid": 1, "gid": 2, "additionalGids": [2, 3]},
        "rlimits": [{"type": "RLIMIT_CORE", "hard": 1, "soft": 0}],
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
    },
    "mounts": [{"destination": "/m", "type": "bind", "source": "/s", "options": ["ro"]}],
    "annotations": {"a": "spec", "b": "spec"},
    "hooks": {"poststop": [{"path": "/bin/true"}]},
    "linux": {
        "cgroupsPath": "/a/b",
        "namespaces": [{"type": "pid"}],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
        "resources": {"cpu": {"shares": 2}, "unified": {"memory.high": "1"}},
        "sysctl": {"net.a": "1"},
        "netDevices": {"eth1": {"name": "eth0"}},
        "intelRdt": {"closID": "gold"},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    },
}  # fmt: skip


def test_all_of_a_container() -> None:
    profile = api.SecurityProfile(profile_type=api.SecurityProfile.UNCONFINED)
    found = container_message(
        SPEC,
        id="c", pod_id="p", name="app",
        labels={"l": "1"},
        annotations={"b": "kubelet"},
        image=api.Image(name="busybox"),
        seccomp_profile=profile,
        cdi_devices=["vendor.com/device=0"],
    )  # fmt: skip
    assert (found.id, found.pod_sandbox_id, found.name) == ("c", "p", "app")
    assert found.state == api.ContainerState.CONTAINER_UNKNOWN
    assert dict(found.labels) == {"l": "1"}
    assert dict(found.annotations) == {"a": "spec", "b": "kubelet"}
    assert list(found.args) == ["sh"]
    assert list(found.env) == ["A=1"]
    assert [mount.source for mount in found.mounts] == ["/s"]
    assert [hook.path for hook in found.hooks.poststop] == ["/bin/true"]
    assert [limit.type for limit in found.rlimits] == ["RLIMIT_CORE"]
    assert [device.name for device in found.CDI_devices] == ["vendor.com/device=0"]
    assert found.user == api.User(uid=1, gid=2, additional_gids=[2, 3])
    assert found.image.name == "busybox"
    linux = found.linux
    assert linux.cgroups_path == "/a/b"
    assert linux.oom_score_adj.value == 0
    assert linux.HasField("oom_score_adj")
    assert [item.type for item in linux.namespaces] == ["pid"]
    assert [item.path for item in linux.devices] == ["/dev/x"]
    assert linux.resources.cpu.shares.value == 2
    assert dict(linux.resources.unified) == {"memory.high": "1"}
    assert linux.io_priority.priority == 4
    assert linux.scheduler.nice == 5
    assert dict(linux.sysctl) == {"net.a": "1"}
    assert linux.net_devices["eth1"].name == "eth0"
    assert linux.rdt.clos_id.value == "gold"
    assert linux.seccomp_policy.default_action == "SCMP_ACT_ALLOW"
    assert linux.seccomp_profile == profile


def test_an_empty_specification() -> None:
    found = container_message({}, id="c", pod_id="p", name="app")
    assert not found.env
    assert not found.linux.HasField("oom_score_adj")
    assert not found.HasField("image")
    assert not found.linux.HasField("seccomp_profile")
    assert pod_message(
        {}, id="p", name="n", namespace="s", uid="u", labels={}, annotations={}, cgroup_parent=""
    ).name == "n"  # fmt: skip


def test_an_invalid_specification_is_refused() -> None:
    with pytest.raises(TypeError, match="mounts"):
        container_message({"mounts": 3}, id="c", pod_id="p", name="app")
