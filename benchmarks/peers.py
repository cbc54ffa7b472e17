"""The contestants, as processes: plugins on a Go runtime, runtimes, and echo servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from nri_sync.api import nri_pb2
from tests.interop.gopeer import Peer
from tests.interop.goruntime import RELEASES, GoRuntime

__all__ = [
    "BARE",
    "CONTAINER",
    "FLOOR",
    "GO",
    "GO_RUNTIME",
    "OURS",
    "POD",
    "OurRuntime",
    "as_json",
    "compiled",
    "echo_server",
    "go_runtime",
    "plugin",
    "runtime_side",
    "scratch",
]

OURS = "nri_sync"
GO = "Go stub"
GO_RUNTIME = "Go adaptation"
FLOOR = "canned C"
BARE = "bare Python"

POD = nri_pb2.PodSandbox(
    id="pod0",
    name="pod",
    uid="0d0f8a4e-0000-4000-8000-000000000000",
    namespace="default",
    labels={f"label-{number}": "value" for number in range(5)},
    annotations={f"annotation-{number}": "value" for number in range(5)},
)
CONTAINER = nri_pb2.Container(
    id="ctr0",
    pod_sandbox_id="pod0",
    name="ctr",
    args=["sh", "-c", "sleep 1000"],
    env=[f"VARIABLE_{number}=value number {number}" for number in range(30)],
    mounts=[
        nri_pb2.Mount(
            destination=f"/mnt/{number}", source="/src", type="bind", options=["rbind", "ro"]
        )
        for number in range(12)
    ],
)


def as_json(message: Message) -> object:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder whose name is short enough for sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="nri"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def compiled() -> Iterator[dict[str, str]]:
    """An environment in which the first Python program compiles its modules, and later ones load them compiled.

    So they do in an installed package. To compile takes time, and leaves memory of the heap in pieces.
    """
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with scratch() as cache:
        yield {**environ, "PYTHONPYCACHEPREFIX": str(cache)}


@contextlib.contextmanager
def go_runtime(**options: object) -> Iterator[GoRuntime]:
    """The runtime side of the newest Go release, started."""
    with scratch() as folder, GoRuntime(RELEASES[0], folder / "nri.sock") as runtime:
        runtime.start(**options)
        yield runtime


class OurRuntime(Peer):
    """Our runtime side, in a separate process, not started yet. It has a part of GoRuntime's commands."""

    def __init__(self, socket_path: Path) -> None:
        super().__init__(Path(sys.executable), "-m", "benchmarks.runtime")
        self.socket_path = socket_path

    def start(self, **options: Any) -> None:
        self.call(
            "start",
            socket=str(self.socket_path),
            runtime_name="ours",
            runtime_version="1",
            **options,
        )

    def wait_connected(self, name: str) -> None:
        self.wait_event("connected", name=name)


@contextlib.contextmanager
def runtime_side(kind: str, **options: object) -> Iterator[GoRuntime | OurRuntime]:
    """A runtime side of that kind, started."""
    if kind != OURS:
        with go_runtime(**options) as started:
            yield started
        return
    with scratch() as folder, OurRuntime(folder / "nri.sock") as process:
        process.start(**options)
        yield process


@contextlib.contextmanager
def plugin(
    kind: str,
    runtime: GoRuntime | OurRuntime,
    *,
    name: str = "bench",
    env: int = 3,
    mounts: int = 2,
    size: int = 0,
    idx: int = 10,
    reconnect: bool = False,
    health: bool = False,
    start: bool = True,
) -> Iterator[Peer]:
    """A plugin of that kind, connected to the runtime. ``health``: one of ours, with a health endpoint."""
    path = str(runtime.socket_path)
    if kind == FLOOR:
        process = Peer("floor", path, f"{idx:02d}", name)
    elif kind == GO:
        arguments: list[str] = ["-socket", path, "-idx", f"{idx:02d}", "-name", name]
        arguments += ["-env", str(env), "-mounts", str(mounts), "-size", str(size)]
        arguments += ["-events", "runpodsandbox,createcontainer"]
        process = Peer("stubplugin", *arguments, *(["-reconnect"] if reconnect else []))
    else:
        module = "benchmarks.bare" if kind == BARE else "benchmarks.plugin"
        process = Peer(
            Path(sys.executable), "-m", module, path, f"{idx:02d}", name,
            str(env), str(mounts), str(size), *([f"unix://{path}.health"] if health else []),
        )  # fmt: skip
    with process:
        if start:
            if kind != FLOOR:
                process.call("start")
            runtime.wait_connected(f"{idx:02d}-{name}")
        yield process


@contextlib.contextmanager
def echo_server(kind: str) -> Iterator[str]:
    """An echo server of that kind; yields the path of its socket."""
    with scratch() as folder:
        path = str(folder / "echo.sock")
        if kind == "Go ttrpc":
            process = Peer("ttrpcpeer", "server", path)
        else:
            process = Peer(Path(sys.executable), "-m", "benchmarks.echo", kind, path)
        with process:
            yield path
