"""Quotes strings as Go's ``%q`` does, which the reference runtime uses in its errors."""

from __future__ import annotations

import re

__all__ = ["go_quote"]

_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_PLAIN = re.compile(r"[A-Za-z0-9_.+,/ -]*").fullmatch


def go_quote(text: str) -> str:
    """The text as a Go string literal."""
    if _PLAIN(text):
        return f'"{text}"'
    return f'"{"".join(map(_escape, text))}"'


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
