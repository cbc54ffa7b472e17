"""Shared fixtures of the interoperability tests: a socket path, and peers that end with their test."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from tests.interop.gopeer import Peer
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import Recorder, Slow

__all__: list[str] = []

RunPeer = Callable[..., Peer]
Connect = Callable[..., "nri_sync.Stub"]


@pytest.fixture
def socket_path(socket_dir: Path) -> Path:
    return socket_dir / "s"


@pytest.fixture
def run_peer(socket_dir: Path) -> Iterator[RunPeer]:
    """Runs a peer. The peers end in the reverse order of their starts."""
    with contextlib.ExitStack() as peers:
        yield lambda *arguments: peers.enter_context(Peer(*arguments))


@pytest.fixture
def release() -> Release:
    return RELEASES[0]


@pytest.fixture
def runtime(release: Release, socket_path: Path) -> Iterator[GoRuntime]:
    """A runtime of the release, not started."""
    with GoRuntime(release, socket_path) as runtime:
        yield runtime


@pytest.fixture
def closed() -> queue.SimpleQueue[object]:
    """The reasons of on_close, for stubs of `make_stub`."""
    return queue.SimpleQueue()


@pytest.fixture
def make_stub(socket_path: Path, closed: queue.SimpleQueue[object]) -> Iterator[Connect]:
    stubs: list[nri_sync.Stub] = []

    def make(plugin: object, **options: Any) -> nri_sync.Stub:
        options = {
            "name": "py",
            "idx": "10",
            "socket_path": str(socket_path),
            "on_close": lambda stub: closed.put(stub.close_reason),
            **options,
        }
        stub = nri_sync.Stub(plugin, **options)
        stubs.append(stub)
        return stub

    yield make
    for stub in stubs:
        stub.stop()


@pytest.fixture
def connect(make_stub: Connect, runtime: GoRuntime) -> Connect:
    """Starts a stub, and waits until the runtime has it among its plugins."""

    def connect(plugin: Recorder, **options: Any) -> nri_sync.Stub:
        stub = make_stub(plugin, **options)
        stub.start()
        runtime.wait_connected(stub.name)
        plugin.expect("configure")
        plugin.expect("synchronize")
        return stub

    return connect


@pytest.fixture
def slow() -> Iterator[Slow]:
    plugin = Slow()
    yield plugin
    plugin.go_on.set()
