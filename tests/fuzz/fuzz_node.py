"""Fuzz target: each text that is read from a node: configuration with drop-in files, lock files, probes, names.

The first byte chooses the format. A file with drop-ins is split at NUL bytes. A text is taken, or an error of its
kind says in a few words why not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Callable

from nri_sync.cli.node_config import check_configuration
from nri_sync.deadline import Deadline
from nri_sync.errors import IdentityError, StartError
from nri_sync.kit import Health, probe
from nri_sync.kit.health.connections import _Handler
from nri_sync.net.sockets import parse_target
from nri_sync.plugin.source import identify
from nri_sync.plugin.turns import Turn
from nri_sync.runtime.launcher import discover
from tests.fuzz.fuzz_texts import ERROR_MAX

__all__ = ["FORMATS", "one_input"]

_CONTAINERD = "etc/containerd/config.toml"
_HEAD = b'imports = ["/etc/containerd/conf.d/*.toml"]\n'


def _containerd(directory: Path, data: bytes) -> None:
    main, *others = data.split(b"\0")
    _write(directory / _CONTAINERD, _HEAD + main)
    for number, other in enumerate(others[:4]):
        _write(directory / f"etc/containerd/conf.d/{number}.toml", other)
    _check(directory)


def _crio(directory: Path, data: bytes) -> None:
    main, *others = data.split(b"\0")
    _write(directory / "etc/crio/crio.conf", main)
    for number, other in enumerate(others[:4]):
        _write(directory / f"etc/crio/crio.conf.d/{number}.conf", other)
    _check(directory)


def _check(directory: Path) -> None:
    for finding in check_configuration(directory, "/run/nri/nri.sock"):
        assert len(finding.text) + len(finding.advice) <= 2 * ERROR_MAX


def _installed(directory: Path, data: bytes) -> None:
    """A plugin that the runtime launches, by the name before the NUL byte, and its drop-in configuration."""
    name, _, config = data.partition(b"\0")
    plugins, configs = directory / "plugins", directory / "conf.d"
    plugins.mkdir()
    base = os.fsdecode(name).replace("/", "-")[:100] or "10-test"
    if base in (".", ".."):
        return
    _write(plugins / base, b"", 0o755)
    _write(configs / f"{base}.conf", config)
    for plugin in discover(str(plugins), str(configs)):
        assert plugin.config == "" or plugin.config.encode() == config


def _probe(directory: Path, data: bytes) -> None:
    _write(directory / "health", data)
    assert len(probe.check(directory / "health")) <= len(data) + ERROR_MAX


def _turn(directory: Path, data: bytes) -> None:
    _write(directory / "turn", data)
    turn = Turn(str(directory / "turn"))
    assert len(turn.read()[0]) <= 16
    assert turn.take()
    turn.sign(b"serving")
    assert turn.read()[0] == b"serving"
    turn.drop()


@functools.cache
def _health() -> Health:
    return Health()


def _http(directory: Path, data: bytes) -> None:
    """The head of a scraper's request."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(5.0)
        theirs.sendall(data[:32768])
        theirs.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            _Handler(ours, _health(), Deadline(5.0))
        ours.close()
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := theirs.recv(65536):
                answer += more
        assert len(answer) <= 65536
        assert not answer or answer.startswith((b"HTTP/1.", b"ok", b"failed", b"not found"))


def _target(directory: Path, data: bytes) -> None:
    assert parse_target(data.decode(errors="surrogateescape"))


def _identity(directory: Path, data: bytes) -> None:
    name, _, index = data.decode(errors="surrogateescape").partition("\0")
    found = identify(name, index)
    assert (found.name, found.idx) == (name, index)


#: By the first byte of an input, modulo their number.
FORMATS: tuple[Callable[[Path, bytes], Any], ...] = (
    _containerd, _crio, _installed, _probe, _turn, _http, _target, _identity,
)  # fmt: skip


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def one_input(data: bytes) -> None:
    if not data:
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-node") as directory:
        try:
            FORMATS[data[0] % len(FORMATS)](Path(directory), data[1:])
        except (ValueError, StartError, IdentityError) as error:
            assert len(str(error)) <= ERROR_MAX  # noqa: PT017
