"""Recordings that are sent to plugins again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nri_sync import Stub, api
from nri_sync.errors import NRIError, PluginError
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.recordings import Proxy, Recorder, Recording, replay, replaying
from nri_sync.testing.recordings.entries import (
    CLOSED,
    LOST,
    PLUGIN,
    REQUEST,
    RESPONSE,
    RUNTIME,
    Entry,
    message_type,
)
from nri_sync.testing.recordings.updating import answer_to
from tests.testing.recordings.conftest import LONG, Seen

__all__: list[str] = []

Record = Callable[..., Path]


class Tuner:
    """Sets a variable, rejects a container, and requests an update after the start of a container."""

    stub: Stub

    def __init__(self, value: str = "1", cpus: str = "0") -> None:
        self.value, self.cpus = value, cpus
        self.failed: list[Any] = []
        self.threads: list[threading.Thread] = []

    def create_container(self, pod: Any, container: Any) -> Any:
        if container.name == "bad":
            raise ValueError("not this one")
        return api.Adjustment().add_env("VALUE", self.value).add_annotation("b", "2")

    def post_start_container(self, pod: Any, container: Any) -> None:
        update = api.Update(container.id).set_cpu(cpus=self.cpus)
        thread = threading.Thread(target=self._update, args=(update,))
        self.threads.append(thread)
        thread.start()

    def _update(self, update: Any) -> None:
        # A replay on a busy machine may run out of time, and end the session first.
        with contextlib.suppress(NRIError):
            self.failed += self.stub.update_containers([update])


@pytest.fixture
def record(runtime: FakeRuntime, proxy: Proxy, seen: Seen, tmp_path: Path) -> Record:
    """A function that records a few events of a plugin on a runtime; returns the path of the recording."""

    def record(plugin: Any, name: str = "tuner") -> Path:
        stub = Stub(plugin, name=name, idx="20", socket_path=proxy.listen_path)
        plugin.stub = stub
        stub.start()
        runtime.wait_for(lambda: stub.name in runtime.plugins)
        pod = make_pod("web")
        container = make_container(pod)
        runtime.run_pod(pod)
        runtime.create_container(pod, container)
        runtime.create_container(pod, make_container(pod, name="bad"), check=False)
        runtime.failing.add(container.id)
        runtime.start_container(container)
        for thread in getattr(plugin, "threads", []):
            thread.join()
        stub.stop()
        runtime.wait_for(lambda: not runtime.plugins)
        seen.wait_kind(CLOSED)
        path = tmp_path / f"{name}.jsonl"
        with path.open("w") as file:
            recorder = Recorder(file)
            for entry in seen.entries:
                recorder.write(entry)
        return path

    return record


def joined(plugin: Tuner) -> Tuner:
    for thread in plugin.threads:
        thread.join()
    return plugin


def test_the_same_plugin(record: Record) -> None:
    path = record(Tuner())
    plugin = Tuner()
    assert replay(path, plugin) == []
    # The plugin has received the recorded failure.
    assert [update.linux.resources.cpu.cpus for update in joined(plugin).failed] == ["0"]


def test_another_answer(record: Record) -> None:
    path = record(Tuner())
    plugin = Tuner(value="2")
    (difference,) = replay(path, plugin)
    joined(plugin)
    assert difference.what == "CreateContainer default/web:container"
    assert '-    value: "1"' in difference.diff
    assert '+    value: "2"' in difference.diff
    assert difference.diff in str(difference)
    assert repr(difference).strip() == str(difference)


def test_other_requests_of_the_plugin(record: Record) -> None:
    path = record(Tuner())
    plugin = Tuner(cpus="1")
    (difference,) = replay(path, plugin)
    joined(plugin)
    assert difference.what.startswith("UpdateContainers")


class Silent:
    def create_container(self, pod: Any, container: Any) -> None:
        return None


def test_requests_that_do_not_come(record: Record) -> None:
    path = record(Tuner())
    found = {each.what.partition(",")[0]: each for each in replay(path, Silent(), timeout=2.0)}
    assert set(found) == {
        "Configure",
        "CreateContainer default/web:container",
        "CreateContainer default/web:bad",
        "UpdateContainers",
    }
    assert found["UpdateContainers"].now == "nothing\n"
    assert found["CreateContainer default/web:bad"].recorded.startswith("error 2: ValueError")


def test_requests_that_are_new(record: Record) -> None:
    class Eager(Silent):
        stub: Stub

        def create_container(self, pod: Any, container: Any) -> None:
            self.stub.update_containers([api.Update("x").set_cpu(cpus="0")])

    # With containerd, such a call in a handler would deadlock, so the stub rejects it for a runtime of that name.
    path = record(Silent())
    text = path.read_text().replace('"runtime_name":"containerd"', '"runtime_name":"other"')
    path.write_text(text)
    found = replay(path, Eager())
    assert [each.recorded for each in found] == ["nothing\n"] * 2
    assert "container_id: x" in found[0].now


def test_a_plugin_that_cannot_be_configured(record: Record) -> None:
    class Broken(Silent):
        def configure(self, config: str, runtime: str, version: str) -> None:
            raise ValueError("no")

    found = replay(record(Silent()), Broken())
    assert found[0].what == "Configure"
    assert "no" in found[0].now


def test_updated(record: Record) -> None:
    recording = Recording.read(record(Tuner()))
    plugin = Tuner("2", "1")
    assert len(replay(recording, plugin, update=True)) == 2
    joined(plugin)
    recording.write()
    again = Tuner("2", "1")
    assert replay(recording.path, again) == []
    joined(again)


def test_updated_with_less_and_more(record: Record) -> None:
    recording = Recording.read(record(Tuner()))
    assert replay(recording, Silent(), timeout=2.0, update=True) != []
    assert replay(recording, Silent()) == []
    assert not any(entry.rpc == "UpdateContainers" for entry in recording.entries)
    kinds = [entry.kind for entry in recording.entries]
    assert kinds.count(REQUEST) == kinds.count(RESPONSE)


@pytest.mark.parametrize("speed", [0.0, -1.0, 1e-308, float("nan")])
def test_a_speed_out_of_range(speed: float, record: Record) -> None:
    with pytest.raises(ValueError, match="the speed must be at least"):
        replay(record(Silent()), Silent(), speed=speed)


def test_the_longest_pause_at_the_least_speed(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("nri_sync.testing.recordings.replaying.time.sleep", slept.append)
    recording = Recording.read(record(Silent()))
    for entry in recording.entries[1:]:
        entry.time = 1e9
    assert replay(recording, Silent(), speed=0.001) == []
    assert max(slept) == 1e9


def test_with_its_pauses(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("nri_sync.testing.recordings.replaying.time.sleep", slept.append)
    recording = Recording.read(record(Silent()))
    for number, entry in enumerate(recording.entries):
        entry.time = 1000.0 * number
    assert replay(recording, Silent(), speed=2) == []
    # At its end the replay waits for some milliseconds until the plugin has read everything.
    pauses = [seconds for seconds in slept if seconds > 1.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(500 * (len(recording.entries) - 1), abs=60)


class Slow(Tuner):
    """Its on_connected waits for an event of the runtime, or until the session has ended."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.event = threading.Event()
        self.seen: bool | None = None

    def on_connected(self, stub: Stub) -> None:
        self.seen = self.event.wait(self.limit)

    def create_container(self, pod: Any, container: Any) -> Any:
        self.event.set()
        return super().create_container(pod, container)


