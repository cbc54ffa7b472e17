"""Repeated entries in the answer of one plugin.

If an answer has two entries of one key, a runtime treats them as a conflict of the plugin with itself, and fails
the request, even if the entries are equal. So this module drops equal entries, and raises an error in the plugin's
process for different ones. It merges two updates of one container, unless they set a field differently.

Hooks have no key: a hook that occurs twice runs twice.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from operator import attrgetter
from typing import Any, Callable

from google.protobuf.message import Message

from nri_sync.api._check import show
from nri_sync.api.nri_pb2 import ContainerAdjustment, ContainerUpdate, LinuxContainerAdjustment
from nri_sync.api.removal import is_marked

__all__ = [
    "Entries",
    "assign",
    "assign_message",
    "deduplicated",
    "deduplicated_updates",
    "has_distinct_keys",
    "merged",
]

# The messages that have a key: a name for errors, and the field that is the key.
_KEYS = {
    "Mount": ("mount at", "destination"),
    "KeyValue": ("environment variable", "key"),
    "POSIXRlimit": ("rlimit", "type"),
    "CDIDevice": ("CDI device", "name"),
    "LinuxDevice": ("device", "path"),
    "LinuxNamespace": ("namespace", "type"),
    "HugepageLimit": ("limit of huge pages", "page_size"),
}


class Entries:
    """Adds entries to the fields of one message, in constant time for each entry.

    Other code may also change the message. :func:`deduplicated` finds repeated entries that this class misses
    then.
    """

    def __init__(self) -> None:
        # By type of entry, the position of each key.
        self._positions: dict[str, dict[str, int]] = {}

    def add(self, entries: Any, entry: Message) -> None:
        """Append an entry to a field, unless the field has an equal entry.

        Raises ValueError with the key and both values if the field has a different entry of the same key.
        """
        kind = entry.DESCRIPTOR.name
        what, field = _KEYS[kind]
        key = getattr(entry, field)
        positions = self._positions.get(kind)
        if positions is None or len(positions) != len(entries):
            positions = {getattr(other, field): at for at, other in enumerate(entries)}
            self._positions[kind] = positions
        at = positions.get(key)
        if at is not None and getattr(entries[at], field) == key:
            _check_equal(what, key, entries[at], entry)
            return
        positions[key] = len(entries)
        entries.append(entry)


def assign(entries: MutableMapping[str, str], key: str, value: str, what: str) -> None:
    """Set the entry of a map. Raises as :meth:`Entries.add`."""
    before = entries.get(key)
    if before is not None and before != value:
        _refuse(what, key, before, value)
    entries[key] = value


def assign_message(entries: Any, key: str, value: Message, what: str) -> None:
    """Set the entry of a map of messages. Raises as :meth:`Entries.add`."""
    if key in entries and entries[key] != value:
        _refuse(what, key, _value(entries[key]), _value(value))
    entries[key].CopyFrom(value)


def deduplicated(adjustment: ContainerAdjustment) -> ContainerAdjustment:
    """The adjustment without repeated entries: the same object if it has none, otherwise a copy.

    Raises as :meth:`Entries.add`.
    """
    if not _has_repeats(adjustment):
        return adjustment
    copy = ContainerAdjustment()
    copy.CopyFrom(adjustment)
    for entries in _keyed(copy):
        _drop_repeats(entries)
    return copy


# In the encoding of an adjustment: the tags of fields whose entries have a key, which is their first field; of the
# field for Linux, whose entries are deeper inside; and of a key.
_KEYED = frozenset((3 << 3 | 2, 4 << 3 | 2, 7 << 3 | 2, 8 << 3 | 2))
_LINUX = 6 << 3 | 2
_OF_KEY = 1 << 3 | 2


def has_distinct_keys(adjustment: ContainerAdjustment, data: bytes) -> bool:
    """Whether it is certain that :func:`deduplicated` returns the adjustment itself. ``data`` is its encoding.

    Faster than :func:`deduplicated`: looks for the keys in the encoding, and gives up on anything uncommon there,
    such as a key of 128 bytes.
    """
    seen: set[tuple[int, bytes]] = set()
    count = position = 0
    end = len(data)
    while position < end:
        tag, size = data[position], data[position + 1]
        if tag & 0x87 != 2:  # a tag of two bytes, or a field without a length
            return False
        position += 2
        if size >= 0x80:
            size = size & 0x7F | data[position] << 7
            position += 1
            if size >= 0x4000:  # a length of three bytes
                return False
        if tag in _KEYED:
            if not size or data[position] != _OF_KEY or data[position + 1] >= 0x80:
                return False
            count += 1
            seen.add((tag, data[position + 2 : position + 2 + data[position + 1]]))
        elif tag == _LINUX and _has_linux_repeats(adjustment.linux):
            return False
        position += size
    return len(seen) == count


def _has_repeats(adjustment: ContainerAdjustment) -> bool:
    # Called for each adjustment, and nearly all have no repeats. So the fields are spelt out.
    return (
        _repeats(adjustment.mounts, _destination)
        or _repeats(adjustment.env, _key)
        or _repeats(adjustment.rlimits, _type)
        or _repeats(adjustment.CDI_devices, _name)
        or (adjustment.HasField("linux") and _has_linux_repeats(adjustment.linux))
    )


def _has_linux_repeats(linux: LinuxContainerAdjustment) -> bool:
    return (
        _repeats(linux.devices, _path)
        or _repeats(linux.namespaces, _type)
        or _repeats(linux.resources.hugepage_limits, _page_size)
    )


_destination, _key, _type, _name = map(attrgetter, ("destination", "key", "type", "name"))
_path, _page_size = map(attrgetter, ("path", "page_size"))


def _repeats(entries: Any, key: Callable[[Any], object]) -> bool:
    # By index: the iterator of a repeated field is slow.
    count = len(entries)
    return count > 1 and len({key(entries[number]) for number in range(count)}) < count


def _keyed(adjustment: ContainerAdjustment) -> Iterator[Any]:
    yield adjustment.mounts
    yield adjustment.env
    yield adjustment.rlimits
    yield adjustment.CDI_devices
    if adjustment.HasField("linux"):
        yield adjustment.linux.devices
        yield adjustment.linux.namespaces
        yield adjustment.linux.resources.hugepage_limits


def _drop_repeats(entries: Any) -> None:
    if not entries:
        return
    kept: dict[str, Message] = {}
    what, field = _KEYS[entries[0].DESCRIPTOR.name]
    for entry in entries:
        key = getattr(entry, field)
        _check_equal(what, key, kept.setdefault(key, entry), entry)
    distinct = list(kept.values())
    # Copies, because deleting the field's items invalidates them.
    copies = [type(entry)() for entry in distinct]
    for copy, entry in zip(copies, distinct):
        copy.CopyFrom(entry)
    del entries[:]
    entries.extend(copies)


def _check_equal(what: str, key: str, first: Message, second: Message) -> None:
    # A removal has no value.
    if first != second and not is_marked(key):
        _refuse(what, key, _value(first), _value(second))


def _value(message: Message) -> str:
    return " ".join(str(message).split()) or "nothing"


def _refuse(what: str, key: str, first: object, second: object) -> None:
    raise ValueError(
        f"{what} {show(key)} is set twice, to different values: {show(first)}, then {show(second)}"
    )


def deduplicated_updates(updates: Sequence[ContainerUpdate]) -> list[ContainerUpdate]:
    """One update for each container, in the order of the first update of each.

    Raises ValueError with the container, the setting and both values if two updates of one container differ in a
    setting. The messages are not changed.
    """
    kept: dict[str, ContainerUpdate] = {}
    for update in updates:
        before = kept.get(update.container_id)
        kept[update.container_id] = update if before is None else merged(before, update)
    return list(kept.values())


def merged(first: ContainerUpdate, second: ContainerUpdate) -> ContainerUpdate:
    """One update with the settings of both. Raises as :func:`deduplicated_updates`.

    Its ``ignore_failure`` is True if that of both updates is.
    """
    both = ContainerUpdate()
    both.CopyFrom(first)
    _join(both.linux, second.linux, f"container {show(first.container_id)} has a setting that")
    both.ignore_failure = first.ignore_failure and second.ignore_failure
    return both


def _join(into: Message, other: Message, what: str) -> None:
    """Copy the settings that only ``other`` has into ``into``."""
    for field, value in other.ListFields():
        present = getattr(into, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key, item in value.items():
                assign(present, key, item, what)
        elif hasattr(value, "append"):
            _extend(present, value)
        elif isinstance(value, Message):
            if value.DESCRIPTOR.name in ("LinuxResources", "LinuxMemory", "LinuxCPU"):
                present.SetInParent()
                _join(present, value, what)
            elif into.HasField(field.name) and present != value:
                _refuse(what, field.name, _value(present), _value(value))
            else:
                present.CopyFrom(value)
                present.SetInParent()
        elif present and present != value:
            _refuse(what, field.name, present, value)
        else:
            setattr(into, field.name, value)


def _extend(entries: Any, others: Any) -> None:
    keyed = Entries()
    for other in others:
        if other.DESCRIPTOR.name in _KEYS:
            keyed.add(entries, other)
        elif other not in entries:
            entries.append(other)
