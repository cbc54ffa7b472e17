"""``nri-sync run``: a plugin on a container runtime."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from nri_sync import kit
from nri_sync.cli.loading import PLUGIN_HELP, load_plugin, plugin_name

__all__ = ["configure", "run"]

_DEFAULT_INDEX = "50"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plugin", metavar="PLUGIN", help=PLUGIN_HELP)
    kit.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until the plugin has been stopped, or cannot go on."""
    plugin = load_plugin(arguments.plugin)
    name, idx = plugin_name(arguments.plugin), _DEFAULT_INDEX
    numbered = re.fullmatch(r"(\d\d)-(.+)", Path(arguments.plugin.partition(":")[0]).stem)
    if numbered:
        idx, name = numbered.groups()
    options = kit.Options.of(arguments)
    options = dataclasses.replace(options, name=options.name or name, idx=options.idx or idx)
    # The one place where a plugin that is no program of its own can say what its configuration is.
    return kit.run(plugin, options, config=getattr(plugin, "Config", None))
