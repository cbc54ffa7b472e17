"""An inventory beside a naive model, under random events: one by one, and from several threads at once.

``NRI_SYNC_INVENTORY_EVENTS`` sets the number of events, by default 2,000 in each test.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nri_sync import api
from nri_sync.kit import Changes, Inventory, Snapshot
from nri_sync.kit.inventory.records import ContainerRecord, PodRecord

__all__: list[str] = []

EVENTS = int(os.environ.get("NRI_SYNC_INVENTORY_EVENTS", "2000"))
STOPPED = api.ContainerState.CONTAINER_STOPPED
RUNNING = api.ContainerState.CONTAINER_RUNNING
STATES = [
    api.ContainerState.CONTAINER_UNKNOWN,
    api.ContainerState.CONTAINER_CREATED,
    api.ContainerState.CONTAINER_PAUSED,
    RUNNING,
    STOPPED,
]
AFTER = {
    "post_create_container": api.ContainerState.CONTAINER_CREATED,
    "post_start_container": RUNNING,
}
POD_EVENTS = ("run_pod_sandbox", "post_update_pod_sandbox", "stop_pod_sandbox")
CONTAINER_EVENTS = (
    "create_container",
    "post_create_container",
    "start_container",
    "post_start_container",
    "post_update_container",
    "stop_container",
)

Fields = dict[str, Any]


def fields_of(message: Any, prefix: str = "") -> Fields:
    """Return the content of a message, by the paths of its fields; namespaces by type."""
    found: Fields = {}
    for field, value in message.ListFields():
        if field.name == "linux":
            found.update(fields_of(value, "linux."))
        elif field.name == "namespaces":
            found[prefix + field.name] = {space.type: space.path for space in value}
        else:
            found[prefix + field.name] = str(dict(value) if hasattr(value, "items") else value)
    return found


def merged(old: Fields, new: Fields) -> Fields:
    """The rule, in its simplest form: a missing field keeps its value."""
    result = {**old, **new}
    spaces = "linux.namespaces"
    if spaces in old or spaces in new:
        before, now = old.get(spaces, {}), new.get(spaces, {})
        result[spaces] = {kind: now.get(kind) or before.get(kind, "") for kind in {*before, *now}}
    return result


class Model:
    """The records that an inventory should have, in the simplest form."""

    def __init__(self) -> None:
        #: By id, in the order of appearance.
        self.pods: dict[str, Fields] = {}
        self.containers: dict[str, Fields] = {}
        self.stopped: set[str] = set()
        self.since: set[tuple[str, str]] | None = None
        #: How pods and containers that do not exist have ended: "removed", "vanished", or "early".
        self.gone: dict[str, str] = {}
        #: Ids that exist before their first event.
        self.overtaken: set[str] = set()

    def configure(self) -> None:
        self.since = set()

    def synchronize(
        self, pods: Iterable[api.PodSandbox], containers: Iterable[api.Container]
    ) -> None:
        since = self.since or set()
        self.since = None
        listed_pods = {pod.id: pod for pod in pods}
        listed = {container.id: container for container in containers}
        for pod_id in [p for p in self.pods if p not in listed_pods and ("pod", p) not in since]:
            self._forget_pod(pod_id)
            self.gone[pod_id] = "vanished"
            self.overtaken.discard(pod_id)
        for container_id in [c for c in self.containers if c not in listed]:
            if ("container", container_id) not in since:
                del self.containers[container_id]
                self.gone[container_id] = "vanished"
                self.overtaken.discard(container_id)
        for pod in sorted(listed_pods.values(), key=lambda pod: bool(pod.pid)):
            if ("pod", pod.id) not in since:
                self._see_pod(pod)
                self.overtaken.discard(pod.id)
                if ("stopped", pod.id) in since:
                    self.stopped.add(pod.id)
        for container in sorted(listed.values(), key=lambda container: container.created_at):
            keys = {("container", container.id), ("gone", container.pod_sandbox_id)}
            if not keys & since:
                self._see_container("synchronize", container)
                self.overtaken.discard(container.id)
                if ("stopped", container.id) in since:
                    self._see_container("stop_container", container)

    def event(self, name: str, pod: api.PodSandbox, container: api.Container | None = None) -> None:
        note = self.since.add if self.since is not None else set[Any]().add
        if name == "remove_pod_sandbox":
            note(("pod", pod.id))
            note(("gone", pod.id))
            self._end(pod.id, pod.id in self.pods)
            self._forget_pod(pod.id)
            for container_id, fields in list(self.containers.items()):
                if fields["pod_sandbox_id"] == pod.id:
                    note(("container", container_id))
                    self._end(container_id, True)
                    del self.containers[container_id]
            return
        assert container is not None or name.endswith("sandbox")
        if name == "remove_container":
            assert container is not None
            note(("container", container.id))
            self._end(container.id, container.id in self.containers)
            self.containers.pop(container.id, None)
            return
        if name == "run_pod_sandbox" and pod.id in self.pods:
            self.overtaken.discard(pod.id)
        if pod.id in self.pods or self._begins(name, pod.id, "run_pod_sandbox"):
            note(("pod", pod.id))
            self._see_pod(pod)
            if name == "stop_pod_sandbox":
                self.stopped.add(pod.id)
        elif name == "stop_pod_sandbox":
            note(("stopped", pod.id))
            self._end(pod.id, False)
        if container is not None:
            self._container_event(name, pod, container, note)

    def _container_event(
        self, name: str, pod: api.PodSandbox, container: api.Container, note: Callable[..., None]
    ) -> None:
        if name == "create_container" and container.id in self.containers:
            self.overtaken.discard(container.id)
        if container.id in self.containers or (
            not (pod.id in self.gone and name != "stop_container")
            and self._begins(name, container.id, "create_container")
        ):
            note(("container", container.id))
            self._see_container(name, container)
        elif name == "stop_container":
            note(("stopped", container.id))
            self._end(container.id, False)

    def _end(self, what: str, was_known: bool) -> None:
        """The id may be used again after its first event. That event is outstanding for an id that ended early."""
        if was_known:
            self.gone[what] = "early" if what in self.overtaken else "removed"
            self.overtaken.discard(what)
        elif self.gone.get(what) != "early":
            self.gone[what] = "removed" if what in self.gone else "early"

    def _begins(self, event: str, what: str, first: str) -> bool:
        """Return whether an event adds an unknown id."""
        how = self.gone.get(what)
        if event.startswith("stop_"):
            return False
        if event == first and how == "early":
            self.gone[what] = "removed"
            return False
        if event == first:
            return True
        if how is None or (how == "vanished" and event in ("run_pod_sandbox", "create_container")):
            self.overtaken.add(what)
            return True
        return False

    def _see_pod(self, pod: api.PodSandbox) -> None:
        self.gone.pop(pod.id, None)
        self.pods[pod.id] = merged(self.pods.get(pod.id, {}), fields_of(pod))

    def _forget_pod(self, pod_id: str) -> None:
        self.pods.pop(pod_id, None)
        self.stopped.discard(pod_id)

    def _see_container(self, event: str, container: api.Container) -> None:
        self.gone.pop(container.id, None)
        old = self.containers.get(container.id, {})
        new = merged(old, {**fields_of(container), "pod_sandbox_id": container.pod_sandbox_id})
        new.pop("env", None)
        before, state = int(old.get("state", 0)), int(new.get("state", 0))
        if event == "stop_container" or (before == STOPPED and event != "synchronize"):
            state = STOPPED
        elif state <= 1:
            state = max(state, AFTER.get(event, 0))
        if state:
            new["state"] = str(state)
        self.containers[container.id] = new

    def newest_pod(self, wanted: Fields, running: bool = False) -> str | None:
        """Return the last one with these fields; ``running`` skips stopped ones."""
        for pod_id, fields in reversed(self.pods.items()):
            if wanted.items() <= fields.items() and not (running and pod_id in self.stopped):
                return pod_id
        return None

    def newest_container(self, wanted: Fields, running: bool = False) -> str | None:
        for container_id, fields in reversed(self.containers.items()):
            if running and fields.get("state") == str(STOPPED):
                continue
            if wanted.items() <= fields.items():
                return container_id
        return None


class World:
    """Makes random messages about a few pods, which share names and addresses, and their containers."""

    def __init__(self, chance: random.Random, prefix: str = "") -> None:
        self.chance = chance
        self.prefix = prefix

    def pod_id(self) -> str:
        return f"{self.prefix}p{self.chance.randrange(12)}"

    def pod(self, pod_id: str) -> api.PodSandbox:
        """Return a message that leaves out random fields."""
        chance, number = self.chance, int(pod_id.rpartition("p")[2])
        message = api.PodSandbox(id=pod_id)
        if chance.random() < 0.8:
            message.name, message.namespace = f"{self.prefix}name{number % 4}", "ns"
        if chance.random() < 0.8:
            message.uid = f"{self.prefix}uid{number % 4}"
        if chance.random() < 0.5:
            message.ips.append(f"{self.prefix}10.0.0.{chance.randrange(6)}")
        if chance.random() < 0.5:
            message.pid = chance.randrange(5)
        if chance.random() < 0.5:
            message.labels["version"] = str(chance.randrange(3))
        if chance.random() < 0.5:
            kind = chance.choice(["network", "ipc"])
            message.linux.namespaces.add(type=kind, path=chance.choice(["", f"/run/{pod_id}"]))
        return message

    def container(self, container_id: str) -> api.Container:
        chance = self.chance
        pod_id = container_id.rpartition("c")[0]
        message = api.Container(id=container_id, pod_sandbox_id=pod_id, env=["SECRET=1"])
        if chance.random() < 0.8:
            message.name = f"name{chance.randrange(2)}"
        if chance.random() < 0.7:
            message.pid = chance.randrange(40)
        if chance.random() < 0.5:
            message.state = chance.choice(STATES)
        if chance.random() < 0.5:
            message.created_at = chance.randrange(9)
        if chance.random() < 0.5:
            message.args.append(str(chance.randrange(3)))
        if chance.random() < 0.5:
            message.linux.cgroups_path = f"/kubepods/{pod_id}/cgroup{chance.randrange(3)}"
        return message

    def container_id(self) -> str:
        return f"{self.pod_id()}c{self.chance.randrange(4)}"

    def everything(self, of: Model) -> tuple[list[api.PodSandbox], list[api.Container]]:
        """Return lists for a Synchronize: most existing items, and a new one, in any order."""
        chance = self.chance
        pods = {p for p in of.pods if chance.random() < 0.8} | {self.pod_id()}
        containers = {c for c in of.containers if chance.random() < 0.8} | {self.container_id()}
        listed = [self.pod(p) for p in pods], [self.container(c) for c in containers]
        for part in listed:
            chance.shuffle(part)
        return listed


def check(snapshot: Snapshot, model: Model) -> None:
    """The snapshot has the model's records, and its lookups give the model's results."""
    assert set(snapshot.pods) == set(model.pods)
    assert set(snapshot.containers) == set(model.containers)
    for pod_id, fields in model.pods.items():
        assert fields_of(snapshot.pods[pod_id].message) == fields
        assert snapshot.pods[pod_id].stopped == (pod_id in model.stopped)
        mine = [i for i, f in model.containers.items() if f["pod_sandbox_id"] == pod_id]
        assert [record.id for record in snapshot.containers_of(pod_id)] == mine
    for container_id, fields in model.containers.items():
        assert fields_of(snapshot.containers[container_id].message) == fields

    def found(record: PodRecord | ContainerRecord | None) -> str | None:
        return None if record is None else record.id

    for number in range(6):
        uid, name, ip = f"uid{number}", f"name{number}", f"10.0.0.{number}"
        assert found(snapshot.pod_by_uid(uid)) == model.newest_pod({"uid": uid})
        assert found(snapshot.pod_by_name("ns", name)) == model.newest_pod({"name": name})
        assert found(snapshot.pod_by_ip(ip)) == model.newest_pod({"ips": str([ip])}, running=True)
        for pod_id in model.pods:
            newest = model.newest_container({"pod_sandbox_id": pod_id, "name": name})
            assert found(snapshot.container_by_name(pod_id, name)) == newest
            path = f"/kubepods/{pod_id}/cgroup{number}"
            newest = model.newest_container({"linux.cgroups_path": path})
            assert found(snapshot.container_by_cgroup(path)) == newest
    for pid in range(1, 40):
        newest = model.newest_container({"pid": str(pid)}, running=True)
        assert found(snapshot.container_by_pid(pid)) == newest


@pytest.mark.timeout(60 + EVENTS // 50)
@pytest.mark.parametrize("seed", range(3))
def test_beside_the_model(seed: int) -> None:
    chance = random.Random(seed)
    world, model = World(chance), Model()
    told: list[Changes] = []
    inventory = Inventory(told.append)
    before: dict[str, Any] = {}
    for number in range(EVENTS):
        kind = chance.random()
        told.clear()
        if kind < 0.01:
            model.configure()
            inventory.configure("", "", "")
        elif kind < 0.03:
            lists = world.everything(model)
            model.synchronize(*lists)
            inventory.synchronize(*lists)
            assert [changes.event for changes in told] == ["synchronize"]
        else:
            container_id = world.container_id()
            pod = world.pod(container_id.rpartition("c")[0])
            arguments: tuple[Any, ...] = (pod,)
            if kind < 0.06:
                name = "remove_pod_sandbox"
            elif kind < 0.25:
                name = chance.choice(POD_EVENTS)
            else:
                arguments = (pod, world.container(container_id))
                name = "remove_container" if kind < 0.35 else chance.choice(CONTAINER_EVENTS)
            model.event(name, *arguments)
            getattr(inventory, name)(*arguments)
        # The reported changes are the differences of the two snapshots.
        now: dict[str, Any] = {**inventory.snapshot().pods, **inventory.snapshot().containers}
        appeared, vanished, changed = set(), set(), set()
        for changes in told:
            for part in (changes.pods, changes.containers):
                appeared |= {record.id for record in part.appeared}
                vanished |= {record.id for record in part.vanished}
                changed |= {new.id for _, new in part.changed}
        assert appeared == now.keys() - before.keys()
        assert vanished == before.keys() - now.keys()
        assert changed == {i for i in now.keys() & before.keys() if now[i] != before[i]}
        before = now
        if number % 40 == 0 or number > EVENTS - 20:
            check(inventory.snapshot(), model)


class Truth:
    """The pods and containers of a runtime, which several threads change."""

    def __init__(self) -> None:
        # Guards the attributes below.
        self.lock = threading.Lock()
        self.pods: dict[str, api.PodSandbox] = {}
        self.containers: dict[str, api.Container] = {}

    def lists(self) -> tuple[list[api.PodSandbox], list[api.Container]]:
        with self.lock:
            return list(self.pods.values()), list(self.containers.values())


def live(truth: Truth, inventory: Inventory, seed: int, stop: threading.Event) -> None:
    """Pods of one thread come and go. As in a runtime, the state changes before its event."""
    chance = random.Random(seed)
    pods: list[api.PodSandbox] = []
    containers: dict[str, list[api.Container]] = {}
    for number in range(EVENTS // 4):
        if stop.is_set():
            return
        kind = chance.random()
        if not pods or kind < 0.15:
            pod = api.PodSandbox(id=f"t{seed}p{number}", uid=f"u{seed}", pid=number + 1)
            with truth.lock:
                truth.pods[pod.id] = pod
            pods.append(pod)
            containers[pod.id] = []
            inventory.run_pod_sandbox(pod)
            continue
        pod = chance.choice(pods)
        mine = containers[pod.id]
        if kind < 0.25:
            pods.remove(pod)
            with truth.lock:
                del truth.pods[pod.id]
                for container in mine:
                    del truth.containers[container.id]
            inventory.remove_pod_sandbox(pod)
        elif not mine or kind < 0.6:
            pid = 1 + seed * EVENTS + number
            container = api.Container(
                id=f"{pod.id}c{number}", pod_sandbox_id=pod.id, pid=pid, state=RUNNING
            )
            mine.append(container)
            with truth.lock:
                truth.containers[container.id] = container
            chance.choice([inventory.create_container, inventory.post_start_container])(
                pod, container
            )
        elif kind < 0.8:
            container = mine.pop(chance.randrange(len(mine)))
            with truth.lock:
                del truth.containers[container.id]
            inventory.remove_container(pod, container)
        else:
            changed = api.Container()
            position = chance.randrange(len(mine))
            changed.CopyFrom(mine[position])
            changed.args[:] = [str(number)]
            mine[position] = changed
            with truth.lock:
                truth.containers[changed.id] = changed
            inventory.post_update_container(pod, changed)


def reconnect(truth: Truth, inventory: Inventory, stop: threading.Event) -> int:
    """Session after session, with events while the lists are on their way."""
    sessions = 0
    while not stop.is_set() or sessions < 3:
        inventory.configure("", "", "")
        inventory.synchronize(*truth.lists())
        sessions += 1
    return sessions


def read(inventory: Inventory, stop: threading.Event) -> int:
    """Each snapshot is consistent, and not older than the one before."""
    version = snapshots = 0
    while not stop.is_set() or snapshots < 3:
        snapshot = inventory.snapshot()
        assert snapshot.version >= version
        version = snapshot.version
        snapshots += 1
        containers = dict(snapshot.containers)
        assert len(containers) == len(snapshot.containers)
        listed = [record for pod_id in snapshot.pods for record in snapshot.containers_of(pod_id)]
        assert {record.id for record in listed} <= set(containers)
        for record in containers.values():
            assert record in snapshot.containers_of(record.pod_id)
            assert snapshot.container_by_pid(record.pid) is record
        for pod in snapshot.pods.values():
            newest = max(
                (other for other in snapshot.pods.values() if other.uid == pod.uid),
                key=lambda other: other.sequence,
            )
            assert snapshot.pod_by_uid(pod.uid) is newest
    return snapshots


@pytest.mark.timeout(60 + EVENTS // 50)
def test_from_several_threads() -> None:
    truth, stop = Truth(), threading.Event()
    versions: list[int] = []
    kept: dict[str, Any] = {}

    def follow(changes: Changes) -> None:
        """A reader that follows the changes has the inventory's records."""
        versions.append(changes.after.version)
        for part in (changes.pods, changes.containers):
            for record in part.appeared:
                assert record.id not in kept
                kept[record.id] = record
            for record in part.vanished:
                assert kept.pop(record.id) == record
            for old, new in part.changed:
                assert kept[old.id] == old
                kept[new.id] = new

    inventory = Inventory(follow)
    with ThreadPoolExecutor(6) as threads:
        others = [
            threads.submit(reconnect, truth, inventory, stop),
            threads.submit(read, inventory, stop),
        ]
        for other in others:
            other.add_done_callback(lambda _: stop.set())  # a failed thread ends all
        lives = [threads.submit(live, truth, inventory, seed, stop) for seed in range(4)]
        try:
            for life in lives:
                life.result()
        finally:
            stop.set()
    assert all(other.result() >= 3 for other in others)
    snapshot = inventory.snapshot()
    assert {i: record.message for i, record in snapshot.pods.items()} == truth.pods
    assert {i: record.message for i, record in snapshot.containers.items()} == truth.containers
    assert kept == {**snapshot.pods, **snapshot.containers}
    assert versions == sorted(versions)
