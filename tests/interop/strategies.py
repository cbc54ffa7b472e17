"""Hypothesis strategies for the protocol's values and messages."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from nri_sync.api import nri_pb2

__all__ = ["INT32", "INT64", "UINT32", "UINT64", "keys", "messages", "texts"]

_M = TypeVar("_M", bound=Message)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
#: Keys that no helper takes for a removal.
keys = texts.filter(lambda text: not text.startswith("-"))

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_UINT64: UINT64,
}


def messages(kind: type[_M]) -> st.SearchStrategy[_M]:
    """Messages with any of their fields set, to any values, and valid enums."""
    empty = kind()
    descriptors = nri_pb2.DESCRIPTOR.message_types_by_name[kind.__name__].fields
    fields = {field.name: _values(field, getattr(empty, field.name)) for field in descriptors}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


def _values(field: FieldDescriptor, empty: object) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return st.dictionaries(texts, _one(kind.fields_by_name["value"]), max_size=2)
    # Strings are iterable, too, but messages are not.
    if hasattr(empty, "append"):
        return st.lists(_one(field), max_size=2)
    return _one(field)


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(getattr(nri_pb2, field.message_type.name))
    if field.enum_type is not None:
        return st.sampled_from([value.name for value in field.enum_type.values])
    return _SCALARS[field.type]
