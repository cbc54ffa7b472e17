"""A runtime that executes a script: connections, the time between them, and the end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.net.sockets import connect, listen
from nri_sync.testing import RemotePlugin, ScriptedRuntime, steps
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG
from tests.threadless import no_threads

__all__: list[str] = []


def connected(runtime: ScriptedRuntime) -> socket.socket:
    sock = connect(runtime.socket_path, Deadline(LONG))
    sock.settimeout(LONG)
    return sock


def connected_soon(runtime: ScriptedRuntime) -> socket.socket:
    """Connect as soon as the runtime listens."""
    made: list[socket.socket] = []

    def try_it() -> bool:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            made.append(connected(runtime))
        return bool(made)

    eventually(try_it, "the runtime")
    return made[0]


def at_end(sock: socket.socket) -> bool:
    with sock:
        return sock.recv(1) == b""


def test_one_connection_after_the_other() -> None:
    with ScriptedRuntime([steps.send(b"1")], [steps.send(b"2")], steps.send(b"3")) as runtime:
        socks = [connected(runtime) for _ in range(3)]
        assert [sock.recv(10) for sock in socks] == [b"1", b"2", b"3"]
        assert all(map(at_end, socks))
        runtime.wait()
        assert not os.path.exists(runtime.socket_path)
    assert runtime.log == ["connection 1: send", "connection 2: send", "connection 3: send"]
    assert not os.path.exists(os.path.dirname(runtime.socket_path))


def test_a_path_of_ones_own(socket_dir: Path) -> None:
    path = socket_dir / "my.sock"
    with ScriptedRuntime([steps.cut()], socket_path=str(path)) as runtime:
        assert runtime.socket_path == str(path)
        assert at_end(connected(runtime))
    assert not path.exists()
    with pytest.raises(OSError, match="No such file"):
        ScriptedRuntime(socket_path=str(socket_dir / "none" / "my.sock")).start()


def test_down_for_a_while() -> None:
    script = ([steps.cut()], steps.down(until="up"), [steps.mark("up again")])
    with ScriptedRuntime(*script) as runtime:
        assert at_end(connected(runtime))
        runtime.wait("up")
        assert not os.path.exists(runtime.socket_path)
        runtime.release("up")
        assert at_end(connected_soon(runtime))
        runtime.wait("up again")


def test_down_from_the_beginning_for_a_time() -> None:
    with ScriptedRuntime(steps.down(0.01), [steps.mark("up")]) as runtime:
        assert at_end(connected_soon(runtime))
        runtime.wait("up")
    assert runtime.log == ["down", "connection 1: mark 'up'"]


def test_a_step_of_ones_own() -> None:
    def hello(plugin: RemotePlugin) -> None:
        plugin.send(b"hello")
        plugin.runtime.mark("greeted")

    with ScriptedRuntime([hello]) as runtime:
        sock = connected(runtime)
        runtime.wait("greeted")
        assert sock.recv(10) == b"hello"
        sock.close()


def test_a_plugin_that_leaves_early() -> None:
    with ScriptedRuntime([steps.register(), steps.mark("never")], [steps.mark("next")]) as runtime:
        connected(runtime).close()
        with connected(runtime):
            runtime.wait("next")
    assert runtime.log[1] == "connection 1: the plugin has closed the connection"


class TestFailures:
    def test_a_step_that_raises(self) -> None:
        error = ValueError("wrong")

        def fail(plugin: RemotePlugin) -> None:
            raise error

        runtime = ScriptedRuntime([fail], [steps.mark("never")])
        runtime.start()
        assert at_end(connected(runtime))
        failed = r"(?s)the script has failed: wrong.*connection 1: <f"
        with pytest.raises(AssertionError, match=failed):
            runtime.wait("never")
        with pytest.raises(AssertionError, match="the script has failed: wrong") as raised:
            runtime.__exit__(None, None, None)
        assert raised.value.__cause__ is error
        runtime.__exit__(KeyError, None, None)

    def test_a_plugin_that_sends_nothing(self) -> None:
        runtime = ScriptedRuntime([steps.register()], timeout=0.05)
        runtime.start()
        with connected(runtime), pytest.raises(AssertionError, match="RegisterPlugin has not come"):
            runtime.wait(timeout=LONG)
        runtime.close()

    def test_a_mark_that_is_not_reached(self) -> None:
        missing = r"has not got there within 0\.05 s, without 'there'"
        with ScriptedRuntime([steps.mark("there")]) as runtime:
            with pytest.raises(AssertionError, match=missing):
                runtime.wait("there", timeout=0.05)
            connected(runtime).close()
            runtime.wait("there")


class TestEnd:
    """If the test ends at any step of the script, the script ends, too, and nothing remains."""

    @pytest.mark.parametrize(
        "session",
        [
            [steps.mark("in"), steps.hold("held")],
            [steps.mark("in"), steps.pause(10 * LONG)],
            [steps.mark("in"), steps.silence()],
            [steps.mark("in"), steps.serve()],
            [steps.mark("in"), steps.register()],
            [steps.mark("in"), steps.send(bytes(10_000_000))],
        ],
        ids=lambda session: session[-1].text,
    )
    def test_on_a_connection(self, session: list[steps.Step]) -> None:
        with ScriptedRuntime(session) as runtime:
            sock = connected(runtime)
            runtime.wait("in")
        sock.close()

    def test_between_connections(self) -> None:
        with ScriptedRuntime(steps.down(until="never")) as runtime:
            runtime.wait("never")

    def test_before_the_first(self) -> None:
        with ScriptedRuntime([steps.cut()]):
            pass

    def test_at_any_moment(self) -> None:
        for _ in range(50):
            runtime = ScriptedRuntime([steps.silence()], steps.down(0.0), [steps.silence()])
            runtime.start()
            visitor = threading.Thread(target=_visit, args=(runtime.socket_path,))
            visitor.start()
            runtime.close()
            # Closes it again, and checks the script.
            runtime.__exit__(None)
            visitor.join(LONG)


def _visit(path: str) -> None:
    # The connection may be closed already.
    with contextlib.suppress(OSError):
        connect(path, Deadline(LONG)).close()


def test_leaves_the_socket_of_another_runtime(socket_dir: Path) -> None:
    path = socket_dir / "nri.sock"
    with ScriptedRuntime([steps.serve()], socket_path=str(path)) as first:
        path.unlink()
        with listen(str(path)):
            first.close()
            connect(str(path), Deadline(1)).close()


def test_without_a_thread(socket_dir: Path) -> None:
    path = socket_dir / "nri.sock"
    runtime = ScriptedRuntime([steps.serve()], socket_path=str(path))
    with no_threads(), pytest.raises(NoThread, match="nri-script"):
        runtime.start()
    assert not path.exists()
    runtime.close()
