"""Our .proto file describes the same protocol as the Go module's, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Union

import pytest
from google.protobuf import descriptor_pb2

from nri_sync.api import nri_pb2
from tests.interop import gopeer

__all__: list[str] = []

Facts = dict[str, tuple[Union[int, str, bool], ...]]


def facts(file: descriptor_pb2.FileDescriptorProto) -> Facts:
    """Every name of *file* with everything about it that matters on the wire."""
    found: Facts = {f"package {file.package}": (file.syntax,)}
    add_messages(found, "", file.message_type)
    add_enums(found, "", file.enum_type)
    for service in file.service:
        found[f"service {service.name}"] = ()
        for method in service.method:
            found[f"rpc {service.name}.{method.name}"] = (
                method.input_type,
                method.output_type,
                method.client_streaming,
                method.server_streaming,
            )
    return found


def add_messages(
    found: Facts, outer: str, messages: Iterable[descriptor_pb2.DescriptorProto]
) -> None:
    for message in messages:
        name = outer + message.name
        found[f"message {name}"] = (message.options.map_entry, len(message.oneof_decl))
        for field in message.field:
            found[f"field {name}.{field.name}"] = (
                field.number,
                field.type,
                field.type_name,
                field.label,
                field.proto3_optional,
                field.options.packed if field.options.HasField("packed") else "default",
            )
        add_enums(found, name + ".", message.enum_type)
        add_messages(found, name + ".", message.nested_type)


def add_enums(
    found: Facts, outer: str, enums: Iterable[descriptor_pb2.EnumDescriptorProto]
) -> None:
    for enum in enums:
        found[f"enum {outer}{enum.name}"] = (enum.options.allow_alias,)
        for value in enum.value:
            found[f"value {outer}{enum.name}.{value.name}"] = (value.number,)


@pytest.fixture(scope="module")
def theirs() -> Facts:
    printed = subprocess.run([gopeer.build("schema")], stdout=subprocess.PIPE, check=True).stdout
    return facts(descriptor_pb2.FileDescriptorProto.FromString(printed))


@pytest.fixture(scope="module")
def ours() -> Facts:
    file = descriptor_pb2.FileDescriptorProto()
    nri_pb2.DESCRIPTOR.CopyToProto(file)
    return facts(file)


def test_the_go_module_is_read(theirs: Facts) -> None:
    assert len(theirs) > 500
    assert theirs["value Event.LAST"] == (15,)


def test_nothing_of_the_go_module_is_missing(theirs: Facts, ours: Facts) -> None:
    assert sorted(theirs.keys() - ours.keys()) == []


def test_nothing_is_ours_alone(theirs: Facts, ours: Facts) -> None:
    assert sorted(ours.keys() - theirs.keys()) == []


def test_everything_is_alike(theirs: Facts, ours: Facts) -> None:
    unlike = {name: (theirs[name], ours[name]) for name in theirs.keys() & ours.keys()}
    assert {name: pair for name, pair in unlike.items() if pair[0] != pair[1]} == {}
