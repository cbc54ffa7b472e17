"""docs/ttrpc.md says of each behaviour of grpcio whether nri_sync.ttrpc has it: each row is tried with both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.ttrpc.probes import PROBES

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENT = (ROOT / "docs" / "ttrpc.md").read_text()

# The oldest grpcio that the rows describe: others lack methods, and word errors in another way.
NEW_ENOUGH = (1, 81)

#: The behaviour of nri_sync.ttrpc where it differs.
HERE: dict[str, Any] = {
    "Channel: a connection that is lost": ["UNAVAILABLE", "UNAVAILABLE"],
    "Channel: a call on a closed channel": "CANCELLED",
    "Channel: a path without a listener": "FileNotFoundError",
    "Channel: call credentials": "ValueError",
    "Channel: compression": "ValueError",
    "Channel: binary metadata": "ValueError",
    "Channel: metadata keys with capitals": "returned b''",
    "Channel: a message of more than 4 MiB": "RESOURCE_EXHAUSTED",
    "Channel: a timeout of `math.inf`, or of more seconds than the clock has": ["returned b'r'"]
    * 2,
    "Channel: metadata keys with spaces, values beyond ASCII": ["returned b''"] * 2,
    "Channel: a method without a leading slash": "returned b''",
    "Channel: requests that are a list, and no iterator": "returned b'ab'",
    "Channel: a request that is a bytearray or memoryview": ["returned b'x'"] * 2,
    "Channel: subscribers at `close()`": "SHUTDOWN",
    "Call: `future.exception() is future`; a call is a `grpc.RpcError`": [False] * 3,
    "Call: `is_active()`, `time_remaining()`, `add_callback()` of an error": [
        "returned False",
        "returned None",
        "returned False",
    ],
    "Call: `result()` of a stream before it is consumed, with a deadline": "returned True",
    "Call: `next()` by several threads at once": ["0", "1", "2", "3", "4"],
    "Call: the method `next()` of a stream, beside `__next__()`": False,
    "Call: `time_remaining()` of the call from `with_call()`": False,
    "Call: details of errors that the library itself makes": "cancelled by the caller",
    "Call: the handler of a call that was cancelled, or whose time is over": False,
    "Call: messages that have arrived when the deadline passes": ["1", "2", "3", "4"],
    "Call: `exception()`, `result()` of a stream that has been consumed": [None, "returned False"],
    "Call: `initial_metadata()`": [],
    "Call: metadata whose value is None": "TypeError",
    "Call: an error in `pickle`": "returned 'ABORTED'",
    "ServicerContext: `abort(3, ...)`, `set_code(3)`: a number for the code": ["INVALID_ARGUMENT"]
    * 2,
    "ServicerContext: `set_code(None)`": "raises TypeError",
    "ServicerContext: `cancel()`: the result": [True],
    "ServicerContext: requests: `.next()` of the iterator": "UNKNOWN",
    "ServicerContext: details that are None": ["ABORTED", ""],
    "ServicerContext: `abort_with_status()` with other metadata": ["UNKNOWN", True],
    "ServicerContext: `set_code(StatusCode.OK)`, then an exception": "UNKNOWN",
    "ServicerContext: `abort(StatusCode.OK, ...)`": [
        "UNKNOWN",
        "ValueError: abort() needs an error code, not StatusCode.OK",
    ],
    "ServicerContext: `details()` when they are set": "str",
    "ServicerContext: `auth_context()`": False,
    "ServicerContext: `peer()`": "unix:PATH",
    "ServicerContext: metadata of the transport: `user-agent`": [],
    "ServicerContext: `time_remaining()` without a deadline": [None],
    "ServicerContext: `send_initial_metadata()`": "raises ValueError",
    "ServicerContext: `set_trailing_metadata()`": "raises ValueError",
    "ServicerContext: `set_compression()`": "raises ValueError",
    "ServicerContext: `trailing_metadata()` before it is set": [],
    "Server: registered handlers that are added after `start()`": "returned b'late'",
    "Server: an object that is no handler": "TypeError",
    "Server: a handler that raises: the details": "ValueError: x",
    "Server: a handler that raises TimeoutError, FileNotFoundError or the error of another call": (
        "DEADLINE_EXCEEDED"
    ),
    "Server: a handler that returns None": "UNKNOWN",
    "Server: a handler, or serializer, that returns no bytes: a number, text": ["INTERNAL"] * 3,
    "Server: a handler of a stream that yields None": ["1", "UNKNOWN"],
    "Server: a handler of a stream that returns a list": ["1", "2"],
    "Server: a handler that raises SystemExit, or another BaseException": "UNKNOWN",
    "Server: requests that are read at the deadline of the call": [
        ["TimeoutError"],
        "DEADLINE_EXCEEDED",
    ],
    "Server: requests that are read after the answer": "RpcError",
    "Server: a stream method that is called as unary": "INVALID_ARGUMENT",
    "Server: a method with one request that is called with a stream": "",
    "Server: the same address twice": "RuntimeError",
    "Interceptors: servers: an object that is no interceptor": "TypeError",
    "Server: an address that is no unix socket": "ValueError",
    "Server: `add_secure_port()`": "ValueError",
    "Server: a server that is dropped without `stop()`": False,
}


def rows() -> dict[str, str]:
    """The rows of the document, by section and behaviour."""
    part = DOCUMENT.partition("\n## Beside grpcio\n")[2]
    found: dict[str, str] = {}
    for section in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0]
        for behaviour, here in re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE):
            if behaviour != "behaviour":
                found[f"{name}: {behaviour}"] = here
    return found


ROWS = rows()


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """The results of the probes, by kind."""
    with futures.ThreadPoolExecutor(2) as pool:
        kinds = ["ttrpc", "grpcio"]
        return dict(zip(kinds, pool.map(_probed, kinds)))


def _probed(kind: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ttrpc.probes", kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_probe_has_its_row() -> None:
    assert set(ROWS) == {f"{section}: {row}" for section, row in PROBES}


def test_every_row_has_a_kind() -> None:
    assert [
        row for row, here in ROWS.items() if not re.match(r"same(: |$)|different: |cannot: ", here)
    ] == []
    assert {row for row, here in ROWS.items() if not here.startswith("same")} == set(HERE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", [row for row in ROWS if row in HERE])
def test_another_behaviour(row: str, results: dict[str, dict[str, Any]]) -> None:
    assert results["ttrpc"][row] == HERE[row]


def _needs_a_new_grpcio() -> None:
    version = tuple(map(int, grpc.__version__.split(".")[:2]))
    if version < NEW_ENOUGH:
        pytest.skip(f"grpcio {grpc.__version__} is older than the one that the document describes")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", ROWS)
def test_beside_grpcio(row: str, results: dict[str, dict[str, Any]]) -> None:
    _needs_a_new_grpcio()
    ours, theirs = results["ttrpc"][row], results["grpcio"][row]
    if row in HERE:
        assert ours != theirs
    else:
        assert ours == theirs
