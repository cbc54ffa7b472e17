"""The causes that a store names for a file that it cannot use: real failures of the system."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_sync.errors import StoreError
from nri_sync.kit import Inventory, InventoryStore
from nri_sync.kit.inventory.causes import explained
from tests.runtime.rig import LONG

__all__: list[str] = []


def message(path: Path) -> str:
    """Return the text of the store's error."""
    with pytest.raises(StoreError) as caught:
        InventoryStore(path, timeout=0.01).close()
    assert str(caught.value).startswith(f"{path} cannot be used: ")
    return str(caught.value)


def run(code: str, *arguments: object) -> list[str]:
    """Run code in a process, and return the lines of its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, check=True, timeout=LONG, text=True,
    )  # fmt: skip
    return done.stdout.splitlines()


DESCRIPTORS = """
import os, resource, sys
from nri_sync.errors import StoreError
from nri_sync.kit import InventoryStore
InventoryStore(sys.argv[1] + "/old.db").close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for free in range(7):
    for path in f"{sys.argv[1]}/new{free}.db", sys.argv[1] + "/old.db":
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for _ in range(free):
            os.close(held.pop())
        try:
            InventoryStore(path).close()
            result = "opened"
        except StoreError as error:
            result = str(error)
        for each in held:
            os.close(each)
        print(free, path, result)
"""


def test_no_free_descriptor(tmp_path: Path) -> None:
    """Each number of free descriptors is enough, or the error names the lack of them."""
    results: dict[int, list[str]] = {}
    for line in run(DESCRIPTORS, tmp_path):
        free, path, result = line.split(" ", 2)
        results.setdefault(int(free), []).append(result)
        if result != "opened":
            assert result.startswith(f"{path} cannot be used: ")
            assert result.endswith(
                "the process has too few free file descriptors; close some, or raise the limit (ulimit -n)"
            )
    assert "opened" not in results[0]
    # SQLite fails here, not the system call of the store.
    assert all("unable to open database file: " in result for result in results[1])
    assert results[6] == ["opened", "opened"]


def test_a_system_without_a_free_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    path = str(tmp_path / "a.db")
    monkeypatch.setattr(os, "open", full)
    text = explained(path, sqlite3.OperationalError("unable to open database file"))
    assert "the system has too few free file descriptors" in text
    assert "fs.file-max" in text


def test_a_missing_directory(tmp_path: Path) -> None:
    assert message(tmp_path / "a" / "b" / "c.db").endswith(
        f": the directory {tmp_path}/a is missing; create it"
    )


@pytest.mark.parametrize("below", ["c.db", "b/c.db"])
def test_a_file_as_a_directory(below: str, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert message(tmp_path / "a" / below).endswith(
        f": {tmp_path}/a is not a directory; choose another path"
    )


def test_a_directory_as_the_file(tmp_path: Path) -> None:
    assert message(tmp_path).endswith("the path is a directory; choose the path of a file in it")


@pytest.mark.parametrize("name", ["locked", "not a database", "is full"])
def test_a_path_with_the_words_of_another_error(name: str, tmp_path: Path) -> None:
    assert "is missing; create it" in message(tmp_path / name / "a.db")


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"the directory {tmp_path}/a is missing" in message(Path("a/b.db"))


@pytest.mark.parametrize("length", [248, 255, 256, 300])
def test_a_name_that_is_too_long(length: int, tmp_path: Path) -> None:
    """The journal's name is 8 bytes longer than the file's."""
    assert "the path is too long; choose one of at most 504 bytes, with names of at most 247" in message(
        tmp_path / ("x" * length)
    )  # fmt: skip


def long_path(start: Path, length: int) -> Path:
    path = str(start.resolve())
    while len(path) + 60 < length:
        path += "/" + "d" * 50
    os.makedirs(path, exist_ok=True)
    return Path(path + "/" + "x" * (length - len(path) - 1))


@pytest.mark.parametrize("length", [505, 512, 700])
def test_a_path_that_is_too_long(length: int, tmp_path: Path) -> None:
    path = long_path(tmp_path, length)
    assert "the path is too long; choose one of at most 504 bytes" in message(path)
    # A short link to its directory does not help, because SQLite follows links.
    link = tmp_path / "link"
    link.symlink_to(path.parent)
    assert "the path is too long" in message(link / path.name)


def test_the_longest_path(tmp_path: Path) -> None:
    InventoryStore(long_path(tmp_path, 504)).close()
    InventoryStore(tmp_path / ("x" * 247)).close()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


UNPRIVILEGED = """
import os, sys
from nri_sync.errors import StoreError
from nri_sync.kit import InventoryStore
InventoryStore(sys.argv[1] + "/warm.db").close()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(os.geteuid())
for path in sys.argv[2:]:
    try:
        InventoryStore(path).close()
        print("opened")
    except StoreError as error:
        print(error)
"""


def test_missing_rights(shared: Path, tmp_path: Path) -> None:
    """An ordinary user: a new file and an old one in a read-only directory, a file of root, a hidden directory."""
    locked, hidden = shared / "locked", shared / "hidden"
    for directory in (locked, hidden):
        directory.mkdir()
    paths = [locked / "new.db", locked / "own.db", hidden / "x.db"]
    paths[1].touch()
    if os.geteuid() == 0:
        os.chown(paths[1], 65534, 65534)
        for directory in (locked, hidden):
            directory.chmod(0o755)
        hidden.chmod(0o700)
    else:
        locked.chmod(0o555)
        hidden.chmod(0)
    user, *results = run(UNPRIVILEGED, tmp_path, *paths)
    locked.chmod(0o755)
    hidden.chmod(0o700)
    assert len(results) == len(paths)
    for path, result in zip(paths, results):
        assert result.startswith(f"{path} cannot be used: ")
        assert result.endswith(
            f"user {user} may not write the file or {path.parent}; change mode or owner, or the path"
        )
    assert "attempt to write a readonly database" in results[1], "SQLite's own error"


def test_a_damaged_file_that_cannot_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with InventoryStore(path) as store:
        store.save(Inventory().snapshot())
    content = bytearray(path.read_bytes())
    content[100:] = b"x" * (len(content) - 100)
    path.write_bytes(content)
    (tmp_path / "a.db.damaged" / "full").mkdir(parents=True)
    with (
        pytest.raises(StoreError, match=r"is damaged .* cannot be renamed to .*: Is a directory"),
        InventoryStore(path) as store,
    ):
        store.load()


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    for text in ("database is locked", "unable to open database file", "disk I/O error"):
        assert explained(path, sqlite3.OperationalError(text)) == text
    assert explained(path, PermissionError(errno.EPERM, "belongs to user 7")) == "belongs to user 7"
    assert re.search(
        "is full: .* free space", explained(path, sqlite3.OperationalError("disk is full"))
    )
