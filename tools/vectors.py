"""Writes the test vectors in docs/vectors with the encoders of this package; ``--check`` only compares.

docs/vectors/check.py, which shares no code with this package, verifies the vectors.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from nri_sync import api
from nri_sync.rpc.envelope_pb2 import KeyValue, Request, Response, Status
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE, frame_message
from nri_sync.wire.ttrpc import (
    DATA,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    encode_header,
)

__all__ = ["DIRECTORY", "main", "vectors"]

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "vectors"
_PLUGIN = "nri.pkg.api.v1alpha1.Plugin"
_RUNTIME = "nri.pkg.api.v1alpha1.Runtime"
POD = api.PodSandbox(id="pod0", name="web", uid="uid0", namespace="default")
CONTAINER = api.Container(id="ctr0", pod_sandbox_id="pod0", name="nginx")
_Sent = tuple[bytes, dict[str, Any]]


def _sent(
    kind: str,
    number: int,
    connection: int,
    stream: int,
    data: bytes,
    flags: int,
    parts: dict[str, Any],
) -> _Sent:
    header = encode_header(number, stream, flags, len(data))
    wire = b"".join(frame_message(connection, header, data))
    head = {"connection": connection, "stream": stream, "type": kind, "flags": flags}
    return wire, {**head, **parts}


def _request(
    method: str,
    message: Message,
    stream: int,
    *,
    flags: int = 0,
    service: str = _PLUGIN,
    seconds: int = 0,
    metadata: dict[str, str] | None = None,
) -> _Sent:
    pairs = [KeyValue(key=key, value=value) for key, value in (metadata or {}).items()]
    payload = message.SerializeToString(deterministic=True)
    envelope = Request(
        service=service,
        method=method,
        payload=payload,
        timeout_nano=seconds * 10**9,
        metadata=pairs,
    )
    parts = {
        "service": service,
        "method": method,
        "timeout_nano": envelope.timeout_nano,
        "metadata": [[pair.key, pair.value] for pair in pairs],
        "payload": payload.hex(),
        "json": _json(message),
    }
    connection = RUNTIME_SERVICE if service == _RUNTIME else PLUGIN_SERVICE
    return _sent("request", REQUEST, connection, stream, envelope.SerializeToString(), flags, parts)


def _response(message: Message, stream: int, connection: int = PLUGIN_SERVICE) -> _Sent:
    payload = message.SerializeToString(deterministic=True)
    parts = {"code": 0, "message": "", "payload": payload.hex(), "json": _json(message)}
    data = Response(payload=payload).SerializeToString()
    return _sent("response", RESPONSE, connection, stream, data, 0, parts)


def _error(code: int, text: str, stream: int) -> _Sent:
    parts = {"code": code, "message": text, "payload": ""}
    data = Response(status=Status(code=code, message=text)).SerializeToString()
    return _sent("response", RESPONSE, PLUGIN_SERVICE, stream, data, 0, parts)


def _data(data: bytes, stream: int, flags: int = 0) -> _Sent:
    return _sent("data", DATA, PLUGIN_SERVICE, stream, data, flags, {"data": data.hex()})


def _json(message: Message) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


def _step(side: str, *sent: _Sent) -> dict[str, Any]:
    return {
        "from": side,
        "canonical": True,
        "hex": b"".join(wire for wire, _ in sent).hex(),
        "messages": [message for _, message in sent],
    }


def _frame(connection: int, payload: bytes) -> bytes:
    return struct.pack(">II", connection, len(payload)) + payload


def _event(
    method: str,
    message: Message,
    answer: Message | _Sent,
    stream: int,
    metadata: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """A call of the runtime, and the plugin's answer."""
    answered = answer if isinstance(answer, tuple) else _response(answer, stream)
    request = _request(method, message, stream, seconds=2, metadata=metadata)
    return [_step("runtime", request), _step("plugin", answered)]


def _call(method: str, message: Message, answer: Message, stream: int, seconds: int) -> Any:
    """A call of the plugin, and the runtime's answer."""
    request = _request(method, message, stream, service=_RUNTIME, seconds=seconds)
    return [_step("plugin", request), _step("runtime", _response(answer, stream, RUNTIME_SERVICE))]


