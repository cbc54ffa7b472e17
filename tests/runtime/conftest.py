"""Fixtures of the tests of the runtime side."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api
from nri_sync.runtime import Runtime
from tests.plugin.harness import descriptors
from tests.runtime.rig import LONG, Host, RawPlugin, host_options

__all__: list[str] = []


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
    for name in (api.ENV_PLUGIN_NAME, api.ENV_PLUGIN_IDX, api.ENV_PLUGIN_SOCKET):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def make_runtime(socket_dir: Path, host: Host) -> Iterator[Callable[..., Runtime]]:
    """Makes a Runtime of the host, and stops it after the test."""
    made: list[Runtime] = []

    def make(**options: Any) -> Runtime:
        made.append(Runtime("test", "v1.2.3", **host_options(host, socket_dir, **options)))
        return made[-1]

    yield make
    for runtime in made:
        runtime.stop()


@pytest.fixture
def start_runtime(make_runtime: Callable[..., Runtime]) -> Callable[..., Runtime]:
    """Makes a Runtime and starts it."""

    def start(**options: Any) -> Runtime:
        runtime = make_runtime(**options)
        runtime.start()
        return runtime

    return start


@pytest.fixture
def connect(socket_dir: Path) -> Iterator[Callable[..., nri_sync.Stub]]:
    """Connects a plugin to the runtime, waits until it receives events, and stops it after the test."""
    made: list[nri_sync.Stub] = []

    def connect(
        runtime: Runtime, plugin: object, name: str = "10-test", **options: Any
    ) -> nri_sync.Stub:
        idx, _, base = name.partition("-")
        stub = nri_sync.Stub(
            plugin, name=base, idx=idx, socket_path=str(socket_dir / "nri.sock"), **options
        )
        made.append(stub)
        stub.start(LONG)
        assert runtime.wait_for_plugins(lambda names: name in names, LONG)
        return stub

    yield connect
    for stub in made:
        stub.stop()


@pytest.fixture
def raw(socket_dir: Path) -> Iterator[Callable[..., RawPlugin]]:
    """Makes a connected but unregistered RawPlugin, and closes it after the test."""
    made: list[RawPlugin] = []

    def make(**options: Any) -> RawPlugin:
        made.append(RawPlugin(str(socket_dir / "nri.sock"), **options))
        return made[-1]

    yield make
    for plugin in made:
        plugin.close()


@pytest.fixture
def join(raw: Callable[..., RawPlugin]) -> Callable[..., RawPlugin]:
    """Makes a RawPlugin, registers it, and waits until it receives events."""

    def join(runtime: Runtime, name: str = "10-raw", **options: Any) -> RawPlugin:
        plugin = raw(**options)
        idx, _, base = name.partition("-")
        plugin.register(base, idx)
        assert runtime.wait_for_plugins(lambda names: name in names, LONG)
        return plugin

    return join
