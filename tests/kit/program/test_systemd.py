"""The notify protocol: the messages at a socket in systemd's place."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nri_sync.kit import Notifier
from tests.kit.programs import MAIN, PLUGIN, program, serving
from tests.patience import say_request_timeout
from tests.runtime.rig import LONG

__all__: list[str] = []


class Listener:
    """Replaces systemd."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(LONG)

    def receive(self) -> list[str]:
        """Return the lines of the next message."""
        return self._sock.recv(4096).decode().split("\n")

    def expect(self, line: str) -> list[str]:
        """Return the next message that begins with ``line``. A status may come at any time before it."""
        while True:
            message = self.receive()
            if message[0] == line:
                return message
            assert message[0].startswith("STATUS="), message


@contextmanager
def listening(address: str) -> Iterator[Listener]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        yield Listener(sock)


@pytest.fixture
def listener(socket_dir: Path) -> Iterator[Listener]:
    with listening(f"{socket_dir}/notify") as listener:
        yield listener


@pytest.fixture
def environ(listener: Listener, socket_dir: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": f"{socket_dir}/notify"}


def test_messages(listener: Listener, environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("serving\ncontainerd")
    assert listener.receive() == ["READY=1", "STATUS=serving containerd"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, at = listener.receive()
    assert reloading == "RELOADING=1"
    assert before <= int(at.partition("MONOTONIC_USEC=")[2]) <= time.monotonic_ns() // 1000
    notifier.ready()
    assert listener.receive() == ["READY=1"]
    notifier.status("lost")
    assert listener.receive() == ["STATUS=lost"]
    notifier.alive()
    assert listener.receive() == ["WATCHDOG=1"]
    notifier.stopping()
    assert listener.receive() == ["STOPPING=1"]


def test_an_abstract_socket() -> None:
    name = f"nri-sync-test-{os.getpid()}"
    with listening(f"\0{name}") as listener:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listener.receive() == ["READY=1"]


def test_without_a_socket_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}):
        notifier = Notifier(environ)
        notifier.ready()
        assert notifier.watchdog_interval is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/missing/notify", "cannot send READY=1 to systemd: .*No such file"),
        ("/" + "x" * 200, "cannot send READY=1 to systemd: AF_UNIX path too long"),
        ("vsock:2:1234", "NOTIFY_SOCKET=vsock:2:1234 is neither a path nor abstract"),
    ],
)
def test_a_socket_that_cannot_be_notified_is_logged(
    address: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": address}).ready()
    assert re.search(told, caplog.text)


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("3000000", None, 1.5), ("3000000", "1", None),
        pytest.param("3000000", str(os.getpid()), 1.5, id="own pid"),
        ("0", None, None), ("soon", None, None), ("", None, None),
    ],
)  # fmt: skip
def test_the_watchdog(
    usec: str, pid: str | None, interval: float | None, environ: dict[str, str]
) -> None:
    environ["WATCHDOG_USEC"] = usec
    if pid is not None:
        environ["WATCHDOG_PID"] = pid
    assert Notifier(environ).watchdog_interval == interval


def test_no_watchdog_without_a_socket() -> None:
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog_interval is None


def test_the_life_of_a_program(
    listener: Listener, environ: dict[str, str], socket_dir: Path
) -> None:
    (socket_dir / "c.yaml").write_text("value: x")
    flags = ["--config", "c.yaml"]
    with program(socket_dir, "--retry-first", *flags, environ=environ) as plugin:
        assert listener.expect("READY=1")[1] == f"STATUS=connecting to {socket_dir}/nri.sock"
        assert listener.receive()[0].startswith("STATUS=reconnecting: plugin 10-test: cannot")
        plugin.signal(signal.SIGTERM)
        listener.expect("STOPPING=1")
        plugin.wait()
    with serving(socket_dir), program(socket_dir, *flags, environ=environ) as plugin:
        assert listener.expect("READY=1")[1] == "STATUS=serving test v1"
        plugin.signal(signal.SIGHUP)
        assert listener.expect("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        assert listener.expect("READY=1") == ["READY=1"]
        plugin.signal(signal.SIGTERM)
        listener.expect("STOPPING=1")
        assert plugin.wait() == 0


def test_the_watchdog_of_a_program_starves_when_a_handler_is_wedged(
    listener: Listener,
    environ: dict[str, str],
    socket_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ["WATCHDOG_USEC"] = "100000"
    say_request_timeout(monkeypatch, 1.0)
    # The plugin never answers, so it is wedged after twice the request timeout.
    main = f"""
def wedge(self, pods, containers):
    say("wedged")
    time.sleep(60)
Plugin.synchronize = wedge
{MAIN}"""
    with (
        serving(socket_dir),
        program(socket_dir, source=PLUGIN, main=main, environ=environ) as plugin,
    ):
        while listener.receive() != ["READY=1", "STATUS=serving test v1"]:
            pass
        listener.expect("WATCHDOG=1")
        plugin.expect("wedged")
        _until_quiet(listener)


def _until_quiet(listener: Listener) -> None:
    """No message comes within ten intervals."""
    listener._sock.settimeout(1.0)
    give_up = time.monotonic() + LONG
    while True:
        assert time.monotonic() < give_up, "the watchdog is fed all the same"
        try:
            listener.receive()
        except socket.timeout:
            return
