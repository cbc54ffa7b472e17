"""The inventory, fed by events."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask
from nri_sync.api.handlers import find_handlers
from nri_sync.errors import WouldDeadlock
from nri_sync.kit import Changes, Inventory, InventoryStore, chain
from nri_sync.kit.inventory.gone import REMEMBERED
from nri_sync.runtime import Runtime
from tests.forked import WARNS, in_child
from tests.plugin.harness import PluginWith
from tests.runtime.rig import LONG, Host, host_options, on_thread

__all__: list[str] = []

# The pods that are asked for: two that are forgotten, and two that are remembered.
LAST = (0, 1, 2, REMEMBERED + 1)

CREATED = api.ContainerState.CONTAINER_CREATED
RUNNING = api.ContainerState.CONTAINER_RUNNING
STOPPED = api.ContainerState.CONTAINER_STOPPED
RESOURCES = api.LinuxResources()


def pod(name: str, **fields: Any) -> api.PodSandbox:
    return api.PodSandbox(id=name, name=name, namespace="ns", **fields)


def container(name: str, pod_id: str = "p1", **fields: Any) -> api.Container:
    return api.Container(id=name, pod_sandbox_id=pod_id, name=name, **fields)


class Told:
    """Collects the changes that an inventory reports."""

    def __init__(self) -> None:
        self.changes: list[Changes] = []

    def __call__(self, changes: Changes) -> None:
        self.changes.append(changes)

    def take(self) -> list[tuple[str, str]]:
        """The changes since the last call: the event, and each record with + for appeared and so on."""
        taken, self.changes = self.changes, []
        return [(changes.event, summary(changes)) for changes in taken]


def summary(changes: Changes) -> str:
    words = []
    for difference in (changes.pods, changes.containers):
        words += [f"+{record.id}" for record in difference.appeared]
        words += [f"-{record.id}" for record in difference.vanished]
        words += [f"~{new.id}" for _, new in difference.changed]
    return " ".join(words)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def inventory(told: Told) -> Inventory:
    return Inventory(told)


class TestHandlers:
    def test_it_is_a_plugin_that_observes_everything(self) -> None:
        found, mask = find_handlers(Inventory())
        assert mask == EventMask.ALL & ~EventMask.VALIDATE_CONTAINER_ADJUSTMENT
        assert {"configure", "synchronize"} <= set(found)

    def test_the_life_of_a_pod(self, inventory: Inventory, told: Told) -> None:
        p1, c1 = pod("p1"), container("c1")
        inventory.run_pod_sandbox(p1)
        inventory.create_container(p1, c1)
        inventory.post_create_container(p1, c1)
        inventory.start_container(p1, container("c1", pid=7))
        inventory.post_start_container(p1, c1)
        record = inventory.snapshot().containers["c1"]
        assert (record.pid, record.state) == (7, RUNNING)
        inventory.update_container(p1, c1, RESOURCES)
        inventory.post_update_container(p1, container("c1", args=["x"]))
        inventory.update_pod_sandbox(p1, RESOURCES, RESOURCES)
        inventory.post_update_pod_sandbox(pod("p1", pid=6))
        inventory.stop_container(p1, c1)
        inventory.remove_container(p1, c1)
        inventory.stop_pod_sandbox(p1)
        inventory.remove_pod_sandbox(p1)
        assert told.take() == [
            ("run_pod_sandbox", "+p1"),
            ("create_container", "+c1"),
            ("post_create_container", "~c1"),
            ("start_container", "~c1"),
            ("post_start_container", "~c1"),
            ("post_update_container", "~c1"),
            ("post_update_pod_sandbox", "~p1"),
            ("stop_container", "~c1"),
            ("remove_container", "-c1"),
            ("stop_pod_sandbox", "~p1"),
            ("remove_pod_sandbox", "-p1"),
        ]

    def test_the_pod_of_a_container_is_seen_too(self, inventory: Inventory, told: Told) -> None:
        inventory.create_container(pod("p1"), container("c1", ""))
        assert told.take() == [("create_container", "+p1 +c1")]
        assert inventory.snapshot().containers["c1"].pod_id == "p1"

    def test_a_container_without_a_pod(self, inventory: Inventory, told: Told) -> None:
        inventory.create_container(api.PodSandbox(), container("c1"))
        assert told.take() == [("create_container", "+c1")]
        inventory.remove_pod_sandbox(pod("p1"))
        assert told.take() == [("remove_pod_sandbox", "-c1")]

    def test_a_removed_pod_takes_its_containers_along(
        self, inventory: Inventory, told: Told
    ) -> None:
        for name in ("c1", "c2"):
            inventory.create_container(pod("p1"), container(name))
        inventory.create_container(pod("p2"), container("c3", "p2"))
        told.take()
        inventory.remove_pod_sandbox(pod("p1"))
        assert told.take() == [("remove_pod_sandbox", "-p1 -c1 -c2")]

    def test_the_end_of_an_unknown_pod_or_container_is_no_change(
        self, inventory: Inventory, told: Told
    ) -> None:
        inventory.stop_container(pod("p1"), container("c1"))
        inventory.stop_pod_sandbox(pod("p1"))
        inventory.remove_container(pod("p1"), container("c1"))
        inventory.remove_pod_sandbox(pod("p1"))
        assert told.take() == []
        assert not inventory.snapshot().pods

    def test_messages_are_copied_and_not_changed(self, inventory: Inventory) -> None:
        p1, c1 = pod("p1"), container("c1", "", env=["SECRET=1"])
        inventory.post_start_container(p1, c1)
        assert c1 == container("c1", "", env=["SECRET=1"])
        p1.name = c1.name = "changed"
        record = inventory.snapshot().containers["c1"]
        assert (inventory.snapshot().pods["p1"].name, record.name) == ("p1", "c1")
        assert list(record.message.env) == []

    def test_the_omitted_fields_can_be_chosen(self) -> None:
        inventory = Inventory(omit="args")
        inventory.create_container(pod("p1"), container("c1", env=["A=1"], args=["x"]))
        message = inventory.snapshot().containers["c1"].message
        assert (list(message.env), list(message.args)) == (["A=1"], [])
        with pytest.raises(ValueError, match="no field 'environment'"):
            Inventory(omit=["environment"])

    def test_removed_records_are_remembered_up_to_a_limit(self, inventory: Inventory) -> None:
        for number in range(REMEMBERED + 2):
            p, c = pod(f"p{number}", ips=["10.0.0.1"]), container(f"c{number}", f"p{number}")
            inventory.run_pod_sandbox(p)
            inventory.create_container(p, c)
            inventory.remove_pod_sandbox(pod(f"p{number}"))
        assert [getattr(inventory.recall_pod(f"p{n}"), "ips", None) for n in LAST] == [
            None, None, ("10.0.0.1",), ("10.0.0.1",),
        ]  # fmt: skip
        assert [inventory.recall_container(f"c{n}") is None for n in LAST] == [1, 1, 0, 0]
        inventory.run_pod_sandbox(pod("p1"))
        assert inventory.recall_pod("p1") is inventory.snapshot().pods["p1"]
        assert inventory.recall_container("never") is None


class TestSynchronize:
    def test_a_synchronize_replaces_all_records(self, inventory: Inventory, told: Told) -> None:
        inventory.synchronize([pod("p1"), pod("p2")], [container("c1"), container("c2")])
        inventory.synchronize(
            [pod("p2"), pod("p3")], [container("c2", "p2", pid=7), container("c3", "p3")]
        )
        inventory.synchronize([], [])
        # on_change is called, even if nothing has changed.
        inventory.synchronize([], [])
        assert told.take() == [
            ("synchronize", "+p1 +p2 +c1 +c2"),
            ("synchronize", "+p3 -p1 +c3 -c1 ~c2"),
            ("synchronize", "-p2 -p3 -c2 -c3"),
            ("synchronize", ""),
        ]

    def test_readers_see_a_whole_synchronize_or_nothing(
        self, inventory: Inventory, told: Told
    ) -> None:
        inventory.synchronize([pod("p1")], [container("c1")])
        before = inventory.snapshot()
        inventory.synchronize([pod("p2")], [container("c2", "p2")])
        changes = told.changes[-1]
        assert (changes.before, changes.after) == (before, inventory.snapshot())
        assert set(before.pods) | set(before.containers) == {"p1", "c1"}

    def test_fields_that_a_synchronize_omits_stay_known(
        self, inventory: Inventory, told: Told
    ) -> None:
        inventory.start_container(pod("p1", ips=["10.0.0.1"]), container("c1", pid=7))
        told.take()
        inventory.synchronize([pod("p1")], [container("c1")])
        assert told.take() == [("synchronize", "")]
        assert inventory.snapshot().pod_by_ip("10.0.0.1") is not None
        assert inventory.snapshot().container_by_pid(7) is not None

    def test_among_new_records_those_with_a_process_are_newest(self, inventory: Inventory) -> None:
        inventory.synchronize(
            [
                api.PodSandbox(id="p2", uid="u", pid=5),
                api.PodSandbox(id="p1", uid="u"),
            ],
            [
                api.Container(id="c3", pod_sandbox_id="p2", name="app", created_at=3),
                api.Container(id="c1", pod_sandbox_id="p2", name="app", created_at=1),
            ],
        )
        newest_pod = inventory.snapshot().pod_by_uid("u")
        newest = inventory.snapshot().container_by_name("p2", "app")
        assert newest_pod is not None
        assert newest is not None
        assert (newest_pod.id, newest.id) == ("p2", "c3")

    def test_an_instance_keeps_its_age(self, inventory: Inventory) -> None:
        inventory.run_pod_sandbox(api.PodSandbox(id="p1", uid="u", pid=5))
        inventory.run_pod_sandbox(api.PodSandbox(id="p2", uid="u"))
        inventory.synchronize(
            [api.PodSandbox(id="p2", uid="u"), api.PodSandbox(id="p1", uid="u", pid=5)], []
        )
        newest = inventory.snapshot().pod_by_uid("u")
        assert newest is not None
        assert newest.id == "p2"

    def test_the_snapshot_is_stale_until_the_synchronize(self, inventory: Inventory) -> None:
        assert inventory.snapshot().stale
        inventory.synchronize([pod("p1")], [])
        first = inventory.snapshot()
        inventory.run_pod_sandbox(pod("p2"))
        assert not inventory.snapshot().stale
        inventory.configure("", "containerd", "2.0")
        inventory.run_pod_sandbox(pod("p3"))
        assert inventory.snapshot().stale
        assert set(inventory.snapshot().pods) == {"p1", "p2", "p3"}
        inventory.synchronize([pod("p1")], [])
        assert not inventory.snapshot().stale
        assert not first.stale

    def test_messages_without_an_id_are_passed_over(self, inventory: Inventory) -> None:
        inventory.synchronize([api.PodSandbox(name="x")], [api.Container(name="y")])
        inventory.run_pod_sandbox(api.PodSandbox())
        inventory.create_container(pod("p1"), api.Container())
        assert set(inventory.snapshot().pods) | set(inventory.snapshot().containers) == {"p1"}

    def test_an_invalid_synchronize_changes_nothing(self, inventory: Inventory) -> None:
        inventory.synchronize([pod("p1")], [])
        before = inventory.snapshot()
        with pytest.raises(AttributeError):
            inventory.synchronize([pod("p2")], [None])  # type: ignore[list-item]
        assert inventory.snapshot() is before
        inventory.synchronize([pod("p3")], [])
        assert set(inventory.snapshot().pods) == {"p3"}


class TestEventsDuringASynchronize:
    """From Configure on, an event is newer than the lists that the runtime has collected."""

    def begin(self, inventory: Inventory) -> None:
        inventory.synchronize([pod("p1"), pod("p2")], [container("c1"), container("c2")])
        inventory.configure("", "", "")

    def test_a_container_created_meanwhile_stays(self, inventory: Inventory, told: Told) -> None:
        self.begin(inventory)
        inventory.create_container(pod("p3"), container("c3", "p3"))
        told.take()
        inventory.synchronize([pod("p1")], [container("c1")])
        assert told.take() == [("synchronize", "-p2 -c2")]
        assert set(inventory.snapshot().containers) == {"c1", "c3"}
        # Only once.
        inventory.synchronize([pod("p1")], [container("c1")])
        assert told.take() == [("synchronize", "-p3 -c3")]

    def test_a_pod_or_container_removed_meanwhile_does_not_come_back(
        self, inventory: Inventory
    ) -> None:
        self.begin(inventory)
        inventory.remove_container(pod("p1"), container("c1"))
        inventory.remove_pod_sandbox(pod("p2"))
        lists = [pod("p1"), pod("p2")], [container("c1"), container("c2"), container("c9", "p2")]
        inventory.synchronize(*lists)
        assert set(inventory.snapshot().pods) == {"p1"}
        assert set(inventory.snapshot().containers) == {"c2"}
        inventory.synchronize(*lists)
        assert set(inventory.snapshot().containers) == {"c1", "c2", "c9"}

    def test_a_change_made_meanwhile_is_not_reverted(self, inventory: Inventory) -> None:
        self.begin(inventory)
        inventory.post_start_container(pod("p1", pid=6), container("c1", pid=7))
        inventory.synchronize([pod("p1", pid=1)], [container("c1", pid=2, state=CREATED)])
        record = inventory.snapshot().containers["c1"]
        assert (inventory.snapshot().pods["p1"].pid, record.pid, record.state) == (6, 7, RUNNING)

    def test_an_event_in_the_middle_of_a_synchronize(
        self, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without Configure: from the beginning of the handler on."""
        inventory.synchronize([pod("p1")], [container("c1"), container("c2")])
        copy = inventory._omit.copy

        def copy_and_lose_c1(message: api.Container) -> api.Container:
            monkeypatch.setattr(inventory._omit, "copy", copy)
            inventory.remove_container(pod("p1"), container("c1"))
            inventory.create_container(pod("p1"), container("c3"))
            return copy(message)

        monkeypatch.setattr(inventory._omit, "copy", copy_and_lose_c1)
        inventory.synchronize([pod("p1")], [container("c1"), container("c2")])
        assert set(inventory.snapshot().containers) == {"c2", "c3"}


