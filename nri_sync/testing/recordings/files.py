"""Recordings: the entries of a proxy, as lines of JSON in a file.

The first line is ``{"nri_sync_recording": 1, ...}``, where 1 is the version of the format. Each further line is an
entry, with the non-empty fields of :class:`.Entry`. Messages are in protobuf's JSON, with the field names of the
schema. If the JSON lacks a part of a message, the entry also has the whole message as ``payload``, in base64.
"""

from __future__ import annotations

import base64
import json
import operator
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

import nri_sync
from nri_sync.api.services import PARSE_ERRORS
from nri_sync.files import replace_file
from nri_sync.kit.config.foreign import Bounds, parse_json
from nri_sync.kit.logs.masking import Mask
from nri_sync.testing.recordings.entries import Entry, message_type
from nri_sync.text import printable, quoted

__all__ = [
    "FORMAT",
    "LINE",
    "Recorder",
    "Recording",
    "RecordingError",
    "from_json",
    "masked",
    "to_json",
]

#: The version of the format.
FORMAT = 1
#: The limits of one line. A message has at most 4 MiB, and less than 16 MiB in JSON; the payload comes on top.
LINE = Bounds(bytes=32 << 20, values=4_000_000)
# The maximum length of a quotation from the recording in an error's text, in characters.
_QUOTED = 300
# The greatest time in an entry: 30 years.
_SECONDS_MAX = 1_000_000_000

_VERSION = "nri_sync_recording"
# The keys in the file, and the names of the entry's fields.
_TEXTS = {"from": "sender", "rpc": "rpc", "error": "error", "note": "note"}
_NUMBERS = {"stream": "stream", "size": "size", "code": "code"}
_TIMES = {"duration": "duration", "timeout": "timeout"}


class RecordingError(ValueError):
    """A file is no valid recording; the text has its name and the line."""

    def __str__(self) -> str:
        return printable(super().__str__())


def to_json(entry: Entry) -> dict[str, Any]:
    """The JSON object for an entry."""
    values: dict[str, Any] = {
        "time": round(entry.time, 6),
        "connection": entry.connection,
        "kind": entry.kind,
    }
    for key, name in {**_TEXTS, **_NUMBERS}.items():
        if getattr(entry, name):
            values[key] = getattr(entry, name)
    for key, name in _TIMES.items():
        if getattr(entry, name) is not None:
            values[key] = round(getattr(entry, name), 6)
    if entry.message is not None:
        values["message"] = MessageToDict(entry.message, preserving_proto_field_name=True)
    if entry.payload is not None:
        values["payload"] = base64.b64encode(entry.payload).decode()
    return values


def from_json(values: Mapping[str, Any]) -> Entry:
    """The entry of a JSON object. Raises ValueError, TypeError, OverflowError or KeyError if it is no entry."""
    if not isinstance(values, Mapping):
        raise TypeError("not an object of JSON")
    entry = Entry(
        str(values["kind"]), operator.index(values["connection"]), _seconds(values["time"])
    )
    for key, name in _TEXTS.items():
        setattr(entry, name, str(values.get(key, "")))
    for key, name in _NUMBERS.items():
        setattr(entry, name, operator.index(values.get(key, 0)))
    for key, name in _TIMES.items():
        setattr(entry, name, None if key not in values else _seconds(values[key]))
    if "payload" in values:
        entry.payload = base64.b64decode(values["payload"], validate=True)
    if "message" in values:
        kind = message_type(entry.rpc, entry.kind)
        if kind is None:
            raise ValueError(f"{entry.rpc!r} is no method of NRI")
        try:
            # If there is a payload, the JSON is incomplete.
            entry.message = (
                ParseDict(values["message"], kind())
                if entry.payload is None
                else kind.FromString(entry.payload)
            )
        except (ParseError, *PARSE_ERRORS) as error:
            raise ValueError(printable(error, _QUOTED)) from error
    return entry


def _seconds(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"a number of seconds is needed, not {type(value).__name__}")
    if not 0 <= value <= _SECONDS_MAX:
        raise ValueError(f"{quoted(value)} is not a number of seconds from 0 to {_SECONDS_MAX:,}")
    return float(value)


def masked(entry: Entry, mask: Mask) -> Entry:
    """A copy of the entry without secrets; the entry itself if the mask is empty.

    The copy has no bytes of unknown meaning, which are methods and fields of a newer release.
    """
    if not mask:
        return entry
    message = None if entry.message is None else mask.message(entry.message)
    return replace(entry, message=message, payload=None)


class Recorder:
    """Writes entries to a file, and flushes each. Not thread-safe."""

    def __init__(self, file: TextIO, **about: Any) -> None:
        """Writes the first line. ``about`` adds fields that describe the recording."""
        self._file = file
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._line({_VERSION: FORMAT, "began": now, "nri_sync": nri_sync.__version__, **about})

    def write(self, entry: Entry) -> None:
        self._line(to_json(entry))

    def _line(self, values: Mapping[str, Any]) -> None:
        self._file.write(_as_line(values))
        self._file.flush()


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The complete lines. A line that is too long is yielded without its end."""
    while True:
        line = file.readline(LINE.bytes + 1)
        if not line.endswith(b"\n") and len(line) <= LINE.bytes:
            return
        yield line


def _as_line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"


@dataclass
class Recording:
    """A recording in memory."""

    path: str
    about: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a file. If its last line has no end, the recorder did not finish it, and it is ignored.

        Raises:
            OSError: the file cannot be read.
            RecordingError: the file is no recording, or has another version of the format, or a line exceeds
                :data:`LINE`.
        """
        recording = cls(os.fspath(path))
        number = 0
        with open(path, "rb") as file:
            for number, line in enumerate(_lines(file), 1):
                try:
                    recording._take(line, first=number == 1)
                except KeyError as error:
                    raise RecordingError(f"{path}, line {number}: has no {error}") from error
                except (ValueError, TypeError, OverflowError) as error:
                    raise RecordingError(f"{path}, line {number}: {error}") from error
            if not number:
                problem = "not a recording" if file.tell() else "an empty recording"
                raise RecordingError(
                    f"{path}: {problem}; make one with nri-sync trace --record FILE"
                )
        return recording

    def _take(self, line: bytes, *, first: bool) -> None:
        """Add the content of a line. Raises the exceptions of :func:`from_json`."""
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"not a recording: {error}") from None
        values = parse_json(text, LINE)
        if first:
            self.about = _about(values)
        else:
            self.entries.append(from_json(values))

    def write(self) -> None:
        """Replace the whole file atomically. Raises OSError."""
        path = Path(self.path).resolve()
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        replace_file(path, "".join(map(_as_line, self._as_json())).encode(), mode)

    def _as_json(self) -> Iterable[Mapping[str, Any]]:
        yield self.about
        for entry in self.entries:
            yield to_json(entry)


def _about(values: Any) -> dict[str, Any]:
    version = values.get(_VERSION) if isinstance(values, dict) else None
    if version is None:
        raise ValueError("not a recording; make one with nri-sync trace --record FILE")
    if version != FORMAT:
        raise ValueError(
            f"a recording in format {version}; this release reads format {FORMAT} only"
        )
    return dict(values)
