"""The fields that a record takes from a message, and those that it keeps from the one before."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.kit.fields import cgroups
from nri_sync.kit.inventory.records import ContainerRecord, Omit, PodRecord, cgroup_key, ip_key

__all__: list[str] = []

UNKNOWN, CREATED, PAUSED, RUNNING, STOPPED = api.ContainerState.values()


def pod(**fields: Any) -> api.PodSandbox:
    return api.PodSandbox(id="pod0", **fields)


def container(**fields: Any) -> api.Container:
    return api.Container(id="ctr0", pod_sandbox_id="pod0", **fields)


def namespaces(*pairs: tuple[str, str]) -> api.LinuxPodSandbox:
    return api.LinuxPodSandbox(
        namespaces=[api.LinuxNamespace(type=kind, path=path) for kind, path in pairs]
    )


class TestPods:
    def test_the_fields(self) -> None:
        message = pod(uid="u", namespace="ns", name="web", pid=7, ips=["10.0.0.1", "fe80::1"])
        message.labels["app"] = "x"
        message.linux.cgroup_parent = "kubepods-podu.slice"
        message.linux.namespaces.add(type="network", path="/run/netns/x")
        record = PodRecord.of(message, None, 5)
        assert record[:-1] == (
            "pod0", "u", "ns", "web", 7, ("10.0.0.1", "fe80::1"), "/run/netns/x",
            "kubepods-podu.slice", False, 5,
        )  # fmt: skip
        assert record.message == message
        assert repr(record) == "<pod ns/web pod0>"

    def test_the_message_is_a_copy(self) -> None:
        message = pod(name="web")
        record = PodRecord.of(message, None, 1)
        message.name = "changed"
        record.message.name = "changed"
        assert record.message.name == record.name == "web"

    def test_nothing_new_is_the_same_record(self) -> None:
        record = PodRecord.of(pod(name="web", pid=7, ips=["10.0.0.1"]), None, 5)
        assert PodRecord.of(pod(name="web", pid=7, ips=["10.0.0.1"]), record, 0) is record
        assert PodRecord.of(pod(), record, 0) is record

    def test_a_field_that_the_event_omits_stays(self) -> None:
        message = pod(uid="u", namespace="ns", name="web", pid=7, ips=["10.0.0.1"])
        message.labels["app"] = "x"
        message.linux.CopyFrom(namespaces(("network", "/run/netns/x")))
        message.linux.cgroup_parent = "/kubepods/podu"
        old = PodRecord.of(message, None, 5)
        event = pod(name="web", linux=api.LinuxPodSandbox(cgroups_path="/kubepods/podu/pod0"))
        new = PodRecord.of(event, old, 0)
        message.linux.cgroups_path = "/kubepods/podu/pod0"
        assert new.message == message
        assert new.sequence == 5

    def test_a_field_of_the_event_replaces_the_known_value(self) -> None:
        message = pod(ips=["10.0.0.1", "10.0.0.2"])
        message.labels.update({"a": "1", "b": "2"})
        old = PodRecord.of(message, None, 5)
        event = pod(ips=["10.0.0.3"])
        event.labels["a"] = "3"
        new = PodRecord.of(event, old, 0)
        assert new.ips == ("10.0.0.3",)
        assert dict(new.message.labels) == {"a": "3"}

    @pytest.mark.parametrize(
        "later",
        [(), [("network", "")], [("ipc", "/ipc")], [("ipc", "/ipc"), ("network", "")]],
    )
    def test_the_network_namespace_is_remembered(self, later: Any) -> None:
        old = PodRecord.of(pod(linux=namespaces(("network", "/run/netns/x"))), None, 1)
        new = PodRecord.of(pod(linux=namespaces(*later), pid=9), old, 0, stopped=True)
        assert new.network_namespace == "/run/netns/x"
        kinds = [space.type for space in new.message.linux.namespaces]
        assert sorted(kinds) == sorted({"network", *(kind for kind, _ in later)})

    def test_fields_of_a_newer_release_do_not_add_up(self) -> None:
        future = api.PodSandbox.FromString(pod(name="web").SerializeToString() + b"\xf8\x3f\x07")
        record = PodRecord.of(future, None, 1)
        sizes = set()
        for number in range(5):
            future.pid = 1 + number
            record = PodRecord.of(future, record, 0)
            sizes.add(len(record.data))
        assert record.data.count(b"\xf8\x3f\x07") == len(sizes) == 1

    def test_index_keys(self) -> None:
        message = pod(uid="u", namespace="ns", name="web", ips=["10.0.0.1", "FE80:0::1"])
        record = PodRecord.of(message, None, 1)
        names = {("pod", "ns", "web"), ("uid", "u")}
        assert record.index_keys() == names | {("ip", "10.0.0.1"), ("ip", "fe80::1")}
        assert PodRecord.of(pod(), record, 0, stopped=True).index_keys() == names
        assert PodRecord.of(pod(), None, 1).index_keys() == set()

    def test_a_stopped_pod_stays_stopped(self) -> None:
        old = PodRecord.of(pod(), None, 1, stopped=True)
        assert PodRecord.of(pod(pid=1), old, 0).stopped


class TestContainers:
    def test_the_fields(self) -> None:
        message = container(name="app", state=RUNNING, pid=9, created_at=77)
        message.linux.cgroups_path = "/kubepods/x/ctr0"
        record = ContainerRecord.of(message, None, 5)
        assert record[:-1] == ("ctr0", "pod0", "app", RUNNING, 9, "/kubepods/x/ctr0", 77, 5)
        assert record.message == message
        assert repr(record) == "<container app ctr0>"

    def test_the_pid_and_name_are_remembered(self) -> None:
        first = ContainerRecord.of(container(), None, 1, "create_container")
        named = ContainerRecord.of(container(name="app", pid=9), first, 0, "start_container")
        last = ContainerRecord.of(container(), named, 0, "stop_container")
        assert (last.name, last.pid, last.sequence) == ("app", 9, 1)

    def test_the_name_may_be_in_a_label(self) -> None:
        message = container()
        message.labels["io.kubernetes.container.name"] = "app"
        assert ContainerRecord.of(message, None, 1).name == "app"

    def test_nothing_new_is_the_same_record(self) -> None:
        message = container(state=RUNNING, pid=3)
        record = ContainerRecord.of(message, None, 1)
        for event in ("synchronize", "update_container", "post_start_container"):
            assert ContainerRecord.of(container(state=RUNNING, pid=3), record, 0, event) is record

    @pytest.mark.parametrize(
        ("before", "event", "told", "after"),
        [
            (UNKNOWN, "create_container", UNKNOWN, UNKNOWN),
            (UNKNOWN, "post_create_container", UNKNOWN, CREATED),
            (UNKNOWN, "post_create_container", RUNNING, RUNNING),
            (CREATED, "start_container", UNKNOWN, CREATED),
            (CREATED, "post_start_container", UNKNOWN, RUNNING),
            (CREATED, "post_start_container", CREATED, RUNNING),
            (CREATED, "post_start_container", PAUSED, PAUSED),
            (CREATED, "post_start_container", STOPPED, STOPPED),
            (RUNNING, "update_container", UNKNOWN, RUNNING),
            (RUNNING, "update_container", PAUSED, PAUSED),
            (PAUSED, "update_container", UNKNOWN, PAUSED),
            (RUNNING, "stop_container", RUNNING, STOPPED),
            # It has ended at once, and its stop event came first.
            (STOPPED, "post_start_container", RUNNING, STOPPED),
            (STOPPED, "synchronize", RUNNING, RUNNING),
            (STOPPED, "synchronize", UNKNOWN, STOPPED),
        ],
    )
    def test_states(self, before: Any, event: str, told: Any, after: int) -> None:
        old = ContainerRecord.of(container(state=before), None, 1)
        new = ContainerRecord.of(container(state=told), old, 0, event)
        assert new.state == new.message.state == after
        assert new.stopped == (after == STOPPED)

    def test_index_keys(self) -> None:
        message = container(pid=9)
        message.linux.cgroups_path = "a.slice:runc:ctr0"
        record = ContainerRecord.of(message, None, 1)
        always = {("in pod", "pod0"), ("cgroup", "a.slice/runc-ctr0.scope")}
        assert record.index_keys() == always | {("pid", "9")}
        assert ContainerRecord.of(container(), record, 0, "stop_container").index_keys() == always


class TestOmit:
    def message(self) -> api.Container:
        message = container(env=["A=1"], args=["x"])
        message.linux.seccomp_policy.default_action = "ALLOW"
        message.linux.cgroups_path = "/x"
        return message

    def test_a_copy_lacks_the_omitted_fields(self) -> None:
        message = self.message()
        copy = Omit(["env", "linux.seccomp_policy"]).copy(message)
        assert message == self.message()
        message.ClearField("env")
        message.linux.ClearField("seccomp_policy")
        assert copy == message

    def test_nothing(self) -> None:
        assert Omit([]).copy(self.message()) == self.message()

    def test_omitting_a_missing_field_creates_no_message(self) -> None:
        copy = Omit(["linux.resources.cpu", "hooks.prestart"]).copy(container())
        assert copy == container()

    @pytest.mark.parametrize("path", ["enw", "linux.enw", "env.x", "linux.resources.cpu.x", ""])
    def test_unknown(self, path: str) -> None:
        with pytest.raises(ValueError, match=f"a Container has no field '{path}'"):
            Omit([path])

    @pytest.mark.parametrize("path", ["id", "pod_sandbox_id", "linux", "linux.cgroups_path"])
    def test_needed(self, path: str) -> None:
        with pytest.raises(ValueError, match=f"needs the field '{path}'"):
            Omit(["env", path])


class TestKeys:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("10.0.0.1", "10.0.0.1"),
            ("2001:DB8::1", "2001:db8:0:0:0:0:0:1"),
            ("fe80::1%eth0", "FE80::1%eth0"),
        ],
    )
    def test_addresses(self, one: str, other: str) -> None:
        assert ip_key(one) == ip_key(other)

    def test_a_text_that_is_no_address_is_its_own_key(self) -> None:
        assert ip_key("a:b") == "a:b"

    @pytest.mark.parametrize(
        "told",
        [
            "kubepods-burstable-pod1.slice:cri-containerd:ctr0",
            "a.slice::ctr0",
            ":runc:ctr0",
            "a.slice:runc:b.slice",
            "/kubepods/burstable/pod1/ctr0",
            "/ctr0",
        ],
    )
    def test_the_key_of_a_cgroup_from_the_runtime_and_of_its_path(self, told: str) -> None:
        path = cgroups.cgroup_path(told)
        assert cgroup_key(told) == cgroup_key(path) == cgroup_key(path + "/")

    def test_the_key_of_a_cgroup_from_proc_and_of_its_mounted_path(self) -> None:
        told = "kubepods-burstable-pod1.slice:crio:ctr0"
        path = cgroups.cgroup_path(told)
        assert cgroup_key(f"0::{path}") == cgroup_key(told)
        assert cgroup_key(f"/sys/fs/cgroup{path}") == cgroup_key(told)
        assert cgroup_key("/x/pod1/ctr0") != cgroup_key("/x/pod2/ctr0")