class TestLateEvents:
    """An event that is handled after the removal of its pod or container adds neither again."""

    LIFE = (
        "run_pod_sandbox",
        "update_pod_sandbox",
        "post_update_pod_sandbox",
        "create_container",
        "post_create_container",
        "start_container",
        "post_start_container",
        "update_container",
        "post_update_container",
        "stop_container",
        "remove_container",
        "stop_pod_sandbox",
        "remove_pod_sandbox",
    )

    def send(self, inventory: Inventory, event: str, p: str = "p1", c: str = "c1") -> None:
        arguments: list[Any] = [pod(p, ips=["10.0.0.1"])]
        if event.endswith("_container"):
            arguments.append(container(c, p, pid=7))
        arguments += {"update_pod_sandbox": [RESOURCES] * 2, "update_container": [RESOURCES]}.get(
            event, []
        )
        getattr(inventory, event)(*arguments)

    def test_events_of_a_removed_pod_in_any_order_leave_nothing(self) -> None:
        chance = random.Random(7)
        for _ in range(1000):
            order = chance.sample(self.LIFE, len(self.LIFE))
            inventory = Inventory()
            inventory.synchronize([], [])
            for event in order:
                self.send(inventory, event)
            now = inventory.snapshot()
            assert not now.pods, order
            assert not now.containers, order
            assert now.pod_by_ip("10.0.0.1") is None, order

    @pytest.mark.parametrize("late", [e for e in LIFE if e != "run_pod_sandbox"])
    def test_after_the_removal(self, inventory: Inventory, told: Told, late: str) -> None:
        for event in self.LIFE:
            self.send(inventory, event)
        told.take()
        if late != "create_container":
            self.send(inventory, late)
        # For an unknown container of the pod.
        if late.endswith("_container"):
            self.send(inventory, late, c="c2")
        assert told.take() == []
        assert inventory.recall_pod("p1") is not None

    def test_a_removed_id_that_begins_again_is_a_new_record(
        self, inventory: Inventory, told: Told
    ) -> None:
        for event in (*self.LIFE, "run_pod_sandbox", "create_container"):
            self.send(inventory, event)
        assert told.take()[-2:] == [("run_pod_sandbox", "+p1"), ("create_container", "+c1")]

    def test_a_new_sandbox_keeps_the_address_of_a_removed_one(self, inventory: Inventory) -> None:
        self.send(inventory, "run_pod_sandbox", "old")
        self.send(inventory, "run_pod_sandbox", "new")
        for event in ("update_pod_sandbox", "remove_pod_sandbox", "post_update_pod_sandbox"):
            self.send(inventory, event, "old")
            found = inventory.snapshot().pod_by_ip("10.0.0.1")
            assert found is not None
            assert found.id == "new"

    def test_a_removed_pod_that_a_synchronize_lists_is_known_again(
        self, inventory: Inventory
    ) -> None:
        for event in self.LIFE:
            self.send(inventory, event)
        inventory.synchronize([pod("p1")], [container("c1")])
        assert set(inventory.snapshot().pods) | set(inventory.snapshot().containers) == {"p1", "c1"}
        self.send(inventory, "remove_container")
        self.send(inventory, "post_update_container")
        assert not inventory.snapshot().containers

    def test_a_pod_that_a_synchronize_omits_is_known_only_by_a_new_container(
        self, inventory: Inventory
    ) -> None:
        inventory.synchronize([pod("p1")], [container("c1")])
        inventory.synchronize([], [])
        self.send(inventory, "post_update_container")
        self.send(inventory, "post_update_pod_sandbox")
        assert not inventory.snapshot().pods
        # The runtime creates a container in it, so it exists, although the list left it out.
        self.send(inventory, "create_container", c="c2")
        assert set(inventory.snapshot().pods) | set(inventory.snapshot().containers) == {"p1", "c2"}

    def test_a_stop_before_the_synchronize_that_lists_the_container(
        self, inventory: Inventory
    ) -> None:
        inventory.configure("", "", "")
        self.send(inventory, "stop_container")
        self.send(inventory, "stop_pod_sandbox")
        inventory.synchronize(
            [pod("p1", ips=["10.0.0.1"])], [container("c1", pid=7, state=RUNNING)]
        )
        now = inventory.snapshot()
        assert (now.pods["p1"].stopped, now.containers["c1"].state) == (True, STOPPED)
        assert now.pod_by_ip("10.0.0.1") is None
        assert now.container_by_pid(7) is None

    def test_late_events_do_not_bring_a_removed_pod_into_the_store(self, tmp_path: Path) -> None:
        path = tmp_path / "inventory.db"
        with InventoryStore(path) as store:
            inventory = Inventory(store=store)
            inventory.synchronize([], [])
            for event in (*self.LIFE, "post_start_container", "post_update_pod_sandbox"):
                self.send(inventory, event)
        with InventoryStore(path) as store:
            assert store.load() == ([], [])

    def test_an_event_on_a_late_thread_does_not_bring_a_container_back(
        self, inventory: Inventory
    ) -> None:
        """A handler waits for an event of the test, while the removal is handled."""
        for event in self.LIFE[:7]:
            self.send(inventory, event)
        removed = threading.Event()

        def handle() -> None:
            assert removed.wait(LONG)
            self.send(inventory, "post_update_container")

        handled = on_thread(handle)
        self.send(inventory, "remove_pod_sandbox")
        removed.set()
        handled()
        assert not inventory.snapshot().pods
        assert not inventory.snapshot().containers


