"""Simulates pods for plugins, without a container runtime: shows the changes that plugins make, and the durations.

:func:`simulate` runs each plugin on a stub, over a real socket, against the runtime side of this package. It takes
workloads, which :func:`nri_sync.testing.manifests.load` creates, through their lifecycles. The resulting
:class:`Simulation` has for each event the plugins that received it, their answers, the effect on the OCI
specification, and the plugin that made each change.
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
from nri_sync.testing.simulation.lifecycle import LifecycleSimulator, Node
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
from nri_sync.testing.simulation.resize import check_resize
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
    resize: Sequence[Workload] | None = None,
    repeat: int = 1,
    containers: int = 1,
    inject_cdi: InjectCDI | None = None,
    default_validator: object | None = None,
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
    runtime: tuple[str, str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Simulation:
    """Take workloads through their lifecycles, one after the other, and send each event to the plugins.

    Blocks until all workloads are done and the plugins are stopped. If a plugin fails an event, the result has the
    failure, and events that depend on it are not sent.

    Args:
        plugins: all run at the same time; two must not have the same full name.
        existing: pods that already run when the plugins connect: plugins receive them by Synchronize.
        resources: the resources in UpdateContainer; default are the kubelet's for a resize.
        resize: the pods that are resized in place, with their new resources, such as :func:`.manifests.load` makes
            of other manifests of the same pods. By default each pod grows to the resources that it has.
        repeat: how many times each workload runs; all runs after the first count for the statistics only.
        containers: the number of copies of each ordinary container in a pod.
        inject_cdi: changes a specification in place for CDI devices. Without it, the devices are only listed.
        default_validator: see :class:`nri_sync.runtime.Runtime`.
        request_timeout: the time limit for an answer of a plugin, in seconds.
        runtime: name and version of the runtime to act as, ``("containerd", "1.7.28")``. Events that its NRI
            release does not know are not sent. Fields that it does not know have no effect, and are in the
            warnings. By default the newest release.
        progress: called with the number of finished pods and containers, and their total. It runs on another
            thread if this thread is the main thread.

    Raises:
        ValueError: two plugins have the same name, a count is less than 1, the NRI release of the runtime is
            unknown, or Kubernetes refuses a resize.
        StartError, PluginError, IdentityError: a plugin could not start.
        ConfigError: the configuration of a plugin is invalid.
        NotSynchronized: a plugin has failed Synchronize.
    """
    _check(plugins, repeat, containers)
    targets = None if resize is None else _targets(workloads, resize, containers)
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
            simulator = LifecycleSimulator(
                node, resources=resources, resize=targets, inject_cdi=inject_cdi, advance=advance
            )
            for workload in existing:
                simulator.add(workload)
            return _run(simulator, plugins, scaled, repeat, cancelled)

    # Each call on the main thread would change to another thread. Run the whole simulation there.
    return call_off_main("nri-simulate", run, cancelled.set)


def _run(
    simulator: LifecycleSimulator,
    plugins: Sequence[SimulatedPlugin],
    workloads: Sequence[Workload],
    repeat: int,
    cancelled: threading.Event,
) -> Simulation:
    simulation = Simulation(rounds=repeat)
    began = time.perf_counter()
    with simulator.listening(), started(plugins, simulator.runtime) as running:
        simulator.recorders = [recorder for _, recorder in running]
        simulation.plugins = [PluginReport(stub.name, _subscribed(stub)) for stub, _ in running]
        simulation.synchronized = simulator.synchronized()
        _live(simulation, simulator, workloads, repeat, cancelled)
        simulation.unsolicited = simulator.take_unsolicited()
    simulation.seconds = time.perf_counter() - began
    return simulation


def act_as(name: str, version: str) -> dict[str, str]:
    """The arguments of a runtime that acts as that release."""
    nri_version = infer_nri_version(name, version)
    if nri_version is None:
        raise ValueError(
            f"the NRI release of runtime {name} {version} is unknown; it is known for containerd and cri-o, with "
            'versions such as "1.7.28"'
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
            f"two plugins have the full name {twice[0]}: give them different names or indices"
        )
    for name, value in (("repeat", repeat), ("containers", containers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _targets(
    workloads: Sequence[Workload], resize: Sequence[Workload], containers: int
) -> dict[str, Workload]:
    """By the names of pods. Raises ValueError."""
    known = {workload.name: workload for workload in workloads}
    for target in resize:
        if target.name not in known:
            raise ValueError(
                f"there is no pod {target.name} to resize; there are: {', '.join(known)}"
            )
        check_resize(known[target.name], target)
    return {target.name: with_containers(target, containers) for target in resize}


def _live(
    simulation: Simulation,
    simulator: LifecycleSimulator,
    workloads: Sequence[Workload],
    repeat: int,
    cancelled: threading.Event,
) -> None:
    """Run all rounds. The first round is kept whole, of the others only the durations."""
    calls: list[tuple[str, str, float, bool]] = []
    for number in range(repeat):
        for workload in workloads:
            lived = workload if number == 0 else another(workload, number)
            report = _report(lived)
            if number == 0:
                simulation.pods.append(report)
            for event in simulator.life(lived, compared=number == 0):
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
