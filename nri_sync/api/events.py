"""The events of the protocol, and sets of them.

A plugin subscribes once, in its answer to Configure, with a mask that has bit ``1 << (n - 1)`` for
the event of number n.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Iterable
from typing import Any

from nri_sync.api import _check
from nri_sync.api.nri_pb2 import Event

__all__ = ["EventMask", "pretty_name"]

# By number. The methods of the Plugin service have the same names.
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

    Combine with ``|``, take away with ``& ~``, ask with ``in``. Bits without a meaning are kept, so
    that the events of a newer peer are not lost. ``str()`` gives the names, as ``parse`` takes them.

    A plugin subscribes to an event either because it needs it, or as far as the runtime has it. An
    event that is named by itself is ``required``. The events of a group, POD, CONTAINER and ALL, and
    of ``optional()``, are not. Operators keep this: in ``a | b`` an event is required that one of
    them requires, in ``a & b`` one that both require, and ``a & ~b`` changes nothing for the events
    that are left. Masks with the same events are equal, also when they require different ones.
    """

    # The bits that are not required. Only further instances of a value have the attribute.
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
    #: The nine events about containers, validation included.
    CONTAINER = 0x27F8
    #: Every event there is.
    ALL = 0x3FFF

    @classmethod
    def _missing_(cls, value: object) -> object:
        # The wire has 32 bits; a negative number is one with the highest bit set.
        return super()._missing_(value & 0xFFFFFFFF if isinstance(value, int) else value)

    def __invert__(self) -> EventMask:
        # That of the base class drops bits without a meaning, from Python 3.11 on.
        # All of it counts as required, so that ``mask & ~other`` leaves the rest of a mask as it is.
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
        """The same events, with these of them optional. Requires the only instance of the value."""
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
        # For copies too: a twin must not become the only instance of its value.
        return _restored, (int(self), self._optional_bits())

    @property
    def required(self) -> EventMask:
        """The events that are named by themselves: without them the plugin is not to be started."""
        rest = int(self) & ~self._optional_bits()
        # A group's value stands for the group, not for each of its events.
        return self if rest == int(self) else EventMask(rest)._with(0)

    def optional(self) -> EventMask:
        """The same events, as far as the runtime has them."""
        return EventMask(int(self))._with(int(self))

    @classmethod
    def parse(cls, *texts: str) -> EventMask:
        """The events that comma-separated lists of names mention.

        Names of events make them required, and groups do not.

        A name is that of an event without separators, ``createcontainer``, or of a group: ``all``,
        ``pod`` (or ``podsandbox``) and ``container``. Letter case and blanks around a name do not
        matter. No lists at all are no events. Raises ValueError for an unknown or empty name.
        """
        mask = cls(0)
        for listed in texts:
            for item in _check.text("list of events", listed).split(","):
                name = item.strip().lower()
                if name not in _BY_NAME:
                    import difflib  # only here: a plugin that makes no mistake need not load it

                    close = difflib.get_close_matches(name, _BY_NAME, 1)
                    hint = f", is {close[0]!r} meant?" if close else ""
                    raise ValueError(
                        f"unknown event {_check.show(name)} in {_check.show(listed)}{hint}"
                    )
                mask |= _BY_NAME[name]
        return mask

    @classmethod
    def of(cls, *numbers: int) -> EventMask:
        """The mask of events by their numbers, ``Event.RUN_POD_SANDBOX`` and so on; all required.

        Raises ValueError for a number that is no event.
        """
        mask = cls(0)
        for number in numbers:
            if number not in _PRETTY:
                raise ValueError(f"{number} is not the number of an event")
            mask |= cls(1 << (number - 1))
        return mask

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events in ascending order, without bits that are no event."""
        return [number for number in _PRETTY if self & (1 << (number - 1))]

    def __str__(self) -> str:
        """The names in order of their numbers, and unknown bits as a hexadecimal number."""
        names = list(map(pretty_name, self.numbers))
        rest = int(self) & ~int(EventMask.ALL)
        last = 1 << (Event.LAST - 1)
        if rest & last:
            names.append(pretty_name(Event.LAST))
        if rest & ~last:
            names.append(f"unknown({rest & ~last:#x})")
        return ",".join(names)

    def __format__(self, spec: str) -> str:
        # "#x" and the like format the number, as with any int.
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
