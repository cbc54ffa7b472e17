"""A file that keeps the records of an inventory across restarts of the plugin: :class:`InventoryStore`.

The file is a SQLite database in WAL mode, written in transactions. If the plugin is killed at any moment, the file
holds a complete earlier state. A thread writes the differences between the snapshot in the file and the newest
one. So handlers never wait for the disk, and no backlog grows when the disk is slow or full.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from nri_sync import Interceptor, fork
from nri_sync.api import Container, PodSandbox
from nri_sync.api.services import PARSE_ERRORS
from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread, StoreError
from nri_sync.files import check_writers, open_regular
from nri_sync.kit.inventory.causes import explained
from nri_sync.kit.inventory.index import Snapshot
from nri_sync.kit.inventory.records import ContainerRecord, PodRecord
from nri_sync.kit.inventory.table import Table
from nri_sync.logger import get_logger
from nri_sync.threads import Latch, signal_safe, spawn

__all__ = ["APPLICATION_ID", "MIGRATIONS", "InventoryStore", "Stored"]

logger = get_logger("nri_sync.kit.inventory")

# "NRIi": marks a file of this class, see https://sqlite.org/pragma.html#pragma_application_id
APPLICATION_ID = 0x4E524969

# The statements that lead from each version of the schema to the next. The first entry makes version 1.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE pods (id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, stopped INTEGER NOT NULL,
           message BLOB NOT NULL)""",
        """CREATE TABLE containers (id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, message BLOB NOT NULL)""",
    ),
)


class Stored(NamedTuple):
    """The content of the file, in the order of appearance."""

    #: Message, sequence, stopped.
    pods: list[tuple[PodSandbox, int, bool]]
    #: Message, sequence.
    containers: list[tuple[Container, int]]


