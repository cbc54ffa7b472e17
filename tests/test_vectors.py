"""The test vectors of the protocol: current, and valid for a checker without this package and for the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from nri_sync.api.services import PLUGIN, RUNTIME
from nri_sync.errors import RemoteProtocolError
from nri_sync.rpc.envelope_pb2 import Request, Response
from nri_sync.wire.mux import FrameDecoder
from nri_sync.wire.ttrpc import DATA, REQUEST, MessageDecoder
from tools import vectors

__all__: list[str] = []

FILES = sorted(vectors.DIRECTORY.glob("*.json"))
CHECKER = vectors.DIRECTORY / "check.py"


def run_checker(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Isolated and without site-packages, so that no part of this package can be imported.
    return subprocess.run(
        [sys.executable, "-I", "-S", str(CHECKER), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_files_are_current() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in FILES} == vectors.vectors()


def test_the_checker_needs_nothing_else() -> None:
    done = run_checker()
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok\n") == len(FILES) > 10


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"method": "RegisterPlugin"', '"method": "Register"'),
        ('"stream": 1', '"stream": 3'),
        ('"timeout_nano": 5000000000', '"timeout_nano": 5'),
        ('"hex": "00000002', '"hex": "00000001'),
        ('"code": 0', '"code": 2'),
    ],
)
def test_the_checker_finds_a_wrong_vector(old: str, new: str, tmp_path: Path) -> None:
    text = (vectors.DIRECTORY / "register.json").read_text()
    assert old in text
    wrong = tmp_path / "wrong.json"
    wrong.write_text(text.replace(old, new))
    assert run_checker(str(wrong)).returncode == 1


def read_here(data: bytes, size: int) -> list[dict[str, Any]]:
    """The messages as this package reads them."""
    frames, decoders = FrameDecoder(), {1: MessageDecoder(), 2: MessageDecoder()}
    found = []
    for at in range(0, len(data), size):
        for connection, piece in frames.receive(data[at : at + size]):
            if connection not in decoders:
                continue
            for message in decoders[connection].receive(piece):
                assert message.data is not None
                part: dict[str, Any] = {
                    "connection": connection, "stream": message.stream_id, "flags": message.flags
                }  # fmt: skip
                if message.type == DATA:
                    part["data"] = bytes(message.data).hex()
                elif message.type == REQUEST:
                    request = Request.FromString(bytes(message.data))
                    part |= {"method": request.method, "payload": request.payload.hex()}
                else:
                    response = Response.FromString(bytes(message.data))
                    part |= {"code": response.status.code, "payload": response.payload.hex()}
                found.append(part)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_this_package_reads_them(path: Path) -> None:
    for step in json.loads(path.read_text())["steps"]:
        data = bytes.fromhex(step["hex"])
        if "error" in step:
            if "large" in step["error"]:
                with pytest.raises(RemoteProtocolError):
                    read_here(data, len(data))
            continue
        for size in (len(data), 7, 1):
            for found, expected in zip(read_here(data, size), step["messages"]):
                assert found.items() <= expected.items()
            assert len(read_here(data, size)) == len(step["messages"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_json_is_the_payload(path: Path) -> None:
    methods = {**PLUGIN.methods, **RUNTIME.methods}
    asked: dict[Any, str] = {}
    for step in json.loads(path.read_text())["steps"]:
        for message in step["messages"]:
            call = (message["connection"], message["stream"])
            if message["type"] == "request":
                asked[call] = message["method"]
            method = methods.get(asked.get(call, ""))
            if method is None or "json" not in message:
                continue
            kind = method.request if message["type"] == "request" else method.response
            parsed = ParseDict(message["json"], kind())
            assert parsed == kind.FromString(bytes.fromhex(message["payload"]))
