"""Replaces secrets in messages for logs and recordings: :class:`Mask`. Pure, without I/O.

The environment, the arguments and the annotations of a container hold passwords and tokens. Their names show it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

__all__ = ["MASKED", "NO_MASK", "SECRETS", "Mask"]

#: The replacement of a value.
MASKED = "(masked)"

#: The names whose values are secrets, as patterns of a shell; see :class:`Mask`.
SECRETS: tuple[str, ...] = (
    "*password*", "*passwd*", "*passphrase*", "*_pwd", "*_pass", "*secret*", "*token*", "*credential*", "*cookie*",
    "*_key", "*apikey*", "*accesskey*", "*privatekey*",
    "*access_key*", "*private_key*", "*authorization*", "*_auth",
    "*_dsn", "*connection_string*", "*connectionstring*", "*last_applied_configuration",
)  # fmt: skip

_M = TypeVar("_M", bound=Message)

# The fields with repeated strings of the form NAME=VALUE, or with options.
_LISTS = ("args", "env")
# The greatest length of a name that is compared. Longer names do not occur in practice.
_NAME_MAX = 256
_USERINFO = re.compile(r"(://[^/@\s:]*:)[^/@\s]+(@)")
_SEPARATORS = str.maketrans("-.", "__")


class Mask:
    """Replaces values whose names match one of the patterns, and passwords in URLs.

    Names are compared in lower case, with ``_`` for ``-`` and ``.``: ``*api_key*`` matches ``API_KEY`` and
    ``--api-key``. The names are those of variables, options (``--token=x``, and ``--token x``), annotations and
    labels. The mask does not search inside another text, such as a command for a shell. Without patterns it
    replaces nothing.
    """

    def __init__(self, patterns: Iterable[str] = SECRETS) -> None:
        """Raises TypeError if ``patterns`` is a single text."""
        if isinstance(patterns, str):
            raise TypeError("patterns must be a list of texts, not one text")
        self.patterns = tuple(patterns)
        self._is_secret = re.compile(
            "|".join(map(fnmatch.translate, map(str.lower, self.patterns))) or "(?!)"
        ).match

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def value(self, name: str, value: str) -> str:
        """Return the value, or its replacement."""
        if not self.patterns:
            return value
        return MASKED if value and self._hides(name) else _USERINFO.sub(rf"\1{MASKED}\2", value)

    def items(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield arguments, or variables as ``NAME=VALUE``, with their secrets replaced."""
        is_next = False
        for text in texts if self.patterns else ():
            name, equals, value = text.partition("=")
            if equals:
                yield f"{name}={self.value(name.lstrip('-'), value)}"
            elif is_next and not text.startswith("-"):
                yield MASKED
            else:
                yield self.value("", text)
            is_next = not equals and text.startswith("-") and self._hides(text.lstrip("-"))
        if not self.patterns:
            yield from texts

    def message(self, message: _M) -> _M:
        """Return a copy of a message with its secrets replaced; without patterns, the message itself."""
        if not self.patterns:
            return message
        masked = type(message)()
        masked.CopyFrom(message)
        self._apply(masked)
        return masked

    def field(self, message: Any, name: str, value: Any) -> Any:
        """Return the value of a field with its secrets replaced: a text, or the texts of a list or map."""
        if not self.patterns:
            return value
        if isinstance(value, str):
            return self.value(message.key, value) if _is_pair(message, name) else value
        if isinstance(value, Mapping):
            return {
                key: self.value(key, v) if isinstance(v, str) else v for key, v in value.items()
            }
        if name in _LISTS and value and isinstance(value[0], str):
            return list(self.items(value))
        return value

    def _apply(self, message: Any) -> None:
        for field, value in message.ListFields():
            for each in _messages_in(value):
                self._apply(each)
            shown = self.field(message, field.name, value)
            if shown is value:
                continue
            if isinstance(shown, Mapping):
                for key, each in shown.items():
                    if isinstance(each, str):
                        value[key] = each
            elif isinstance(shown, str):
                setattr(message, field.name, shown)
            else:
                value[:] = shown

    def _hides(self, name: str) -> bool:
        return self._is_secret(name[:_NAME_MAX].lower().translate(_SEPARATORS)) is not None


def _messages_in(value: Any) -> Iterable[Any]:
    """Return the messages in the value of a field, or the value itself if it is a message."""
    if isinstance(value, (str, bytes)):
        return ()
    held = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, Sequence)
        else (value,)
    )
    return (each for each in held if isinstance(each, Message))


def _is_pair(message: Any, name: str) -> bool:
    return bool(name == "value" and message.DESCRIPTOR.name == "KeyValue")


NO_MASK = Mask(())
