"""The events of the protocol, and sets of events.

A plugin subscribes once, in its answer to Configure. The mask has the bit ``1 << (n - 1)`` for the event of number
n.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Iterable
from typing import Any

from nri_sync.api import _check
from nri_sync.api.nri_pb2 import Event

__all__ = ["EventMask", "pretty_name"]

# The names of events by number. The methods of the Plugin service have the same names.
_PRETTY = {
    number: "".join(part.capitalize() for part in name.split("_"))
    for name, number in Event.items()
    if number not in (Event.UNKNOWN, Event.LAST)
}


def pretty_name(number: int) -> str:
    """``"RunPodSandbox"`` for 1 and so on; ``"unknown(<number>)"`` for other numbers."""
    return _PRETTY.get(number, f"unknown({number})")


class EventMask(enum.IntFlag):
    """A set of events.

    ``|`` combines two sets, ``& ~`` subtracts a set, ``in`` tests for an event. Bits without a meaning are kept,
    so that the events of a newer peer are not lost. ``str()`` gives the names in the form that ``parse`` accepts.

    An event in a set is required or optional. A plugin cannot start with a runtime that does not have a required
    event. An event that is named individually is required. The events of the groups POD, CONTAINER and ALL, and of
    ``optional()``, are optional. Operators keep this: in ``a | b`` an event is required if one of the sets
    requires it, in ``a & b`` if both require it, and ``a & ~b`` does not change the remaining events. Sets with
    the same events are equal, even if they require different events.
    """

    # The bits that are optional. Only the further instances of a value have this attribute.
    _optional: int

    RUN_POD_SANDBOX = 1 << 0
    STOP_POD_SANDBOX = 1 << 1
    REMOVE_POD_SANDBOX = 1 << 2
    CREATE_CONTAINER = 1 << 3
    POST_CREATE_CONTAINER = 1 << 4
    START_CONTAINER = 1 << 5
    POST_START_CONTAINER = 1 << 6
    UPDATE_CONTAINER = 1 << 7
    POST_UPDATE_CONTAINER = 1 << 8
    STOP_CONTAINER = 1 << 9
    REMOVE_CONTAINER = 1 << 10
    UPDATE_POD_SANDBOX = 1 << 11
    POST_UPDATE_POD_SANDBOX = 1 << 12
    VALIDATE_CONTAINER_ADJUSTMENT = 1 << 13

    #: The five events about pods.
    POD = 0x1807
    #: The nine events about containers, including validation.
    CONTAINER = 0x27F8
    #: All events.
    ALL = 0x3FFF

    @classmethod
    def _missing_(cls, value: object) -> object:
        # The field on the wire has 32 bits. A negative number has the highest bit set.
        return super()._missing_(value & 0xFFFFFFFF if isinstance(value, int) else value)

    def __invert__(self) -> EventMask:
        # From Python 3.11 on, the method of the base class drops bits without a meaning. All events of the result
        # count as required, so that ``mask & ~other`` does not change the remaining events of ``mask``.
        return EventMask(int(self) ^ 0xFFFFFFFF)._with(0)

    def __or__(self, other: object) -> EventMask:
        return self._joined(other, operator.or_)

    def __xor__(self, other: object) -> EventMask:
        return self._joined(other, operator.xor)

    def __and__(self, other: object) -> EventMask:
        if not isinstance(other, int):
            return NotImplemented
        value = EventMask(int(self) & int(other))
        optional = self._optional_bits() | EventMask(other)._optional_bits()
        return value._with(int(value) & optional)

    __ror__, __rxor__, __rand__ = __or__, __xor__, __and__

    def _joined(self, other: object, join: Callable[[int, int], int]) -> EventMask:
        if not isinstance(other, int):
            return NotImplemented  # type: ignore[no-any-return]
        value = EventMask(join(int(self), int(other)))
        required = int(self.required) | int(EventMask(other).required)
        return value._with(int(value) & ~required)

    def _with(self, optional: int) -> EventMask:
        """The same events, with the bits ``optional`` as the optional ones. Call it on the enum's own instance."""
        if optional == self._optional_bits():
            return self
        twin = int.__new__(EventMask, int(self))
        twin.__dict__.update(self.__dict__)
        twin._optional = optional
        return twin

    def _optional_bits(self) -> int:
        found: int | None = self.__dict__.get("_optional")
        if found is not None:
            return found
        return int(self) if int(self) in _GROUPS else 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Also used by copy: a further instance must not become the enum's own instance of its value.
        return _restored, (int(self), self._optional_bits())

    @property
    def required(self) -> EventMask:
        """The events that are named individually. The plugin cannot start without them."""
        rest = int(self) & ~self._optional_bits()
        # The value of a group means the group, and not its events individually.
        return self if rest == int(self) else EventMask(rest)._with(0)

    def optional(self) -> EventMask:
        """The same events, all of them optional."""
        if self._optional_bits() == int(self):
            return self
        return EventMask(int(self))._with(int(self))

    @classmethod
    def parse(cls, *texts: str) -> EventMask:
        """The events of comma-separated lists of names.

        Events that are named individually are required, and events of groups are optional.

        A name is the name of an event without separators, such as ``createcontainer``, or of a group: ``all``,
        ``pod`` (or ``podsandbox``) and ``container``. Letter case and blanks around a name do not matter. Without
        lists the set is empty. Raises ValueError for an unknown or empty name.
        """
        mask = cls(0)
        for listed in texts:
            for item in _check.text("list of events", listed).split(","):
                name = item.strip().lower()
                if name not in _BY_NAME:
                    import difflib  # here, so that it is loaded only after a mistake

                    close = difflib.get_close_matches(name, _BY_NAME, 1)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    raise ValueError(
                        f"unknown event {_check.show(name)} in {_check.show(listed)}{hint}"
                    )
                mask |= _BY_NAME[name]
        return mask

    @classmethod
    def of(cls, *numbers: int) -> EventMask:
        """The set of events with these numbers, such as ``Event.RUN_POD_SANDBOX``. All of them are required.

        Raises ValueError for a number without an event.
        """
        mask = cls(0)
        for number in numbers:
            if number not in _PRETTY:
                raise ValueError(f"{number} is not the number of an event")
            mask |= cls(1 << (number - 1))
        return mask

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events in ascending order. Bits without an event are left out."""
        return [number for number in _PRETTY if self & (1 << (number - 1))]

    def __str__(self) -> str:
        """The names in the order of their numbers, then the unknown bits as a hexadecimal number."""
        names = list(map(pretty_name, self.numbers))
        rest = int(self) & ~int(EventMask.ALL)
        last = 1 << (Event.LAST - 1)
        if rest & last:
            names.append(pretty_name(Event.LAST))
        if rest & ~last:
            names.append(f"unknown({rest & ~last:#x})")
        return ",".join(names)

    def __format__(self, spec: str) -> str:
        # A format such as "#x" formats the number, as for any int.
        return format(int(self), spec) if spec else str(self)


_GROUPS = frozenset(map(int, (EventMask(0), EventMask.POD, EventMask.CONTAINER, EventMask.ALL)))


def _restored(value: int, optional: int) -> EventMask:
    return EventMask(value)._with(optional)


def _names() -> Iterable[tuple[str, EventMask]]:
    for number, name in _PRETTY.items():
        yield name.lower(), EventMask.of(number)
    yield from (("all", EventMask.ALL), ("container", EventMask.CONTAINER))
    yield from (("pod", EventMask.POD), ("podsandbox", EventMask.POD))


_BY_NAME = dict(_names())