class TestOnChange:
    def test_the_callback_runs_without_the_lock_on_the_thread_of_the_handler(self) -> None:
        seen: list[Any] = []

        def on_change(changes: Changes) -> None:
            # Meanwhile another thread can look up records, and change them.
            done = on_thread(lambda: view.snapshot())()
            seen.append((threading.current_thread(), done is changes.after))

        view = Inventory(on_change)
        handler: list[threading.Thread] = []

        def handle() -> None:
            handler.append(threading.current_thread())
            view.run_pod_sandbox(pod("p1"))

        on_thread(handle)()
        assert seen == [(handler[0], True)]
        # Signals interrupt the main thread, so another thread does this for it.
        view.run_pod_sandbox(pod("p2"))
        assert [done for _, done in seen] == [True, True]
        assert seen[1][0] is not threading.main_thread()

    def test_one_after_the_other_in_the_order_of_the_changes(self) -> None:
        first_is_told, go_on = threading.Event(), threading.Event()
        told: list[tuple[str, str]] = []

        def on_change(changes: Changes) -> None:
            name = summary(changes)
            if name == "+p0":
                first_is_told.set()
                assert go_on.wait(LONG)
            told.append((name, threading.current_thread().name))

        inventory = Inventory(on_change)
        threads = []
        for number in range(5):
            thread = threading.Thread(
                target=inventory.run_pod_sandbox, args=(pod(f"p{number}"),), name=f"t{number}"
            )
            threads.append(thread)
            thread.start()
            # The change is visible before on_change is called.
            while f"p{number}" not in inventory.snapshot().pods:
                first_is_told.wait(0.001)
        assert first_is_told.wait(LONG)
        assert told == []
        assert all(thread.is_alive() for thread in threads)
        go_on.set()
        for thread in threads:
            thread.join(LONG)
        assert told == [(f"+p{number}", f"t{number}") for number in range(5)]

    def test_the_handler_raises_the_exception_of_the_callback(self) -> None:
        errors = [LookupError("no such thing")]

        def on_change(changes: Changes) -> None:
            if errors:
                raise errors.pop()

        inventory = Inventory(on_change)
        with pytest.raises(LookupError, match="no such thing"):
            inventory.run_pod_sandbox(pod("p1"))
        # The record is kept, and the next event does not wait.
        inventory.run_pod_sandbox(pod("p2"))
        assert set(inventory.snapshot().pods) == {"p1", "p2"}

    @pytest.mark.parametrize("handler", ["synchronize", "run_pod_sandbox", "remove_container"])
    def test_the_callback_must_not_call_handlers(self, handler: str) -> None:
        arguments: dict[str, Any] = {
            "synchronize": ([], []),
            "run_pod_sandbox": (pod("p2"),),
            "remove_container": (pod("p1"), container("c1")),
        }

        def on_change(changes: Changes) -> None:
            getattr(inventory, handler)(*arguments[handler])

        inventory = Inventory(on_change)
        with pytest.raises(
            WouldDeadlock, match=rf"inventory\.{handler}\(\) was called inside on_change"
        ):
            inventory.run_pod_sandbox(pod("p1"))
        assert set(inventory.snapshot().pods) == {"p1"}

    def test_an_interrupted_handler_does_not_block_the_others(self) -> None:
        """An interrupt may end the wait of a handler that the main thread has called."""
        inventory = Inventory(told := Told())
        lock = inventory._delivery
        numbers = [lock.ticket() for _ in range(3)]

        class Interrupted(BaseException):
            pass

        def give_up(_condition: Any) -> None:
            raise Interrupted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lock._condition, "wait_for", give_up)
            for number in numbers[1:]:
                with pytest.raises(Interrupted), lock.holding(number):
                    raise AssertionError
        with lock.holding(numbers[0]):
            pass
        inventory.run_pod_sandbox(pod("p1"))
        assert told.take() == [("run_pod_sandbox", "+p1")]


