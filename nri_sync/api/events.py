"""The events of the protocol, and sets of them.

A plugin subscribes once, in its answer to Configure, with a mask that has bit ``1 << (n - 1)`` for
the event of number n.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

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
    """``"RunPodSandbox"`` for 1 and so on; ``"unknown(<number>)"`` for what is no event."""
    return _PRETTY.get(number, f"unknown({number})")


class EventMask(enum.IntFlag):
    """A set of events.

    Combine with ``|``, take away with ``& ~``, ask with ``in``. Bits without a meaning are kept, so
    that what a newer peer sends is not lost. ``str()`` gives the names, as ``parse`` takes them.
    """

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
        return EventMask(int(self) ^ 0xFFFFFFFF)

    @classmethod
    def parse(cls, *texts: str) -> EventMask:
        """The events that comma-separated lists of names mention.

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
                    raise ValueError(f"unknown event {name!r} in {listed!r}{hint}")
                mask |= _BY_NAME[name]
        return mask

    @classmethod
    def of(cls, *numbers: int) -> EventMask:
        """The mask of events by their numbers, ``Event.RUN_POD_SANDBOX`` and so on.

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


def _names() -> Iterable[tuple[str, EventMask]]:
    for number, name in _PRETTY.items():
        yield name.lower(), EventMask.of(number)
    yield from (("all", EventMask.ALL), ("container", EventMask.CONTAINER))
    yield from (("pod", EventMask.POD), ("podsandbox", EventMask.POD))


_BY_NAME = dict(_names())
