"""``nri-sync run``: runs a plugin on a container runtime."""

from __future__ import annotations

import argparse

from nri_sync import kit
from nri_sync.cli.loading import PLUGIN_HELP, identity, load_program

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plugin", metavar="PLUGIN", help=PLUGIN_HELP)
    kit.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until the plugin is stopped or has failed."""
    program = load_program(arguments.plugin)
    idx, name = identity(arguments.plugin, program)
    options = kit.Options.of(arguments)
    options = options._replace(name=options.name or name, idx=options.idx or idx)
    return kit.run(program, options)
