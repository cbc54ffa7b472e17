"""A plugin in the usual style: ``python -m benchmarks.plugin SOCKET IDX NAME ENV MOUNTS SIZE [HEALTH]``."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import nri_sync
from benchmarks import control
from benchmarks.adjuster import Adjuster
from nri_sync import api

__all__ = ["main"]


def _watched(plugin: Adjuster, address: str, **options: Any) -> nri_sync.Stub:
    # Imported here, so that a plugin without a health endpoint does not load it.
    from nri_sync import kit

    health = kit.Health()
    stub = nri_sync.Stub(plugin, interceptors=[health], **options)
    kit.HealthServer(health, address).start()
    return stub


def spin() -> None:
    """Run without a pause, like a thread that computes in Python."""
    number = 0
    while True:
        number += 1


def main(
    socket_path: str, idx: str, name: str, env: str, mounts: str, size: str, health: str = ""
) -> None:
    def come_back(stub: nri_sync.Stub) -> None:
        try:
            stub.start()
        except nri_sync.errors.StartError as error:
            control.emit("not back", str(error))

    plugin = Adjuster(int(env), int(mounts), int(size))
    options: dict[str, Any] = {
        "name": name,
        "idx": idx,
        "socket_path": socket_path,
        "on_close": come_back,
    }
    stub = _watched(plugin, health, **options) if health else nri_sync.Stub(plugin, **options)

    def start() -> float:
        begin = time.perf_counter()
        stub.start()
        return (time.perf_counter() - begin) * 1e6

    def restart() -> float:
        stub.stop()
        return start()

    def busy(threads: int, interval: float) -> None:
        sys.setswitchinterval(interval)
        for _ in range(threads):
            threading.Thread(target=spin, daemon=True).start()

    def slow(seconds: float) -> None:
        plugin.seconds = seconds

    def wait(timeout: float) -> float | None:
        return stub.wait(timeout) or None

    control.serve(
        {
            "start": start,
            "stop": stub.stop,
            "restart": restart,
            "wait": wait,
            "busy": busy,
            "slow": slow,
            "counters": lambda: stub.counters._asdict(),
            "synchronized": lambda: len(plugin.containers),
            "version": lambda: api.NRI_VERSION,
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
