"""Our runtime side, with the commands of ``tests/interop/driver``: ``python -m benchmarks.runtime``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any, Callable

from google.protobuf import json_format

from benchmarks import control
from benchmarks.measure import percentiles
from nri_sync.api import nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.runtime import Metrics, Runtime

__all__ = ["main"]

_BY_RPC = {handler.rpc: handler for handler in HANDLERS}


class _Arrivals(Metrics):
    """Emits an event when a plugin has been synchronized."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self.names: Callable[[], Iterable[str]] = tuple

    def plugin_count(self, count: int) -> None:
        with self._lock:
            new = set(self.names()) - self._told
            self._told |= new
        for name in new:
            control.emit("connected", {"name": name})


class _Driver:
    def __init__(self) -> None:
        self.runtime: Runtime

    def start(
        self,
        socket: str,
        runtime_name: str,
        runtime_version: str,
        make_pods: int = 0,
        make_containers: int = 0,
        make_size: int = 0,
        request_timeout_ms: int = 2000,
    ) -> None:
        pods = [
            nri_pb2.PodSandbox(id=f"pod{number}", name=f"pod-{number}", namespace="default")
            for number in range(make_pods)
        ]
        containers = [
            nri_pb2.Container(
                id=f"ctr{number}",
                pod_sandbox_id=f"pod{number % max(make_pods, 1)}",
                name=f"ctr-{number}",
                annotations={"padding": "x" * make_size},
            )
            for number in range(make_containers)
        ]
        arrivals = _Arrivals()
        self.runtime = Runtime(
            runtime_name,
            runtime_version,
            synchronize=lambda sync: sync(pods, containers),
            update_containers=lambda updates, evictions: (),
            socket_path=socket,
            plugin_path=None,
            request_timeout=request_timeout_ms / 1000,
            metrics=arrivals,
        )
        arrivals.names = lambda: self.runtime.plugins
        self.runtime.start()

    def bench(
        self, op: str, request: Any, count: int, warmup: int, pause: int = 0
    ) -> dict[str, float]:
        handler = _BY_RPC[op]
        message = json_format.ParseDict(request, getattr(nri_pb2, f"{op}Request")())
        arguments = [getattr(message, field) for field in handler.fields]
        relay = getattr(self.runtime, handler.name)
        taken: list[float] = []

        def work() -> None:
            for _ in range(warmup + count):
                if pause:
                    time.sleep(pause / 1e6)
                begin = time.perf_counter()
                relay(*arguments)
                taken.append(time.perf_counter() - begin)

        # A real runtime sends events on other threads than its main thread.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        figures = percentiles(taken[warmup:])
        return {"p50_us": figures["p50"], "p99_us": figures["p99"]}


def main() -> None:
    driver = _Driver()
    control.serve({"start": driver.start, "bench": driver.bench})


if __name__ == "__main__":
    main()
