"""A proxy between plugins and a runtime."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import Stub, api
from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.net.sockets import connect, listen
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.recordings import Proxy
from nri_sync.testing.recordings.entries import CLOSED, LOST, NOTE, OPENED, REQUEST, RESPONSE
from tests.testing.recordings.conftest import Seen
from tests.threadless import no_threads

__all__: list[str] = []

LONG = 20.0


class Namer:
    def create_container(self, pod: Any, container: Any) -> Any:
        if container.name == "bad":
            raise ValueError("not this one")
        return api.Adjustment().add_env("POD", pod.name)


@contextlib.contextmanager
def plugged(runtime: FakeRuntime, proxy: Proxy, name: str = "a") -> Iterator[Stub]:
    stub = Stub(Namer(), name=name, idx="10", socket_path=proxy.listen_path)
    stub.start()
    runtime.wait_for(lambda: stub.name in runtime.plugins)
    try:
        yield stub
    finally:
        stub.stop()


def test_bytes_are_forwarded_and_decoded(runtime: FakeRuntime, proxy: Proxy, seen: Seen) -> None:
    with plugged(runtime, proxy) as stub:
        pod = make_pod("web")
        container = make_container(pod)
        runtime.run_pod(pod)
        assert runtime.create_container(pod, container).env == {"POD": "web"}
        assert runtime.create_container(pod, make_container(pod, name="bad"), check=False).error
        assert stub.update_containers([api.Update(container.id).set_cpu(cpus="0")]) == []
    seen.wait_kind(CLOSED)
    told = [(e.kind, e.sender, e.rpc) for e in seen.entries if e.rpc]
    pairs = [
        ("plugin", "RegisterPlugin"), ("runtime", "Configure"), ("runtime", "Synchronize"),
        ("runtime", "CreateContainer"), ("runtime", "CreateContainer"), ("plugin", "UpdateContainers"),
    ]  # fmt: skip
    others = {"plugin": "runtime", "runtime": "plugin"}
    assert told == [
        message
        for sender, rpc in pairs
        for message in ((REQUEST, sender, rpc), (RESPONSE, others[sender], rpc))
    ]
    answers = [e for e in seen.entries if e.kind == RESPONSE]
    assert all(e.duration is not None and e.duration > 0 for e in answers)
    assert [e.error for e in answers if e.code] == ["ValueError: not this one"]
    assert [e.kind for e in seen.entries if not e.rpc] == [OPENED, CLOSED]
    assert seen.entries[-1].note == "by the plugin"


def test_several_plugins(runtime: FakeRuntime, proxy: Proxy, seen: Seen) -> None:
    with plugged(runtime, proxy, "a"), plugged(runtime, proxy, "b"):
        pod = make_pod("web")
        runtime.run_pod(pod)
        runtime.create_container(pod, make_container(pod), check=False)  # both set a variable
    seen.wait_kind(CLOSED, 2)
    for number in (1, 2):
        mine = [e.kind for e in seen.entries if e.connection == number]
        assert (mine[0], mine[-1], mine.count(REQUEST)) == (OPENED, CLOSED, mine.count(RESPONSE))


def test_a_runtime_that_ends(runtime: FakeRuntime, proxy: Proxy, seen: Seen) -> None:
    ended = threading.Event()
    stub = Stub(
        Namer(), name="a", idx="10", socket_path=proxy.listen_path,
        on_close=lambda stub: ended.set(),
    )  # fmt: skip
    stub.start()
    runtime.wait_for(lambda: runtime.plugins)
    runtime.stop()
    assert ended.wait(LONG)
    seen.wait_kind(CLOSED)
    assert seen.entries[-1].note == "by the runtime"


def test_no_runtime(socket_dir: Path) -> None:
    with Proxy(str(socket_dir / "t"), str(socket_dir / "none")) as proxy:
        seen = Seen(proxy)
        with connect(proxy.listen_path, Deadline(LONG)) as sock:
            assert sock.recv(1) == b""
        seen.wait_kind(CLOSED)
        assert [entry.kind for entry in seen.close()] == [OPENED, CLOSED]
    assert "cannot be reached" in seen.entries[-1].note


@pytest.fixture
def ends(socket_dir: Path) -> Iterator[tuple[socket.socket, socket.socket, Seen]]:
    """The two ends of a connection through a proxy, and the entries of the proxy."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(str(socket_dir / "r")))
        proxy = stack.enter_context(Proxy(str(socket_dir / "t"), str(socket_dir / "r")))
        plugin = stack.enter_context(connect(proxy.listen_path, Deadline(LONG)))
        runtime = stack.enter_context(listener.accept()[0])
        for end in (plugin, runtime):
            end.settimeout(LONG)
        seen = Seen(proxy)
        yield plugin, runtime, seen
        seen.close()


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(65536)
        assert piece
        data += piece
    return data


