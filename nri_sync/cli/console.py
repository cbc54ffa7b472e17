"""What commands print: tables and colours for people on a terminal, plain text or JSON for programs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, TextIO

from nri_sync.cli.errors import CommandError, ExitCode

try:
    from rich.console import Console
except ImportError as error:
    raise CommandError(
        f"{error.name} is not installed; do: pip install 'nri_sync[cli]'", ExitCode.USAGE
    ) from error

__all__ = ["add_output_options", "console", "print_json"]

# Where there is no terminal: as wide as what was made for people can be expected to be read.
_PIPED_WIDTH = 160


def add_output_options(
    parser: argparse.ArgumentParser, formats: tuple[str, ...] = ("table", "json")
) -> None:
    """Add ``-o`` and ``--color``; the first of ``formats`` is the default."""
    parser.add_argument(
        "-o", "--output", choices=formats, default=formats[0], help="default: %(default)s"
    )
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto",
        help="default: on a terminal, unless NO_COLOR is set",
    )  # fmt: skip


def console(arguments: argparse.Namespace, file: TextIO | None = None) -> Console:
    """Where to print to, standard output by default."""
    stream = sys.stdout if file is None else file
    color = getattr(arguments, "color", "auto")
    return Console(
        file=stream,
        force_terminal=True if color == "always" else None,
        no_color=True if color == "never" else None,
        width=None if stream.isatty() else _PIPED_WIDTH,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=not stream.isatty(),
    )


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON value; with ``indent=None`` on one line, at once."""
    print(json.dumps(value, indent=indent, ensure_ascii=False), flush=indent is None)
