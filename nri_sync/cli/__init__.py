"""The ``nri-sync`` command.

`main` takes the arguments (by default those of the process) and returns the exit code, one of
:class:`nri_sync.cli.errors.ExitCode`. Each subcommand is a module in this package. Its ``configure(parser)`` adds
the options. Its ``run(arguments)`` does the work and returns an exit code. `main` imports only the module of the
command that the user names.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import logging
import os
import signal
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NoReturn

import nri_sync
from nri_sync.cli.commands import COMMANDS, DOCS, EXTRAS
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.files import hold_standard_descriptors
from nri_sync.text import indented, printable, traceback_lines

__all__ = ["COMMANDS", "main", "whole_parser"]

# The maximum length of an error text, in characters.
_LONGEST = 10_000

# The errors of a write to standard output: a full disk, a quota or size limit, a terminal that has gone. The
# commands report errors of other files themselves.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Wrong arguments raise SystemExit, as in argparse."""
    _hold_standard_streams()
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    first = next((word for word in arguments if not word.startswith("-")), None)
    command = first if first in COMMANDS else None
    try:
        if first is not None and command is None:
            raise CommandError(_no_command(first), ExitCode.USAGE)
        parsed = _parser(() if command is None else (command,)).parse_args(arguments)
        if parsed.command is None:
            parsed.print_help()
            return ExitCode.OK
        with contextlib.nullcontext() if parsed.traceback else _quiet():
            code = int(parsed.run(parsed))
        sys.stdout.flush()
    except CommandError as error:
        return _failed(command, error, arguments)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        missing = CommandError(
            f"{error.name} is not installed; do: pip install 'nri_sync[{extra}]'", ExitCode.USAGE
        )
        return _failed(command, missing, arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output()  # the reader of the pipe has closed it
        return ExitCode.OK
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        _discard_output()
        unwritten = CommandError(f"standard output: {error.strerror}", ExitCode.CRASHED)
        return _failed(command, unwritten, arguments)
    return code


def _hold_standard_streams() -> None:
    """Discard the output of a process without standard output or standard error.

    Python sets such a stream to None, and ``print()`` with None as its file prints to standard output.
    """
    with contextlib.suppress(OSError):
        hold_standard_descriptors()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _discard_output() -> None:
    """Replace the descriptor of standard output, so that flushing at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(command: str | None, error: CommandError, arguments: Collection[str]) -> int:
    if "--traceback" in arguments:
        print(traceback_lines(sys.exc_info()), file=sys.stderr)
    name = f"nri-sync {command}" if command else "nri-sync"
    print(f"{name}: {indented(error, _LONGEST)}", file=sys.stderr)
    return error.code


def _no_command(word: str) -> str:
    meant = _alike(word, COMMANDS)
    hint = f"; did you mean {meant}?" if meant else f"; the commands are: {', '.join(COMMANDS)}"
    return f"there is no command {printable(word, 100)}{hint}"


def _alike(word: str, words: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, list(words), 1)
    return close[0] if close else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the package's log in the block: each command prints the important records itself.

    Without a handler, Python would print the warnings to standard error.
    """
    handler = logging.NullHandler()
    log = logging.getLogger("nri_sync")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors suggest the option that the user probably meant."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            getattr(parsed, "parser", self).refuse(unknown)
        return parsed

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        known = self._option_string_actions
        hints = [_alike(word.partition("=")[0], known) for word in unknown if word[:1] == "-"]
        meant = ", ".join(hint for hint in hints if hint)
        self.error(
            f"unrecognized arguments: {' '.join(printable(word) for word in unknown)}"
            + (f"; did you mean {meant}?" if meant else "")
        )


def whole_parser() -> argparse.ArgumentParser:
    """The parser with the options of all commands. Imports the modules of all commands."""
    return _parser(COMMANDS)


def _parser(commands: Collection[str]) -> argparse.ArgumentParser:
    """A parser that has the options of ``commands`` only: other commands' modules are not imported."""
    parser = _Parser(
        prog="nri-sync",
        description="Tools for plugins of NRI, the Node Resource Interface.",
        epilog=f"nri-sync COMMAND --help shows options and examples. Documentation: {DOCS}cli.html",
    )
    parser.set_defaults(print_help=parser.print_help)
    parser.add_argument("--version", action="version", version=f"%(prog)s {nri_sync.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        examples = "".join(f"  {line}\n" for line in command.examples)
        subparser = subparsers.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"examples:\n{examples}\ndocumentation: {DOCS}cli.html#{name}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in commands:
            module = importlib.import_module(f"nri_sync.cli.{command.module or name}")
            module.configure(subparser)
            subparser.set_defaults(run=module.run, parser=subparser)
            if subparser.get_default("traceback") is None:
                subparser.add_argument(
                    "--traceback", action="store_true", help="print the traceback of an error"
                )
    return parser