class Cluster(Host):
    """A runtime whose pods come and go, and a connected plugin."""

    def __init__(self, directory: Path, plugin: Any) -> None:
        super().__init__()
        self.pods, self.containers = [], []
        self.runtime = Runtime("test", "1", **host_options(self, directory))
        self._path = str(directory / "nri.sock")
        self.replace(plugin)

    def replace(self, plugin: Any) -> None:
        """Another plugin replaces this one, which is not connected."""
        self.stub = nri_sync.Stub(plugin, name="test", idx="10", socket_path=self._path)

    def start(self) -> None:
        self.runtime.start()
        self.connect()

    def connect(self) -> None:
        self.stub.start()
        assert self.runtime.wait_for_plugins(lambda names: "10-test" in names, LONG)

    def disconnect(self) -> None:
        self.stub.stop()
        assert self.runtime.wait_for_plugins(lambda names: not names, LONG)

    def stop(self) -> None:
        self.stub.stop()
        self.runtime.stop()

    def run(self, p: api.PodSandbox, *containers: api.Container) -> None:
        with self.runtime.block_plugin_sync():
            self.runtime.run_pod_sandbox(p)
            self.pods.append(p)
            for c in containers:
                self.runtime.create_container(p, c)
                c.pid, c.state = 100 + len(self.containers), RUNNING
                self.runtime.start_container(p, c)
                self.containers.append(c)

    def remove(self, p: api.PodSandbox) -> None:
        """As in some runtimes: no events for the containers, and no addresses."""
        with self.runtime.block_plugin_sync():
            self.pods.remove(p)
            self.containers = [c for c in self.containers if c.pod_sandbox_id != p.id]
            self.runtime.remove_pod_sandbox(api.PodSandbox(id=p.id))


