"""The runtime side of the Go implementation, a process for each release, as an object for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import Message

from nri_sync.api import nri_pb2
from tests.interop.gopeer import Peer

__all__ = ["RELEASES", "GoRuntime", "Release"]


class Release(NamedTuple):
    """An NRI release, and a release of a container runtime that contains it."""

    nri: str
    program: str
    #: A release of containerd with this NRI release, in the notation of its Configure request.
    containerd: str
    #: The NRI release that a plugin can infer.
    inferred: str

    def __str__(self) -> str:
        return self.nri

    @property
    def has_pod_updates_and_validation(self) -> bool:
        return self.program >= "runtime0100"

    @property
    def has_method_for_every_event(self) -> bool:
        return self.program >= "runtime0125"


RELEASES = [
    Release("v0.12.5", "runtime0125", "v2.4.0", "v0.12.5"),
    Release("v0.10.0", "runtime0100", "v2.2.0", "v0.10.0"),
    Release("v0.8.0", "runtime0080", "v2.1.4", "v0.8.0"),
    Release("v0.6.1", "runtime0061", "v1.7.20", "v0.6.1"),
]


class GoRuntime(Peer):
    """A runtime, not started.

    Its events: `connected`, `closed` and `registered` (name), `synchronized` (updates, error),
    `unsolicited` (updates), `rpc` (method, if traced), `log` (level, text).
    """

    def __init__(self, release: Release, socket_path: Path) -> None:
        super().__init__(release.program)
        self.release = release
        self.socket_path = socket_path

    def start(self, **options: Any) -> None:
        """Listen for plugins; `driver.go` lists the options."""
        options.setdefault("runtime_name", "containerd")
        options.setdefault("runtime_version", self.release.containerd)
        self.call("start", socket=str(self.socket_path), **options)

    def wait_connected(self, name: str) -> None:
        """Wait until the plugin with that full name is synchronized, and receives requests."""
        self.wait_event("connected", name=name)

    def request(self, op: str, *, timeout: float = 30.0, **fields: Message) -> Any:
        """Send a request to the plugins; returns the response, if the request has one."""
        reply = self.call(
            "request", op=op, request={k: _to_json(v) for k, v in fields.items()}, timeout=timeout
        )
        if reply is None:
            return None
        return json_format.ParseDict(reply, getattr(nri_pb2, f"{op}Response")())

    @contextlib.contextmanager
    def sync_blocked(self) -> Iterator[None]:
        """Block the synchronization of plugins in the block."""
        self.call("block")
        try:
            yield
        finally:
            self.call("unblock")


def _to_json(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
