"""Faults of the machine: docs/reliability.md has a promise for each of them.

Most of these tests run in a separate process, because the fault would outlive the test.
"""

from __future__ import annotations

import _thread
import ast
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import NRIError, StoreError
from nri_sync.files import replace_file
from nri_sync.kit.probe import check
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.recordings import Recording
from nri_sync.testing.recordings.files import Recorder
from tests.outputs import without_busy_warnings
from tests.plugin.harness import eventually

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[1]
LONG = 60.0

#: A process with a runtime and a plugin, which answers requests for a container.
SESSION = """
import os, resource, signal, sys, threading, time
import nri_sync
from nri_sync import api
from nri_sync.testing import FakeRuntime, make_container, make_pod

class Plugin:
    def create_container(self, pod, container):
        return api.Adjustment().add_env("A", "1")

def session():
    with FakeRuntime() as runtime, runtime.run_plugin(Plugin()):
        pod = make_pod()
        runtime.run_pod(pod)
        assert runtime.create_container(pod, make_container(pod)).env.keys() == {"A"}
"""


def run(code: str, *command: str, **options: Any) -> str:
    """Run code in a process, and return its output. It must succeed and write nothing to standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, env=environment, text=True, timeout=LONG, check=False, **options,
    )  # fmt: skip
    assert (done.returncode, without_busy_warnings(done.stderr)) == (0, "")
    return done.stdout


class Plugin:
    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_env("A", "1")


def works(runtime: FakeRuntime) -> None:
    with runtime.run_plugin(Plugin()):
        pod = make_pod()
        runtime.run_pod(pod)
        assert runtime.create_container(pod, make_container(pod)).env.keys() == {"A"}


# Descriptors and threads


def open_descriptors() -> set[int]:
    directory = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return set(map(int, os.listdir(directory))) - {directory}
    finally:
        os.close(directory)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Limit this process to ``count`` more descriptors during the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = open_descriptors()
    free = [number for number in range(max(used) + count + 2) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def the_stub(runtime: FakeRuntime, directory: Path) -> Callable[[], object]:
    stub = nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=runtime.socket_path)

    def start() -> None:
        try:
            stub.start()
        finally:
            stub.stop()

    return start


def the_health_server(runtime: FakeRuntime, directory: Path) -> Callable[[], object]:
    server = kit.HealthServer(kit.Health(), f"unix://{directory}/http.sock")

    def start() -> None:
        try:
            server.start()
        finally:
            server.stop()

    return start


def the_health_file(runtime: FakeRuntime, directory: Path) -> Callable[[], object]:
    file = kit.HealthFile(kit.Health(), directory / "health")

    def start() -> None:
        try:
            file.start()
        finally:
            file.stop()

    return start


def the_store(runtime: FakeRuntime, directory: Path) -> Callable[[], object]:
    def start() -> None:
        with kit.InventoryStore(directory / "inventory.db", interval=0.0) as store:
            kit.Inventory(store=store).synchronize([make_pod()], [])
            assert store.flush(LONG)

    return start


def the_runtime(runtime: FakeRuntime, directory: Path) -> Callable[[], object]:
    def start() -> None:
        with FakeRuntime():
            pass

    return start


PARTS = [the_stub, the_health_server, the_health_file, the_store, the_runtime]


@pytest.mark.parametrize("part", PARTS)
def test_no_descriptors_at_any_step(part: Any, socket_dir: Path) -> None:
    """The call works, or raises an error of the package or OSError.

    After that it works, and no descriptor is left.
    """
    with FakeRuntime(registration_timeout=2.0, request_timeout=2.0) as runtime:
        start = part(runtime, socket_dir)
        start()
        eventually(lambda: not runtime.plugins)
        before = open_descriptors()
        failed = 0
        # A thread of an earlier test may close a descriptor meanwhile, and so make room: once more.
        for _ in range(3):
            for count in range(40):
                with descriptors_left(count):
                    try:
                        start()
                    except (NRIError, OSError):
                        failed += 1
                        continue
                break
            if failed:
                break
        assert failed, "the limit has had no effect"
        start()
        eventually(lambda: len(open_descriptors()) <= len(before))


@contextlib.contextmanager
def threads_left(count: int) -> Iterator[None]:
    """Limit this process to ``count`` more threads during the block."""
    left = [None] * count

    def counted(start: Callable[..., Any]) -> Callable[..., Any]:
        def start_if_left(*arguments: Any, **options: Any) -> Any:
            try:
                left.pop()
            except IndexError:
                raise RuntimeError("can't start new thread") from None
            return start(*arguments, **options)

        return start_if_left

    with pytest.MonkeyPatch.context() as patch:
        # threading has the second name before Python 3.13, and the third name since then.
        for module, name in (
            (_thread, "start_new_thread"),
            (threading, "_start_new_thread"),
            (threading, "_start_joinable_thread"),
        ):
            if hasattr(module, name):
                patch.setattr(module, name, counted(getattr(module, name)))
        yield


@pytest.mark.parametrize("part", [the_stub, the_health_file, the_store])
def test_no_threads_at_any_step(part: Any, socket_dir: Path) -> None:
    """The call works, or raises an error of the package. After that it works, and no thread is left."""
    with FakeRuntime() as runtime:
        start = part(runtime, socket_dir)
        start()
        for count in range(6):
            with threads_left(count), contextlib.suppress(NRIError):
                start()
        start()
        works(runtime)


# Disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 1 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(path)],
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting is not permitted")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    path = disk / "filling"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return path


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def test_the_store_on_a_full_disk(disk: Path) -> None:
    """The old content stays, and the rest is written as soon as there is space."""
    with kit.InventoryStore(disk / "inventory.db", interval=0.0) as store:
        inventory = kit.Inventory(store=store)
        inventory.synchronize([make_pod(name="first")], [])
        assert store.flush(LONG)
        filling = fill(disk)
        inventory.synchronize([make_pod(name=f"pod{number}") for number in range(50)], [])
        assert not store.flush(0.2)
        filling.unlink()
        assert store.flush(LONG)
    with kit.InventoryStore(disk / "inventory.db") as store:
        assert len(store.load().pods) == 50


def test_the_store_on_a_disk_that_is_full_to_the_end(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with kit.InventoryStore(disk / "inventory.db", interval=0.0) as store:
        inventory = kit.Inventory(store=store)
        inventory.synchronize([make_pod(name="first")], [])
        assert store.flush(LONG)
        filling = fill(disk)
        inventory.synchronize([make_pod(name=f"pod{number}") for number in range(50)], [])
    assert (
        f"could not be written: database or disk is full: the disk of {disk} is full" in caplog.text
    )
    filling.unlink()
    with kit.InventoryStore(disk / "inventory.db") as store:
        assert [pod.name for pod, _, _ in store.load().pods] == ["first"]


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_store_that_cannot_be_opened(state: str, disk: Path) -> None:
    if state == "full":
        fill(disk)
    else:
        remount(disk, "ro")
    expected = (errno.ENOSPC, errno.EROFS)
    advice = f"disk of {disk} is full" if state == "full" else f"system of {disk} is read-only"
    with pytest.raises(StoreError, match=rf"inventory\.db cannot be used: .*{advice}; "):
        kit.InventoryStore(disk / "inventory.db")
    with pytest.raises(OSError, match="health") as caught:
        kit.HealthFile(kit.Health(), disk / "health").start()
    assert caught.value.errno in expected
    with pytest.raises(OSError, match="file") as caught:
        replace_file(disk / "file", bytes(10_000))
    assert caught.value.errno in expected


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_health_file_goes_on_when_there_is_room(state: str, disk: Path) -> None:
    """On a full disk the heartbeat continues, because it needs no space."""
    health = kit.Health()
    with kit.HealthFile(health, disk / "health", interval=0.01):
        before = (disk / "health").read_bytes()
        filling = disk / "filling"
        if state == "full":
            fill(disk)
            beat = (disk / "health").stat().st_mtime_ns
            eventually(lambda: (disk / "health").stat().st_mtime_ns > beat)
        else:
            remount(disk, "ro")
        assert (disk / "health").read_bytes() == before
        if state == "full":
            filling.unlink()
        else:
            remount(disk, "rw")
        beat = (disk / "health").stat().st_mtime_ns
        eventually(lambda: (disk / "health").stat().st_mtime_ns > beat)


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_recording_stays_as_it_was(state: str, disk: Path) -> None:
    path = disk / "recording"
    with path.open("w") as file:
        Recorder(file, about="x" * 5000)
    recording = Recording.read(path)
    before = path.read_bytes()
    if state == "full":
        fill(disk)
    else:
        remount(disk, "ro")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        recording.write()
    assert caught.value.errno in (errno.ENOSPC, errno.EROFS)
    remount(disk, "rw")
    assert path.read_bytes() == before
    assert {each.name for each in disk.iterdir()} <= {"recording", "filling"}


# Clocks

# The wall clock: it is for display, and for comparisons with the times of files.
_SHOWN = {
    "kit/health/metrics.py",
    "kit/probe.py",
    "testing/events.py",
    "testing/recordings/files.py",
}
_WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}


def test_no_wait_depends_on_the_wall_clock() -> None:
    found = set()
    for path in (ROOT / "nri_sync").rglob("*.py"):
        names = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        if names & _WALL_CLOCKS:
            found.add(str(path.relative_to(ROOT / "nri_sync")))
    assert {name for name in found if not name.startswith("cli/")} <= _SHOWN


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_the_wall_clock_jumps(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    with FakeRuntime() as runtime, runtime.run_plugin(Plugin()) as stub:
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        pod = make_pod()
        runtime.run_pod(pod)
        assert runtime.create_container(pod, make_container(pod)).env.keys() == {"A"}
        assert (stub.started, stub.counters.losses) == (True, 0)


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_health_file_after_a_jump_counts_from_the_next_heartbeat(
    jump: float, tmp_path: Path
) -> None:
    path = tmp_path / "health"
    with kit.HealthFile(kit.Health(), path) as file:
        os.utime(path, (time.time() - jump,) * 2)
        assert "no heartbeat" in check(path)
        file.beat()
        eventually(lambda: check(path) == "")


# The process


def states(pid: int) -> set[str]:
    """Return the states of the threads of a process, as proc(5) names them."""
    return {
        (thread / "stat").read_text().rpartition(")")[2].split()[0]
        for thread in Path(f"/proc/{pid}/task").iterdir()
    }


def test_stopped_and_continued() -> None:
    """A plugin that stops for longer than the runtime waits loses its session, and reconnects."""
    code = (
        SESSION
        + """
