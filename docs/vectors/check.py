"""Check the test vectors of the NRI protocol: python3 check.py [FILE.json ...].

This file needs the standard library alone, and is a second implementation of the wire format, small enough to read
beside protocol.md. It reads the bytes of each step whole and one byte at a time, compares the messages, writes
the messages of a canonical step, and compares the bytes.

A vector is a JSON object: "about", and "steps". A step has "from" (the sender: "plugin" or "runtime"), "hex" (the
bytes on the socket), and "messages". A message has "connection", "stream", "type", "flags", and by its type:

    request   "service", "method", "timeout_nano", "metadata" (pairs), "payload" (hex)
    response  "code", "message", "payload" (hex); code 0 is success
    data      "data" (hex)

"json" has the payload in protobuf's JSON form, for readers with the schema; this file does not read it. A step
with "canonical": true is written in exactly these bytes. A step with "error" ends the connection; its messages
come before the error. Frames for other connections than 1 and 2 are dropped.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["ProtocolError", "check", "read", "write"]

MESSAGE_MAX = 4 << 20
FRAME_MAX = MESSAGE_MAX + 10
FIRST_FRAME_MAX = 4096
TYPES = {1: "request", 2: "response", 3: "data"}
Fields = dict[int, list[Any]]


class ProtocolError(Exception):
    """The peer's bytes cannot be read any further."""


def frames(chunks: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """The mux: connection id and payload of each frame."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= 8:
            connection, length = struct.unpack(">II", buffer[:8])
            if length > FRAME_MAX:
                raise ProtocolError("frame too large")
            if len(buffer) < 8 + length:
                break
            yield connection, buffer[8 : 8 + length]
            buffer = buffer[8 + length :]
    if buffer:
        raise ProtocolError("the end is inside a frame")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf varint, and the place behind it."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def fields(data: bytes) -> Fields:
    """The fields of a protobuf message: numbers as int, all else as bytes."""
    found: Fields = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value: Any
            value, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise ProtocolError("an envelope has no such wire type")
        found.setdefault(key >> 3, []).append(value)
    return found


def last(found: Fields, number: int, default: Any) -> Any:
    return found.get(number, [default])[-1]


def envelope(kind: str, data: bytes) -> dict[str, Any]:
    """The parts of a message's data."""
    if kind == "data":
        return {"data": data.hex()}
    found = fields(data)
    if kind == "request":
        timeout = last(found, 4, 0)
        pairs = [fields(pair) for pair in found.get(5, [])]
        return {
            "service": last(found, 1, b"").decode(),
            "method": last(found, 2, b"").decode(),
            "timeout_nano": timeout - (1 << 64) if timeout >> 63 else timeout,
            "metadata": [[last(pair, n, b"").decode() for n in (1, 2)] for pair in pairs],
            "payload": last(found, 3, b"").hex(),
        }
    status = fields(last(found, 1, b""))
    return {
        "code": last(status, 1, 0),
        "message": last(status, 2, b"").decode(),
        "payload": last(found, 2, b"").hex(),
    }


def read(chunks: list[bytes]) -> Iterator[dict[str, Any]]:
    """The messages of connections 1 and 2, as the vectors have them."""
    buffers = {1: b"", 2: b""}
    for connection, payload in frames(chunks):
        if connection not in buffers:
            continue
        data = buffers[connection] + payload
        while len(data) >= 10:
            length, stream, number, flags = struct.unpack(">IIBB", data[:10])
            if length > MESSAGE_MAX:
                raise ProtocolError("message too large")  # an answer and a skip, in a real peer
            if len(data) < 10 + length:
                break
            kind = TYPES.get(number, str(number))
            head = {"connection": connection, "stream": stream, "type": kind, "flags": flags}
            yield {**head, **envelope(kind, data[10 : 10 + length])}
            data = data[10 + length :]
        buffers[connection] = data


def field(number: int, value: bytes | int) -> bytes:
    """A protobuf field; an empty one is left out."""
    if not value:
        return b""
    if isinstance(value, int):
        return number_of(number << 3) + number_of(value & ((1 << 64) - 1))
    return number_of(number << 3 | 2) + number_of(len(value)) + value


def number_of(value: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def write(message: dict[str, Any]) -> bytes:
    """The bytes of a message on the socket, in the shape that Go peers can read."""
    kind = message["type"]
    if kind == "data":
        data = bytes.fromhex(message["data"])
    elif kind == "request":
        data = field(1, message["service"].encode()) + field(2, message["method"].encode())
        data += field(3, bytes.fromhex(message["payload"])) + field(4, message["timeout_nano"])
        for key, value in message["metadata"]:
            data += field(5, field(1, key.encode()) + field(2, value.encode()))
    else:
        data = field(1, field(1, message["code"]) + field(2, message["message"].encode()))
        data += field(2, bytes.fromhex(message["payload"]))
    number = {name: number for number, name in TYPES.items()}[kind]
    data = struct.pack(">IIBB", len(data), message["stream"], number, message["flags"]) + data
    parts = [part for part in (data[:FIRST_FRAME_MAX], data[FIRST_FRAME_MAX:]) if part]
    return b"".join(struct.pack(">II", message["connection"], len(part)) + part for part in parts)


def check(vector: dict[str, Any]) -> list[str]:
    """The errors of a vector, or of this file."""
    wrong = []
    for number, step in enumerate(vector["steps"], 1):
        data = bytes.fromhex(step["hex"])
        expected = [
            {key: part for key, part in message.items() if key != "json"}
            for message in step["messages"]
        ]
        for chunks in ([data], [data[at : at + 1] for at in range(len(data))]):
            found, error = [], None
            try:
                for message in read(chunks):
                    found.append(message)
            except ProtocolError as raised:
                error = str(raised)
            if (found, error) != (expected, step.get("error")):
                wrong.append(f"step {number}: read {found}, {error}")
        if step.get("canonical") and b"".join(map(write, expected)) != data:
            wrong.append(f"step {number}: the messages are written in other bytes")
    return wrong


def main(paths: list[str]) -> int:
    files = [Path(path) for path in paths] or sorted(Path(__file__).parent.glob("*.json"))
    failed = 0
    for path in files:
        wrong = check(json.loads(path.read_text(encoding="utf-8")))
        print(f"{path.name}: {'ok' if not wrong else '; '.join(wrong)}")
        failed += bool(wrong)
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
