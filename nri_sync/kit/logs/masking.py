"""Replaces secrets in messages for logs and recordings: :class:`Mask`. Pure, without I/O.

The environment, the arguments and the annotations of a container hold passwords and tokens. Names announce most of
them; :mod:`nri_sync.kit.logs.positions` finds others by their position in a command or a URL, and by their form.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from nri_sync.kit.logs.positions import FORMS, SPACE, SWITCH, URLS, Command, hidden_spans

__all__ = ["MASKED", "NO_MASK", "SECRETS", "Mask"]

#: The replacement of a value.
MASKED = "(masked)"

#: The names whose values are secrets, as patterns of a shell; see :class:`Mask`.
SECRETS: tuple[str, ...] = (
    "*password*", "*passwd*", "*passphrase*", "*passcode*", "*_pwd", "pass", "*_pass", "*sshpass", "*storepass",
    "*keypass", "*rootpass", "*adminpass", "*userpass", "*dbpass", "*requirepass", "*masterauth",
    "pw", "*_pw", "*bindpw", "*rootpw", "*adminpw", "sig", "*amz_signature",
    "*secret*", "*token*", "*credential*", "creds", "*_creds", "*cookie*", "*jwt*", "*bearer*", "*_pat",
    "*_key", "*apikey*", "*accesskey*", "*privatekey*", "*masterkey*", "*authkey*",
    "*access_key*", "*private_key*", "*authorization*", "auth", "*_auth", "*dockerconfig*", "*docker_auth_config*",
    "dsn", "*_dsn", "*connection_string*", "*connectionstring*", "*last_applied_configuration",
)  # fmt: skip

_M = TypeVar("_M", bound=Message)

# The fields with repeated strings of the form NAME=VALUE, or with options.
_LISTS = ("args", "env")
# The greatest length of a name that is compared. Longer names do not occur in practice.
_NAME_MAX = 256
# A name inside a text, with the separator of its value: a parameter of a URL or of a connection string, a header,
# a property, a variable of a shell command. The lookbehind and the bounds keep the search linear.
_NAME = re.compile(r"(?<![\w.-])([\w.-]{1,256})([\"']?[ \t]{0,8}(?:=|:(?=[ \t\"'])))[ \t]{0,8}")
_QUOTED = r"\"[^\"]*|'[^']*"
_VALUES = {
    "=": re.compile(rf"{_QUOTED}|[^\s&;,\"']+"),
    ":": re.compile(rf"{_QUOTED}|[^\r\n&;,\"']+"),  # a header may have several words
}
_SEPARATORS = str.maketrans("-.", "__")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Mask:
    """Replaces values whose names match one of the patterns, and secrets that their position or form shows.

    Names are compared in lower case, with ``_`` for ``-`` and ``.``, and between the words of a name such as
    ``apiKey``: ``*api_key*`` matches ``API_KEY``, ``apiKey`` and ``--api-key``. The names are those of variables,
    options (``--token=x``, and ``--token x``), annotations and labels, and those in a value, followed by ``=`` or
    by ``:`` and a space: parameters of URLs and connection strings, headers, variables of a shell command.
    The values ``true`` and ``false`` stay, as in ``--client-cert-auth=true``.

    With any patterns the mask also replaces passwords and tokens before the ``@`` of a URL, the passwords in
    options of known programs (``mysql -phunter2``, ``curl -u me:hunter2``), and tokens of a known form, such as a
    JWT; see :mod:`nri_sync.kit.logs.positions`. Without patterns the mask replaces nothing.
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
        if self._hides_value(name, value):
            return MASKED
        value = self._without_named(_replaced(value, hidden_spans(value, self._hides)))
        for pattern in (*URLS, *FORMS):
            value = _replaced(value, (found.span(1) for found in pattern.finditer(value)))
        return value

    def _without_named(self, text: str) -> str:
        return _replaced(text, self._named(text))

    def _named(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the begin and the end of each value after a name."""
        end = 0
        for found in _NAME.finditer(text):
            if found.start() < end or not self._hides(found[1]):
                continue
            secret = _VALUES[found[2][-1]].match(text, found.end())
            if secret is not None and not SWITCH.match(secret[0].strip("\"' ")):
                end = secret.end()
                yield found.end() + secret[0].startswith(("'", '"')), end

    def items(self, texts: Iterable[str]) -> Iterator[str]:
        """Yield arguments, or variables as ``NAME=VALUE``, with their secrets replaced."""
        if not self.patterns:
            yield from texts
            return
        command = Command(self._hides)
        for text in texts:
            begin = command.secret_in(text)
            name, _, value = text.partition("=")
            # A name with a space is a part of a shell's command, which value() examines.
            if begin is None and not SPACE.search(name) and self._hides_value(name, value):
                begin = len(name) + 1
            yield self.value("", text) if begin is None else text[:begin] + MASKED

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

    def _hides_value(self, name: str, value: str) -> bool:
        return bool(value) and not SWITCH.match(value) and self._hides(name)

    def _hides(self, name: str) -> bool:
        name = name[:_NAME_MAX]
        return any(
            self._is_secret(each.lower().translate(_SEPARATORS))
            for each in (name, _WORDS.sub("_", name))
        )


def _replaced(text: str, spans: Iterable[tuple[int, int]]) -> str:
    kept: list[str] = []
    end = 0
    for begin, after in spans:
        kept += text[end:begin], MASKED
        end = after
    return "".join((*kept, text[end:]))


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
