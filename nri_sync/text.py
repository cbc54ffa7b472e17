"""Foreign text made fit for a terminal or a log.

Names, annotations, environment variables, error texts and version strings come from authors of pods, from
runtimes and from plugins. Shown raw, a line feed forges a line, an escape sequence writes to the terminal, and
bidirectional or invisible characters hide or swap parts of a line. :func:`printable` escapes all of them. JSON
needs none of this: ``json.dumps`` escapes by itself, as long as its ``ensure_ascii`` stays on.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from typing import Union

__all__ = ["LIMIT", "ExcInfo", "Lines", "indented", "printable", "quoted", "traceback_lines"]

#: The characters that one piece of foreign text may have, if the caller gives no other limit.
LIMIT = 1000

#: The three values of ``sys.exc_info()``.
ExcInfo = Union[
    "tuple[type[BaseException], BaseException, TracebackType | None]", "tuple[None, None, None]"
]

# Python takes these for printable, Unicode for Default_Ignorable_Code_Point: a terminal shows nothing. The others
# of that property are format characters (Cf) or unassigned, which str.isprintable() refuses.
_INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef"
)
_is_hidden = re.compile(f"[{_INVISIBLE}]").search

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Lines(str):
    """Text of several lines that is printable already: log records keep its line feeds."""

    __slots__ = ()


def printable(value: object, limit: int | None = LIMIT) -> str:
    """One line that shows ``str(value)``, however hostile that is.

    Escapes, as Python's ``repr()`` writes them, line feeds and all other control characters (C0, DEL, C1), the
    bidirectional controls, zero-width and other invisible characters, all spaces but the ordinary one, lone
    surrogates, private and unassigned characters. A backslash stays as it is: the text cannot be read back, and
    printable text stays the same.

    With more than ``limit`` characters, the rest is left out and the length noted. Never raises.
    """
    text = _text_of(value)
    cut = limit is not None and len(text) > limit
    shown = text[:limit] if cut else text
    if not shown.isprintable() or (not shown.isascii() and _is_hidden(shown)):
        shown = "".join(map(_escape, shown))
        if limit is not None and len(shown) > limit:
            shown, cut = shown[:limit], True
    return f"{shown}... ({len(text)} characters)" if cut else shown


def quoted(value: object, limit: int = 100) -> str:
    """``repr(value)`` for an error message: one printable line of ``limit`` characters at most. Never raises."""
    shown = printable(_repr_of(value), None)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def indented(value: object, limit: int | None = None) -> Lines:
    """``str(value)`` on lines of its own, printable otherwise; all but the first begin with four spaces.

    So no line that foreign text begins passes for one that the program begins. Never raises.
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
    """The traceback of an exception, printable, all of its lines indented. Never raises."""
    try:
        text = "".join(traceback.format_exception(*exc_info))
    except Exception as error:
        text = f"an exception that cannot be formatted: {_repr_of(error)}"
    return Lines(f"    {indented(text.rstrip())}")


def _escape(char: str) -> str:
    if char.isprintable() and not _is_hidden(char):
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
        # A subclass may have overridden what is called here.
        return str.__str__(value) if isinstance(value, str) else str(value)
    except Exception as error:
        return f"<{type(value).__name__} whose str() raises {type(error).__name__}>"


def _repr_of(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr() raises {type(error).__name__}>"
