"""Fuzz target: the whole plugin side on a socket, with a runtime that sends the messages of the input.

The first byte says whether the runtime answers the registration and configures the plugin first. After any
messages, start() and the session end soon after the connection, no thread ends by an exception, and log
records stay short.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

import nri_sync
from nri_sync.api import nri_pb2
from nri_sync.api.services import PLUGIN
from nri_sync.errors import NRIError
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE
from nri_sync.wire.ttrpc import REQUEST, RESPONSE
from tests.fuzz.peers import LONG, drain, message, request, sent, watched

__all__ = ["one_input"]

_METHODS = sorted(PLUGIN.methods)
_CONFIGURE = nri_pb2.ConfigureRequest(
    runtime_name="containerd",
    runtime_version="v2.2.0",
    registration_timeout=5000,
    request_timeout=2000,
    NRI_version="v0.12.5",
)
_PREFIX = message(RUNTIME_SERVICE, RESPONSE, 1, b"") + message(
    PLUGIN_SERVICE,
    REQUEST,
    1,
    request(PLUGIN.full_name, "Configure", _CONFIGURE.SerializeToString()),
)


class _Plugin(nri_sync.Plugin):
    """Has every handler, and reads its arguments."""

    def synchronize(self, pods, containers):  # type: ignore[no-untyped-def]
        return [nri_pb2.ContainerUpdate(container_id=item.id) for item in containers]

    def create_container(self, pod, container):  # type: ignore[no-untyped-def]
        return nri_pb2.ContainerAdjustment(annotations=dict(container.annotations))

    def update_container(self, pod, container, resources):  # type: ignore[no-untyped-def]
        return [nri_pb2.ContainerUpdate(container_id=container.id)]

    def run_pod_sandbox(self, pod):  # type: ignore[no-untyped-def]
        raise ValueError(pod.name)


_dialled: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()


def _dial(path: str) -> socket.socket:
    ours, theirs = socket.socketpair()
    _dialled.put(theirs)
    return ours


_stub = nri_sync.Stub(_Plugin(), name="fuzzed", idx="10", dialer=_dial)


def _start() -> None:
    with contextlib.suppress(NRIError):
        _stub.start(LONG)


def one_input(data: bytes) -> None:
    if not data:
        return
    with watched():
        starter = threading.Thread(target=_start)
        starter.start()
        with _dialled.get(timeout=LONG) as sock:
            sock.settimeout(LONG)
            with contextlib.suppress(ConnectionError):
                if data[0] & 1:
                    sock.sendall(_PREFIX)
                for part in sent(data[1:], PLUGIN.full_name, _METHODS, PLUGIN_SERVICE):
                    sock.sendall(part)
                sock.shutdown(socket.SHUT_WR)
            drain(sock)
        starter.join(LONG)
        assert not starter.is_alive()
        assert _stub.wait(LONG)
        assert _stub.state is nri_sync.State.IDLE
