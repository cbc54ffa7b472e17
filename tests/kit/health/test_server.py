"""The HTTP endpoint, from start to stop, and its addresses."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import kit
from nri_sync.kit.health.address import parse_address
from nri_sync.kit.health.health import Exposition
from nri_sync.kit.health.server import HealthServer
from nri_sync.threads import spawn
from tests.kit._node import LONG, eventually
from tests.kit.health._http import connect, get, received, send

__all__: list[str] = []


@pytest.fixture
def health() -> kit.Health:
    return kit.Health()


@pytest.fixture
def server(health: kit.Health) -> Iterator[HealthServer]:
    with HealthServer(health, "127.0.0.1:0", timeout=LONG) as made:
        yield made


class TestLifecycle:
    def test_an_idle_server_sleeps(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[float | None] = []
        real = socket.socket.accept

        def accept(sock: socket.socket) -> Any:
            calls.append(sock.gettimeout())
            return real(sock)

        monkeypatch.setattr(socket.socket, "accept", accept)
        with HealthServer(health, "127.0.0.1:0", timeout=LONG) as server:
            eventually(lambda: calls)
            assert get(server, "/livez")[0] == 200
            # It blocks until a client comes, without a timeout.
            eventually(lambda: calls == [None, None])

    def test_start_and_stop_any_number_of_times(self, health: kit.Health) -> None:
        server = HealthServer(health, "127.0.0.1:0")
        server.stop()
        for _ in range(3):
            server.start()
            address = server.address
            server.start()
            assert server.address == address
            assert get(server, "/livez")[0] == 200
            server.stop()
            server.stop()
            with pytest.raises(ConnectionRefusedError), socket.socket() as sock:
                sock.connect(parse_address(address)[1])

    def test_the_same_port_again(self, health: kit.Health) -> None:
        with HealthServer(health, "127.0.0.1:0") as first:
            address = first.address
        server = HealthServer(health, address)
        for _ in range(3):
            with server, connect(server) as sock:
                sock.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                assert received(sock)

    def test_stopping_closes_connections(self, health: kit.Health) -> None:
        server = HealthServer(health, "127.0.0.1:0", timeout=LONG)
        server.start()
        with connect(server) as sock:
            get(server, "/livez")  # so that the connection before it is accepted
            server.stop()
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""

    def test_many_threads_start_and_stop_the_server(
        self, health: kit.Health, socket_dir: Path
    ) -> None:
        server = HealthServer(health, f"unix://{socket_dir}/s")
        failures: list[BaseException] = []
        barrier = threading.Barrier(4)

        def work() -> None:
            barrier.wait(LONG)
            for _ in range(50):
                try:
                    server.start()
                    server.stop()
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert not failures
        server.stop()
        eventually(lambda: os.listdir(socket_dir) == [])
        with server, connect(server) as sock:
            sock.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            assert received(sock).startswith(b"HTTP/1.1 200 ")

    def test_a_handler_may_stop_the_server(
        self, health: kit.Health, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = threading.Event()

        def exposition(accept: str) -> Any:
            spawn("stop", server.stop)
            asked.set()
            return Exposition(b"", "text/plain")

        monkeypatch.setattr(health, "exposition", exposition)
        with connect(server) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert asked.wait(LONG)
            with contextlib.suppress(ConnectionResetError):
                received(sock)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_leaves_the_server_to_the_parent(
        self, health: kit.Health, socket_dir: Path
    ) -> None:
        path = socket_dir / "s"
        with HealthServer(health, f"unix:{path}") as server, connect(server) as open_one:
            with connect(server) as sock:
                sock.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                received(sock)
            child = os.fork()
            if child == 0:
                server.stop()
                other = HealthServer(health, "127.0.0.1:0")
                other.start()
                status = get(other, "/livez")[0]
                other.stop()
                os._exit(0 if status == 200 and path.exists() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            open_one.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            assert received(open_one).startswith(b"HTTP/1.1 200 ")
            with connect(server) as sock:
                sock.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                assert received(sock).startswith(b"HTTP/1.1 200 ")

    def test_a_process_that_does_not_stop_the_server_exits(self) -> None:
        code = (
            "from nri_sync import kit\n"
            "server = kit.HealthServer(kit.Health(), '127.0.0.1:0')\n"
            "server.start()\n"
            "print(server.address)\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            check=True,
            text=True,
            timeout=LONG,
        )
        assert done.stdout.startswith("127.0.0.1:")
        assert done.stderr == ""


class TestUnixSocket:
    @pytest.mark.parametrize("mode", [None, 0o666])
    def test_the_mode_of_the_socket(
        self, health: kit.Health, socket_dir: Path, mode: int | None
    ) -> None:
        path = socket_dir / "health"
        how = {} if mode is None else {"socket_mode": mode}
        with HealthServer(health, f"unix://{path}", **how):
            assert stat.S_IMODE(path.stat().st_mode) == (0o600 if mode is None else mode)
        assert not path.exists()

    def test_the_socket_of_another_server_is_kept(
        self, health: kit.Health, socket_dir: Path
    ) -> None:
        path = socket_dir / "health"
        server = HealthServer(health, f"unix://{path}")
        server.start()
        path.unlink()
        with HealthServer(health, f"unix://{path}") as other:
            server.stop()
            connect(other).close()


class TestAddresses:
    @pytest.mark.parametrize(
        "text",
        [
            "", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536",
            "127.0.0.1:-1", "::1:8080", "unix:", "unix://", "unix://a/b", "unix-abstract:",
        ],
    )  # fmt: skip
    def test_an_invalid_address_is_refused(self, health: kit.Health, text: str) -> None:
        with pytest.raises(ValueError, match=r"for example: |in brackets"):
            HealthServer(health, text)

    @pytest.mark.parametrize("options", [{"timeout": 0}, {"max_connections": 0}])
    def test_limits(self, health: kit.Health, options: Any) -> None:
        with pytest.raises(ValueError, match="must be positive"):
            HealthServer(health, "127.0.0.1:0", **options)

    def test_a_unix_socket(self, health: kit.Health, socket_dir: Path) -> None:
        path = socket_dir / "health.sock"
        server = HealthServer(health, str(path))
        assert server.address == f"unix:{path}"
        with server:
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            with pytest.raises(OSError, match=rf"on unix:{path}: Address .*in use"):
                HealthServer(health, str(path)).start()
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert not path.exists()

    def test_a_stale_socket_is_replaced(self, health: kit.Health, socket_dir: Path) -> None:
        path = socket_dir / "health.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with HealthServer(health, str(path)) as server:
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def test_a_foreign_file_at_the_path_is_kept(self, health: kit.Health, socket_dir: Path) -> None:
        path = socket_dir / "health.sock"
        path.write_text("mine")
        with pytest.raises(OSError, match=r"cannot listen for probes on unix:.*already in use"):
            HealthServer(health, str(path)).start()
        assert path.read_text() == "mine"

    def test_the_socket_of_another_program_is_kept(
        self, health: kit.Health, socket_dir: Path
    ) -> None:
        path = socket_dir / "health.sock"
        with HealthServer(health, str(path)):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
        assert path.exists()

    def test_an_abstract_socket(self, health: kit.Health) -> None:
        address = f"unix-abstract:nri-{os.getpid()}-{random.getrandbits(64)}"
        with HealthServer(health, address) as server:
            assert server.address == address
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def test_ipv6(self, health: kit.Health) -> None:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            with pytest.raises(OSError, match=r"cannot listen for probes on \[::1\]:0"):
                HealthServer(health, "[::1]:0").start()
            return
        with HealthServer(health, "[::1]:0") as server:
            assert server.address.startswith("[::1]:")
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def test_the_address_of_another_host_is_refused(self, health: kit.Health) -> None:
        with pytest.raises(OSError, match=r"cannot listen for probes on 192\.0\.2\.1:80: "):
            HealthServer(health, "192.0.2.1:80").start()
