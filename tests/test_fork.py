"""The registry of resets in a forked child, and the behaviour of the whole package in a child."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import pytest

import nri_sync
from nri_sync import fork
from tests.forked import WARNS, in_child

__all__: list[str] = []


class Counted:
    def __init__(self) -> None:
        self.count = 0

    def reset(self) -> None:
        self.count += 1


@WARNS
class TestRegistry:
    def test_a_child_resets_and_the_parent_does_not(self) -> None:
        counted = Counted()
        fork.in_child(counted.reset)

        def check() -> None:
            assert counted.count == 1
            in_child(lambda: check_grandchild())

        def check_grandchild() -> None:
            assert counted.count == 2

        in_child(check)
        assert counted.count == 0

    def test_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fork, "resets", {})
        called: list[int] = []
        for number in range(20):
            fork.in_child(lambda number=number: called.append(number))  # type: ignore[misc]

        def check() -> None:
            assert called == list(range(20))

        in_child(check)

    def test_a_bound_method_does_not_keep_its_object(self) -> None:
        before = len(fork.resets)
        counted = Counted()
        fork.in_child(counted.reset)
        gone = weakref.ref(counted)
        del counted
        gc.collect()
        assert gone() is None
        assert len(fork.resets) <= before
        in_child(lambda: None)

    def test_objects_go_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The garbage collector may run at any allocation, and an object goes with its reset."""
        monkeypatch.setattr(fork, "resets", {})
        objects = [Counted() for _ in range(200)]
        kept = objects[::2]
        for counted in objects:
            fork.in_child(counted.reset)
        dropped = objects[1::2]
        objects.clear()
        del counted

        def drop(*_: object) -> None:
            if dropped:
                dropped.pop()

        def check() -> None:
            assert [counted.count for counted in kept] == [1] * 100

        gc.callbacks.append(drop)
        threshold = gc.get_threshold()
        gc.set_threshold(1)
        try:
            in_child(check)
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(drop)

    @pytest.mark.parametrize("when", ["before", "amid"])
    def test_a_signal_handler_finds_everything_reset(self, when: str) -> None:
        """A handler that calls nri_sync runs the resets first. It never runs amid them."""
        program = f"""
import os, signal
def hook():
    if {when == "before"}:
        signal.raise_signal(signal.SIGUSR1)
os.register_at_fork(after_in_child=hook)  # as another package does that is imported earlier
from nri_sync import fork
from nri_sync.threads import spawn
log = []
def handle(*_):
    log.append("handler")
    spawn("in-handler", log.append, "thread").wait()
def first():
    log.append("first")
    if {when == "amid"}:
        signal.raise_signal(signal.SIGUSR1)
signal.signal(signal.SIGUSR1, handle)
fork.in_child(first)
fork.in_child(lambda: log.append("second"))
pid = os.fork()
if not pid:
    print(*log, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
        )
        expected = {
            "before": "handler first second thread\n",
            "amid": "first second handler thread\n",
        }
        assert (done.returncode, done.stdout, done.stderr) == (0, expected[when], "")

    def test_a_reset_that_raises_is_logged_and_the_others_run(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(fork, "resets", {})
        counted = Counted()

        def fail() -> None:
            raise ZeroDivisionError("a bug")

        fork.in_child(fail)
        fork.in_child(counted.reset)

        def check() -> None:
            assert counted.count == 1
            assert "a bug" in caplog.text

        in_child(check)


def test_there_is_no_other_registry() -> None:
    package = Path(nri_sync.__file__).parent
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"register_at_fork\(", path.read_text())
    ]
    assert found == ["fork.py"]


# A process with a server, a runtime with a plugin, and a channel to the server, all of them connected.
_PROCESS = """
import multiprocessing, os, signal, sys, tempfile, time
import grpc
import nri_sync
from nri_sync import ttrpc
from nri_sync.runtime import Runtime

directory = tempfile.mkdtemp()
address = f"unix://{directory}/s"
server = ttrpc.Server()
handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server.add_registered_method_handlers("x.X", {"E": handler})
server.add_insecure_port(address)
server.start()
channel = ttrpc.connect(address)
echo = channel.unary_unary("/x.X/E")

class Plugin:
    def run_pod_sandbox(self, pod):
        seen.append(pod.id)

seen = []
runtime = Runtime(
    "r", "1", socket_path=f"{directory}/nri.sock",
    synchronize=lambda sync: sync([], []), update_containers=lambda updates, evictions: [],
    request_timeout=20,
)
runtime.start()
stub = nri_sync.Stub(Plugin(), name="p", idx="10", socket_path=f"{directory}/nri.sock")
stub.start()
assert runtime.wait_for_plugins(lambda names: names, 20)

def stop_all(*_):
    channel.close()
    server.stop(0).wait(20)
    stub.stop()
    runtime.stop()

def check(step):
    assert echo(step.encode(), timeout=20) == step.encode(), step
    with ttrpc.connect(address, timeout=20) as other:
        assert other.unary_unary("/x.X/E")(b"x", timeout=20) == b"x", step
    runtime.run_pod_sandbox(nri_sync.api.PodSandbox(id=step))
    assert seen[-1] == step
    assert runtime.plugins == ("10-p",) and stub.started
    assert os.path.exists(f"{directory}/s") and os.path.exists(f"{directory}/nri.sock")

def work(number):
    return number * number

check("before")
"""

_ENDINGS = {
    "by exit": """
        import atexit
        atexit.register(stop_all)
        pid = os.fork()
        if not pid:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """,
    "by leaving with": """
        import contextlib
        with contextlib.ExitStack() as stack:
            for one in (runtime, stub, channel):
                stack.push(one.__exit__)
            pid = os.fork()
            if not pid:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            check("inside")
            print("ok", flush=True)
            os._exit(0)
        """,
    "by stopping all": """
        pid = os.fork()
        if not pid:
            stop_all()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """,
    "by a signal that stops all": """
        def stopped(*_):
            stop_all()
            os._exit(7)

        before = signal.signal(signal.SIGTERM, stopped)
        ready, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(write, b"x")
            while True:
                time.sleep(0.01)
        os.read(ready, 1)
        os.kill(pid, signal.SIGTERM)
        assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7
        """,
    "of a multiprocessing pool": """
        def stopped(*_):
            stop_all()
            os._exit(0)

        signal.signal(signal.SIGTERM, stopped)
        def stay(begun=multiprocessing.get_context("fork").Semaphore(0)):
            # A worker that waits on a lock may miss the signal, in Python itself.
            begun.release()
            while True:
                time.sleep(0.01)

        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(10)) == [number ** 2 for number in range(10)]
            check("beside the pool")
            # Ended by SIGTERM, as pools end workers that are busy.
            for _ in range(3):
                pool.apply_async(stay)
            for _ in range(3):
                stay.__defaults__[0].acquire()
        """,
    "of a multiprocessing process": """
        process = multiprocessing.get_context("fork").Process(target=stop_all)
        process.start()
        process.join()
        assert process.exitcode == 0
        """,
    "by a call": """
        pid = os.fork()
        if not pid:
            try:
                echo(b"x", timeout=20)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert "forked" in error.details()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        """,
}


@pytest.mark.parametrize("ending", _ENDINGS)
def test_a_child_that_ends_leaves_the_parents_connections(ending: str) -> None:
    program = "\n".join(
        [
            _PROCESS,
            textwrap.dedent(_ENDINGS[ending]),
            'check("after")',
            'print("ok", flush=True)',
            "os._exit(0)",
        ]
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.stdout == "ok\n", result.stderr
