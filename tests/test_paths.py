"""A path of a socket or a directory may be any path-like object, as pytest's tmp_path is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nri_sync
from nri_sync import api, kit, ttrpc
from nri_sync.runtime import Runtime
from nri_sync.testing import FakeRuntime, FaultProxy, ScriptedRuntime, steps
from nri_sync.testing.recordings import Proxy

__all__: list[str] = []


class Plugin:
    def create_container(self, pod: Any, container: Any) -> Any:
        return api.Adjustment()


def register(path: Path) -> None:
    with nri_sync.Stub(Plugin(), name="paths", idx="10", socket_path=path) as stub:
        assert stub.wait_synchronized(20)


def test_a_stub_and_a_fake_runtime(socket_dir: Path) -> None:
    path = socket_dir / "nri.sock"
    with FakeRuntime(socket_path=path) as runtime:
        assert runtime.socket_path == str(path)
        register(path)
    runtime.close()
    assert runtime.socket_path == str(path)


def test_a_runtime(socket_dir: Path) -> None:
    path, plugins = socket_dir / "nri.sock", socket_dir / "plugins"
    plugins.mkdir()
    runtime = Runtime(
        "test", "1", synchronize=lambda sync: sync([], []), update_containers=lambda *_: [],
        socket_path=path, plugin_path=plugins, plugin_config_path=socket_dir / "conf.d",
    )  # fmt: skip
    with runtime:
        register(path)


def test_proxies(socket_dir: Path) -> None:
    path = socket_dir / "runtime.sock"
    with FakeRuntime(socket_path=path):
        with FaultProxy(path, socket_dir / "faults.sock") as faults:
            assert faults.socket_path == str(socket_dir / "faults.sock")
            register(socket_dir / "faults.sock")
        with Proxy(socket_dir / "proxy.sock", path) as proxy:
            assert (proxy.listen_path, proxy.runtime_path) == (
                str(socket_dir / "proxy.sock"), str(path),
            )  # fmt: skip


def test_a_scripted_runtime(socket_dir: Path) -> None:
    path = socket_dir / "nri.sock"
    with ScriptedRuntime([steps.start_session(), steps.serve()], socket_path=path) as runtime:
        assert runtime.socket_path == str(path)
        register(path)


def test_a_ttrpc_server_and_its_client(socket_dir: Path) -> None:
    server = ttrpc.Server()
    server.add_insecure_port(socket_dir / "ttrpc.sock")
    server.start()
    try:
        ttrpc.connect(socket_dir / "ttrpc.sock", timeout=20).close()
    finally:
        server.stop(0)


def test_a_health_server(socket_dir: Path) -> None:
    with kit.HealthServer(kit.Health(), socket_dir / "health.sock") as server:
        assert server.address == f"unix:{socket_dir / 'health.sock'}"
