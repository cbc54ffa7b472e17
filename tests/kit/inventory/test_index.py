"""Snapshots, and the drafts that make them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from nri_sync import api
from nri_sync.kit.inventory.index import Changes, Difference, Draft, Snapshot
from nri_sync.kit.inventory.records import ContainerRecord, PodRecord
from nri_sync.kit.inventory.table import Table
from tests.memory import reachable

__all__: list[str] = []


def empty() -> Snapshot:
    return Snapshot(Table(), Table(), Table(), version=0, stale=True)


def pod(record_id: str, sequence: int, *, stopped: bool = False, **fields: Any) -> PodRecord:
    return PodRecord.of(api.PodSandbox(id=record_id, **fields), None, sequence, stopped)


def container(record_id: str, pod_id: str, sequence: int, **fields: Any) -> ContainerRecord:
    cgroups_path = fields.pop("cgroups_path", "")
    message = api.Container(id=record_id, pod_sandbox_id=pod_id, **fields)
    message.linux.cgroups_path = cgroups_path
    return ContainerRecord.of(message, None, sequence)


def changed(before: Snapshot, put: Any = (), drop: Any = ()) -> Changes:
    draft = Draft(before)
    for record_id in drop:
        draft.pods.drop(record_id)
        draft.containers.drop(record_id)
    for record in put:
        if isinstance(record, PodRecord):
            draft.pods.put(record)
        else:
            draft.containers.put(record)
    return draft.finish("test", stale=False)


def snapshot(*records: PodRecord | ContainerRecord) -> Snapshot:
    return changed(empty(), records).after


class TestLookups:
    WEB = pod("p1", 1, uid="u1", namespace="ns", name="web", ips=["10.0.0.1", "fe80::1"])
    DB = pod("p2", 2, uid="u2", namespace="ns", name="db")
    APP = container("c1", "p1", 3, name="app", pid=7, cgroups_path="a.slice:cri-containerd:c1")
    LOG = container("c2", "p1", 4, name="log", pid=8, cgroups_path="/kubepods/podu1/c2")
    ALL = snapshot(WEB, DB, LOG, APP)

    def test_pods(self) -> None:
        assert self.ALL.pod("p1") is self.WEB
        assert self.ALL.pod_by_uid("u2") is self.DB
        assert self.ALL.pod_by_name("ns", "db") is self.DB
        assert self.ALL.pod_by_ip("10.0.0.1") is self.WEB
        assert self.ALL.pod_by_ip("FE80:0:0::1") is self.WEB
        assert self.ALL.pod_by_ip(ipaddress.ip_address("10.0.0.1")) is self.WEB
        assert self.ALL.pod_of(self.LOG) is self.WEB

    def test_containers(self) -> None:
        assert self.ALL.container("c1") is self.APP
        assert self.ALL.containers_of("p1") == [self.APP, self.LOG]
        assert self.ALL.containers_of("p2") == []
        assert self.ALL.container_by_name("p1", "log") is self.LOG
        assert self.ALL.container_by_pid(8) is self.LOG

    @pytest.mark.parametrize(
        "path",
        [
            "a.slice:cri-containerd:c1",
            "/a.slice/cri-containerd-c1.scope",
            "0::/a.slice/cri-containerd-c1.scope/init.scope/x",
            "/sys/fs/cgroup/a.slice/cri-containerd-c1.scope/",
        ],
    )
    def test_cgroups(self, path: str) -> None:
        assert self.ALL.container_by_cgroup(path) is self.APP
        assert self.ALL.pod_by_cgroup(path) is self.WEB

    def test_a_process_cannot_pass_for_another_container(self) -> None:
        """A process may give cgroups below its own any name, so the outermost match counts."""
        other = self.APP._replace(
            id="c9", pod_id="p2", name="evil", cgroups_path="/kubepods/podu2/c9", pid=9, sequence=9
        )
        everything = snapshot(self.WEB, self.DB, self.APP, self.LOG, other)
        for below in ("a.slice/cri-containerd-c1.scope", "x/a.slice/cri-containerd-c1.scope/init"):
            path = f"/kubepods/podu2/c9/{below}"
            assert everything.container_by_cgroup(path) is other
            assert everything.pod_by_cgroup(path) is self.DB
        # Nor for a pod if its container is unknown.
        forged = "/kubepods/podu2/unknown/kubepods.slice/kubepods-podu1.slice"
        assert everything.pod_by_cgroup(forged) is self.DB

    def test_a_cgroup_of_a_pod(self) -> None:
        for path in ("/kubepods/burstable/podu2", "/kubepods.slice/kubepods-podu2.slice"):
            assert self.ALL.container_by_cgroup(path) is None
            assert self.ALL.pod_by_cgroup(path) is self.DB

    def test_a_missing_key_finds_nothing(self) -> None:
        for everything in (self.ALL, empty()):
            assert everything.pod("x") is None
            assert everything.pod_by_uid("") is None
            assert everything.pod_by_name("", "") is None
            assert everything.pod_by_ip("") is None
            assert everything.pod_by_cgroup("/kubepods/podx") is None
            assert everything.container("x") is None
            assert everything.container_by_name("p1", "x") is None
            assert everything.container_by_name("x", "app") is None
            assert everything.container_by_pid(0) is None
            for path in ("", "/", "/x/y/z"):
                assert everything.container_by_cgroup(path) is None
                assert everything.pod_by_cgroup(path) is None

    def test_a_container_without_its_pod(self) -> None:
        lonely = snapshot(self.APP)
        assert lonely.containers_of("p1") == [self.APP]
        assert lonely.pod_of(self.APP) is None
        assert lonely.pod_by_cgroup("a.slice:cri-containerd:c1") is None

    def test_the_repr_has_version_counts_and_staleness(self) -> None:
        assert repr(self.ALL) == "<snapshot 1: 2 pods, 2 containers>"
        assert repr(empty()) == "<snapshot 0: 0 pods, 0 containers, stale>"


class TestTheNewest:
    def test_wins_in_any_order(self) -> None:
        old = pod("p1", 1, uid="u", namespace="ns", name="web", ips=["10.0.0.1"])
        new = pod("p2", 2, uid="u", namespace="ns", name="web", ips=["10.0.0.1"])
        for both in (snapshot(old, new), snapshot(new, old)):
            assert both.pod_by_uid("u") is new
            assert both.pod_by_name("ns", "web") is new
            assert both.pod_by_ip("10.0.0.1") is new

    def test_the_previous_record_is_found_after_the_newest_is_removed(self) -> None:
        records = [pod(f"p{n}", n, uid="u") for n in (2, 1, 3)]
        state = snapshot(*records)
        seen = []
        while state.pods:
            newest = state.pod_by_uid("u")
            assert newest is not None
            seen.append(newest.id)
            state = changed(state, drop=[newest.id]).after
        assert seen == ["p3", "p2", "p1"]

    def test_a_container_that_was_restarted(self) -> None:
        records = [container(f"c{n}", "p1", n, name="app") for n in (3, 1, 2)]
        newest = snapshot(*records).container_by_name("p1", "app")
        assert newest is not None
        assert newest.id == "c3"

    def test_an_older_pod_that_gets_the_key_later_does_not_win(self) -> None:
        before = snapshot(pod("p1", 1), pod("p2", 2, ips=["10.0.0.1"]))
        after = changed(before, [pod("p1", 1, ips=["10.0.0.1"])]).after
        assert after.pod_by_ip("10.0.0.1") == after.pod("p2")
        assert changed(after, drop=["p2"]).after.pod_by_ip("10.0.0.1") == after.pod("p1")

    def test_a_stopped_pod_is_not_found_by_its_released_address(self) -> None:
        stopped = pod("p1", 2, ips=["10.0.0.1"], uid="u", stopped=True)
        running = pod("p2", 1, ips=["10.0.0.1"])
        state = snapshot(stopped, running)
        assert state.pod_by_ip("10.0.0.1") is running
        assert state.pod_by_uid("u") is stopped


class TestDrafts:
    def test_a_snapshot_does_not_change(self) -> None:
        before = snapshot(pod("p1", 1, uid="u"), container("c1", "p1", 2, pid=7))
        kept = (dict(before.pods), dict(before.containers))
        after = changed(before, [pod("p2", 3, uid="u")], drop=["c1"]).after
        assert (dict(before.pods), dict(before.containers)) == kept
        assert before.pod_by_uid("u") == before.pod("p1")
        assert before.container_by_pid(7) is not None
        assert after.pod_by_uid("u") == after.pod("p2")
        assert after.container_by_pid(7) is None
        assert after.version == before.version + 1

    def test_differences(self) -> None:
        before = snapshot(*(pod(f"p{n}", n, name="x") for n in (1, 2, 3, 4)))
        renamed = pod("p2", 2, name="y")
        changes = changed(
            before,
            [renamed, pod("p6", 6), pod("p5", 5), before.pods["p4"], container("c1", "p5", 7)],
            drop=["p3", "p1", "nothing"],
        )
        assert [record.id for record in changes.pods.appeared] == ["p5", "p6"]
        assert [record.id for record in changes.pods.vanished] == ["p1", "p3"]
        assert changes.pods.changed == ((before.pods["p2"], renamed),)
        assert [record.id for record in changes.containers.appeared] == ["c1"]
        assert (changes.event, changes.before) == ("test", before)
        assert changes

    def test_changes_that_cancel_out_are_no_difference(self) -> None:
        before = snapshot(pod("p1", 1, name="x"))
        draft = Draft(before)
        draft.pods.put(pod("p1", 1, name="y"))
        draft.pods.put(pod("p1", 1, name="x"))
        draft.pods.put(pod("p2", 2))
        draft.pods.drop("p2")
        changes = draft.finish("test", stale=False)
        assert not changes
        assert changes.pods == Difference()

    def test_nothing_is_left_in_the_index(self) -> None:
        before = snapshot(
            pod("p1", 1, uid="u", namespace="ns", name="web", ips=["10.0.0.1"]),
            container("c1", "p1", 2, pid=7, cgroups_path="/a/b"),
        )
        after = changed(before, drop=["p1", "c1"]).after
        assert (len(after.pods), len(after.containers)) == (0, 0)
        left = {id(before.pods["p1"]), id(before.containers["c1"])}
        assert left <= reachable(before)
        assert not left & reachable(after)
