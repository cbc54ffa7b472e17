"""Fuzz target: the whole runtime side on a socket, with a plugin that sends the messages of the input.

The first byte says whether the plugin registers first, and answers Configure. After any messages,
the runtime closes the connection soon after the plugin has and serves another plugin, no thread ends by an
exception, and log records stay short.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from pathlib import Path

import nri_sync
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.services import RUNTIME
from nri_sync.errors import NRIError
from nri_sync.rpc import envelope_pb2
from nri_sync.runtime import Runtime
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE
from nri_sync.wire.ttrpc import REQUEST, RESPONSE
from tests.fuzz.peers import LONG, drain, message, request, sent, watched

__all__ = ["one_input"]

_METHODS = sorted(RUNTIME.methods)
_REGISTER = nri_pb2.RegisterPluginRequest(
    plugin_name="fuzzed", plugin_idx="20", NRI_version="v0.12.5"
)
_ANSWER = envelope_pb2.Response(
    payload=nri_pb2.ConfigureResponse(events=int(EventMask.ALL)).SerializeToString()
)
_PREFIX = message(
    RUNTIME_SERVICE, REQUEST, 1,
    request(RUNTIME.full_name, "RegisterPlugin", _REGISTER.SerializeToString()),
) + message(PLUGIN_SERVICE, RESPONSE, 1, _ANSWER.SerializeToString())  # fmt: skip
_POD = nri_pb2.PodSandbox(id="pod0", name="pod", namespace="default")
_CONTAINER = nri_pb2.Container(id="ctr0", pod_sandbox_id="pod0", name="ctr")


class _Resident(nri_sync.Plugin):
    """The other plugin."""

    def create_container(self, pod, container):  # type: ignore[no-untyped-def]
        return nri_pb2.ContainerAdjustment(annotations={"resident": "yes"})


_directory = tempfile.TemporaryDirectory(prefix="fuzz-runtime")
_path = Path(_directory.name) / "nri.sock"
_runtime = Runtime(
    "fuzz", "v1.0.0",
    synchronize=lambda sync: sync([_POD], [_CONTAINER]),
    update_containers=lambda updates, evictions: (),
    socket_path=str(_path), plugin_path=None, plugins={"10-resident": _Resident()},
    registration_timeout=LONG, request_timeout=2.0,
)  # fmt: skip


def one_input(data: bytes) -> None:
    if not data:
        return
    with watched(), _runtime, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LONG)
        sock.connect(str(_path))
        with contextlib.suppress(ConnectionError):
            if data[0] & 1:
                sock.sendall(_PREFIX)
            for part in sent(data[1:], RUNTIME.full_name, _METHODS, RUNTIME_SERVICE):
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(NRIError):
            # The plugin takes part in that, if it got so far: it may refuse.
            _runtime.create_container(_POD, _CONTAINER)
        drain(sock)
        give_up = time.monotonic() + LONG
        while len(_runtime.plugins) > 1:
            assert time.monotonic() < give_up
            time.sleep(0.001)
        answer = _runtime.create_container(_POD, _CONTAINER)
        assert answer.adjust.annotations["resident"] == "yes"