def test_the_plugin_gets_the_last_answer(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay ends after the plugin has received the answer to its last request."""

    def answer_later(*arguments: Any) -> Any:
        time.sleep(0.3)
        return answer_to(*arguments)

    path = record(Tuner())
    monkeypatch.setattr(replaying, "answer_to", answer_later)
    plugin = Tuner()
    assert replay(path, plugin) == []
    assert len(joined(plugin).failed) == 1


def test_on_connected_comes_before_the_events(record: Record) -> None:
    path = record(Tuner())
    plugin = Slow(limit=0.3)
    assert replay(path, plugin) == []
    assert plugin.seen is False


def test_on_connected_cannot_block_the_events(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_hook = replaying._Replay._await_hook

    def await_shortly(replay: Any) -> None:
        # Only this wait is short: the start of the plugin may take long on a busy machine.
        with monkeypatch.context() as patch:
            patch.setattr(replay, "_timeout", 0.1)
            await_hook(replay)

    path = record(Tuner())
    monkeypatch.setattr(replaying._Replay, "_await_hook", await_shortly)
    plugin = Slow(limit=LONG)
    replay(path, plugin)
    assert plugin.seen is True


def test_which_connection(record: Record) -> None:
    record(Silent(), "one")
    path = record(Silent(), "two")
    with pytest.raises(ValueError, match="choose one of its connections: 1 of 20-one, 2 of 20-two"):
        replay(path, Silent())
    assert replay(path, Silent(), connection=2) == []
    with pytest.raises(ValueError, match="no connection 3"):
        replay(path, Silent(), connection=3)


def test_invalid_recordings(record: Record) -> None:
    recording = Recording.read(record(Silent()))
    with pytest.raises(PluginError):
        replay(recording, object())
    recording.entries.append(Entry(LOST, 1, 99.0))
    with pytest.raises(ValueError, match="the recording of connection 1 is incomplete"):
        replay(recording, Silent())
    del recording.entries[:]
    with pytest.raises(ValueError, match="no plugin has registered"):
        replay(recording, Silent())


def test_a_registration_without_a_message_is_none(record: Record) -> None:
    recording = Recording.read(record(Silent()))
    recording.entries.insert(1, Entry(REQUEST, 1, 0.0, PLUGIN, "RegisterPlugin", 1))
    assert replay(recording, Silent()) == []


@pytest.mark.parametrize("rpc", ["RegisterPlugin", "UpdateContainers"])
def test_requests_of_the_wrong_side(record: Record, rpc: str) -> None:
    recording = Recording.read(record(Silent()))
    kind = message_type(rpc, REQUEST)
    assert kind is not None
    recording.entries.append(Entry(REQUEST, 1, 9.0, RUNTIME, rpc, 9, message=kind()))
    with pytest.raises(ValueError, match=f"a runtime has no request {rpc}"):
        replay(recording, Silent())
    registered = next(e for e in recording.entries if e.rpc == "RegisterPlugin")
    registered.sender = RUNTIME
    with pytest.raises(ValueError, match="no plugin has registered"):
        replay(recording, Silent())