path = sys.argv[1] if len(sys.argv) > 1 else os.environ["SOCKET"]
nri_sync.run_forever(nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=path))
"""
    )
    with FakeRuntime(request_timeout=1.0) as runtime:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SOCKET": runtime.socket_path}
        with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
            try:
                eventually(lambda: runtime.plugins == ("10-test",))
                pod = make_pod()
                runtime.run_pod(pod)
                process.send_signal(signal.SIGSTOP)
                # The signal stops each thread by itself, and a busy machine takes its time.
                eventually(lambda: states(process.pid) == {"T"})
                assert runtime.create_container(pod, make_container(pod)).env.keys() == set()
                process.send_signal(signal.SIGCONT)
                eventually(
                    lambda: runtime.create_container(pod, make_container(pod)).env.keys() == {"A"}
                )
            finally:
                process.kill()


def test_a_small_stack() -> None:
    code = (
        SESSION
        + """
threading.stack_size(256 << 10)
thread = threading.Thread(target=session)
thread.start()
thread.join()
session()
print("done")
"""
    )
    assert run(code) == "done\n"


def test_a_small_stack_of_the_main_thread() -> None:
    assert run(SESSION + "session(); print('done')", "prlimit", "--stack=524288:524288") == "done\n"


def test_a_low_recursion_limit() -> None:
    code = (
        SESSION
        + """
