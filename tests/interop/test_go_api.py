"""docs/go-api.md has every export of the Go packages api, stub and plugin, with existing counterparts."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pytest

import nri_sync
from nri_sync import api
from tests.interop import gopeer

__all__: list[str] = []

PAGE = Path(__file__).resolve().parents[2] / "docs" / "go-api.md"
# The packages, with the prefix of their names on the page.
PACKAGES = {
    "github.com/containerd/nri/pkg/api": "",
    "github.com/containerd/nri/pkg/stub": "stub.",
    "github.com/containerd/nri/pkg/plugin": "plugin.",
}


class Export(NamedTuple):
    """A name that the Go package exports, and its file."""

    name: str
    file: str


@pytest.fixture(scope="module")
def exports() -> list[Export]:
    return [
        Export(prefix + export.name, export.file)
        for package, prefix in PACKAGES.items()
        for export in exports_of(package)
    ]


def exports_of(package: str) -> list[Export]:
    module = Path(__file__).with_name("apihelpers")
    directory = subprocess.run(
        [gopeer.go_command(), "list", "-f", "{{.Dir}}", package],
        cwd=module, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.strip()  # fmt: skip
    listed = subprocess.run(
        [gopeer.build("exports"), directory], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    found = [json.loads(line) for line in listed.splitlines()]
    exports = [Export(export["name"], export["file"]) for export in found]
    stub = Path(directory, "stub.go")
    if stub.exists():
        # The methods of an interface are not exports. Those of the stub are its API.
        body = stub.read_text().partition("\ntype Stub interface {\n")[2].partition("\n}\n")[0]
        methods = re.findall(r"^\t([A-Z]\w*)\(", body, re.MULTILINE)
        exports += [Export(f"Stub.{name}", stub.name) for name in methods]
    return exports


def names_of_the_protocol() -> dict[str, str]:
    """Regular expressions for the words in braces, with the names in Go's notation."""
    file = api.nri_pb2.DESCRIPTOR
    nested = [
        f"{message.name}_{enum.name}"
        for message in file.message_types_by_name.values()
        for enum in message.enum_types
    ]
    values = [value.name for enum in file.enum_types_by_name.values() for value in enum.values]
    values += [
        value.name
        for message in file.message_types_by_name.values()
        for enum in message.enum_types
        for value in enum.values
    ]
    # Go puts the message's name before a nested enum's value, and omits the enum.
    enums = [*file.enum_types_by_name, *nested]
    owners = [*enums, *(name.partition("_")[0] for name in nested)]
    return {
        "{message}": "|".join(file.message_types_by_name),
        "{enum}_{value}": f"(?:{'|'.join(owners)})_(?:{'|'.join(values)})",
        "{enum}": "|".join(enums),
    }


PLACEHOLDERS = names_of_the_protocol()


def expand(pattern: str) -> Iterator[str]:
    """`{A,B}.C` is `A.C` and `B.C`."""
    parts = re.split(r"\{([^{}]*,[^{}]*)\}", pattern)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    for chosen in itertools.product(*choices):
        yield "".join(chosen)


def rows() -> list[tuple[list[str], str]]:
    """The patterns and the counterparts of each row of a table."""
    found = []
    for line in PAGE.read_text().splitlines():
        match = re.fullmatch(r"\| (`.*`) \| (.*) \|", line)
        if match:
            patterns = re.findall(r"`([^`]+)`", match[1])
            found.append(([name for pattern in patterns for name in expand(pattern)], match[2]))
    return found


def expression(pattern: str) -> re.Pattern[str]:
    quoted = re.escape(pattern).replace(r"\*", r"\w+")
    for placeholder, names in PLACEHOLDERS.items():
        quoted = quoted.replace(re.escape(placeholder), f"(?:{names})")
    return re.compile(quoted)


def accounts_for(pattern: str, export: Export) -> bool:
    if re.search(r"[{*]", pattern):
        # These patterns are for generated code only, in which the protocol defines the names.
        return export.file.endswith(".pb.go") and bool(expression(pattern).fullmatch(export.name))
    return pattern == export.name


def test_the_go_package_is_read(exports: list[Export]) -> None:
    assert len(exports) > 1500
    assert Export("ContainerAdjustment.AddEnv", "adjustment.go") in exports
    assert Export("stub.Stub.UpdateContainers", "stub.go") in exports
    assert Export("plugin.GetEffectiveAnnotation", "annotations.go") in exports


def test_every_export_is_accounted_for(exports: list[Export]) -> None:
    patterns = [pattern for names, _ in rows() for pattern in names]
    plain = {pattern for pattern in patterns if not re.search(r"[{*]", pattern)}
    general = [expression(pattern) for pattern in patterns if pattern not in plain]
    missing = [
        f"{export.name} ({export.file})"
        for export in exports
        if export.name not in plain
        and not (
            export.file.endswith(".pb.go")
            and any(pattern.fullmatch(export.name) for pattern in general)
        )
    ]
    assert missing == []


def test_everything_in_the_tables_exists_in_go(exports: list[Export]) -> None:
    patterns = [pattern for names, _ in rows() for pattern in names]
    existing = {export.name for export in exports}
    unknown = [
        pattern
        for pattern in patterns
        if pattern not in existing and not any(accounts_for(pattern, export) for export in exports)
    ]
    assert unknown == []


def test_nothing_is_in_the_tables_twice() -> None:
    patterns = [pattern for names, _ in rows() for pattern in names]
    assert sorted(set(patterns)) == sorted(patterns)


def test_every_counterpart_exists_here() -> None:
    text = PAGE.read_text()
    named = re.findall(r"`(?:nri_sync\.)?((?<=nri_sync\.)[\w.]+|api\.[\w.]+)`", text)
    assert len(named) > 100
    importlib.import_module("nri_sync.api.nri_pb2_grpc")
    for name in named:
        attrgetter(name)(nri_sync)


def test_a_new_export_would_be_noticed() -> None:
    patterns = [pattern for names, _ in rows() for pattern in names]
    for new in (
        Export("ContainerAdjustment.AddSomething", "adjustment.go"),
        Export("FieldOwners.ClaimSomething", "owners_generated.go"),
        Export("Container.GetSomething", "container.go"),
        Export("Something", "api.pb.go"),
        Export("Something.Reset", "api.pb.go"),
    ):
        assert [pattern for pattern in patterns if accounts_for(pattern, new)] == []
