"""Quotes as Go writes them."""

from __future__ import annotations

import pytest

from nri_sync.runtime.quoting import go_quote

__all__: list[str] = []


# The results of fmt.Sprintf("%q").
@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("10-foo", '"10-foo"'),
        ("", '""'),
        ('a"b\\', r'"a\"b\\"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x7f", r'"\x00\x7f"'),
        ("é \u00a0", r'"é \u00a0"'),
        ("\u200b\U000e0001", r'"\u200b\U000e0001"'),
        ("a'b", '"a\'b"'),
    ],
)
def test_quote(text: str, quoted: str) -> None:
    assert go_quote(text) == quoted
