"""``nri-sync completion``: a script by which a shell completes the words of the command."""

from __future__ import annotations

import argparse

from nri_sync.cli.errors import ExitCode

__all__ = ["SHELLS", "configure", "run"]

#: The shells that have a completion script.
SHELLS = ("bash", "zsh", "fish")

# The metavars of arguments that name a file, and of those that name a directory.
_FILES = frozenset({"FILE", "PATH", "PLUGIN", "RECORDING", "[NN-name=]FILE"})
_DIRECTORY = "DIRECTORY"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" | ".join(SHELLS))


def run(arguments: argparse.Namespace) -> int:
    """Print the script. Imports the modules of all commands."""
    import shtab

    from nri_sync.cli import whole_parser  # imported late: whole_parser() imports this module

    parser = whole_parser()
    for each in (parser, *_subparsers(parser)):
        for action in each._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == _DIRECTORY:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=arguments.shell))
    return ExitCode.OK


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return list(action.choices.values())
    return []
