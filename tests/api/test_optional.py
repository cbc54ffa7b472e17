from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from nri_sync.api import nri_pb2, optional

__all__: list[str] = []

# A field of each kind of optional value in the protocol.
FIELDS: list[tuple[type[Message], str, Any, Any]] = [
    (nri_pb2.LinuxResources, "blockio_class", "gold", ""),
    (nri_pb2.LinuxRdt, "schemata", ["L3:0=f", "MB:0=50"], []),
    (nri_pb2.Hook, "timeout", 30, 0),
    (nri_pb2.LinuxSeccomp, "default_errno", 2**32 - 1, 0),
    (nri_pb2.LinuxMemory, "limit", -1, 0),
    (nri_pb2.LinuxMemory, "swappiness", 2**64 - 1, 0),
    (nri_pb2.LinuxMemory, "use_hierarchy", True, False),
    (nri_pb2.LinuxDevice, "file_mode", 0o666, 0),
]


@pytest.mark.parametrize(("kind", "field", "value", "empty"), FIELDS)
def test_absent_empty_and_set_differ(
    kind: type[Message], field: str, value: Any, empty: Any
) -> None:
    message = kind()
    assert optional.get(message, field) is None
    assert not message.HasField(field), "reading must not set it"
    for put in (empty, value, empty):
        optional.put(message, field, put)
        assert optional.get(message, field) == put
        assert type(optional.get(message, field)) is type(put)
        assert optional.get(kind.FromString(message.SerializeToString()), field) == put
    optional.put(message, field, None)
    assert optional.get(message, field) is None
    assert message.SerializeToString() == b""


def test_a_list_is_a_copy() -> None:
    rdt = nri_pb2.LinuxRdt()
    given = ["a"]
    optional.put(rdt, "schemata", given)
    given.append("b")
    taken = optional.get(rdt, "schemata")
    assert taken == ["a"]
    taken.append("c")
    assert optional.get(rdt, "schemata") == ["a"]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (nri_pb2.LinuxMemory(), "nothing"),
        (nri_pb2.LinuxCPU(), "cpus"),
        (nri_pb2.LinuxResources(), "memory"),
        (nri_pb2.LinuxResources(), "unified"),
        (nri_pb2.Hook(), "args"),
    ],
)
def test_other_fields(message: Message, field: str) -> None:
    name = message.DESCRIPTOR.name
    with pytest.raises(ValueError, match=f"^{name} has no optional field '{field}'$"):
        optional.get(message, field)
    with pytest.raises(ValueError, match=f"^{name} has no optional field '{field}'$"):
        optional.put(message, field, 1)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (nri_pb2.LinuxMemory, "limit", 2**63),
        (nri_pb2.LinuxMemory, "limit", -(2**63) - 1),
        (nri_pb2.LinuxMemory, "swappiness", -1),
        (nri_pb2.LinuxMemory, "swappiness", 2**64),
        (nri_pb2.LinuxDevice, "uid", -1),
        (nri_pb2.LinuxDevice, "uid", 2**32),
        (nri_pb2.LinuxDevice, "file_mode", -1),
        (nri_pb2.Hook, "timeout", 2**63),
        (nri_pb2.LinuxResources, "rdt_class", "\ud800"),
        (nri_pb2.LinuxRdt, "schemata", ["a", "\ud800"]),
    ],
)
def test_values_that_the_wire_cannot_carry(kind: type[Message], field: str, value: Any) -> None:
    message = kind()
    with pytest.raises(ValueError, match=rf"^{kind.DESCRIPTOR.name}\.{field}"):
        optional.put(message, field, value)
    assert not message.HasField(field)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (nri_pb2.LinuxMemory, "limit", "5"),
        (nri_pb2.LinuxMemory, "limit", 5.0),
        (nri_pb2.LinuxMemory, "limit", True),
        (nri_pb2.LinuxMemory, "use_hierarchy", 1),
        (nri_pb2.LinuxResources, "rdt_class", b"gold"),
        (nri_pb2.LinuxRdt, "schemata", "L3:0=f"),
        (nri_pb2.LinuxDevice, "file_mode", "0666"),
    ],
)
def test_values_of_a_wrong_type(kind: type[Message], field: str, value: Any) -> None:
    message = kind()
    with pytest.raises(TypeError, match=rf"^{kind.DESCRIPTOR.name}\.{field} must be "):
        optional.put(message, field, value)
    assert not message.HasField(field)


def test_every_optional_field_of_the_protocol_is_known() -> None:
    known = 0
    for descriptor in nri_pb2.DESCRIPTOR.message_types_by_name.values():
        for field in descriptor.fields:
            if field.message_type and field.message_type.name.startswith("Optional"):
                message: Message = getattr(nri_pb2, descriptor.name)()
                assert optional.get(message, field.name) is None
                known += 1
    assert known == 28
