"""``nri-sync demo``: a plugin, a pod, and the changes that the plugin makes to the pod."""

from __future__ import annotations

import argparse
from pathlib import Path

from nri_sync.cli import samples
from nri_sync.cli.console import Text, console
from nri_sync.cli.loading import load_program
from nri_sync.cli.simulate import add_view_options, present
from nri_sync.testing.manifests import load
from nri_sync.testing.simulation import SimulatedPlugin, Simulation, simulate

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_view_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until the simulation has ended, usually less than a second."""
    [directory] = samples.__path__
    plugin, pod = Path(directory, "plugin.py"), Path(directory, "pod.yaml")
    simulation = simulate([SimulatedPlugin(load_program(str(plugin)), "annotated")], load(pod))
    if arguments.output != "table":
        return present(simulation, arguments)
    out = console(arguments)
    for title, path in (("The plugin", plugin), ("The pod", pod)):
        out.print(Text(f"{title}, {path}:", "bold"))
        for line in path.read_text(encoding="utf-8").splitlines():
            out.print(Text.whole(f"  {line}".rstrip()))
        out.print()
    out.print(Text("The changes that the plugin makes to the pod:", "bold"))
    code = present(simulation, arguments)
    out.print()
    out.print(Text(_seen(simulation), "bold"))
    out.print(Text("Next, create a plugin project, with tests and a pod for experiments:"))
    out.print(Text("  nri-sync init my-plugin"))
    return code


def _seen(simulation: Simulation) -> str:
    """One sentence about all changes of the plugin."""
    created = [
        event.created
        for pod in simulation.pods
        for event in pod.events
        if event.created is not None
    ]
    changed = [report for report in created if report.changes]
    places = sum(len(report.changes) for report in changed)
    [plugin] = simulation.plugins
    return (
        f"Plugin {plugin.name} has received {len(created)} containers of the pod, and has changed "
        f"{len(changed)} of them in {places} places."
    )
