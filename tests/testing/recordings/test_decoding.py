"""Bytes in, entries out."""

from __future__ import annotations

import struct

import pytest

from nri_sync import api
from nri_sync.rpc import envelope_pb2
from nri_sync.testing.recordings.decoding import Decoder, Framing
from nri_sync.testing.recordings.entries import NOTE, PLUGIN, REQUEST, RESPONSE, RUNTIME, Entry
from nri_sync.testing.remote import encoded_request
from nri_sync.wire import ttrpc
from nri_sync.wire.mux import PLUGIN_SERVICE, frame_message

__all__: list[str] = []

POD = api.PodSandbox(id="p0", name="web", namespace="default")
# A message whose first field is a text of one byte.
NOT_UTF8 = b"\x0a\x01\x80"


def framed(kind: int, stream: int, data: bytes, connection: int = PLUGIN_SERVICE) -> bytes:
    header = struct.pack(">IIBB", len(data), stream, kind, 0)
    return b"".join(bytes(part) for part in frame_message(connection, header, data))


def answer(stream: int, **fields: object) -> bytes:
    envelope = envelope_pb2.Response(**fields)  # type: ignore[arg-type]
    return framed(ttrpc.RESPONSE, stream, envelope.SerializeToString())


class Both:
    """Both directions of a connection."""

    def __init__(self) -> None:
        self.framings = {RUNTIME: Framing(), PLUGIN: Framing()}
        self.decoder = Decoder(1)

    def tell(self, sender: str, data: bytes, time: float = 0.0) -> list[Entry]:
        found = self.framings[sender].receive(data)
        return [self.decoder.decode(sender, each, time) for each in found]


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_request_and_its_answer(both: Both, step: int) -> None:
    data = encoded_request(3, "RunPodSandbox", pod=POD)
    found = [
        entry
        for start in range(0, len(data), step)
        for entry in both.tell(RUNTIME, data[start : start + step], 1.0)
    ]
    (request,) = found
    assert (request.kind, request.sender, request.rpc) == (REQUEST, RUNTIME, "RunPodSandbox")
    assert (request.stream, request.subject, request.note) == (3, "default/web", "")
    (response,) = both.tell(PLUGIN, answer(3), 1.5)
    assert (response.kind, response.rpc, response.duration) == (RESPONSE, "RunPodSandbox", 0.5)
    assert response.message == api.nri_pb2.RunPodSandboxResponse()


def test_an_error(both: Both) -> None:
    both.tell(RUNTIME, encoded_request(1, "RunPodSandbox", pod=POD))
    status = envelope_pb2.Status(code=2, message="no")
    (response,) = both.tell(PLUGIN, answer(1, status=status))
    assert (response.code, response.error, response.message) == (2, "no", None)


def test_an_answer_to_nothing(both: Both) -> None:
    (response,) = both.tell(PLUGIN, answer(9, payload=b"x"))
    assert (response.rpc, response.payload) == ("", b"x")
    assert "without a recorded request" in response.note


def test_a_method_of_the_future(both: Both) -> None:
    envelope = envelope_pb2.Request(service="s", method="Dance", payload=b"\x08\x01")
    data = framed(ttrpc.REQUEST, 1, envelope.SerializeToString())
    (request,) = both.tell(RUNTIME, data)
    assert (request.rpc, request.message, request.payload) == ("Dance", None, b"\x08\x01")
    assert "does not know" in request.note


def test_a_field_of_the_future(both: Both) -> None:
    payload = POD.SerializeToString() + b"\xf8\x3f\x01"  # field 1023
    request = api.nri_pb2.RunPodSandboxRequest()
    request.pod.ParseFromString(payload)
    data = encoded_request(1, "RunPodSandbox", request)
    (entry,) = both.tell(RUNTIME, data)
    assert entry.message.pod.name == "web"
    assert entry.payload == request.SerializeToString()
    assert "does not know" in entry.note


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (framed(ttrpc.REQUEST, 1, b"\xff"), "not a request"),
        (framed(ttrpc.REQUEST, 1, NOT_UTF8), "not a request"),
        (framed(ttrpc.DATA, 1, b"x"), "type 3"),
        (framed(77, 1, b"x"), "type 77"),
        (answer(1), "does not use"),
        (b"\0\0\0\1\xff\xff\xff\xff", "not decodable"),
        (
            framed(
                ttrpc.REQUEST,
                1,
                envelope_pb2.Request(method="Configure", payload=b"\xff").SerializeToString(),
            ),
            "not a ConfigureRequest",
        ),
        (
            framed(
                ttrpc.REQUEST,
                1,
                envelope_pb2.Request(method="Configure", payload=NOT_UTF8).SerializeToString(),
            ),
            "not a ConfigureRequest",
        ),
        (framed(ttrpc.REQUEST, 1, bytes(ttrpc.MESSAGE_MAX + 1)), "larger"),
    ],
)
def test_undecodable_messages(both: Both, data: bytes, text: str) -> None:
    (entry,) = both.tell(RUNTIME, data)
    assert text in entry.note


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x03\x12\x01\x80"])
def test_an_undecodable_answer(both: Both, data: bytes) -> None:
    both.tell(RUNTIME, encoded_request(1, "RunPodSandbox", pod=POD))
    (entry,) = both.tell(PLUGIN, framed(ttrpc.RESPONSE, 1, data))
    assert (entry.rpc, entry.note) == ("RunPodSandbox", "not a response of ttRPC")


def test_after_a_frame_without_sense_no_more_is_read(both: Both) -> None:
    (entry,) = both.tell(RUNTIME, b"\0\0\0\1\xff\xff\xff\xff" + b"x" * 100)
    assert entry.kind == NOTE
    assert both.tell(RUNTIME, encoded_request(1, "RunPodSandbox", pod=POD)) == []


def test_other_connections_are_passed_over(both: Both) -> None:
    assert both.tell(RUNTIME, framed(ttrpc.REQUEST, 1, b"x", connection=9)) == []


def test_requests_without_an_answer_do_not_pile_up(both: Both) -> None:
    for stream in range(1, 4001, 2):
        both.tell(RUNTIME, encoded_request(stream, "Shutdown"))
    (forgotten,) = both.tell(PLUGIN, answer(1))
    assert "without a recorded request" in forgotten.note
    (kept,) = both.tell(PLUGIN, answer(3999))
    assert kept.rpc == "Shutdown"
