"""The proxy that breaks connections: each kind of fault at each byte, and the end of the proxy."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_sync import Stub, api
from nri_sync.errors import StartError
from nri_sync.net.sockets import listen
from nri_sync.testing import (
    FAULT_KINDS,
    FakeRuntime,
    Fault,
    FaultProxy,
    make_container,
    make_pod,
)
from nri_sync.testing.faults import SENDERS

__all__: list[str] = []

# The time limit of a wait in seconds, enough for a busy machine.
LIMIT = 20.0


class Ends:
    """A plugin's and a runtime's end of one connection through the proxy."""

    def __init__(self, proxy: FaultProxy, listener: socket.socket) -> None:
        self.proxy = proxy
        self._listener = listener

    @contextlib.contextmanager
    def connected(self, *faults: Fault) -> Iterator[dict[str, socket.socket]]:
        """The two ends by the names of their sides."""
        self.connection = self.proxy.inject(*faults)
        plugin = socket.socket(socket.AF_UNIX)
        plugin.settimeout(LIMIT)
        with plugin:
            plugin.connect(self.proxy.socket_path)
            runtime, _ = self._listener.accept()
            runtime.settimeout(LIMIT)
            with runtime:
                yield {"plugin": plugin, "runtime": runtime}
        assert self.connection.wait_closed()

    def through(self, fault: Fault, data: bytes) -> bytes:
        """Send data; returns the bytes that arrive before the end of the stream."""
        with self.connected(fault) as ends:
            receiver = ends["runtime" if fault.sender == "plugin" else "plugin"]
            ends[fault.sender].sendall(data)
            ends[fault.sender].shutdown(socket.SHUT_WR)
            return read_all(receiver)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(4096), b""))


@pytest.fixture
def ends(socket_dir: Path) -> Iterator[Ends]:
    listener = listen(str(socket_dir / "r"))
    listener.settimeout(LIMIT)
    with contextlib.closing(listener), FaultProxy(str(socket_dir / "r")) as proxy:
        yield Ends(proxy, listener)
        assert proxy.connections == 0


both_ways = pytest.mark.parametrize("sender", SENDERS)
DATA = bytes(range(16))


@both_ways
def test_bytes_pass_unchanged_without_a_fault(ends: Ends, sender: str) -> None:
    with ends.connected() as socks:
        receiver = socks["runtime" if sender == "plugin" else "plugin"]
        socks[sender].sendall(DATA * 10_000)
        socks[sender].shutdown(socket.SHUT_WR)
        assert read_all(receiver) == DATA * 10_000
        # The other direction is still open.
        receiver.sendall(b"answer")
        assert socks[sender].recv(100) == b"answer"
    assert ends.connection.carried[sender] == len(DATA) * 10_000
    assert ends.connection.struck == []


@both_ways
@pytest.mark.parametrize("offset", range(len(DATA)))
def test_cut_at_every_offset(ends: Ends, sender: str, offset: int) -> None:
    fault = Fault("cut", offset, sender)
    with ends.connected(fault) as socks:
        receiver = socks["runtime" if sender == "plugin" else "plugin"]
        socks[sender].sendall(DATA)
        assert read_all(receiver) == DATA[:offset]
        assert read_all(socks[sender]) == b""
    assert ends.connection.struck == [fault]


@both_ways
@pytest.mark.parametrize("offset", range(len(DATA)))
def test_changes_at_every_offset(ends: Ends, sender: str, offset: int) -> None:
    corrupted = ends.through(Fault("corrupt", offset, sender, mask=0x81), DATA)
    assert corrupted == DATA[:offset] + bytes([DATA[offset] ^ 0x81]) + DATA[offset + 1 :]
    truncated = ends.through(Fault("truncate", offset, sender, length=3), DATA)
    assert truncated == DATA[:offset] + DATA[offset + 3 :]
    duplicated = ends.through(Fault("duplicate", offset, sender, length=3), DATA)
    assert duplicated == DATA[: offset + 3] + DATA[offset:]


@both_ways
@pytest.mark.parametrize("kind", ["delay", "split", "coalesce"])
@pytest.mark.parametrize("offset", range(len(DATA)))
def test_kinds_that_change_no_byte(ends: Ends, sender: str, kind: str, offset: int) -> None:
    fault = Fault(kind, offset, sender, length=5, seconds=0.001)
    assert ends.through(fault, DATA) == DATA
    assert ends.connection.struck == [fault]


def test_a_fault_beyond_the_last_byte_does_not_strike(ends: Ends) -> None:
    assert ends.through(Fault("cut", len(DATA), "plugin"), DATA) == DATA
    assert ends.connection.struck == []
    assert not ends.connection.wait_struck(0)


def test_half_close_ends_one_direction(ends: Ends) -> None:
    with ends.connected(Fault("half-close", 4, "runtime")) as socks:
        socks["runtime"].sendall(DATA)
        assert read_all(socks["plugin"]) == DATA[:4]
        socks["plugin"].sendall(b"answer")
        assert socks["runtime"].recv(100) == b"answer"


def test_a_stall_cuts_after_its_time(ends: Ends) -> None:
    with ends.connected(Fault("stall", 4, "plugin", seconds=0.01)) as socks:
        socks["plugin"].sendall(DATA)
        assert read_all(socks["runtime"]) == DATA[:4]
        assert read_all(socks["plugin"]) == b""


@pytest.mark.parametrize("leaving", SENDERS)
def test_a_stall_without_a_time_lasts_until_a_side_leaves(ends: Ends, leaving: str) -> None:
    staying = "plugin" if leaving == "runtime" else "runtime"
    with ends.connected(Fault("stall", 4, "plugin")) as socks:
        socks["plugin"].sendall(DATA)
        assert ends.connection.wait_struck()
        assert not ends.connection.wait_closed(0.05)
        socks["runtime"].sendall(b"passes")
        assert socks["plugin"].recv(100) == b"passes"
        socks[leaving].close()
        read_all(socks[staying])
        assert ends.connection.wait_closed()


def test_several_faults_strike_in_the_order_of_their_offsets(ends: Ends) -> None:
    late = Fault("truncate", 8, "plugin", length=2)
    early = Fault("corrupt", 2, "plugin")
    with ends.connected(late, early) as socks:
        socks["plugin"].sendall(DATA)
        socks["plugin"].shutdown(socket.SHUT_WR)
        assert read_all(socks["runtime"]) == DATA[:2] + b"\xfd" + DATA[3:8] + DATA[10:]
        assert ends.connection.wait_struck()
    assert ends.connection.struck == [early, late]


def test_overlapping_faults_both_strike(ends: Ends) -> None:
    with ends.connected(
        Fault("truncate", 2, "plugin", length=5), Fault("cut", 4, "plugin")
    ) as socks:
        socks["plugin"].sendall(DATA)
        assert read_all(socks["runtime"]) == DATA[:2]
    assert len(ends.connection.struck) == 2


def test_cut_by_hand(ends: Ends) -> None:
    with ends.connected() as socks:
        ends.proxy.cut()
        assert read_all(socks["plugin"]) == read_all(socks["runtime"]) == b""


def test_a_connection_can_be_cut_before_it_comes(ends: Ends) -> None:
    connection = ends.proxy.inject()
    connection.cut()
    with socket.socket(socket.AF_UNIX) as plugin:
        plugin.settimeout(LIMIT)
        plugin.connect(ends.proxy.socket_path)
        assert read_all(plugin) == b""
        assert connection.wait_closed()


def test_forgotten_faults_do_not_strike(ends: Ends) -> None:
    forgotten = ends.proxy.inject(Fault("cut", 0, "plugin"))
    ends.proxy.forget(forgotten)
    ends.proxy.forget(forgotten)
    assert ends.through(Fault("corrupt", 0, "plugin", mask=1), b"\0") == b"\1"


def test_without_a_runtime_plugins_are_disconnected(socket_dir: Path) -> None:
    with FaultProxy(str(socket_dir / "none")) as proxy, socket.socket(socket.AF_UNIX) as plugin:
        plugin.settimeout(LIMIT)
        plugin.connect(proxy.socket_path)
        assert read_all(plugin) == b""


def test_close_ends_open_connections_and_removes_the_socket(ends: Ends) -> None:
    with ends.connected(Fault("stall", 0, "runtime")) as socks:
        socks["runtime"].sendall(b"x")
        assert ends.connection.wait_struck()
        ends.proxy.close()
        ends.proxy.close()
        assert ends.connection.ended
        assert read_all(socks["plugin"]) == b""
        assert not Path(ends.proxy.socket_path).exists()


class Labeller:
    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_env("LABELLED", "yes")


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_plugin_comes_back_after(kind: str) -> None:
    with FakeRuntime() as runtime, FaultProxy(runtime.socket_path) as proxy:
        stub = Stub(Labeller(), name="labeller", idx="10", socket_path=proxy.socket_path)
        connection = proxy.inject(Fault(kind, 30, "plugin", seconds=0.01))
        with contextlib.suppress(StartError):
            stub.start(4.0)
        assert connection.wait_struck()
        stub.stop()
        assert connection.wait_closed()
        stub.start(LIMIT)
        pod = make_pod()
        runtime.run_pod(pod)
        runtime.wait_for(lambda: runtime.plugins == ("10-labeller",))
        assert runtime.create_container(pod, make_container(pod)).env == {"LABELLED": "yes"}
        stub.stop()