def test_undecodable_bytes_are_forwarded(ends: Any) -> None:
    plugin, runtime, seen = ends
    data = b"\0\0\0\1\xff\xff\xff\xff" + b"x" * 100_000
    plugin.sendall(data)
    assert exactly(runtime, len(data)) == data
    runtime.sendall(b"y" * 20)
    assert exactly(plugin, 20) == b"y" * 20
    seen.wait_kind(NOTE, 2)


def test_half_closed(ends: Any) -> None:
    plugin, runtime, seen = ends
    plugin.sendall(b"ab")
    plugin.shutdown(socket.SHUT_WR)
    assert exactly(runtime, 2) == b"ab"
    assert runtime.recv(1) == b""
    runtime.sendall(b"still")
    assert exactly(plugin, 5) == b"still"
    runtime.close()
    assert plugin.recv(1) == b""
    seen.wait_kind(CLOSED)


def test_a_side_that_does_not_read_holds_up_the_other_only(ends: Any) -> None:
    plugin, runtime, _seen = ends
    runtime.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:  # until the proxy reads no more of it
            sent += runtime.send(b"x" * 65536)
    plugin.sendall(b"hello")
    runtime.settimeout(LONG)
    assert exactly(runtime, 5) == b"hello"
    # Meanwhile the kernel may forward buffered data and accept more. All sent data arrives.
    assert exactly(plugin, sent) == b"x" * sent


def test_dropped_entries_are_counted(runtime: FakeRuntime, socket_dir: Path) -> None:
    with Proxy(str(socket_dir / "few.sock"), runtime.socket_path, queue_max=2000) as proxy:
        with plugged(runtime, proxy):
            pod = make_pod("web")
            runtime.run_pod(pod)
            for _ in range(3):
                runtime.create_container(pod, make_container(pod), check=False)
        runtime.wait_for(lambda: not runtime.plugins)
        seen = Seen(proxy)
        seen.wait_kind(CLOSED)
        seen.close()
    (lost,) = [entry for entry in seen.entries if entry.kind == LOST]
    assert "messages" in lost.note


def test_closed_with_connections(runtime: FakeRuntime, proxy: Proxy) -> None:
    seen = Seen(proxy)
    with plugged(runtime, proxy):
        proxy.close()
        assert seen.close()[-1].kind == CLOSED
    assert not Path(proxy.listen_path).exists()
    proxy.close()


def test_a_path_that_is_taken(runtime: FakeRuntime) -> None:
    with pytest.raises(OSError, match="in use"):
        Proxy(runtime.socket_path, runtime.socket_path).start()


def test_leaves_the_socket_of_another_proxy(socket_dir: Path) -> None:
    path = socket_dir / "p"
    first = Proxy(str(path), str(socket_dir / "r"))
    first.start()
    path.unlink()
    with Proxy(str(path), str(socket_dir / "r")):
        first.close()
        connect(str(path), Deadline(1)).close()


def test_an_interrupt_after_bind(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str) -> Any:
        sock = listen(path)
        os.kill(os.getpid(), signal.SIGINT)
        return sock

    monkeypatch.setattr("nri_sync.testing.recordings.proxy.listen", interrupted)
    path = socket_dir / "p.sock"
    with pytest.raises(KeyboardInterrupt), Proxy(path, socket_dir / "r.sock"):
        pass
    assert not path.exists()


def test_without_a_thread_to_listen_on(socket_dir: Path) -> None:
    proxy = Proxy(str(socket_dir / "p"), str(socket_dir / "r"))
    with no_threads(), pytest.raises(NoThread, match="nri-proxy"):
        proxy.start()
    assert not (socket_dir / "p").exists()
    assert list(proxy) == []


def test_without_a_thread_for_a_connection(socket_dir: Path) -> None:
    with (
        listen(str(socket_dir / "r")) as runtime,
        Proxy(str(socket_dir / "p"), str(socket_dir / "r")) as proxy,
    ):
        seen = Seen(proxy)
        with no_threads(), connect(proxy.listen_path, Deadline(LONG)) as sock:
            sock.settimeout(LONG)
            assert sock.recv(1) == b""
        seen.wait_kind(CLOSED)
        with connect(proxy.listen_path, Deadline(LONG)):
            runtime.accept()[0].close()
        seen.close()
    notes = [entry.note for entry in seen.entries if entry.kind == CLOSED]
    assert "no thread for nri-proxy-1" in notes[0]
