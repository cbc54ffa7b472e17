"""A plugin next to threads that never rest: the time of answers, and the late answers that come too late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

from benchmarks.measure import Aim, Case
from benchmarks.peers import CONTAINER, OURS, POD, as_json, go_runtime, plugin
from tests.interop.gopeer import Peer

__all__ = ["BUSY"]

_REQUEST = {"pod": as_json(POD), "container": as_json(CONTAINER)}
# The number of busy threads and the switch interval in seconds, for each contestant.
_BESIDE = {
    "no busy thread": (0, 0.005),
    "1 busy thread": (1, 0.005),
    "4 busy threads": (4, 0.005),
    "16 busy threads": (16, 0.005),
    # As kit.main() sets it.
    "1 busy thread, kit.main": (1, 0.001),
    "4 busy threads, kit.main": (4, 0.001),
    "16 busy threads, kit.main": (16, 0.001),
}


def _begin(process: Peer, kind: str) -> None:
    threads, interval = _BESIDE[kind]
    process.call("busy", threads=threads, interval=interval)


def _latency(kind: str) -> Mapping[str, float]:
    with go_runtime(request_timeout_ms=60_000) as runtime, plugin(OURS, runtime) as process:
        _begin(process, kind)
        result = runtime.call(
            "bench", op="CreateContainer", request=_REQUEST, count=100, warmup=5, timeout=300.0
        )
        return {metric: result[f"{metric}_us"] / 1000 for metric in ("p50", "p99")}


def _late(tries: int) -> Callable[[str], Mapping[str, float]]:
    def run(kind: str) -> Mapping[str, float]:
        with go_runtime() as runtime, plugin(OURS, runtime) as process:
            _begin(process, kind)
            # The handler takes longer than the runtime waits, so the stub answers in its place.
            process.call("slow", seconds=3.0)
            counters = {"requests": 0}
            while counters["requests"] < tries:
                runtime.request("CreateContainer", pod=POD, container=CONTAINER)
                # If the late answer came too late, the runtime has disconnected the plugin, which reconnects.
                if runtime.take_events("closed"):
                    runtime.wait_connected("10-bench")
                counters = process.call("counters", timeout=60.0)
        return {"too late": counters["losses"], "answered": tries - counters["losses"]}

    return run


def _late_case(tries: int, quick: Case | None = None) -> Case:
    return Case(
        "busy-late",
        f"Late answers that come too late, of {tries}, beside busy threads",
        {"too late": "", "answered": ""},
        tuple(_BESIDE),
        _late(tries),
        tuple(Aim("too late", kind, at_most=0) for kind in _BESIDE if kind.endswith("kit.main")),
        rounds=1,
        note="The switch interval is that of Python, 5 ms, or that of kit.main(), 1 ms.",
        quick=quick,
    )


BUSY = (
    Case(
        "busy",
        "CreateContainer of a plugin beside threads that compute in Python",
        {"p50": "ms", "p99": "ms"},
        tuple(_BESIDE),
        _latency,
        rounds=3,
        note="Switch interval: that of Python (5 ms), or of kit.main() (1 ms); see [busy processes](busy.md).",
    ),
    _late_case(50, quick=_late_case(5)),
)
