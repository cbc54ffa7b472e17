"""Decodes the bytes of both directions of a connection into entries. No I/O, threads or clock; never raises.

A :class:`Framing` for each direction splits the bytes into messages, which is cheap. One :class:`Decoder` for the
connection parses the messages. An entry of a message that cannot be parsed has a note that says so.
"""

from __future__ import annotations

from typing import NamedTuple

from nri_sync.api.services import PARSE_ERRORS
from nri_sync.errors import RemoteProtocolError
from nri_sync.rpc import envelope_pb2
from nri_sync.testing.recordings.entries import (
    NOTE,
    PLUGIN,
    REQUEST,
    RESPONSE,
    RUNTIME,
    Entry,
    message_type,
)
from nri_sync.wire import ttrpc
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE, FrameDecoder

__all__ = ["Decoder", "Framed", "Framing"]

# The maximum number of requests that wait for their answer. It bounds the memory for unanswered requests.
_PENDING_MAX = 1024


class Framed(NamedTuple):
    """A ttRPC message and the logical connection that carried it; or the reason why no more messages follow."""

    logical: int
    message: ttrpc.Message | None
    problem: str = ""


class Framing:
    """Splits the bytes of one side into messages. Holds at most one incomplete message for each service."""

    def __init__(self) -> None:
        self._frames = FrameDecoder()
        self._ends = {
            PLUGIN_SERVICE: ttrpc.MessageDecoder(),
            RUNTIME_SERVICE: ttrpc.MessageDecoder(),
        }
        self._broken = False

    def receive(self, data: bytes) -> list[Framed]:
        found: list[Framed] = []
        if self._broken:
            return found
        try:
            for logical, piece in self._frames.receive(data):
                if logical in self._ends:
                    found += [Framed(logical, m) for m in self._ends[logical].receive(piece)]
        except RemoteProtocolError as error:
            self._broken = True
            found.append(Framed(0, None, f"not decodable from here on: {error}"))
        return found


class Decoder:
    """Parses the messages of one connection, and matches answers with requests."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        # The method and time of each request without an answer, by logical connection and stream.
        self._pending: dict[tuple[int, int], tuple[str, float]] = {}

    def decode(self, sender: str, framed: Framed, time: float) -> Entry:
        message = framed.message
        if message is None:
            return Entry(NOTE, self._connection, time, sender, note=framed.problem)
        entry = Entry(
            NOTE, self._connection, time, sender, stream=message.stream_id, size=message.length
        )
        # The number of a stream does not show which side has opened the stream, but the logical connection does.
        calls = RUNTIME if framed.logical == PLUGIN_SERVICE else PLUGIN
        if message.type == ttrpc.REQUEST and sender == calls:
            self._request(entry, framed.logical, message.data)
        elif message.type == ttrpc.RESPONSE and sender != calls:
            self._response(entry, framed.logical, message.data)
        else:
            entry.note = f"a message of type {message.type}, which NRI does not use"
        return entry

    def _request(self, entry: Entry, logical: int, data: ttrpc.Data | None) -> None:
        entry.kind = REQUEST
        try:
            envelope = envelope_pb2.Request.FromString(b"" if data is None else bytes(data))
        except PARSE_ERRORS:
            envelope = envelope_pb2.Request()
            entry.note = "not a request of ttRPC"
        entry.rpc = envelope.method
        if envelope.timeout_nano:
            entry.timeout = envelope.timeout_nano / 1e9
        if data is None:
            entry.note = "larger than ttRPC allows"
        elif not entry.note:
            _parse(entry, envelope.payload)
        if len(self._pending) >= _PENDING_MAX:
            del self._pending[next(iter(self._pending))]
        self._pending[logical, entry.stream] = entry.rpc, entry.time

    def _response(self, entry: Entry, logical: int, data: ttrpc.Data | None) -> None:
        entry.kind = RESPONSE
        pending = self._pending.pop((logical, entry.stream), None)
        if pending is not None:
            entry.rpc = pending[0]
            entry.duration = entry.time - pending[1]
        if data is None:
            entry.note = "larger than ttRPC allows"
            return
        try:
            envelope = envelope_pb2.Response.FromString(bytes(data))
        except PARSE_ERRORS:
            entry.note = "not a response of ttRPC"
            return
        if pending is None:
            entry.note = "an answer without a recorded request"
            entry.payload = envelope.payload
        elif envelope.status.code:
            entry.code, entry.error = envelope.status.code, envelope.status.message
        else:
            _parse(entry, envelope.payload)


def _parse(entry: Entry, payload: bytes) -> None:
    kind = message_type(entry.rpc, entry.kind)
    if kind is None:
        entry.note = "a method that this release does not know"
        entry.payload = payload
        return
    try:
        entry.message = kind.FromString(payload)
    except PARSE_ERRORS:
        entry.note = f"not a {kind.DESCRIPTOR.name}"
        entry.payload = payload
        return
    # JSON has no fields of a newer release. The payload keeps them.
    known = kind()
    known.CopyFrom(entry.message)
    known.DiscardUnknownFields()
    if known.ByteSize() != entry.message.ByteSize():
        entry.note = "has fields that this release does not know"
        entry.payload = payload
