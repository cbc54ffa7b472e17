"""Figures that should stay constant: time with many containers, memory after many requests, idle wake-ups."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from benchmarks.measure import Aim, Case
from benchmarks.peers import CONTAINER, GO, OURS, POD, as_json, compiled, go_runtime, plugin
from benchmarks.process import status, switches
from tests.interop.goruntime import GoRuntime

__all__ = ["STEADY"]

_REQUEST = {"pod": as_json(POD), "container": as_json(CONTAINER)}

#: A time limit that no step reaches, in seconds.
_LONG = 600.0

_KNOWN = (1, 1_000, 50_000)


def _containers(count: int) -> str:
    return f"{count:,} container{'s' if count > 1 else ''}"


def _growth(kind: str) -> Mapping[str, float]:
    taken: dict[int, list[float]] = {count: [] for count in _KNOWN}
    with contextlib.ExitStack() as stack:
        runtimes = {}
        for count in _KNOWN:
            runtime = stack.enter_context(
                go_runtime(make_pods=1, make_containers=count, request_timeout_ms=60_000)
            )
            stack.enter_context(plugin(kind, runtime))
            runtimes[count] = runtime
        # Alternate the runtimes, so that other load on the machine disturbs both.
        for _ in range(6):
            for count, runtime in runtimes.items():
                result = runtime.call(
                    "bench", op="CreateContainer", request=_REQUEST, count=500, warmup=100
                )
                taken[count].append(result["p50_us"])
    figures = {_containers(count): statistics.median(times) for count, times in taken.items()}
    few, _, many = figures.values()
    return {**figures, "50,000 / 1": many / few}


def _memory(kind: str, requests: int, restarts: int) -> Mapping[str, float]:
    with go_runtime() as runtime, plugin(kind, runtime) as process:

        def memory() -> float:
            return status(process.pid, "VmRSS") / 1024

        def serve(count: int) -> None:
            runtime.call(
                "bench",
                op="CreateContainer",
                request=_REQUEST,
                count=count,
                warmup=0,
                timeout=_LONG,
            )

        def restart(count: int) -> None:
            for _ in range(count):
                process.call("stop")
                # The Go stub must not be started again before its last connection has ended.
                runtime.wait_event("closed", name="10-bench")
                process.call("start")
                runtime.wait_connected("10-bench")

        started = memory()
        serve(requests // 2)
        warm = memory()
        serve(requests - requests // 2)
        served = memory()
        restart(restarts // 2)
        restarted = memory()
        restart(restarts - restarts // 2)
        end = memory()
    return {
        "after start": started,
        "after the requests": served,
        "after the restarts": end,
        "growth by requests": served - warm,
        "growth by restarts": end - restarted,
    }


def _memory_case(requests: int, restarts: int, quick: Case | None = None) -> Case:
    units = ("after start", "after the requests", "after the restarts")
    growth = ("growth by requests", "growth by restarts")
    return Case(
        "memory",
        f"Resident memory of a small plugin, {requests:,} requests and {restarts:,} restarts",
        dict.fromkeys((*units, *growth), "MB"),
        (OURS, GO),
        lambda kind: _memory(kind, requests, restarts),
        (
            *(Aim(metric, OURS, at_most=40.0) for metric in units),
            *(Aim(metric, OURS, at_most=1.0) for metric in growth),
        ),
        rounds=1,
        note="Growth is that over the second half of the requests, and of the restarts.",
        quick=quick,
    )


_KIT_MAIN = "nri_sync, kit.main"
# The number of containers in Synchronize, of about 3 kB each; 0: the stub only.
_STATES = (0, 2_000, 50_000)


def _resident(kind: str) -> Mapping[str, float]:
    with compiled() as environ:
        _resident_after(2_000, kind, environ)  # compiles the modules
        return {_state(count): _resident_after(count, kind, environ) for count in _STATES}


def _resident_after(count: int, kind: str, environ: Mapping[str, str]) -> float:
    options = {"make_pods": max(1, count // 4), "make_containers": count, "make_size": 2500}
    with (
        go_runtime(**options, request_timeout_ms=60_000) as runtime,
        _program(kind, runtime, environ) as pid,
    ):
        runtime.call("bench", op="CreateContainer", request=_REQUEST, count=10, warmup=0)
        # The memory of a large state is given back when the answer to it is sent.
        time.sleep(1.0)
        return status(pid, "VmRSS") / 1024


@contextlib.contextmanager
def _program(kind: str, runtime: GoRuntime, environ: Mapping[str, str]) -> Iterator[int]:
    """A plugin that keeps nothing of the state; yields the id of its process."""
    if kind == GO:
        with plugin(GO, runtime) as peer:
            yield peer.pid
        return
    mode = "kit" if kind == _KIT_MAIN else "stub"
    command = [sys.executable, "-m", "benchmarks.program", mode, str(runtime.socket_path)]
    process = subprocess.Popen(command, env=environ)
    try:
        runtime.wait_event("connected", timeout=60.0, name="10-bench")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _state(count: int) -> str:
    return f"after {_containers(count)}" if count else "started"


_RESIDENT = Case(
    "resident",
    "Resident memory of a small plugin, by the containers of its Synchronize",
    {_state(count): "MB" for count in _STATES},
    (OURS, _KIT_MAIN, GO),
    _resident,
    (
        Aim("started", OURS, at_most=21.0),
        Aim("started", _KIT_MAIN, at_most=25.0),
        Aim("after 2,000 containers", OURS, at_most=24.0),
        Aim("after 50,000 containers", OURS, at_most=60.0),
    ),
    rounds=3,
    note="The handlers keep nothing of the state.",
)

_IN_WAIT = "nri_sync, main thread in wait()"
_WITH_HEALTH = "nri_sync with a health endpoint"


def _idle(kind: str, seconds: int) -> Mapping[str, float]:
    with (
        go_runtime() as runtime,
        plugin(GO if kind == GO else OURS, runtime, health=kind == _WITH_HEALTH) as process,
    ):
        runtime.call("bench", op="CreateContainer", request=_REQUEST, count=100, warmup=0)
        # Seconds until the timer of the start, and of its requests, no longer wakes.
        settle = 8
        waiting = (
            process.begin("wait", timeout=settle + seconds + 1.0) if kind == _IN_WAIT else None
        )
        time.sleep(settle)
        before = switches(process.pid)
        time.sleep(seconds)
        after = switches(process.pid)
        if waiting is not None:
            waiting.result(_LONG)
    # A thread that started or ended in the interval has also run.
    ran = {thread: after[thread] - before[thread] for thread in before.keys() & after.keys()}
    ran.update(dict.fromkeys(before.keys() ^ after.keys(), 1))
    main = ran.pop(process.pid)
    return {"main thread": main, "other threads": sum(ran.values())}


def _idle_case(seconds: int, quick: Case | None = None) -> Case:
    silent = (OURS, _WITH_HEALTH)
    return Case(
        "idle",
        f"Context switches of an idle plugin in {seconds} s, voluntary or not",
        {"main thread": "", "other threads": ""},
        (OURS, _IN_WAIT, _WITH_HEALTH, GO),
        lambda kind: _idle(kind, seconds),
        (
            *(Aim("main thread", name, at_most=0) for name in silent),
            Aim("main thread", _IN_WAIT, at_most=seconds + 1),
            *(Aim("other threads", name, at_most=0) for name in (*silent, _IN_WAIT)),
        ),
        rounds=1,
        note="The main thread reads a pipe, but where it is in wait(): that looks once a second "
        "whether a signal came.",
        quick=quick,
    )


STEADY = (
    Case(
        "growth",
        "CreateContainer of a plugin that knows many containers",
        {**{_containers(count): "p50, us" for count in _KNOWN}, "50,000 / 1": ""},
        (OURS, GO),
        _growth,
        (Aim("50,000 / 1", OURS, at_most=1.1),),
        rounds=3,
    ),
    _RESIDENT,
    _memory_case(100_000, 1_000, quick=_memory_case(5_000, 100)),
    _idle_case(30, quick=_idle_case(5)),
)