class TestWithARuntime:
    def test_in_a_chain_through_restarts(self, socket_dir: Path, told: Told) -> None:
        addresses: list[tuple[str, ...]] = []

        def create_container(p: api.PodSandbox, c: api.Container) -> None:
            # The plugin's handler finds the record.
            assert view.snapshot().containers[c.id].pod_id == p.id

        def remove_pod_sandbox(p: api.PodSandbox) -> None:
            record = view.recall_pod(p.id)
            assert record is not None
            addresses.append(record.ips)

        plugin = PluginWith(
            create_container=create_container, remove_pod_sandbox=remove_pod_sandbox
        )
        view = Inventory(told)
        cluster = Cluster(socket_dir, chain(view, plugin))
        p1, p2, p3 = pod("p1", ips=["10.0.0.1"]), pod("p2", ips=["10.0.0.2"]), pod("p3")
        cluster.start()
        try:
            cluster.run(p1, container("c1"))
            cluster.run(p2, container("c2", "p2"))
            assert [record.pid for record in view.snapshot().containers_of("p2")] == [101]
            cluster.remove(p1)
            assert addresses == [("10.0.0.1",)]
            told.take()
            # The runtime restarts. Meanwhile one pod goes, and one comes.
            cluster.runtime.stop()
            assert cluster.stub.wait(LONG)
            cluster.pods, cluster.containers = [p3], [container("c3", "p3", pid=9)]
            cluster.runtime.start()
            cluster.connect()
            assert told.take() == [("synchronize", "+p3 -p2 +c3 -c2")]
            assert view.snapshot().container_by_pid(9) is not None
            # The plugin stops and starts its stub. Nothing has changed.
            cluster.disconnect()
            assert not view.snapshot().stale
            cluster.connect()
            assert told.take() == [("synchronize", "")]
        finally:
            cluster.stop()


