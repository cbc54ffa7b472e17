"""The HTTP endpoint, with clients of all kinds."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import logging
import os
import random
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import kit
from nri_sync.kit.health import server as module
from nri_sync.kit.health.server import HealthServer, Reply, answer, parse_address
from nri_sync.threads import spawn
from tests.kit._exposition import read
from tests.kit._node import LONG, Node, PluginWith, eventually

__all__: list[str] = []


@pytest.fixture
def health() -> kit.Health:
    return kit.Health()


@pytest.fixture
def server(health: kit.Health) -> Iterator[HealthServer]:
    with HealthServer(health, "127.0.0.1:0", timeout=LONG) as made:
        yield made


def connect(server: HealthServer) -> socket.socket:
    family, address = parse_address(server.address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(LONG)
    sock.connect(address)
    return sock


def received(sock: socket.socket) -> bytes:
    """All until the end."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def send(server: HealthServer, data: bytes) -> bytes:
    """The whole answer to these bytes."""
    with connect(server) as sock:
        sock.sendall(data)
        return received(sock)


def get(server: HealthServer, target: str) -> tuple[int, str]:
    """Status and body, by a client that somebody else wrote."""
    host, _, port = server.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=LONG)
    with contextlib.closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read().decode()


class TestAnswers:
    def test_probes_of_a_real_plugin(self, socket_dir: Path) -> None:
        inside, may_return = threading.Event(), threading.Event()

        def handler(pod: Any, container: Any) -> None:
            inside.set()
            assert may_return.wait(LONG)

        health = kit.Health(wedged_after=0.3)
        with Node(socket_dir) as node, HealthServer(health, "127.0.0.1:0") as server:
            stub = node.stub(PluginWith(create_container=handler), interceptors=[health])
            assert get(server, "/livez") == (200, "ok: connecting: the stub is idle\n")
            assert get(server, "/readyz") == (503, "failed: connecting: the stub is idle\n")
            node.start()
            node.connect(stub)
            assert get(server, "/readyz")[0] == 200
            node.create_container()
            assert inside.wait(LONG)
            eventually(lambda: get(server, "/livez")[0] == 503)
            status, text = get(server, "/livez")
            assert (status, text[:16]) == (503, "failed: wedged: ")
            assert get(server, "/readyz")[0] == 503
            may_return.set()
            eventually(lambda: get(server, "/livez")[0] == 200)
            assert get(server, "/readyz")[0] == 200
            found = read(get(server, "/metrics")[1])
            assert found["nri_plugin_handler_calls_total"].value() == 1

    def test_verbose(self, health: kit.Health) -> None:
        for target in ("/livez?verbose", "/livez?a=b&verbose=1"):
            reply = answer(health, target)
            assert (reply.status, reply.content_type) == (200, "application/json")
            assert json.loads(reply.body)["state"] == "connecting"
        assert answer(health, "/readyz?verbose").status == 503
        assert answer(health, "/livez?verbosely").body.startswith("ok: ")

    def test_metrics(self, health: kit.Health, server: HealthServer) -> None:
        reply = answer(health, "/metrics")
        assert reply.content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert get(server, "/metrics") == (200, reply.body)

    def test_not_found(self, health: kit.Health) -> None:
        for target in ("/", "/livez/", "/Livez", "//livez", "/metrics2"):
            assert answer(health, target).status == 404

    def test_the_whole_reply(self, server: HealthServer) -> None:
        body = b"ok: connecting: no stub is attached\n"
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 36\r\n"
            b"Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        assert send(server, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n") == head + body
        assert send(server, b"GET /livez HTTP/1.0\r\n\r\n") == head + body
        assert send(server, b"GET /livez HTTP/1.1\n\n") == head + body
        assert send(server, b"HEAD /livez HTTP/1.1\r\n\r\n") == head

    def test_a_reply_of_any_text(self) -> None:
        assert Reply(200, "é\udcff").encoded().endswith(b"\r\n\r\n\xc3\xa9?")

    def test_what_fails_inside(
        self, health: kit.Health, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise ValueError("inside")

        monkeypatch.setattr(health, "report", fail)
        logging.getLogger("nri_sync.kit.health").disabled = True
        try:
            assert get(server, "/livez") == (500, "ValueError('inside')\n")
        finally:
            logging.getLogger("nri_sync.kit.health").disabled = False


class TestClients:
    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"POST /livez HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
            (b"DELETE /livez HTTP/1.1\r\n\r\n", b"405"),
            (b"GET livez HTTP/1.1\r\n\r\n", b"400"),
            (b"GET http://a/livez HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /livez\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1 x\r\n\r\n", b"400"),
            (b"GET /\xff\x00 HTTP/1.1\r\n\r\n", b"404"),
            (b"PRI * HTTP/2.0\r\n\r\n", b"400"),
            (b"GET / HTTP/2.0\r\n\r\n", b"505"),
            (b"\x16\x03\x01\x02\x00\x01", b"400"),
            (b"\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 2000, b"431"),
            (b"G" * 20000, b"431"),
        ],
    )
    def test_requests_that_are_none(
        self, server: HealthServer, request_: bytes, status: bytes
    ) -> None:
        assert send(server, request_).startswith(b"HTTP/1.1 " + status + b" ")
        assert get(server, "/livez")[0] == 200

    def test_allowed_methods_are_told(self, server: HealthServer) -> None:
        assert b"\r\nAllow: GET, HEAD\r\n" in send(server, b"PUT / HTTP/1.1\r\n\r\n")

    def test_a_request_in_pieces(self, server: HealthServer) -> None:
        with connect(server) as sock:
            for byte in b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n":
                sock.sendall(bytes([byte]))
            assert received(sock).startswith(b"HTTP/1.1 200 ")

    def test_random_bytes(self, server: HealthServer) -> None:
        source = random.Random(1)
        for size in range(200):
            with connect(server) as sock, contextlib.suppress(OSError):
                sock.sendall(bytes(source.randrange(256) for _ in range(size)))
                sock.shutdown(socket.SHUT_WR)
                received(sock)
        assert get(server, "/livez")[0] == 200

    def test_a_body_that_goes_on(self, server: HealthServer) -> None:
        # The answer arrives although the client goes on sending.
        with connect(server) as sock:
            sock.sendall(b"POST /livez HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n")
            sock.sendall(b"x" * 1_000_000)
            assert received(sock).startswith(b"HTTP/1.1 405 ")

    def test_slow_clients_do_not_keep_others_out(self, health: kit.Health) -> None:
        server = HealthServer(health, "127.0.0.1:0", timeout=LONG, max_connections=8)
        with server, contextlib.ExitStack() as stack:
            slow = [stack.enter_context(connect(server)) for _ in range(30)]
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.sendall(b"GET /livez HT")
            for _ in range(10):
                assert get(server, "/livez")[0] == 200
            # The oldest have made room.
            with contextlib.suppress(ConnectionResetError):
                assert slow[0].recv(1) == b""

    @pytest.mark.parametrize("head", [b"", b"GET /", b"GET /livez HTTP/1.1\r\n\r\n"])
    def test_a_connection_has_its_time(self, health: kit.Health, head: bytes) -> None:
        with HealthServer(health, "127.0.0.1:0", timeout=0.05) as server, connect(server) as sock:
            sock.sendall(head)
            text = received(sock)  # to the end, though nothing more was sent
            assert text.startswith(b"HTTP/1.1 200 ") == head.endswith(b"\r\n\r\n")

    def test_a_client_that_trickles_has_no_more(self, health: kit.Health) -> None:
        with HealthServer(health, "127.0.0.1:0", timeout=0.2) as server, connect(server) as sock:
            sock.settimeout(0.01)
            give_up = time.monotonic() + LONG
            try:
                while sock.send(b"G"):
                    assert time.monotonic() < give_up
                    with contextlib.suppress(socket.timeout):
                        if not sock.recv(1):
                            break
            except ConnectionError:
                pass

    def test_a_client_that_does_not_read(self, health: kit.Health) -> None:
        help_ = "x" * 20_000_000
        health.add_metrics(lambda: [kit.Metric("big", "gauge", help_, [kit.Sample(1)])])
        with HealthServer(health, "127.0.0.1:0", timeout=LONG) as server, connect(server) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert get(server, "/livez")[0] == 200
            assert received(sock).endswith(b"\nbig 1\n")

    def test_a_client_that_resets(self, server: HealthServer) -> None:
        for data in (b"", b"GET /", b"GET /metrics HTTP/1.1\r\n\r\n"):
            sock = connect(server)
            sock.sendall(data)
            linger = b"\1\0\0\0\0\0\0\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            sock.close()
        assert get(server, "/livez")[0] == 200

    def test_clients_at_the_same_time(self, server: HealthServer) -> None:
        statuses: list[int] = []

        def ask() -> None:
            for _ in range(20):
                statuses.append(get(server, "/livez")[0])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert statuses == [200] * 160

    def test_no_more_descriptors(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_BREATHER", 0.01)
        server = HealthServer(health, "127.0.0.1:0")
        failures = [OSError(errno.EMFILE, "too many"), OSError(errno.ECONNABORTED, "gone")]
        real = socket.socket.accept

        def accept(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop(0)
            return real(sock)

        monkeypatch.setattr(socket.socket, "accept", accept)
        with server:
            assert get(server, "/livez")[0] == 200
        assert not failures
        assert "cannot accept a connection" in caplog.text


class TestLifecycle:
    def test_it_sleeps_while_there_is_nothing_to_do(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        timeouts: list[float | None] = []
        real = selectors.DefaultSelector

        class Selector(real):  # type: ignore[misc, valid-type]
            def select(self, timeout: float | None = None) -> Any:
                timeouts.append(timeout)
                return super().select(timeout)

        monkeypatch.setattr(selectors, "DefaultSelector", Selector)
        with HealthServer(health, "127.0.0.1:0", timeout=LONG) as server:
            eventually(lambda: timeouts)
            assert get(server, "/livez")[0] == 200
            eventually(lambda: timeouts[-1] is None)
            assert len(timeouts) < 10
        # Only a connection has a time.
        assert timeouts[0] is None

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
            get(server, "/livez")  # so that the one before it is accepted
            server.stop()
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""

    def test_many_threads_start_and_stop_it(self, health: kit.Health, socket_dir: Path) -> None:
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

    def test_a_handler_may_stop_it(self, health: kit.Health, server: HealthServer) -> None:
        asked = threading.Event()

        def source() -> list[kit.Metric]:
            spawn("stop", server.stop)
            asked.set()
            return []

        health.add_metrics(source)
        with connect(server) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert asked.wait(LONG)
            with contextlib.suppress(ConnectionResetError):
                received(sock)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_leaves_it_to_the_parent(
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

    def test_a_process_that_forgets_to_stop_it_exits(self) -> None:
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
    def test_its_mode(self, health: kit.Health, socket_dir: Path, mode: int | None) -> None:
        path = socket_dir / "health"
        how = {} if mode is None else {"socket_mode": mode}
        with HealthServer(health, f"unix://{path}", **how):
            assert stat.S_IMODE(path.stat().st_mode) == (0o600 if mode is None else mode)
        assert not path.exists()

    def test_that_of_another_server_stays(self, health: kit.Health, socket_dir: Path) -> None:
        path = socket_dir / "health"
        server = HealthServer(health, f"unix://{path}")
        server.start()
        path.unlink()
        with HealthServer(health, f"unix://{path}") as other:
            server.stop()
            connect(other).close()


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.0.0.1:8080", (socket.AF_INET, ("127.0.0.1", 8080))),
            ("localhost:0", (socket.AF_INET, ("localhost", 0))),
            ("[::1]:8080", (socket.AF_INET6, ("::1", 8080))),
            ("unix:///run/a", (socket.AF_UNIX, "/run/a")),
            ("unix:a/b", (socket.AF_UNIX, "a/b")),
            ("/run/a", (socket.AF_UNIX, "/run/a")),
            ("unix-abstract:a", (socket.AF_UNIX, "\0a")),
        ],
    )
    def test_what_they_mean(self, text: str, address: Any) -> None:
        assert parse_address(text) == address

    @pytest.mark.parametrize(
        "text",
        [
            "", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536",
            "127.0.0.1:-1", "::1:8080", "unix:", "unix://", "unix://a/b", "unix-abstract:",
        ],
    )  # fmt: skip
    def test_what_is_none(self, health: kit.Health, text: str) -> None:
        with pytest.raises(ValueError, match=r"is one|in brackets"):
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
            text = send(server, b"GET /livez HTTP/1.1\r\n\r\n")
            assert text.startswith(b"HTTP/1.1 200 ")
            with pytest.raises(OSError, match=rf"on unix:{path}: Address .*in use"):
                HealthServer(health, str(path)).start()
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n") == text
        assert not path.exists()

    def test_a_stale_socket_is_replaced(self, health: kit.Health, socket_dir: Path) -> None:
        path = socket_dir / "health.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with HealthServer(health, str(path)) as server:
            assert send(server, b"GET /livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def test_what_is_in_the_way_stays(self, health: kit.Health, socket_dir: Path) -> None:
        path = socket_dir / "health.sock"
        path.write_text("mine")
        with pytest.raises(OSError, match=r"cannot listen for probes on unix:.*already in use"):
            HealthServer(health, str(path)).start()
        assert path.read_text() == "mine"

    def test_the_socket_of_another_stays(self, health: kit.Health, socket_dir: Path) -> None:
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

    def test_a_host_that_is_not_this_one(self, health: kit.Health) -> None:
        with pytest.raises(OSError, match=r"cannot listen for probes on 192\.0\.2\.1:80: "):
            HealthServer(health, "192.0.2.1:80").start()
