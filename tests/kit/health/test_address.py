"""The addresses of a health server."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from nri_sync.kit.health.address import parse_address, text_of

__all__: list[str] = []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", (socket.AF_INET, ("127.0.0.1", 8080))),
        ("localhost:0", (socket.AF_INET, ("localhost", 0))),
        ("[::1]:8080", (socket.AF_INET6, ("::1", 8080))),
        ("unix:///run/a", (socket.AF_UNIX, "/run/a")),
        ("unix:a/b", (socket.AF_UNIX, "a/b")),
        ("/run/a", (socket.AF_UNIX, "/run/a")),
        ("unix-abstract:a", (socket.AF_UNIX, "\0a")),
    ],
)
def test_an_address_is_parsed(text: str, address: Any) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "[::1]:8080", "unix:/run/a", "unix-abstract:a"])
def test_an_address_becomes_its_text_again(text: str) -> None:
    assert text_of(parse_address(text)[1]) == text


@pytest.mark.parametrize("text", ["", "8080", "::1:8080", "127.0.0.1:65536", "unix:"])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"for example: |in brackets"):
        parse_address(text)
