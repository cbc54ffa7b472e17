"""The first release of each name in nri_sync.api.since is right, checked against all releases."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_sync.api import since
from tests.interop.gopeer import go_command

__all__: list[str] = []

MODULE = "github.com/containerd/nri"
# All releases with the present protocol. The module proxy has them all, but does not list them all.
RELEASES = (
    *("v0.2.0", "v0.3.0", "v0.4.0", "v0.5.0", "v0.6.0", "v0.6.1", "v0.7.0", "v0.8.0", "v0.9.0"),
    *("v0.10.0", "v0.11.0", "v0.12.0", "v0.12.1", "v0.12.2", "v0.12.3", "v0.12.4", "v0.12.5"),
)

TOKEN = re.compile(
    r"(?P<kind>message|service|enum)\s+(?P<name>\w+)\s*{"
    r"|rpc\s+(?P<method>\w+)\s*\([^;{]*(?:{\s*}|;)"
    r"|(?P<end>})"
    r"|(?:[\w.]+|map<[^>]*>)\s+(?P<field>\w+)\s*=\s*\d+\s*;"
    r"|(?P<value>\w+)\s*=\s*\d+\s*;"
)


def names(text: str) -> Iterator[str]:
    """All names that a .proto file defines, in the notation of nri_sync.api.since."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    outer: list[str] = []
    for token in TOKEN.finditer(text):
        if token["end"]:
            outer.pop()
        elif token["kind"]:
            outer.append(token["name"])
            yield ".".join(outer)
        else:
            yield ".".join([*outer, token["method"] or token["field"] or token["value"]])


def go(*arguments: str) -> str:
    return subprocess.run(
        [go_command(), *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.fixture(scope="module")
def history() -> dict[str, str]:
    """The first release of every name that has ever existed."""
    first: dict[str, str] = {}
    for release in RELEASES:
        found = json.loads(go("mod", "download", "-json", f"{MODULE}@{release}"))
        proto = Path(found["Dir"], "pkg", "api", "api.proto").read_text()
        for name in names(proto):
            first.setdefault(name, release)
    return first


def test_the_history_ends_with_the_release_that_the_schema_is_compared_with() -> None:
    modfile = Path(__file__).with_name("schema").joinpath("go.mod").read_text()
    assert re.findall(rf"{MODULE} (v[0-9.]+)$", modfile, re.MULTILINE) == [RELEASES[-1]]


def test_the_history_is_read(history: dict[str, str]) -> None:
    assert len(history) > 400
    assert len(set(history.values())) > 8


# test_schema.py checks that both sides have the same names.
def test_since_agrees_with_every_release(history: dict[str, str]) -> None:
    told = {name: since(name) for name in history}
    assert {name: told[name] for name in history if told[name] != history[name]} == {}
