"""Tests of simulations, and their shared functions."""

from __future__ import annotations

import functools
import json
from typing import Any

from nri_sync.testing import simulation
from nri_sync.testing.common import WITHIN
from nri_sync.testing.manifests import Workload, load
from nri_sync.testing.simulation import Event, SimulatedPlugin, Simulation

__all__ = ["event", "life", "pod", "simulate"]

#: A simulation that gives plugins more time than the real runtimes do: the machine may be busy.
simulate = functools.partial(simulation.simulate, request_timeout=WITHIN)


def pod(*names: str, init: Any = (), name: str = "pod", **spec: Any) -> Workload:
    """A pod with containers of these names, and with the given init containers."""
    containers = [
        {"name": item, "image": "busybox", "command": ["sh"]} for item in names or ("app",)
    ]
    manifest = {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"initContainers": list(init), "containers": containers, **spec},
    }
    [workload] = load(json.dumps(manifest))
    return workload


def life(*plugins: object, of: Workload | None = None, **options: Any) -> Simulation:
    """A simulation of plugins with the names 10-a, 20-b and so on."""
    simulated = [
        SimulatedPlugin(plugin, name, idx)
        for plugin, name, idx in zip(plugins, "abcde", ("10", "20", "30", "40", "50"))
    ]
    return simulate(simulated, [pod() if of is None else of], **options)


def event(simulation: Simulation, name: str, container: str = "") -> Event:
    """The first event of that name in the lifecycle of the first pod."""
    found = [
        item
        for item in simulation.pods[0].events
        if item.name == name and container in ("", item.container)
    ]
    return found[0]