class InventoryStore(Interceptor):
    """A file for the records of one inventory. Pass it to the inventory, and close it when the plugin ends::

        with InventoryStore("/var/lib/my-plugin/inventory.db") as store:
            inventory = Inventory(store=store)

    Only its owner can read the file; the store restricts an existing file, too. All methods may be called from
    any thread.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        interval: float = 1.0,
        timeout: float = 5.0,
        retry: float = 10.0,
    ) -> None:
        """Open the file, or create it in an existing directory.

        The store renames a damaged file to ``<path>.damaged``, with a warning, and creates a new one. Only the
        earlier state is lost, with which the inventory would compare the next Synchronize.

        Args:
            path: the path of the file.
            interval: seconds to wait after a change, so that further changes go into the same write.
            timeout: seconds to wait for another process that has the file open, such as the plugin's predecessor.
            retry: seconds to wait after a write that failed.

        Raises:
            StoreError: the file cannot be opened, is a symbolic link, belongs to another user, is open in another
                process, is not an inventory's, or comes from a newer release. The file is unchanged. The text
                names the file, and as far as the system shows them, the cause and the remedy: no free descriptor,
                a full or read-only disk, a missing directory, a missing right, a path that is too long.
        """
        self.path = os.fspath(path)
        self._interval = interval
        self._timeout = timeout
        self._retry = retry
        # Guards all attributes below. Never held during disk access.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._latest: Snapshot | None = None
        self._written: Snapshot | None = None
        self._is_urgent = False
        self._is_closed = False
        self._is_of_parent = False
        # Set when the writing thread has ended; None if no thread writes.
        self._writer: Latch | None = None
        # Set and replaced after each attempt to write.
        self._attempt = Latch()
        # One thread at a time uses it: the one that loads, then the one that writes, then the one that closes.
        self._connection = self._open()
        fork.in_child(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        # The file is the parent's. Nothing in the child may close the connection, not even the end of the process:
        # SQLite would roll back a transaction of the parent.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_closed = self._is_of_parent = True
        self._latest = self._written = self._writer = None
        self._attempt = Latch()

    def load(self) -> Stored:
        """Return the content of the file. Call it before the first :meth:`save`.

        Raises StoreError: the file cannot be read, or a forked child calls it on the store of the parent.
        """
        if self._is_of_parent:
            # The parent writes the file meanwhile. To the child it would look damaged.
            raise StoreError(
                f"{self.path} is open in the process that forked this one; make a store here, with another path"
            )
        try:
            return self._read()
        except (sqlite3.Error, *PARSE_ERRORS) as error:
            self._check_damage(error)
            self._connection.close()
            self._set_aside(error)
        self._connection = self._open()
        return Stored([], [])

    def save(self, snapshot: Snapshot) -> None:
        """Queue the snapshot for writing; a newer one replaces it. Never waits for the disk, never raises.

        The store logs a failed write, and tries it again. If no thread can be started, the next call of this
        method, of :meth:`flush` or of :meth:`close` tries again. After :meth:`close` the call has no effect.
        """
        if not self._save(snapshot):
            logger.error(
                "%s: the system has no thread to write with; the inventory is not written yet",
                self.path,
            )

    @signal_safe
    def _save(self, snapshot: Snapshot) -> bool:
        """Returns False if no thread could be started; the next call tries again."""
        with self._changed:
            if self._is_closed:
                return True
            self._latest = snapshot
            self._changed.notify_all()
            if self._claim_locked():
                self._writer = None
                return False
            return True

    def _claim_locked(self) -> bool:
        """Start a thread for the unwritten changes, if none runs. Returns True if the caller must write them."""
        assert self._lock.locked()
        if self._writer is not None or self._is_closed or self._latest is self._written:
            return False
        ended = self._writer = Latch()
        try:
            spawn("inventory-store", self._write_all, ended)
        except NoThread:
            return True
        return False

    def _write_here(self, latest: Snapshot) -> None:
        is_written = False
        try:
            is_written = self._write(latest)
        finally:
            self._unclaim(latest if is_written else None)

    @signal_safe
    def _unclaim(self, written: Snapshot | None = None) -> None:
        """Note that the writing thread has ended, or writes no more."""
        with self._changed:
            if written is not None:
                self._written = written
            self._writer = None
            self._attempted_locked()

    def flush(self, timeout: float | None = None) -> bool:
        """Block until the file has all saved snapshots; return False after ``timeout`` seconds.

        If the system has no thread to write with, the calling thread writes, and the disk decides the duration.
        """
        deadline = Deadline(timeout)
        latest, must_write = self._hurry()
        if latest is not None and must_write:
            self._write_here(latest)
        while latest is not None:
            attempt = self._attempt
            if self._has(latest):
                break
            # Without a thread no write will come: close() was called, or the write of this thread has failed.
            if self._writer is None or not attempt.wait(deadline):
                return self._has(latest)
        return True

    @signal_safe
    def _hurry(self) -> tuple[Snapshot | None, bool]:
        """Make the thread write at once. Returns the newest snapshot, and whether the caller must write it."""
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            return self._latest, self._claim_locked()

    def close(self, timeout: float | None = 10.0) -> None:
        """Write the saved snapshots, and close the file. Blocks for up to ``timeout`` seconds. Idempotent.

        :meth:`nri_sync.Stub.close` calls it if the store is among the stub's ``interceptors``. If the system has
        no thread to write with, the calling thread writes, as in :meth:`flush`.
        """
        writer, unwritten = self._stop_accepting()
        if unwritten is not None:
            self._write_here(unwritten)
        elif writer is not None and not writer.wait(Deadline(timeout)):
            logger.warning("%s: still being written %s seconds after close", self.path, timeout)
            return
        if not self._is_of_parent:
            self._connection.close()

    @signal_safe
    def _stop_accepting(self) -> tuple[Latch | None, Snapshot | None]:
        """Accept no more snapshots. Returns the thread's latch, if any, and the snapshot the caller must write."""
        with self._changed:
            unwritten = self._latest if self._claim_locked() else None
            self._is_closed = True
            self._changed.notify_all()
            return self._writer, unwritten

    def __enter__(self) -> InventoryStore:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    # Opening

    def _open(self) -> sqlite3.Connection:
        try:
            self._make_private()
        except OSError as error:
            raise self._failure(error) from error
        try:
            return self._connect()
        except sqlite3.Error as error:
            self._check_damage(error)
            self._set_aside(error)
        return self._open()

    def _make_private(self) -> None:
        """Create the file before SQLite does, or restrict an existing file to this user. Raises OSError.

        SQLite gives its journal the same mode.
        """
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            # To close an ordinary descriptor would end the locks of another store in this process on the file.
            descriptor = open_regular(self.path, os.O_PATH | os.O_NOFOLLOW)
            try:
                self._restrict(descriptor)
            finally:
                os.close(descriptor)
        try:
            check_writers(self.path)
        except PermissionError as error:
            logger.warning(
                "%s: %s; choose a directory that only this user can write", self.path, error
            )

    def _restrict(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if found.st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, f"belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            # fchmod() refuses a descriptor with O_PATH.
            os.chmod(f"/proc/self/fd/{descriptor}", 0o600)
            logger.warning(
                "%s had mode %04o, and has 0600 now: it may hold the environment of all containers",
                self.path, found.st_mode & 0o7777,
            )  # fmt: skip

    def _connect(self) -> sqlite3.Connection:
        # In a build of Python without the GIL, a cached statement would keep the file locked after close(), until
        # the thread that has made it runs again. Without the cache, writing a row takes 5 microseconds more.
        connection = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False,
            cached_statements=0,
        )  # fmt: skip
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is an inventory's, and migrate it to the present schema."""
        # Two plugins that wrote to one file would undo each other's changes.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        application, version, tables = (
            connection.execute(statement).fetchone()[0]
            for statement in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_master",
            )
        )
        if application != APPLICATION_ID and (application or version or tables):
            raise StoreError(f"{self.path} is another application's database; choose another path")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} has version {version} of the schema, and this release of nri_sync knows versions "
                f"up to {len(MIGRATIONS)}: use a newer release, or remove the file"
            )
        # Most messages have about 2 kB. Pages of the default size would waste much space.
        connection.execute("PRAGMA page_size = 16384")
        with _transaction(connection):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for number, statements in enumerate(MIGRATIONS[version:], version + 1):
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode a killed process loses no data by this; a power failure loses the last transactions.
        connection.execute("PRAGMA synchronous = NORMAL")

    def _failure(self, error: Exception) -> StoreError:
        if isinstance(error, OSError) and os.path.islink(self.path):
            return StoreError(f"{self.path} is a symbolic link; give the path of a file")
        # The text of another error may have the path, with any words.
        text = str(error) if isinstance(error, sqlite3.Error) else ""
        if "locked" in text:
            return StoreError(f"{self.path} is open in another process, or another store: {text}")
        if "not a database" in text:
            return StoreError(f"{self.path} is not a database; choose another path")
        return StoreError(f"{self.path} cannot be used: {explained(self.path, error)}")

    def _check_damage(self, error: Exception) -> None:
        """Return if the error means that an inventory's file is damaged. Otherwise raise a StoreError."""
        # SQLite's other errors, such as that of a full disk, are subclasses.
        if isinstance(error, PARSE_ERRORS):
            return
        try:
            if type(error) is sqlite3.DatabaseError and self._is_ours():
                return
        except OSError as unreadable:
            raise self._failure(unreadable) from error
        raise self._failure(error) from error

    def _is_ours(self) -> bool:
        # See https://sqlite.org/fileformat.html#the_database_header
        with open(self.path, "rb") as file:
            return file.read(100)[68:72] == APPLICATION_ID.to_bytes(4, "big")

    def _set_aside(self, error: Exception) -> None:
        """Rename the damaged file. The caller must have closed it. Raises StoreError."""
        damaged = f"{self.path}.damaged"
        try:
            os.replace(self.path, damaged)
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}-wal")
        except OSError as unmovable:
            raise StoreError(
                f"{self.path} is damaged ({error}), and cannot be renamed to {damaged}: "
                f"{explained(self.path, unmovable)}"
            ) from unmovable
        logger.warning(
            "%s is damaged (%s); it was renamed to %s, and a new file is created",
            self.path,
            error,
            damaged,
        )

    # Reading and writing

    def _read(self) -> Stored:
        pods = self._connection.execute("SELECT sequence, message, stopped FROM pods").fetchall()
        containers = self._connection.execute("SELECT sequence, message FROM containers").fetchall()
        return Stored(
            [
                (PodSandbox.FromString(data), number, bool(stopped))
                for number, data, stopped in sorted(pods)
            ],
            [(Container.FromString(data), number) for number, data in sorted(containers)],
        )

    def _write_all(self, ended: Latch) -> None:
        """The body of the writing thread."""
        try:
            self._write_until_closed()
        finally:
            self._unclaim()
            ended.set()

    def _attempted_locked(self) -> None:
        """Wake the threads that wait for an attempt to write."""
        assert self._lock.locked()
        attempt, self._attempt = self._attempt, Latch()
        attempt.set()

    def _write_until_closed(self) -> None:
        pause = self._interval
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._latest is not self._written or self._is_closed)
                if self._latest is self._written:
                    break
                self._changed.wait_for(lambda: self._is_urgent or self._is_closed, pause)
                self._is_urgent = False
                latest = self._latest
            assert latest is not None
            is_written = self._write(latest)
            with self._changed:
                if is_written:
                    self._written = latest
                elif self._is_closed:
                    break
                self._attempted_locked()
            pause = self._interval if is_written else max(self._interval, self._retry)

    def _write(self, latest: Snapshot) -> bool:
        """Write the changes; returns False on failure."""
        written = self._written
        try:
            with _transaction(self._connection):
                if written is None:
                    # Delete the old rows: the inventory has loaded them, and its records are newer.
                    self._connection.execute("DELETE FROM pods")
                    self._connection.execute("DELETE FROM containers")
                self._write_pods(latest, Table() if written is None else written.pods)
                self._write_containers(latest, Table() if written is None else written.containers)
        except sqlite3.Error as error:
            logger.error(
                "%s: the inventory could not be written: %s",
                self.path, explained(self.path, error),
            )  # fmt: skip
            return False
        return True

    def _write_pods(self, latest: Snapshot, written: Table[str, PodRecord]) -> None:
        for pod_id, pod, _ in latest.pods.differences(written):
            if pod is None:
                self._connection.execute("DELETE FROM pods WHERE id = ?", (pod_id,))
            else:
                self._connection.execute(
                    "INSERT OR REPLACE INTO pods (id, sequence, stopped, message) VALUES (?, ?, ?, ?)",
                    (pod_id, pod.sequence, pod.stopped, pod.data),
                )

    def _write_containers(self, latest: Snapshot, written: Table[str, ContainerRecord]) -> None:
        for container_id, container, _ in latest.containers.differences(written):
            if container is None:
                self._connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))
            else:
                self._connection.execute(
                    "INSERT OR REPLACE INTO containers (id, sequence, message) VALUES (?, ?, ?)",
                    (container_id, container.sequence, container.data),
                )

    def _has(self, snapshot: Snapshot) -> bool:
        return self._written is not None and self._written.version >= snapshot.version


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction: commits at the end, and rolls back after an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