@WARNS
def test_a_fork_while_another_thread_delivers_a_change() -> None:
    begun, go_on = threading.Event(), threading.Event()
    parent = os.getpid()
    seen: list[int] = []

    def on_change(changes: Changes) -> None:
        seen.append(changes.after.version)
        if os.getpid() == parent:
            begun.set()
            assert go_on.wait(LONG)

    inventory = Inventory(on_change)
    first = on_thread(lambda: inventory.run_pod_sandbox(pod("p1")))
    assert begun.wait(LONG)

    def child() -> None:
        inventory.configure("", "containerd", "v2.4.2")
        inventory.synchronize([pod("p1"), pod("p2")], [container("c1")])
        assert inventory.snapshot().pods.keys() == {"p1", "p2"}
        assert len(seen) == 2

    in_child(child)
    go_on.set()
    first()
    assert inventory.snapshot().pods.keys() == {"p1"}


@WARNS
def test_a_fork_while_another_thread_holds_the_locks() -> None:
    inventory = Inventory()
    with inventory._synchronizing, inventory._lock:
        in_child(lambda: inventory.synchronize([pod("p1")], []))
    assert not inventory.snapshot().pods


@WARNS
def test_on_change_may_fork() -> None:
    def on_change(changes: Changes) -> None:
        in_child(lambda: None)

    inventory = Inventory(on_change)
    inventory.run_pod_sandbox(pod("p1"))
    assert inventory.snapshot().pods.keys() == {"p1"}
