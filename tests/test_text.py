"""Foreign text for a terminal or a log."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from nri_sync.text import Lines, indented, printable, quoted, traceback_lines

__all__: list[str] = []

#: A text, and its printable form.
SHOWN = {
    "nginx": "nginx",
    "": "",
    "a b\\c": "a b\\c",
    "Grüße 世界 🎉": "Grüße 世界 🎉",
    "a\nb\r\tc": "a\\nb\\r\\tc",
    "\0\x07\x1b[2J\x7f": "\\x00\\x07\\x1b[2J\\x7f",
    "\x85\x9b31m": "\\x85\\x9b31m",
    "\u2028\u2029\x0b\x0c\x1c": "\\u2028\\u2029\\x0b\\x0c\\x1c",
    "\u202eabc\u2066\u200f": "\\u202eabc\\u2066\\u200f",
    "a\u200bb\ufeffc\u2060\xad": "a\\u200bb\\ufeffc\\u2060\\xad",
    "\u3164\u034f\ufe0f\u2800": "\\u3164\\u034f\\ufe0f\\u2800",
    "a\xa0b\u3000c": "a\\xa0b\\u3000c",
    "\ud800\udcff": "\\ud800\\udcff",
    "\U000e0041\U000e0100\ue000": "\\U000e0041\\U000e0100\\ue000",
}


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class Odd(str):
    def __str__(self) -> str:
        return "\x1b"

    def isprintable(self) -> bool:
        return True


class TestPrintable:
    @pytest.mark.parametrize("text", SHOWN, ids=ascii)
    def test_the_shown_text(self, text: str) -> None:
        assert printable(text) == SHOWN[text]
        assert printable(SHOWN[text]) == SHOWN[text]

    def test_every_character(self) -> None:
        bad = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        for code in range(sys.maxunicode + 1):
            char = chr(code)
            shown = printable(char)
            if char == " " or (32 < code < 127):
                assert shown == char
            elif unicodedata.category(char) in bad or char.isspace():
                assert shown.isascii(), ascii(char)
                assert shown.isprintable(), ascii(char)

    def test_the_limit(self) -> None:
        assert printable("a" * 1000) == "a" * 1000
        assert printable("a" * 1001) == "a" * 1000 + "... (1001 characters)"
        assert len(printable("\0" * 10_000_000)) < 1100
        assert printable("\0" * 9, 10) == "\\x00\\x00\\x... (9 characters)"
        assert len(printable("a" * 5000, None)) == 5000

    def test_values_that_are_not_texts(self) -> None:
        assert printable(ValueError("a\nb")) == "a\\nb"
        assert printable(5) == "5"
        assert printable(Broken()) == "<Broken whose str() raises ZeroDivisionError>"
        assert printable(Odd("a\x1b")) == "a\\x1b"


class TestQuoted:
    def test_the_shown_text(self) -> None:
        assert quoted("a\n\x1b'\u202e\u3164") == r'''"a\n\x1b'\u202e\u3164"'''
        assert quoted("a" * 200) == f"'{'a' * 96}..."
        assert quoted(Broken()) == "<Broken whose repr() raises ZeroDivisionError>"


class TestLines:
    def test_further_lines_are_indented(self) -> None:
        text = indented("one\n\ttwo\x1b\r\nthree\u2028four")
        assert type(text) is Lines
        assert text == "one\n    \ttwo\\x1b\\r\n    three\\u2028four"
        assert indented("abcdef", 3) == "abc... (6 characters)"
        assert indented(Broken()) == "<Broken whose str() raises ZeroDivisionError>"

    def test_a_traceback(self) -> None:
        try:
            raise ValueError("x\nFORGED \x1b[2J")
        except ValueError:
            text = traceback_lines(sys.exc_info())
        lines = text.split("\n")
        assert all(line.startswith("    ") for line in lines)
        assert lines[0] == "    Traceback (most recent call last):"
        assert lines[-2:] == ["    ValueError: x", "    FORGED \\x1b[2J"]

    def test_values_that_cannot_be_shown(self) -> None:
        assert "cannot be formatted" in traceback_lines(("no", "exception", "at all"))  # type: ignore[arg-type]
