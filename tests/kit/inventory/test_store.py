"""The records of an inventory across restarts of the plugin."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync import api
from nri_sync.errors import StoreError
from nri_sync.kit import Inventory, InventoryStore, chain
from nri_sync.kit.inventory import store as module
from tests.forked import WARNS, in_child
from tests.kit.inventory.test_inventory import RUNNING, Cluster, Told, container, pod
from tests.plugin.harness import PluginWith
from tests.runtime.rig import LONG
from tests.threadless import no_threads

__all__: list[str] = []

Open = Callable[..., InventoryStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inventory.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the store, which writes at once; closes it at the end."""
    made: list[InventoryStore] = []

    def make(**options: Any) -> InventoryStore:
        made.append(InventoryStore(path, **{"interval": 0.0, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def rows(path: Path, statement: str) -> list[Any]:
    """Return the content of the file while no store has it open."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


class Blocked:
    """A connection whose transactions wait, or fail."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.entered, self.release = threading.Event(), threading.Event()
        self.errors: list[Exception] = []
        self.transactions = 0

    def execute(self, statement: str, *arguments: Any) -> Any:
        if statement == "BEGIN IMMEDIATE":
            self.entered.set()
            assert self.release.wait(LONG)
            if self.errors:
                raise self.errors.pop()
            self.transactions += 1
        return self._connection.execute(statement, *arguments)

    def close(self) -> None:
        self._connection.close()


def blocked(store: InventoryStore) -> Blocked:
    connection = Blocked(store._connection)
    store._connection = connection  # type: ignore[assignment]
    return connection


class TestRestarts:
    def test_the_first_synchronize_compares_with_the_loaded_records(self, opened: Open) -> None:
        with opened() as store:
            before = Inventory(store=store)
            before.synchronize(
                [pod("p1", ips=["10.0.0.1"]), pod("p2"), pod("p3")],
                [container("c1", pid=7), container("c2", "p2"), container("c3", "p3")],
            )
            before.stop_pod_sandbox(pod("p3"))
            before.remove_pod_sandbox(pod("p2"))
        told = Told()
        after = Inventory(told, store=opened())
        snapshot = after.snapshot()
        assert snapshot.stale
        assert dict(snapshot.pods) == dict(before.snapshot().pods)
        assert dict(snapshot.containers) == dict(before.snapshot().containers)
        assert snapshot.container_by_pid(7) is snapshot.containers["c1"]
        after.synchronize(
            [pod("p1"), pod("p4")],
            [container("c1", state=RUNNING), container("c4", "p4")],
        )
        assert told.take() == [("synchronize", "+p4 -p3 +c4 -c3 ~c1")]
        assert not after.snapshot().stale
        # New records have greater numbers than the loaded ones.
        known = after.snapshot().pods
        assert known["p4"].sequence > known["p1"].sequence

    def test_nothing_has_changed(self, opened: Open) -> None:
        lists = [pod("p1", pid=3)], [container("c1", env=["A=1"], pid=7)]
        with opened() as store:
            Inventory(store=store).synchronize(*lists)
        told = Told()
        Inventory(told, store=opened()).synchronize(*lists)
        assert told.take() == [("synchronize", "")]

    def test_fields_that_are_omitted_now_are_dropped_from_loaded_records(
        self, opened: Open
    ) -> None:
        with opened() as store:
            Inventory(store=store, omit=[]).create_container(
                pod("p1"), container("c1", env=["SECRET=1"])
            )
        with opened() as store:
            inventory = Inventory(store=store)
            assert not inventory.snapshot().containers["c1"].message.env
            inventory.run_pod_sandbox(pod("p2"))
        assert not any(message.env for message, _ in opened().load().containers)

    def test_with_a_runtime(self, socket_dir: Path, opened: Open) -> None:
        told = Told()
        cluster = Cluster(socket_dir, PluginWith(shutdown=lambda: None))
        cluster.runtime.start()
        try:
            for expected in (
                [("synchronize", ""), ("run_pod_sandbox", "+p0"), ("create_container", "+c0"),
                 ("start_container", "~c0")],
                [("synchronize", "+p9 -p0 +c9 -c0"), ("run_pod_sandbox", "+p1"),
                 ("create_container", "+c1"), ("start_container", "~c1")],
            ):  # fmt: skip
                # A process of the plugin, from its start to its end.
                number = len(cluster.pods)
                with opened() as store:
                    observed = chain(Inventory(told, store=store), PluginWith(shutdown=int))
                    cluster.replace(observed)
                    cluster.connect()
                    cluster.run(pod(f"p{number}"), container(f"c{number}", f"p{number}"))
                    cluster.disconnect()
                assert told.take() == expected
                # Meanwhile all records are replaced.
                cluster.pods, cluster.containers = [pod("p9")], [container("c9", "p9")]
        finally:
            cluster.stop()


class TestTheFile:
    def test_only_the_owner_can_read_the_files(self, path: Path, opened: Open) -> None:
        store = opened()
        store.save(Inventory().snapshot())
        assert store.flush(LONG)
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == {0o600}

    def test_the_file_is_a_database_with_a_version(self, path: Path, opened: Open) -> None:
        opened().close()
        assert rows(path, "PRAGMA user_version") == [(len(module.MIGRATIONS),)]
        assert rows(path, "PRAGMA application_id") == [(module.APPLICATION_ID,)]

    def test_a_file_of_a_newer_release_is_refused(self, path: Path, opened: Open) -> None:
        opened().close()
        change(path, "PRAGMA user_version = 99", "CREATE TABLE more (x)")
        before = path.read_bytes()
        with pytest.raises(
            StoreError, match=r"inventory.db has version 99 of the schema.* up to 1: use a newer"
        ):
            opened()
        assert path.read_bytes() == before

    def test_a_file_of_an_older_release_is_migrated(
        self, path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened() as store:
            Inventory(store=store).run_pod_sandbox(pod("p1"))
        migrations = (
            *module.MIGRATIONS,
            ("ALTER TABLE pods ADD COLUMN note TEXT", "CREATE TABLE notes (x)"),
            ("UPDATE pods SET note = 'migrated'",),
        )
        monkeypatch.setattr(module, "MIGRATIONS", migrations)
        with opened() as store:
            assert [message.id for message, _, _ in store.load().pods] == ["p1"]
        assert rows(path, "SELECT id, note FROM pods") == [("p1", "migrated")]
        assert rows(path, "PRAGMA user_version") == [(3,)]

    def test_a_migration_that_fails_changes_nothing(
        self, path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened().close()
        migrations = (*module.MIGRATIONS, ("CREATE TABLE notes (x)", "DROP TABLE missing"))
        with monkeypatch.context() as patch:
            patch.setattr(module, "MIGRATIONS", migrations)
            with pytest.raises(StoreError, match="no such table: missing"):
                opened()
        assert rows(path, "PRAGMA user_version") == [(1,)]
        assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name = 'notes'") == [(0,)]
        opened()

    def test_a_database_of_another_application_is_refused(self, path: Path, opened: Open) -> None:
        change(path, "CREATE TABLE precious (x)")
        with pytest.raises(StoreError, match="another application's database"):
            opened()
        assert rows(path, "SELECT * FROM precious") == []
        change(path, "DROP TABLE precious", "PRAGMA application_id = 7")
        with pytest.raises(StoreError, match="another application's database"):
            opened()

    def test_a_file_that_is_no_database_is_refused(self, path: Path, opened: Open) -> None:
        path.write_text("root:x:0:0:root:/root:/bin/sh\n" * 100)
        with pytest.raises(StoreError, match="is not a database; choose another path"):
            opened()
        assert path.read_text().startswith("root:x")
        assert list(path.parent.iterdir()) == [path]

    def test_a_file_belongs_to_one_store_at_a_time(self, opened: Open) -> None:
        first = opened()
        first.save(Inventory().snapshot())
        with pytest.raises(StoreError, match="is open in another process, or another store"):
            opened(timeout=0.01)
        assert first.flush(LONG)
        first.close()
        opened(timeout=0.01)

    def test_a_refused_store_leaves_the_lock_of_the_first(self, path: Path, opened: Open) -> None:
        """The locks of SQLite end when the process closes any ordinary descriptor of the file."""
        opened()
        with pytest.raises(StoreError, match="another store"):
            opened(timeout=0.01)
        code = """
import sys
from nri_sync.errors import StoreError
from nri_sync.kit import InventoryStore
try:
    InventoryStore(sys.argv[1], timeout=0.01)
    print("opened")
except StoreError as error:
    print(error)
"""
        result = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            stdout=subprocess.PIPE,
            check=True,
            timeout=LONG,
        )
        assert b"is open in another process" in result.stdout

    def test_a_path_that_cannot_be_used_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"nowhere/x.db cannot be used: .*No such file"):
            InventoryStore(tmp_path / "nowhere" / "x.db")
        with pytest.raises(StoreError, match="cannot be used: "):
            InventoryStore(tmp_path)

    def test_a_file_that_others_can_read_becomes_private(
        self, path: Path, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened().close()
        path.chmod(0o666)
        store = opened()
        Inventory(store=store).synchronize([pod("p1")], [])
        assert store.flush(LONG)
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        assert set(modes.values()) == {0o600}, modes
        assert "had mode 0666, and has 0600 now" in caplog.text

    @pytest.mark.parametrize("there", [True, False])
    def test_a_link_is_refused(self, there: bool, path: Path, opened: Open) -> None:
        target = path.with_name("target")
        if there:
            target.touch()
        path.symlink_to(target)
        with pytest.raises(StoreError, match=r"inventory\.db is a symbolic link"):
            opened()
        assert target.exists() == there
        assert not there or target.read_bytes() == b""

    def test_a_named_pipe_is_refused(self, path: Path, opened: Open) -> None:
        os.mkfifo(path)
        with pytest.raises(StoreError, match="not a regular file"):
            opened()

    @pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
    def test_a_file_of_another_user_is_refused(self, path: Path, opened: Open) -> None:
        path.touch()
        os.chown(path, 12345, -1)
        with pytest.raises(StoreError, match=r"cannot be used: .*belongs to user 12345"):
            opened()

    @pytest.mark.parametrize("mode", [0o777, 0o1777])
    def test_a_directory_that_others_can_write_is_warned_of(
        self, mode: int, path: Path, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.parent.chmod(mode)
        try:
            opened()
        finally:
            path.parent.chmod(0o700)
        assert f"others can write it (mode {mode:04o})" in caplog.text


class TestDamage:
    @pytest.fixture
    def filled(self, path: Path, opened: Open) -> Path:
        with opened() as store:
            inventory = Inventory(store=store)
            inventory.synchronize(
                [pod(f"p{number}") for number in range(50)],
                [container(f"c{number}", args=["x" * 2000]) for number in range(200)],
            )
        return path

    def damaged(self, path: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
        """The store renames the file, and creates a new one."""
        told = Told()
        with opened() as store:
            inventory = Inventory(told, store=store)
            assert len(inventory.snapshot().pods) == len(inventory.snapshot().containers) == 0
            assert "inventory.db is damaged" in caplog.text
            assert path.with_name("inventory.db.damaged").stat().st_size > 16384
            inventory.synchronize([pod("p1")], [])
        assert told.take() == [("synchronize", "+p1")]
        assert [message.id for message, _, _ in opened().load().pods] == ["p1"]

    def test_in_the_middle(
        self, filled: Path, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        with filled.open("r+b") as file:
            file.seek(3 * 16384)
            file.write(b"\xff" * 8 * 16384)
        self.damaged(filled, opened, caplog)

    def test_the_end_is_missing(
        self, filled: Path, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        os.truncate(filled, 5 * 16384)
        self.damaged(filled, opened, caplog)

    def test_a_journal_beside_a_damaged_file_is_not_for_the_new_one(
        self, filled: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = filled.with_name("inventory.db-wal")
        journal.write_bytes(b"\x37\x7f\x06\x82" + b"\x5a" * 40_000)
        with filled.open("r+b") as file:
            file.write(b"not SQLite")
        connect, found = sqlite3.connect, []

        def watched(path: Any, **options: Any) -> Any:
            found.append((Path(path).stat().st_size > 0, journal.exists()))
            return connect(path, **options)

        # SQLite removes the journal as it closes the damaged file, if it can.
        replace, content = os.replace, journal.read_bytes()

        def replaced(source: Any, target: Any) -> None:
            replace(source, target)
            journal.write_bytes(content)

        monkeypatch.setattr(sqlite3, "connect", watched)
        monkeypatch.setattr(os, "replace", replaced)
        with opened() as store:
            assert store.load() == ([], [])
        assert found == [(True, True), (False, False)]

    @pytest.mark.parametrize("message", ["ff", "0a0180"])  # the second has a text that is not UTF-8
    def test_an_undecodable_message(
        self, message: str, filled: Path, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        change(filled, f"UPDATE containers SET message = x'{message}' WHERE id = 'c7'")
        self.damaged(filled, opened, caplog)

    def test_a_journal_that_was_being_written_is_ignored(self, filled: Path, opened: Open) -> None:
        # The result of a power failure: a frame with a wrong checksum.
        filled.with_name("inventory.db-wal").write_bytes(b"\x37\x7f\x06\x82" + b"\x5a" * 40_000)
        stored = opened().load()
        assert (len(stored.pods), len(stored.containers)) == (50, 200)

    def test_a_plugin_that_is_killed_during_a_write(self, path: Path, opened: Open) -> None:
        code = """
import itertools, sys
from nri_sync import api
from nri_sync.kit import Inventory, InventoryStore
inventory = Inventory(store=InventoryStore(sys.argv[1], interval=0.0))
for number in itertools.count():
    p, c = api.PodSandbox(id=f"p{number}"), api.Container(id=f"c{number}", args=["x" * 3000])
    inventory.create_container(p, c)
    if number >= 50:
        inventory.remove_pod_sandbox(api.PodSandbox(id=f"p{number - 50}"))
    if number == 200:
        print("running", flush=True)
"""
        for _ in range(3):
            path.unlink(missing_ok=True)
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
            )
            with process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"running\n"
                process.send_signal(signal.SIGKILL)
            with opened() as store:
                stored = store.load()
            pods = [int(message.id[1:]) for message, _, _ in stored.pods]
            containers = [int(message.id[1:]) for message, _ in stored.containers]
            # The state of one moment: each pod with its container, and no more than 51 in a row.
            assert pods == containers
            assert pods == list(range(pods[0], pods[0] + len(pods))) if pods else True
            assert len(pods) <= 51


class TestWriting:
    def test_only_changed_records_are_written(self, path: Path, opened: Open) -> None:
        store = opened()
        inventory = Inventory(store=store)
        inventory.synchronize([pod(f"p{number}") for number in range(100)], [])
        assert store.flush(LONG)
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)
        inventory.remove_pod_sandbox(pod("p7"))
        inventory.create_container(pod("p100"), container("c1", "p100"))
        assert store.flush(LONG)
        store._connection.set_trace_callback(None)
        writes = [s.split()[0] for s in statements if s.split()[0] in ("DELETE", "INSERT")]
        assert sorted(writes) == ["DELETE", "INSERT", "INSERT"]
        store.close()
        assert rows(path, "SELECT count(*) FROM pods") == [(100,)]

    def test_handlers_do_not_wait_for_the_disk(self, opened: Open) -> None:
        store = opened()
        inventory = Inventory(store=store)
        connection = blocked(store)
        for number in range(100):
            inventory.run_pod_sandbox(pod(f"p{number}"))
            assert connection.entered.wait(LONG)
        assert not store.flush(0.01)
        connection.release.set()
        assert store.flush(LONG)
        # The first snapshot, and then all others together.
        assert connection.transactions <= 3
        store.close()
        assert len(opened().load().pods) == 100

    def test_changes_wait_for_others(self, opened: Open) -> None:
        store = opened(interval=3600.0)
        inventory = Inventory(store=store)
        connection = blocked(store)
        connection.release.set()
        for number in range(100):
            inventory.run_pod_sandbox(pod(f"p{number}"))
        assert connection.transactions == 0
        assert store.flush(LONG)
        assert connection.transactions == 1

    def test_a_failed_write_is_retried(
        self, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = opened(retry=0.01)
        inventory = Inventory(store=store)
        connection = blocked(store)
        connection.errors = [sqlite3.OperationalError("disk is full")] * 3
        connection.release.set()
        inventory.run_pod_sandbox(pod("p1"))
        inventory.remove_pod_sandbox(pod("p1"))
        inventory.run_pod_sandbox(pod("p2"))
        assert store.flush(LONG)
        failures = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(failures) == 3
        assert "could not be written: disk is full" in failures[0].getMessage()
        store.close()
        assert [message.id for message, _, _ in opened().load().pods] == ["p2"]

    def test_a_transaction_that_fails_half_way_is_undone(self, path: Path, opened: Open) -> None:
        with opened() as store:
            Inventory(store=store).run_pod_sandbox(pod("p1"))
        # Pods are written before containers.
        change(
            path,
            "CREATE TRIGGER full BEFORE INSERT ON containers BEGIN SELECT RAISE(FAIL, 'full'); END",
        )
        with opened(retry=3600.0) as store:
            inventory = Inventory(store=store)
            inventory.create_container(pod("p2"), container("c2", "p2"))
            inventory.remove_pod_sandbox(pod("p1"))
        assert rows(path, "SELECT id FROM pods") == [("p1",)]

    def test_closing_writes_the_remaining_records(self, opened: Open) -> None:
        store = opened(interval=3600.0)
        inventory = Inventory(store=store)
        inventory.run_pod_sandbox(pod("p1"))
        store.close()
        store.close()
        # Handlers may still run.
        inventory.run_pod_sandbox(pod("p2"))
        assert [message.id for message, _, _ in opened().load().pods] == ["p1"]

    def test_closing_does_not_wait_for_ever(
        self, opened: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = opened()
        connection = blocked(store)
        store.save(Inventory().snapshot())
        assert connection.entered.wait(LONG)
        store.close(0.01)
        assert "still being written 0.01 seconds after close" in caplog.text
        connection.release.set()
        assert store.flush(LONG)

    @pytest.mark.parametrize("way", ["save", "flush", "close"])
    def test_a_thread_that_cannot_be_started(
        self, opened: Open, way: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = opened()
        inventory = Inventory(store=store)
        with no_threads():
            inventory.run_pod_sandbox(pod("p1"))
            assert "no thread to write with" in caplog.text
            if way == "flush":
                assert store.flush(LONG)
            elif way == "close":
                store.close()
        if way == "save":
            inventory.run_pod_sandbox(pod("p2"))
            assert store.flush(LONG)
        store.close()
        expected = ["p1", "p2"] if way == "save" else ["p1"]
        assert [message.id for message, _, _ in opened().load().pods] == expected

    def test_a_thread_starts_again_after_a_write_without_one(self, opened: Open) -> None:
        store = opened()
        inventory = Inventory(store=store)
        with no_threads():
            inventory.run_pod_sandbox(pod("p1"))
            assert store.flush(LONG)
        inventory.run_pod_sandbox(pod("p2"))
        assert store.flush(LONG)
        store.close()
        assert len(opened().load().pods) == 2

    def test_nothing_to_flush(self, opened: Open) -> None:
        assert opened().flush(0)


def test_loaded_records_are_in_the_order_of_appearance(opened: Open) -> None:
    with opened() as store:
        inventory = Inventory(store=store)
        for number in (3, 1, 2):
            inventory.create_container(pod(f"p{number}"), container(f"c{number}"))
    stored = opened().load()
    assert [message.id for message, _, _ in stored.pods] == ["p3", "p1", "p2"]
    assert [message.id for message, _ in stored.containers] == ["c3", "c1", "c2"]
    assert stored.containers[0][0] == api.Container(id="c3", pod_sandbox_id="p1", name="c3")


@WARNS
def test_a_forked_child_leaves_the_file_to_the_parent(opened: Open, path: Path) -> None:
    store = opened()
    inventory = Inventory(store=store)
    inventory.synchronize([pod("p1")], [])
    assert store.flush(LONG)

    def child() -> None:
        inventory.synchronize([pod("p2")], [])
        assert inventory.snapshot().pods.keys() == {"p2"}
        assert store.flush(LONG)
        store.close()

    in_child(child)
    inventory.run_pod_sandbox(pod("p3"))
    store.close()
    assert Inventory(store=opened()).snapshot().pods.keys() == {"p1", "p3"}


@WARNS
def test_a_forked_child_uses_a_store_with_another_path(opened: Open, path: Path) -> None:
    store = opened()
    inventory = Inventory(store=store)
    inventory.run_pod_sandbox(pod("p1"))
    assert store.flush(LONG)
    other = path.with_name("other.db")

    def child() -> None:
        with pytest.raises(StoreError, match="open in the process that forked this one"):
            Inventory(store=store)
        with pytest.raises(StoreError, match="open in another process, or another store"):
            InventoryStore(path, timeout=0.1)
        with InventoryStore(other) as own:
            Inventory(store=own).run_pod_sandbox(pod("p2"))

    in_child(child)
    inventory.run_pod_sandbox(pod("p3"))
    store.close()
    assert Inventory(store=opened()).snapshot().pods.keys() == {"p1", "p3"}
    with InventoryStore(other) as found:
        assert Inventory(store=found).snapshot().pods.keys() == {"p2"}


# The child ends, which closes its objects. SQLite would remove the log, which the parent still writes.
FORKS = """
import os, sys
from nri_sync import api, kit

store = kit.InventoryStore(sys.argv[1], interval=0.0)
inventory = kit.Inventory(store=store)
if sys.argv[2] == "after a write":
    inventory.run_pod_sandbox(api.PodSandbox(id="p1"))
    assert store.flush(20)
pid = os.fork()
if pid:
    _, status = os.waitpid(pid, 0)
    assert status == 0
    inventory.run_pod_sandbox(api.PodSandbox(id="p1"))
    inventory.run_pod_sandbox(api.PodSandbox(id="p2"))
    assert store.flush(20)
    os._exit(0)  # as if it was killed: the log has the pods
if sys.argv[3] == "closes":
    store.close()
"""


@pytest.mark.parametrize("fork", ["before a write", "after a write"])
@pytest.mark.parametrize("child", ["closes", "ends"])
def test_a_forked_child_leaves_the_log_to_the_parent(path: Path, fork: str, child: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, str(path)]
    done = subprocess.run(
        [*command, fork, child], capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM pods").fetchall() == [("p1",), ("p2",)]
