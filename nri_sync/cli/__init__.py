"""The ``nri-sync`` command.

`main` takes the arguments (those of the process when there are none) and returns the exit code, one of
:class:`nri_sync.cli.errors.ExitCode`. Each subcommand is a module here with ``configure(parser)``, which adds
its options, and ``run(arguments)``, which does the work and returns an exit code; it is loaded when asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

import nri_sync
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.text import indented, traceback_lines

__all__ = ["COMMANDS", "main"]

#: The subcommands, and what they are for. Those of the same name with an underscore are the modules.
COMMANDS = {
    "demo": "a plugin, a pod, and what the one does to the other: simulate with a bundled example",
    "run": "run a plugin on a container runtime",
    "simulate": "show what plugins do to pods, without a container runtime",
    "events": "watch the pods and containers of a container runtime",
    "trace": "show and record what a runtime and a plugin say to each other",
    "replay": "feed a recording to a plugin, and compare its answers",
    "doctor": "find out why a plugin gets no events",
    "init": "begin a plugin project: plugin, tests, image, manifests",
}
# The characters of an error.
_LONGEST = 10_000
# For names that are no good names of modules.
_MODULES = {"init": "nri_sync.cli.new_project"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Wrong arguments raise SystemExit, as argparse has it."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    first = next((word for word in arguments if not word.startswith("-")), None)
    command = first if first in COMMANDS else None
    try:
        parser = _parser(command)
        parsed = parser.parse_args(arguments)
        if parsed.command is None:
            parser.print_help()
            return ExitCode.OK
        with contextlib.nullcontext() if parsed.traceback else _quiet():
            code = int(parsed.run(parsed))
        sys.stdout.flush()
    except CommandError as error:
        if "--traceback" in arguments:
            print(traceback_lines(sys.exc_info()), file=sys.stderr)
        print(f"nri-sync {command}: {indented(error, _LONGEST)}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read the output has seen enough. What is left in the buffer must not fail at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    return code


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Commands show by themselves what matters of the log, which Python would print without a handler."""
    handler = logging.NullHandler()
    log = logging.getLogger("nri_sync")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the options of one command only: to know those of all would load everything."""
    parser = argparse.ArgumentParser(
        prog="nri-sync", description="Tools for plugins of NRI, the Node Resource Interface."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {nri_sync.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=f"{summary.capitalize()}."
        )
        if name == command:
            module = importlib.import_module(_MODULES.get(name, f"nri_sync.cli.{name}"))
            module.configure(subparser)
            subparser.set_defaults(run=module.run)
            if subparser.get_default("traceback") is None:
                subparser.add_argument(
                    "--traceback", action="store_true", help="show where an error comes from"
                )
    return parser
