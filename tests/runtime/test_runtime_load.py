"""Many plugins, a large state, many creations: a small load by default, a larger one by the environment.

``NRI_SYNC_LOAD=100,10000,1000`` is 100 plugins, 10,000 containers and 1,000 creations; ``pytest -s`` shows the
figures.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.runtime import Runtime
from tests.runtime.rig import CONTAINER, POD, Host, PluginWith

__all__: list[str] = []

PLUGINS, CONTAINERS, CREATIONS = map(int, os.environ.get("NRI_SYNC_LOAD", "8,500,20").split(","))
# All plugins share one interpreter here.
PATIENCE = 600.0


def _plugin(number: int) -> Any:
    def synchronize(pods: Any, containers: Any) -> Any:
        assert len(containers) == CONTAINERS
        return [api.Update(f"c{number}").set_cpu(shares=2)]

    def create(pod: Any, container: Any) -> Any:
        return api.Adjustment().add_env(f"PLUGIN_{number}", "here")

    return PluginWith(synchronize=synchronize, create_container=create)


@pytest.mark.timeout(PATIENCE)
def test_load(make_runtime: Callable[..., Runtime], host: Host, socket_dir: Path) -> None:
    host.containers = [
        api.Container(id=f"c{number}", annotations={"padding": "x" * 1000})
        for number in range(CONTAINERS)
    ]
    threads = threading.active_count()
    path = str(socket_dir / "nri.sock")
    stubs = [
        nri_sync.Stub(_plugin(n), name=f"p{n}", idx=n % 100, socket_path=path)
        for n in range(PLUGINS)
    ]
    with make_runtime(request_timeout=PATIENCE, registration_timeout=PATIENCE) as runtime:
        began = time.perf_counter()
        for stub in stubs:
            stub.start(PATIENCE)
        assert runtime.wait_for_plugins(lambda names: len(names) == PLUGINS, PATIENCE)
        synchronized = time.perf_counter() - began
        host.synchronized.get()
        ids = {host.synchronized.get()[0].container_id for _ in range(PLUGINS)}
        assert ids == {f"c{number}" for number in range(PLUGINS)}
        while_up = threading.active_count() - threads
        taken = []

        def create() -> None:
            for _ in range(CREATIONS):
                begin = time.perf_counter()
                reply = runtime.create_container(POD, CONTAINER)
                taken.append(time.perf_counter() - begin)
                assert len(reply.adjust.env) == PLUGINS

        thread = threading.Thread(target=create)
        thread.start()
        thread.join()
        assert len(taken) == CREATIONS
        for stub in stubs:
            stub.stop()
    taken.sort()
    print(
        f"\n{PLUGINS} plugins, {CONTAINERS} containers each: synchronized in {synchronized:.2f} s,"
        f" {while_up} threads; {CREATIONS} creations, p50 {taken[len(taken) // 2] * 1e3:.2f} ms,"
        f" p99 {taken[len(taken) * 99 // 100] * 1e3:.2f} ms"
    )
