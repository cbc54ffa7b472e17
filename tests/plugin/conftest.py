"""Fixtures of the tests of the plugin side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api
from nri_sync.runtime import Peer
from tests.plugin._scene import Make, Scene, nothing_left
from tests.plugin.harness import LONG, Recorder, Runtime, Slow, descriptors

__all__ = ["Connect", "MakeStub", "Serve"]

Serve = Callable[..., Runtime]
MakeStub = Callable[..., nri_sync.Stub]
Connect = Callable[..., tuple[nri_sync.Stub, Peer]]


@pytest.fixture(autouse=True)
def _no_descriptor_left_behind() -> Iterator[None]:
    """Fail a test that leaves a descriptor open."""
    before = descriptors()
    yield
    give_up = time.monotonic() + LONG
    while left := descriptors() - before:
        if time.monotonic() > give_up:
            pytest.fail(f"the test is over, but these are still open: {sorted(left)}")
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub finds no settings in the environment of the tests."""
    for name in (api.ENV_PLUGIN_NAME, api.ENV_PLUGIN_IDX, api.ENV_PLUGIN_SOCKET):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve(socket_dir: Path) -> Iterator[Serve]:
    """Makes a :class:`Runtime` that listens on ``socket_dir/"nri.sock"``; closed at the end."""
    made: list[Runtime] = []

    def make(**options: Any) -> Runtime:
        made.append(Runtime(socket_dir / "nri.sock", **options))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()


@pytest.fixture
def make_stub(socket_dir: Path) -> Iterator[MakeStub]:
    """Makes a stub "10-test" that connects to ``socket_dir/"nri.sock"``; stopped at the end."""
    made: list[nri_sync.Stub] = []

    def make(plugin: object, **options: Any) -> nri_sync.Stub:
        options = {"name": "test", "idx": "10", **options}
        if "connection" not in options:
            options.setdefault("socket_path", str(socket_dir / "nri.sock"))
        made.append(nri_sync.Stub(plugin, **options))
        return made[-1]

    yield make
    for stub in made:
        stub.stop()


@pytest.fixture
def connect(serve: Serve, make_stub: MakeStub) -> Connect:
    """Connects a plugin to a runtime; returns its stub, and the runtime's side of the connection."""

    def make(plugin: object, *, config: Any = None, **options: Any) -> tuple[nri_sync.Stub, Peer]:
        runtime = serve(config=config)
        stub = make_stub(plugin, **options)
        stub.start()
        return stub, runtime.peer()

    return make


@pytest.fixture
def scene() -> Iterator[Make]:
    """Makes a :class:`Scene`; each is checked at the end, and that nothing is left of them."""
    made: list[Scene] = []

    def make(plugin: Any = None, **options: Any) -> Scene:
        made.append(Scene(plugin or Recorder(), **options))
        return made[-1]

    with nothing_left():
        yield make
        for item in made:
            item.finish()


@pytest.fixture
def slow() -> Iterator[Slow]:
    handler = Slow()
    yield handler
    handler.go_on.set()
