"""The cases of the benchmark."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Callable

from benchmarks import echo
from benchmarks.busy import BUSY
from benchmarks.measure import Aim, Case, percentiles
from benchmarks.peers import (
    BARE,
    CONTAINER,
    FLOOR,
    GO,
    GO_RUNTIME,
    OURS,
    POD,
    as_json,
    compiled,
    echo_server,
    go_runtime,
    plugin,
    runtime_side,
)
from benchmarks.process import cpu_seconds
from benchmarks.steady import STEADY
from nri_sync.api import nri_pb2

__all__ = ["CASES"]

_LATENCY = {"p50": "us", "p99": "us"}


def _on_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _echo(kind: str, *, main_thread: bool = False) -> Mapping[str, float]:
    """Sequential unary calls with 100 bytes each."""
    taken: list[float] = []
    with echo_server(kind) as path:
        call = echo.connect(kind, path)
        payload = b"x" * 100

        def work() -> None:
            for number in range(5500):
                begin = time.perf_counter()
                call(payload)
                if number >= 500:
                    taken.append(time.perf_counter() - begin)

        if main_thread:
            work()
        else:
            _on_a_thread(work)
    return percentiles(taken)


def _request(
    op: str, count: int, *, annotation: int = 0, size: int = 0, pause: int = 0
) -> Callable[[str], Mapping[str, float]]:
    request: dict[str, object] = {"pod": as_json(POD)}
    if "Container" in op:
        container = nri_pb2.Container()
        container.CopyFrom(CONTAINER)
        # A container with large annotations.
        container.annotations["large"] = "x" * annotation
        request["container"] = as_json(container)

    def run(kind: str) -> Mapping[str, float]:
        with go_runtime() as runtime, plugin(kind, runtime, size=size):
            result = runtime.call(
                "bench", op=op, request=request, count=count, warmup=200, pause=pause, timeout=120.0
            )
        return {"p50": result["p50_us"], "p99": result["p99_us"]}

    return run


def _synchronize(containers: int) -> Callable[[str], Mapping[str, float]]:
    def run(kind: str) -> Mapping[str, float]:
        options = {"make_pods": containers // 2, "make_containers": containers, "make_size": 1000}
        with (
            go_runtime(**options, request_timeout_ms=60_000) as runtime,
            plugin(kind, runtime, start=False) as process,
        ):
            begin = time.perf_counter()
            process.call("start")
            runtime.wait_connected("10-bench")
            return {"time": (time.perf_counter() - begin) * 1e3}

    return run


def _start(kind: str) -> Mapping[str, float]:
    """The first start() of a process that has imported all modules before."""
    taken = []
    with go_runtime() as runtime:
        for _ in range(8):
            with plugin(kind, runtime, start=False) as process:
                taken.append(process.call("start") / 1e6)
                runtime.wait_connected("10-bench")
    return percentiles(taken)


def _reconnect(kind: str) -> Mapping[str, float]:
    """The time from a disconnection by the runtime until the plugin is connected and synchronized again."""
    taken: list[float] = []
    with go_runtime() as runtime, plugin(kind, runtime, reconnect=True):
        for _ in range(150):
            begin = time.perf_counter()
            runtime.call("cut", name="10-bench")
            runtime.wait_event("connected", timeout=5.0, name="10-bench")
            taken.append(time.perf_counter() - begin)
    return percentiles(taken[10:])


def _fleet(plugins: int) -> Callable[[str], Mapping[str, float]]:
    def run(kind: str) -> Mapping[str, float]:
        request = {"pod": as_json(POD)}
        with go_runtime() as runtime, contextlib.ExitStack() as stack:
            for number in range(plugins):
                stack.enter_context(plugin(kind, runtime, idx=number))
            result = runtime.call(
                "bench", op="RunPodSandbox", request=request, count=300, warmup=30
            )
        return {"p50": result["p50_us"], "p99": result["p99_us"]}

    return run


def _relay(plugins: int) -> Callable[[str], Mapping[str, float]]:
    """Compare the runtime sides, each with plugins of the Go implementation."""

    def run(kind: str) -> Mapping[str, float]:
        request = {"pod": as_json(POD), "container": as_json(CONTAINER)}
        with runtime_side(kind) as process, contextlib.ExitStack() as stack:
            for number in range(plugins):
                stack.enter_context(plugin(GO, process, idx=number, name=f"bench{number}"))
            result = process.call(
                "bench", op="CreateContainer", request=request, count=500, warmup=50
            )
        return {"p50": result["p50_us"], "p99": result["p99_us"]}

    return run


def _cpu(kind: str) -> Mapping[str, float]:
    request = {"pod": as_json(POD), "container": as_json(CONTAINER)}
    with go_runtime() as runtime, plugin(kind, runtime) as process:
        runtime.call("bench", op="CreateContainer", request=request, count=1000, warmup=0)
        before = cpu_seconds(process.pid)
        runtime.call(
            "bench", op="CreateContainer", request=request, count=10_000, warmup=0, timeout=120.0
        )
        return {"CPU of 1,000 requests": (cpu_seconds(process.pid) - before) * 100}


def _import_time(kind: str) -> Mapping[str, float]:
    statement = {
        OURS: "from nri_sync import Stub; Stub(type('P', (), {'shutdown': lambda s: None})(), name='x', idx=1)",
        "nri_sync.wire": "import nri_sync.wire.mux",
        "grpcio": "import grpc",
    }[kind]
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    taken = []
    with compiled() as environ:
        for _ in range(6):
            done = subprocess.run(command, capture_output=True, check=True, env=environ)
            taken.append(float(done.stdout))
    return {"time": min(taken) * 1e3}


CASES = (
    Case(
        "ttrpc",
        "ttRPC: unary echo of 100 bytes, called on a thread",
        {**_LATENCY, "rate": "calls/s"},
        (OURS, "grpcio", "Go ttrpc", "socket"),
        _echo,
        (Aim("rate", OURS, "grpcio", at_least=3.3), Aim("p50", OURS, "socket", at_most=3.0)),
    ),
    Case(
        "ttrpc-main",
        "ttRPC: unary echo of 100 bytes, called on the main thread",
        {**_LATENCY, "rate": "calls/s"},
        (OURS, "grpcio", "socket"),
        lambda kind: _echo(kind, main_thread=True),
        (Aim("rate", OURS, "grpcio", at_least=3.0),),
    ),
    Case(
        "create",
        "CreateContainer, 30 variables and 12 mounts",
        _LATENCY,
        (OURS, GO, BARE, FLOOR),
        _request("CreateContainer", 3000),
        (
            Aim("p50", OURS, GO, at_most=0.75),
            Aim("p99", OURS, GO, at_most=0.55),
            Aim("p50", OURS, FLOOR, at_most=1.8),
            Aim("p50", BARE, GO),
            Aim("p99", FLOOR, GO),
        ),
        note="The bare Python is one thread that reads, parses, calls the same handler and writes, "
        "with no guarantee at all. The stub's extra time goes into some forty short functions "
        "(frames, streams, the table of calls, late replies, contexts, counters) and two changes "
        "of an epoll set, by which a second thread stands in for a handler that takes long. "
        "Between two requests the processor goes idle, so all of this takes two to three times as "
        "long as in a tight loop. How the interpreter was built counts as well (see above). The 99th "
        "percentile differs more from run to run than from one contestant to the next.",
    ),
    Case(
        "create-pause",
        "CreateContainer with 5 ms between two requests, as on a node",
        _LATENCY,
        (OURS, GO, BARE),
        _request("CreateContainer", 1000, pause=5000),
        (Aim("p50", OURS, GO, at_most=0.55), Aim("p50", BARE, GO)),
        note="The processor goes idle between two requests, and so do its caches.",
    ),
    Case(
        "event",
        "RunPodSandbox, an event without an answer",
        _LATENCY,
        (OURS, GO),
        _request("RunPodSandbox", 3000),
        (Aim("p50", OURS, GO),),
    ),
    Case(
        "large",
        "CreateContainer with an annotation of 200 KiB",
        _LATENCY,
        (OURS, GO),
        _request("CreateContainer", 500, annotation=200 * 1024),
        (Aim("p50", OURS, GO),),
    ),
    Case(
        "reply",
        "CreateContainer answered with 100 KiB",
        _LATENCY,
        (OURS, GO),
        _request("CreateContainer", 500, size=100 * 1024),
        (Aim("p50", OURS, GO),),
    ),
    *(
        Case(
            f"synchronize-{count}",
            f"From start() to synchronized with {count:,} containers of 1 kB",
            {"time": "ms"},
            (OURS, GO, BARE),
            _synchronize(count),
            (
                Aim("time", OURS, GO, at_most=0.8 if count >= 1_000 else None),
                Aim("time", BARE, GO),
            ),
        )
        for count in (100, 1_000, 10_000, 50_000)
    ),
    Case(
        "start",
        "start(), to registered and configured",
        _LATENCY,
        (OURS, GO, BARE),
        _start,
        (Aim("p50", OURS, GO, at_most=1.0), Aim("p50", BARE, GO)),
        note=(
            "The runtime itself takes a third to a half of this time. The start of a thread takes a fifth: "
            "a signal can interrupt the main thread at any bytecode, so another thread connects. "
            "The bare Python starts its thread afterwards."
        ),
    ),
    Case(
        "reconnect",
        "Back after a lost connection",
        _LATENCY,
        (OURS, GO, BARE),
        _reconnect,
        (Aim("p50", OURS, GO, at_most=1.1), Aim("p50", BARE, GO)),
        note="A new session gets one thread of the session before, and starts another. Go starts goroutines.",
    ),
    *(
        Case(
            f"fleet-{count}",
            f"RunPodSandbox through {count} plugins",
            _LATENCY,
            (OURS, GO),
            _fleet(count),
            (Aim("p50", OURS, GO),),
            rounds=3,
        )
        for count in (10, 50)
    ),
    Case(
        "relay-10",
        "Runtime side: CreateContainer through 10 plugins",
        _LATENCY,
        (OURS, GO_RUNTIME),
        _relay(10),
        (Aim("p50", OURS, GO_RUNTIME, at_most=1.5),),
    ),
    Case(
        "cpu",
        "CPU time of a small plugin, CreateContainer",
        {"CPU of 1,000 requests": "ms"},
        (OURS, GO),
        _cpu,
        (Aim("CPU of 1,000 requests", OURS, GO),),
        rounds=3,
    ),
    *STEADY,
    *BUSY,
    Case(
        "import",
        "Import, in a new process",
        {"time": "ms"},
        (OURS, "grpcio", "nri_sync.wire"),
        _import_time,
        (Aim("time", OURS, at_most=45.0),),
        rounds=3,
        note="Of nri_sync: its import, and a Stub made.",
    ),
)
