"""The file for exec probes."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import kit
from nri_sync.kit.probe import check
from tests.kit._node import LONG, Node, PluginWith, eventually

__all__: list[str] = []

# Long enough that no heartbeat comes within a test.
NEVER = 3600.0
OFTEN = 0.005


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        yield made


@pytest.fixture
def path(socket_dir: Path) -> Path:
    return socket_dir / "health"


def fields(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines}


def test_the_file_has_state_verdicts_reason_and_pid(path: Path) -> None:
    with kit.HealthFile(kit.Health(), path):
        assert path.read_text() == (
            "state: connecting\nlive: yes\nready: no\nreason: no stub is attached\n"
            f"pid: {os.getpid()}\n"
        )
        assert check(path) == ""
        assert os.listdir(path.parent) == ["health"]
    assert not path.exists()


def test_every_state(node: Node, path: Path) -> None:
    inside, may_return = threading.Event(), threading.Event()

    def handler(pod: Any, container: Any) -> None:
        inside.set()
        assert may_return.wait(LONG)

    health = kit.Health(wedged_after=0.2)
    stub = node.stub(PluginWith(create_container=handler), interceptors=[health])
    with kit.HealthFile(health, path, interval=OFTEN):
        node.may_synchronize.clear()
        node.start()
        stub.start(LONG)
        eventually(lambda: fields(path)["state"] == "registered")
        assert (check(path), check(path, ready=True)[:9]) == ("", "not ready")
        node.may_synchronize.set()
        eventually(lambda: check(path, ready=True) == "")
        assert fields(path)["state"] == "synchronized"
        assert node.runtime.wait_for_plugins(len, LONG)
        node.create_container()
        assert inside.wait(LONG)
        eventually(lambda: check(path))
        assert check(path).startswith("not live: wedged: handlers have been running for more than ")
        may_return.set()
        eventually(lambda: check(path, ready=True) == "")
        node.lose(stub)
        eventually(lambda: fields(path)["state"] == "connecting")
        assert check(path) == ""


def test_a_change_of_state_is_written_without_a_heartbeat(node: Node, path: Path) -> None:
    health = kit.Health()
    stub = node.stub(PluginWith(run_pod_sandbox=lambda pod: None), interceptors=[health])
    node.start()
    with kit.HealthFile(health, path, interval=NEVER) as file:
        node.connect(stub)
        eventually(lambda: fields(path)["state"] == "synchronized")
        node.lose(stub)
        file.beat()  # as an application that knows of a change
        eventually(lambda: fields(path)["state"] == "connecting")


def test_the_heartbeat(path: Path) -> None:
    with kit.HealthFile(kit.Health(), path, interval=OFTEN):
        inode = path.stat().st_ino
        os.utime(path, (0, 0))
        eventually(lambda: check(path) == "")
        assert abs(path.stat().st_mtime - time.time()) < LONG
        assert path.stat().st_ino == inode  # only touched


def test_a_file_that_was_removed_comes_back(path: Path) -> None:
    with kit.HealthFile(kit.Health(), path, interval=OFTEN):
        path.unlink()
        eventually(path.exists)
        eventually(lambda: check(path) == "")


def test_a_reader_never_sees_half_of_the_file(path: Path) -> None:
    states: list[str] = ["short", "long" * 5000]
    health = kit.Health(checks=[lambda: None])
    report = health.report()

    def changing() -> Any:
        states.reverse()
        return report._replace(reason=states[0])

    health.report = changing  # type: ignore[method-assign]
    with kit.HealthFile(health, path, interval=0.0001):
        seen: set[str] = set()

        def look() -> bool:
            seen.add(fields(path)["reason"])
            return len(seen) > 1

        eventually(look)
        for _ in range(500):
            look()
    assert seen == set(states)


def test_the_mode(path: Path) -> None:
    for options, mode in (({}, 0o600), ({"mode": 0o644}, 0o644)):
        with kit.HealthFile(kit.Health(), path, **options):
            assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("name", ["health", "health.{pid}.tmp", ".health"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_foreign_link_or_pipe_at_the_path_is_not_written_to(
    kind: str, name: str, path: Path
) -> None:
    trap = path.with_name(name.format(pid=os.getpid()))
    target = path.with_name("target")
    target.write_text("precious")
    if kind == "link":
        trap.symlink_to(target)
    else:
        os.mkfifo(trap)
    with kit.HealthFile(kit.Health(), path):
        assert check(path) == ""
        assert not path.is_symlink()
    assert target.read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_foreign_link_or_pipe_that_comes_later_is_replaced(kind: str, path: Path) -> None:
    target = path.with_name("target")
    with kit.HealthFile(kit.Health(), path, interval=OFTEN):
        path.unlink()
        try:
            if kind == "link":
                path.symlink_to(target)
            else:
                os.mkfifo(path)
        except FileExistsError:
            pass  # a heartbeat came first
        eventually(lambda: path.exists() and not path.is_symlink() and check(path) == "")
    assert not target.exists()


def test_the_file_of_another_process_is_not_removed(path: Path) -> None:
    """A second instance of a plugin may take the path over before the first one stops."""
    with kit.HealthFile(kit.Health(), path, interval=1000.0):
        other = path.with_name("other")
        other.write_text("of the second instance")
        other.replace(path)
    assert path.read_text() == "of the second instance"


def test_a_file_that_cannot_be_written_is_refused_at_the_start(path: Path) -> None:
    file = kit.HealthFile(kit.Health(), path / "not" / "there")
    with pytest.raises(FileNotFoundError, match="not/there"):
        file.start()
    file.stop()
    with pytest.raises(ValueError, match="interval must be positive"):
        kit.HealthFile(kit.Health(), path, interval=0)


def test_a_file_that_cannot_be_written_for_a_while(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = path.parent / "a"
    directory.mkdir()
    with kit.HealthFile(kit.Health(), directory / "health", interval=OFTEN):
        directory.rename(path.parent / "b")
        eventually(lambda: caplog.records)
        (path.parent / "b").rename(directory)
        os.utime(directory / "health", (0, 0))
        eventually(lambda: check(directory / "health") == "")
    assert [record.getMessage()[:28] for record in caplog.records] == [
        "cannot write the health file"
    ]  # once, not at each heartbeat
    assert os.listdir(directory) == []


def test_start_and_stop_any_number_of_times(path: Path) -> None:
    file = kit.HealthFile(kit.Health(), path, interval=NEVER)
    file.stop()
    file.beat()
    for _ in range(3):
        file.start()
        file.start()
        assert path.exists()
        file.stop()
        file.stop()
        assert not path.exists()


def test_many_threads_start_and_stop_the_file(path: Path) -> None:
    file = kit.HealthFile(kit.Health(), path, interval=NEVER)
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work() -> None:
        barrier.wait(LONG)
        for _ in range(50):
            try:
                file.start()
                file.beat()
                file.stop()
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not failures
    file.stop()
    with file:
        assert check(path) == ""
    assert os.listdir(path.parent) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_the_file_to_the_parent(path: Path) -> None:
    with kit.HealthFile(kit.Health(), path, interval=OFTEN) as file:
        child = os.fork()
        if child == 0:
            file.stop()
            os._exit(0 if path.exists() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.utime(path, (0, 0))
        eventually(lambda: check(path) == "")


def test_a_report_that_fails_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    health = kit.Health()

    def failing() -> Any:
        raise ValueError("inside")

    with kit.HealthFile(health, path, interval=OFTEN):
        health.report = failing  # type: ignore[method-assign]
        eventually(lambda: not path.exists())
    assert "is no longer updated" in caplog.text