sys.setrecursionlimit(200)
session()
print("done")
"""
    )
    assert run(code) == "done\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_standard_descriptors(closed: tuple[int, ...], tmp_path: Path) -> None:
    """Output goes nowhere, and never into a connection."""
    code = (
        SESSION
        + """
print("to standard output")
sys.stderr and sys.stderr.write("to standard error")
class Noisy(Plugin):
    def create_container(self, pod, container):
        print("to standard output", flush=True)
        for number in (1, 2):
            try:
                os.write(number, b"as a library does")
            except OSError:
                pass
        return super().create_container(pod, container)
with FakeRuntime() as runtime, runtime.run_plugin(Noisy()):
    pod = make_pod()
    runtime.run_pod(pod)
    assert runtime.create_container(pod, make_container(pod)).env.keys() == {"A"}
open(os.environ["DONE"], "w").close()
"""
    )
    redirections = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DONE": str(tmp_path / "done")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LONG, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_multiprocessing(method: str, tmp_path: Path) -> None:
    """A handler may start processes, which do not inherit the sockets of the plugin."""
    path = tmp_path / "program.py"
    path.write_text(
        SESSION
        + f"""
import multiprocessing
def sockets():
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{{number}}"))
        except OSError:
            pass
    return links
def child(mine, answer):
    answer.put([link for link in sockets() if link in mine])
