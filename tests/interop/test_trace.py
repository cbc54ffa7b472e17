"""Recordings of the Go runtime and stub through a proxy, and their replays."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import Stub, api
from nri_sync.testing.recordings import Entry, Proxy, Recorder, Recording, replay
from nri_sync.testing.recordings.entries import CLOSED, NOTE, REQUEST, RESPONSE
from tests.interop.goruntime import RELEASES, GoRuntime, Release
from tests.interop.plugins import CONTAINER, POD
from tests.interop.sides import PLUGINS, RUNTIMES

__all__: list[str] = []


@contextlib.contextmanager
def proxied(path: Path) -> Iterator[tuple[Path, list[Entry]]]:
    """A socket in front of a runtime's socket; the entries are complete at the end."""
    front = path.with_name("t")
    entries: list[Entry] = []
    with Proxy(str(front), str(path)) as proxy:
        thread = threading.Thread(target=lambda: entries.extend(proxy))
        thread.start()
        try:
            yield front, entries
        finally:
            proxy.close()
            thread.join()


@pytest.mark.parametrize("plugin_kind", PLUGINS)
@pytest.mark.parametrize("runtime_kind", RUNTIMES)
def test_every_message_is_decoded(runtime_kind: str, plugin_kind: str, socket_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        options = {"pods": 500, "containers": 1500, "size": 10_000}  # more than one message
        runtime = stack.enter_context(RUNTIMES[runtime_kind](socket_path, **options))
        front, entries = stack.enter_context(proxied(socket_path))
        plugin = stack.enter_context(PLUGINS[plugin_kind](front, "10-a", env=1))
        plugin.call("start")
        runtime.wait_connected("10-a")
        reply = runtime.request("CreateContainer", pod=POD, container=CONTAINER)
        assert [env.key for env in reply.adjust.env] == ["a_0"]
        plugin.call("stop")
    assert not [entry for entry in entries if entry.kind == NOTE or entry.note.startswith("not")]
    requests = [entry for entry in entries if entry.kind == REQUEST]
    assert requests[0].rpc == "RegisterPlugin"
    synchronized = [entry for entry in requests if entry.rpc == "Synchronize"]
    assert len(synchronized) > 1
    assert sum(len(entry.message.containers) for entry in synchronized) == 1500
    answers = [entry for entry in entries if entry.kind == RESPONSE]
    assert len(answers) == len(requests)
    assert all(entry.duration is not None and not entry.code for entry in answers)
    assert entries[-1].kind == CLOSED


class Namer:
    def run_pod_sandbox(self, pod: Any) -> None:
        pass

    def create_container(self, pod: Any, container: Any) -> Any:
        return api.Adjustment().add_env("POD", pod.name)


@pytest.mark.parametrize("release", RELEASES, ids=str)
def test_replayed(release: Release, runtime: GoRuntime, socket_path: Path, tmp_path: Path) -> None:
    runtime.start()
    with (
        proxied(socket_path) as (front, entries),
        Stub(Namer(), name="py", idx="10", socket_path=str(front)),
    ):
        runtime.wait_connected("10-py")
        runtime.request("RunPodSandbox", pod=POD)
        runtime.request("CreateContainer", pod=POD, container=CONTAINER)
    path = tmp_path / "r"
    with path.open("w") as file:
        recorder = Recorder(file)
        for entry in entries:
            recorder.write(entry)
    events = [entry.event for entry in Recording.read(path).entries if entry.kind == REQUEST]
    assert [event for event in events if event.endswith(("Sandbox", "CreateContainer"))] == [
        "RunPodSandbox", "CreateContainer",
    ]  # fmt: skip
    assert replay(path, Namer()) == []