def _session() -> dict[str, Any]:
    """The messages of a session: each vector has a line of text, and its steps."""
    register = api.RegisterPluginRequest(
        plugin_name="example", plugin_idx="10", NRI_version="v0.12.5"
    )
    configure = api.ConfigureRequest(
        runtime_name="containerd",
        runtime_version="v2.4.0",
        registration_timeout=5000,
        request_timeout=2000,
        NRI_version="v0.12.3",
    )
    adjustment = api.Adjustment().add_env("POD", "web").add_annotation("example.com/seen", "yes")
    create = api.CreateContainerRequest(pod=POD, container=CONTAINER)
    created = api.CreateContainerResponse(adjust=adjustment.message)
    update = api.Update("ctr0").set_memory(limit=1 << 30).message
    run = api.RunPodSandboxRequest(pod=POD)
    change = api.StateChangeEvent(event=api.Event.RUN_POD_SANDBOX, pod=POD)
    first = api.SynchronizeRequest(pods=[POD], more=True)
    rest = api.SynchronizeRequest(containers=[CONTAINER])
    updated = api.UpdateContainersRequest(update=[update])
    return {
        "register": (
            "The plugin registers, on connection 2, with five seconds for the answer.",
            _call("RegisterPlugin", register, api.Empty(), 1, 5),
        ),
        "configure": (
            "The plugin subscribes to CreateContainer: bit 1 << (4 - 1).",
            _event("Configure", configure, api.ConfigureResponse(events=8), 1),
        ),
        "synchronize": (
            "The state in two parts. The first answer repeats more; the last one has the updates.",
            _event("Synchronize", first, api.SynchronizeResponse(more=True), 3)
            + _event("Synchronize", rest, api.SynchronizeResponse(update=[update]), 5),
        ),
        "create-container": (
            "An event with an answer: a variable and an annotation.",
            _event("CreateContainer", create, created, 7),
        ),
        "state-change": (
            "A runtime before NRI v0.12 sends StateChange; a newer one does so after UNIMPLEMENTED.",
            _event("RunPodSandbox", run, _error(12, "method RunPodSandbox", 9), 9)
            + _event("StateChange", change, api.Empty(), 11),
        ),
        "update-containers": (
            "The plugin updates a container outside of an event. The answer has the failed updates.",
            _call("UpdateContainers", updated, api.UpdateContainersResponse(failed=[update]), 3, 2),
        ),
        "refusal": (
            "An error of a handler: a status instead of a payload. The connection goes on.",
            _event("CreateContainer", create, _error(7, "no more devices", 13), 13, {"trace": "1"}),
        ),
    }


def _wire() -> dict[str, Any]:
    """The forms of frames and messages, and common mistakes."""
    large = api.Adjustment().add_annotation("example.com/large", "x" * 5000).message
    small, answer = _response(api.Empty(), 9)
    inner = small[8:]
    cuts = [
        (PLUGIN_SERVICE, inner[:3]),
        (PLUGIN_SERVICE, b""),
        (7, b"dropped"),
        (0, b"dropped"),
        (PLUGIN_SERVICE, inner[3:]),
    ]
    cut = b"".join(_frame(connection, payload) for connection, payload in cuts)
    too_large = small + struct.pack(">II", PLUGIN_SERVICE, 4194315)
    sent = {"from": "runtime", "messages": [answer]}
    stream = [
        _request("Collect", api.Empty(), 1, flags=REMOTE_OPEN | NO_DATA, service="example.Streams"),
        _data(b"", 1),
        _data(b"\x0a\x01b", 1),
        _data(b"", 1, REMOTE_CLOSED | NO_DATA),
    ]
    return {
        "large-message": (
            "A first frame of exactly 4096 bytes, then one with the rest. Other cuts break Go peers.",
            [_step("plugin", _response(api.CreateContainerResponse(adjust=large), 7))],
        ),
        "any-cuts": (
            "Receivers accept any cuts, empty frames, and unknown connections. Do not write this.",
            [{**sent, "hex": cut.hex()}],
        ),
        "streams": (
            "A stream of requests in ttRPC: no message, an empty message, another, the end. NRI has none.",
            [_step("runtime", *stream), _step("plugin", _response(api.Empty(), 1))],
        ),
        "wrong-stream-ids": (
            "A client's stream ids are odd and grow. The answer to others is INVALID_ARGUMENT.",
            _event("Shutdown", api.Empty(), _error(3, "", 2), 2)
            + _event("Shutdown", api.Empty(), api.Empty(), 5)
            + _event("Shutdown", api.Empty(), _error(3, "", 3), 3),
        ),
        "frame-too-large": (
            "A frame of more than 4194314 bytes ends the connection, before any of it is allocated.",
            [{**sent, "hex": too_large.hex(), "error": "frame too large"}],
        ),
        "truncated": (
            "The connection ends inside a frame.",
            [
                {
                    **sent,
                    "hex": small[:-1].hex(),
                    "messages": [],
                    "error": "the end is inside a frame",
                }
            ],
        ),
    }


def vectors() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        f"{name}.json": json.dumps({"about": about, "steps": steps}, indent=1) + "\n"
        for name, (about, steps) in {**_session(), **_wire()}.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Write the vectors; with ``--check``, return 1 if one is not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    stale = 0
    for name, text in vectors().items():
        path = DIRECTORY / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale += 1
            print(f"{name} is not current")
            if not arguments.check:
                path.write_text(text, encoding="utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