class Working(Plugin):
    def create_container(self, pod, container):
        context = multiprocessing.get_context({method!r})
        answer = context.SimpleQueue()
        mine = [link for link in sockets() if link.startswith("socket:")]
        process = context.Process(target=child, args=(mine, answer))
        process.start()
        assert mine and answer.get() == [], "the child has them"
        process.join()
        assert process.exitcode == 0
        return super().create_container(pod, container)
if __name__ == "__main__":
    with FakeRuntime() as runtime, runtime.run_plugin(Working()):
        pod = make_pod()
        runtime.run_pod(pod)
        assert runtime.create_container(pod, make_container(pod)).env.keys() == {{"A"}}
    print("done")
"""
    )
    done = subprocess.run(
        [sys.executable, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=LONG, check=False,
    )  # fmt: skip
    errors = without_busy_warnings(done.stderr)
    assert (done.returncode, done.stdout, errors) == (0, "done\n", "")


@pytest.mark.parametrize(
    "moments", [(0, 8), pytest.param((0, 4, 8, 12), marks=pytest.mark.slow)], ids=["some", "more"]
)
@pytest.mark.parametrize("how", ["end", "os._exit(0)"])
@pytest.mark.parametrize("started", ["session", "run_forever", "start"])
def test_the_interpreter_ends_at_any_moment(
    started: str, how: str, moments: tuple[int, ...]
) -> None:
    """Within seconds, without a message, for any state of the threads."""
    code = (
        SESSION
        + f"""
import random
def connect(runtime, forever):
    stub = nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=runtime.socket_path)
    while forever:
        try:
            nri_sync.run_forever(stub)
        except Exception:
            pass
    stub.start()

def sessions():
    while True:
        session()

runtime = FakeRuntime()
runtime.start()
target = {{
    "session": sessions,
    "run_forever": lambda: connect(runtime, True),
    "start": lambda: connect(runtime, False),
}}[{started!r}]
threading.Thread(target=target, daemon=True).start()
time.sleep(float(os.environ["AFTER"]))
{"" if how == "end" else how}
"""
    )
    processes = []
    for milliseconds in moments:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
            "AFTER": str(milliseconds / 1000),
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    for process in processes:
        output, errors = process.communicate(timeout=LONG)
        errors = without_busy_warnings(errors)
        assert (process.returncode, output, errors) == (0, "", "")
