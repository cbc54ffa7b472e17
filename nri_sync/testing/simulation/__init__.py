"""Plugins tried on workloads, without a container runtime: what they do to pods, and how long they take.

:func:`simulate` runs plugins on stubs of their own against the runtime side of this package, over a real socket,
and walks workloads, as :func:`nri_sync.testing.manifests.load` makes them, through their lives. The
:class:`Simulation` that it returns tells of each event which plugin was asked, what it said, what has come of it
in the OCI specification, and who has changed what.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable

from nri_sync.api import DEFAULT_REQUEST_TIMEOUT, EventMask, infer_nri_version
from nri_sync.api.handlers import HANDLERS
from nri_sync.api.nri_pb2 import LinuxResources
from nri_sync.kit.fields.qos import pod_qos
from nri_sync.plugin.stub import Stub
from nri_sync.testing.events import InjectCDI
from nri_sync.testing.manifests import Workload
from nri_sync.testing.simulation.copies import another, with_containers
from nri_sync.testing.simulation.diff import Change, Place
from nri_sync.testing.simulation.plugins import NotSynchronized, SimulatedPlugin, started
from nri_sync.testing.simulation.report import (
    Call,
    ContainerReport,
    Event,
    Failure,
    FailureKind,
    PluginReport,
    PodReport,
    Simulation,
    Statistics,
    Unsolicited,
    UpdatedContainer,
    statistics,
)
from nri_sync.testing.simulation.walk import Node, Walk
from nri_sync.threads import call_off_main

__all__ = [
    "Call",
    "Change",
    "ContainerReport",
    "Event",
    "Failure",
    "FailureKind",
    "InjectCDI",
    "NotSynchronized",
    "Place",
    "PluginReport",
    "PodReport",
    "SimulatedPlugin",
    "Simulation",
    "Statistics",
    "Unsolicited",
    "UpdatedContainer",
    "act_as",
    "simulate",
]


def simulate(
    plugins: Sequence[SimulatedPlugin],
    workloads: Sequence[Workload],
    *,
    existing: Sequence[Workload] = (),
    resources: LinuxResources | None = None,
    repeat: int = 1,
    containers: int = 1,
    inject_cdi: InjectCDI | None = None,
    default_validator: object | None = None,
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
    runtime: tuple[str, str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Simulation:
    """Walk workloads through their lives, one after the other, and ask plugins about each event.

    Blocks until that is done, and the plugins are stopped. What a plugin makes fail is in the result; events
    that depend on it do not come.

    Args:
        plugins: all at the same time; two must not have the same full name.
        existing: pods that run before the plugins come, which are told of them by Synchronize.
        resources: those in UpdateContainer; default are the kubelet's in a resize that grows.
        repeat: how many times each workload lives; from the second on, only for the statistics.
        containers: how many of each ordinary container there are in a pod.
        inject_cdi: changes a specification in place for CDI devices. Without it they are only listed.
        default_validator: see :class:`nri_sync.runtime.Runtime`.
        request_timeout: seconds that plugins have for an answer, as runtimes give them.
        runtime: name and version of the one to act as, ``("containerd", "1.7.28")``: what its NRI release does not
            know is not told, has no effect, and is among the warnings. By default the newest release.
        progress: called with how many pods and containers are through, and how many there are to be; on another
            thread, if this one is the main thread.

    Raises:
        ValueError: two plugins have the same name, a count is less than 1, or which NRI release the runtime has
            is not known.
        StartError, PluginError, IdentityError: a plugin could not be started.
        ConfigError: its configuration is wrong.
        NotSynchronized: it has failed Synchronize.
    """
    _check(plugins, repeat, containers)
    scaled = [with_containers(workload, containers) for workload in workloads]
    total = repeat * sum(1 + len(workload.containers) for workload in scaled)
    counted = itertools.count(1)
    cancelled = threading.Event()

    def advance() -> None:
        if progress is not None:
            progress(next(counted), total)

    acting_as: dict[str, Any] = {} if runtime is None else act_as(*runtime)

    def run() -> Simulation:
        node = Node(
            **acting_as,
            request_timeout=request_timeout,
            default_validator=default_validator,
            inject_cdi=inject_cdi,
        )
        with node:
            walk = Walk(node, resources=resources, inject_cdi=inject_cdi, advance=advance)
            for workload in existing:
                walk.add(workload)
            return _run(walk, plugins, scaled, repeat, cancelled)

    # Whatever is called on the main thread hands over to another one, each time.
    return call_off_main("nri-simulate", run, cancelled.set)


def _run(
    walk: Walk,
    plugins: Sequence[SimulatedPlugin],
    workloads: Sequence[Workload],
    repeat: int,
    cancelled: threading.Event,
) -> Simulation:
    simulation = Simulation(rounds=repeat)
    began = time.perf_counter()
    with walk.listening(), started(plugins, walk.runtime) as running:
        walk.recorders = [recorder for _, recorder in running]
        simulation.plugins = [PluginReport(stub.name, _subscribed(stub)) for stub, _ in running]
        simulation.synchronized = walk.synchronized()
        _live(simulation, walk, workloads, repeat, cancelled)
        simulation.unsolicited = walk.take_unsolicited()
    simulation.seconds = time.perf_counter() - began
    return simulation


def act_as(name: str, version: str) -> dict[str, str]:
    """The arguments of a runtime that acts as that release."""
    nri_version = infer_nri_version(name, version)
    if nri_version is None:
        raise ValueError(
            f"the NRI release of runtime {name} {version} is not known; containerd and cri-o are, with versions "
            'such as "1.7.28"'
        )
    return {"name": name, "version": version, "nri_version": nri_version}


def _subscribed(stub: Stub) -> list[str]:
    return [
        handler.rpc
        for handler in HANDLERS
        if handler.event and EventMask.of(handler.event) in stub.events
    ]


def _check(plugins: Sequence[SimulatedPlugin], repeat: int, containers: int) -> None:
    names = [plugin.full_name for plugin in plugins]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"two plugins are called {twice[0]}: give them names or indices of their own"
        )
    for name, value in (("repeat", repeat), ("containers", containers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _live(
    simulation: Simulation,
    walk: Walk,
    workloads: Sequence[Workload],
    repeat: int,
    cancelled: threading.Event,
) -> None:
    """All rounds; of the first one everything is kept, of the others how long it took."""
    calls: list[tuple[str, str, float, bool]] = []
    for number in range(repeat):
        for workload in workloads:
            lived = workload if number == 0 else another(workload, number)
            report = _report(lived)
            if number == 0:
                simulation.pods.append(report)
            for event in walk.life(lived, compared=number == 0):
                simulation.events += 1
                simulation.failed += event.failure is not None
                calls += [_measured(call) for call in event.calls]
                if number == 0:
                    report.events.append(event)
                if cancelled.is_set():
                    return
    simulation.statistics = statistics(calls)


def _measured(call: Call) -> tuple[str, str, float, bool]:
    seconds = call.seconds if call.handler_seconds is None else call.handler_seconds
    return call.plugin, call.event, seconds, bool(call.error)


def _report(workload: Workload) -> PodReport:
    qos = pod_qos(workload.pod)
    return PodReport(
        workload.name, workload.source, "" if qos is None else qos.value, list(workload.notes)
    )
