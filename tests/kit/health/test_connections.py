"""The HTTP endpoint, with clients of all kinds."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import kit
from nri_sync.errors import NoThread
from nri_sync.kit.health import connections as module
from nri_sync.kit.health.connections import answer
from nri_sync.kit.health.health import Exposition
from nri_sync.kit.health.server import HealthServer
from tests.kit._node import LONG, Node, PluginWith, eventually
from tests.kit.health._http import connect, get, received, send
from tests.threadless import no_idle_threads

__all__: list[str] = []


@pytest.fixture
def health() -> kit.Health:
    return kit.Health()


@pytest.fixture
def server(health: kit.Health) -> Iterator[HealthServer]:
    with HealthServer(health, "127.0.0.1:0", timeout=LONG) as made:
        yield made


def threads_of_clients() -> int:
    return [thread.name for thread in threading.enumerate()].count("nri-health-client")


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
            assert json.loads(get(server, "/livez?verbose")[1])["counters"]["requests"] == 1

    def test_verbose(self, health: kit.Health) -> None:
        for target in ("/livez?verbose", "/livez?a=b&verbose=1", "HTTP://node:80/livez?verbose"):
            reply = answer(health, target)
            assert (reply.status, reply.content_type) == (200, "application/json")
            assert json.loads(reply.body)["state"] == "connecting"
        assert answer(health, "/readyz?verbose").status == 503
        assert answer(health, "/livez?verbosely").body.startswith(b"ok: ")

    def test_a_target_in_absolute_form(self, server: HealthServer) -> None:
        assert send(server, b"GET http://a/livez HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def test_not_found(self, health: kit.Health) -> None:
        for target in ("/", "/livez/", "/Livez", "//livez", "/metrics2"):
            assert answer(health, target).status == 404

    def test_the_whole_reply(self, server: HealthServer) -> None:
        for request in (
            b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /livez HTTP/1.0\r\n\r\n",
            b"GET /livez HTTP/1.1\n\n",
            b"HEAD /livez HTTP/1.1\r\n\r\n",
        ):
            head, _, body = send(server, request).partition(b"\r\n\r\n")
            status, *headers = head.split(b"\r\n")
            assert status == b"HTTP/1.1 200 OK"
            assert {
                b"Content-Type: text/plain; charset=utf-8",
                b"Content-Length: 36",
                b"Cache-Control: no-store",
                b"Connection: close",
                b"Server: nri_sync",
            } <= set(headers)
            text = b"ok: connecting: no stub is attached\n"
            assert body == (b"" if request.startswith(b"HEAD") else text)

    def test_a_reason_of_any_text(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = health.report()._replace(reason="\u00e9\udcff")
        monkeypatch.setattr(health, "report", lambda: report)
        assert answer(health, "/livez").body == b"ok: connecting: \xc3\xa9?\n"

    def test_an_exception_of_the_report_is_an_internal_error(
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
            (b"GET livez HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /livez\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1 x\r\n\r\n", b"400"),
            (b"GET /\xff\x00 HTTP/1.1\r\n\r\n", b"404"),
            (b"PRI * HTTP/2.0\r\n\r\n", b"505"),
            (b"GET / HTTP/2.0\r\n\r\n", b"505"),
            (b"\x16\x03\x01\x02\x00\x01\n", b"400"),
            (b"TRACE / HTTP/1.1\r\n\r\n", b"501"),
            (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 2000, b"431"),
            (b"GET /livez HTTP/1.1\r\nA: " + b"b" * 20000, b"431"),
            (b"GET /livez HTTP/1.1\r\n" + (b"A: " + b"b" * 2000 + b"\r\n") * 10, b"431"),
            (b"G" * 20000, b"431"),
        ],
    )
    def test_an_invalid_request_is_refused(
        self, server: HealthServer, request_: bytes, status: bytes
    ) -> None:
        assert send(server, request_).startswith(b"HTTP/1.1 " + status + b" ")
        assert get(server, "/livez")[0] == 200

    @pytest.mark.parametrize(
        ("request_", "says"),
        [
            (b"GET / HTTP/1." + b"1" * 9000 + b"\r\n\r\n", b"Bad request version"),
            (b"\xff" * 5000 + b" / HTTP/1.1\r\n\r\n", b"Unsupported method"),
            (b"\x00" * 9000 + b"\r\n\r\n", b"Bad request"),
            (b"GET /" + b"a" * 20000, b"the head has more than 16,384 bytes"),
        ],
    )
    def test_a_refusal_quotes_little(
        self, server: HealthServer, request_: bytes, says: bytes
    ) -> None:
        reply = send(server, request_)
        assert says in reply
        assert len(reply) < 1000

    def test_the_reply_names_the_allowed_methods(self, server: HealthServer) -> None:
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
        # The response arrives although the client continues to send.
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
            # The server has closed the oldest.
            with contextlib.suppress(ConnectionResetError):
                assert slow[0].recv(1) == b""

    @pytest.mark.parametrize("head", [b"", b"GET /", b"GET /livez HTTP/1.1\r\n\r\n"])
    def test_a_connection_ends_at_its_timeout(self, health: kit.Health, head: bytes) -> None:
        whole = head.endswith(b"\r\n\r\n")
        timeout = LONG if whole else 0.05
        with (
            HealthServer(health, "127.0.0.1:0", timeout=timeout) as server,
            connect(server) as sock,
        ):
            sock.sendall(head)
            text = received(sock)  # to the end, although the client sent no more
            assert text.startswith(b"HTTP/1.1 200 ") == whole

    def test_a_client_that_trickles_gets_no_more_time(self, health: kit.Health) -> None:
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

    def test_a_client_that_does_not_read(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        big = Exposition(b"x" * 20_000_000, "text/plain")
        monkeypatch.setattr(health, "exposition", lambda accept: big)
        with HealthServer(health, "127.0.0.1:0", timeout=LONG) as server, connect(server) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert get(server, "/livez")[0] == 200
            assert received(sock).endswith(big.body)

    def test_a_client_that_never_reads_is_cut_off(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = threading.Event()

        def expose(accept: str) -> Exposition:
            asked.set()
            return Exposition(b"x" * 20_000_000, "text/plain")

        monkeypatch.setattr(health, "exposition", expose)
        with HealthServer(health, "127.0.0.1:0", timeout=1.0) as server, connect(server) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert asked.wait(LONG)
            eventually(lambda: threads_of_clients() == 0)

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

    def test_held_connections_cost_no_probe(self, health: kit.Health) -> None:
        with HealthServer(health, "127.0.0.1:0") as server, contextlib.ExitStack() as stack:
            for number in range(400):
                sock = stack.enter_context(connect(server))
                with contextlib.suppress(OSError):
                    sock.sendall(b"GET /livez HTTP/1.1\r\n" if number % 2 else b"")
                if number % 40 == 0:
                    assert get(server, "/livez")[0] == 200
                    assert threads_of_clients() <= 65
            for _ in range(20):
                assert get(server, "/livez")[0] == 200

    def test_floods_of_headers_cost_no_probe(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # On a busy machine, the clients of the flood and the probe get a processor late.
        monkeypatch.setattr(module, "_LEAST_TIME", LONG)
        stopped = threading.Event()
        floods: list[int] = []

        def flood(server: HealthServer) -> None:
            while not stopped.is_set():
                with contextlib.suppress(OSError), connect(server) as sock:
                    sock.sendall(b"GET /livez HTTP/1.1\r\n")
                    for _ in range(100):
                        sock.sendall(b"A: " + b"b" * 1000 + b"\r\n")
                floods.append(1)

        with HealthServer(health, "127.0.0.1:0", max_connections=8) as server:
            threads = [threading.Thread(target=flood, args=(server,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            try:
                answered = 0
                while answered < 30 or len(floods) < 30:
                    assert get(server, "/livez")[0] == 200
                    answered += 1
            finally:
                stopped.set()
                for thread in threads:
                    thread.join(LONG)

    def test_one_thread_while_there_are_no_clients(self, health: kit.Health) -> None:
        with no_idle_threads():
            before = threading.active_count()
            with HealthServer(health, "127.0.0.1:0") as server:
                for _ in range(5):
                    assert get(server, "/livez")[0] == 200
                eventually(lambda: threading.active_count() == before + 1)

    def test_no_thread_for_a_client(
        self, health: kit.Health, server: HealthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(name: str, *_: Any) -> None:
            raise NoThread(f"no thread for {name}")

        monkeypatch.setattr(module, "spawn", fail)
        with connect(server):  # a client that holds its connection delays others, for a moment
            assert get(server, "/livez")[0] == 200
            assert get(server, "/readyz")[0] == 503

    def test_metrics_that_hang_hold_up_a_bounded_number_of_threads(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        may_return = threading.Event()
        # The threads that hang do not end within any time.
        monkeypatch.setattr(module, "_GIVE_WAY", 0.01)

        def hang(accept: str) -> Exposition:
            assert may_return.wait(2 * LONG)
            return Exposition(b"", "text/plain")

        monkeypatch.setattr(health, "exposition", hang)
        with HealthServer(health, "127.0.0.1:0", timeout=LONG, max_connections=2) as server:
            with contextlib.ExitStack() as stack:
                for number in range(6):
                    sock = stack.enter_context(connect(server))
                    sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                    eventually(lambda: threads_of_clients() >= min(number + 1, 4))  # noqa: B023
                eventually(lambda: "a connection is refused" in caplog.text)
                assert threads_of_clients() == 4
                may_return.set()
            eventually(lambda: threads_of_clients() == 0)
            assert get(server, "/livez")[0] == 200

    def test_no_more_descriptors(
        self, health: kit.Health, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
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
