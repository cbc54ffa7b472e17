"""``nri-sync demo``: a plugin, a pod, and what the one does to the other."""

from __future__ import annotations

import argparse
from pathlib import Path

from nri_sync.cli import samples
from nri_sync.cli.console import console
from nri_sync.cli.loading import load_program
from nri_sync.cli.simulate import add_view_options, present
from nri_sync.testing.manifests import load
from nri_sync.testing.simulation import SimulatedPlugin, simulate

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_view_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks for a moment, until the simulation is over."""
    [directory] = samples.__path__
    plugin, pod = Path(directory, "plugin.py"), Path(directory, "pod.yaml")
    if arguments.output == "table":
        out = console(arguments)
        out.print(f"nri-sync simulate {plugin} -f {pod}", style="dim", soft_wrap=True)
        out.print()
    simulation = simulate([SimulatedPlugin(load_program(str(plugin)), "annotated")], load(pod))
    return present(simulation, arguments)
