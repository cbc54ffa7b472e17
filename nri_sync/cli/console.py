"""The output of commands: tables and colours on a terminal, plain text or JSON for programs.

This module makes all text for the terminal printable. Commands therefore import :class:`Text` and
:class:`Console` from here, and never from rich.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console as _Console
from rich.text import Text as _Text

from nri_sync.text import indented, printable

if TYPE_CHECKING:
    from rich.style import Style

__all__ = ["Console", "Text", "add_output_options", "console", "print_each", "print_whole"]

# Without a terminal, rich must not fold lines: programs such as grep work on whole lines.
_PIPED_WIDTH = 10_000


class Text(_Text):
    """Text that shows unprintable characters as escapes, on one line."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(printable(text), style, **options)

    def append(self, text: _Text | str, style: str | Style | None = None) -> Text:
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self

    @classmethod
    def whole(cls, text: str, style: str = "") -> Text:
        """Like ``Text(text, style)``, but of any length."""
        made = cls(style=style)
        _Text.append(made, printable(text, None))
        return made

    @classmethod
    def lines(cls, text: str, style: str = "") -> Text:
        """Text that keeps its line feeds. Print it only where a line of it cannot imitate another line."""
        made = cls(style=style)
        _Text.append(made, indented(text))
        return made


class Console(_Console):
    """A console that makes the strings that it renders printable, the cells of tables included."""

    def render_str(self, text: str, **options: Any) -> _Text:
        return super().render_str(printable(text), **options)


def add_output_options(
    parser: argparse.ArgumentParser, formats: tuple[str, ...] = ("table", "json", "yaml")
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
    """The console that prints to ``file``; standard output by default."""
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


def print_whole(value: Any, form: str) -> None:
    """Print a value as ``"json"`` or ``"yaml"``, in ASCII."""
    if form == "json":
        print(json.dumps(value, indent=2))
    else:
        print(_yaml(value), end="")


def print_each(value: Any, form: str) -> None:
    """Print one of many values: a line of JSON, or a document of YAML, in ASCII. Flushes the output."""
    if form == "json":
        print(json.dumps(value), flush=True)
    else:
        print("---", _yaml(value), sep="\n", end="", flush=True)


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False))
