"""Makes foreign text safe for a terminal or a log.

Names, annotations, environment variables, error texts and version strings come from authors of pods, from runtimes
and from plugins. If such text is shown unchanged, a line feed forges a line, an escape sequence writes to the
terminal, and bidirectional or invisible characters hide or swap parts of a line. :func:`printable` escapes all of
these characters. JSON does not need this: ``json.dumps`` escapes them, if its ``ensure_ascii`` is on.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from typing import Union

__all__ = ["LIMIT", "ExcInfo", "Lines", "indented", "printable", "quoted", "traceback_lines"]

#: The default limit for one piece of foreign text, in characters.
LIMIT = 1000

# The longest traceback, in characters.
_TRACEBACK = 16_000

#: The three values of ``sys.exc_info()``.
ExcInfo = Union[
    "tuple[type[BaseException], BaseException, TracebackType | None]", "tuple[None, None, None]"
]

# Python considers these characters printable, but their Unicode property is Default_Ignorable_Code_Point: a
# terminal shows nothing. The other characters with that property are format characters (Cf) or unassigned, and
# str.isprintable() is False for them.
_INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef"
)

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Lines(str):
    """Printable text of several lines. Log records keep its line feeds."""

    __slots__ = ()


def printable(value: object, limit: int | None = LIMIT) -> str:
    """``str(value)`` as one line that is safe to show.

    These characters are escaped in the form of Python's ``repr()``: line feeds and all other control characters
    (C0, DEL, C1), bidirectional controls, zero-width and other invisible characters, all spaces except the
    ordinary one, lone surrogates, private and unassigned characters. A backslash stays unchanged: printable text
    stays the same, and the result cannot be converted back.

    If the text has more than ``limit`` characters, the result ends there and has the length. Never raises.
    """
    text = _text_of(value)
    cut = limit is not None and len(text) > limit
    shown = text[:limit] if cut else text
    if not shown.isprintable() or _has_hidden(shown):
        shown = "".join(map(_escape, shown))
        if limit is not None and len(shown) > limit:
            shown, cut = shown[:limit], True
    return f"{shown}... ({len(text)} characters)" if cut else shown


def _has_hidden(text: str) -> bool:
    # The first text that is not ASCII compiles the pattern.
    return not text.isascii() and re.search(f"[{_INVISIBLE}]", text) is not None


def quoted(value: object, limit: int = 100) -> str:
    """``repr(value)`` for an error message: one printable line of at most ``limit`` characters. Never raises."""
    shown = printable(_repr_of(value), None)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def indented(value: object, limit: int | None = None) -> Lines:
    """``str(value)`` with its line feeds, otherwise printable. All lines except the first begin with four spaces.

    So no line of foreign text looks like a line of the program. Never raises.
    """
    text = _text_of(value)
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}... ({len(text)} characters)"
    if text.isascii() and text.isprintable():
        return Lines(text)
    lines = (
        "\t".join(printable(part, None) for part in line.split("\t")) for line in text.split("\n")
    )
    return Lines("\n    ".join(lines))


def traceback_lines(exc_info: ExcInfo) -> Lines:
    """The traceback of an exception, printable. All lines are indented. Never raises.

    One of more than 16,000 characters loses its middle: the message may hold a foreign text of any length.
    """
    try:
        text = "".join(traceback.format_exception(*exc_info))
    except Exception as error:
        text = f"an exception that cannot be formatted: {_repr_of(error)}"
    text = text.rstrip()
    if len(text) > _TRACEBACK:
        half = _TRACEBACK // 2
        text = f"{text[:half]}\n... ({len(text)} characters)\n{text[-half:]}"
    return Lines(f"    {indented(text)}")


def _escape(char: str) -> str:
    if char.isprintable() and not _has_hidden(char):
        return char
    code = ord(char)
    if char in _ESCAPES:
        return _ESCAPES[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _text_of(value: object) -> str:
    if type(value) is str:
        return value
    try:
        # A subclass of str may have overridden __str__.
        return str.__str__(value) if isinstance(value, str) else str(value)
    except Exception as error:
        return f"<{type(value).__name__} whose str() raises {type(error).__name__}>"


def _repr_of(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr() raises {type(error).__name__}>"
