"""The defects of the reference plugin side, by the numbers of docs/defects.md, do not happen here."""

from __future__ import annotations

import os
import queue
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api, errors
from nri_sync.api import EventMask, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.plugin.state import State
from nri_sync.rpc import envelope_pb2
from tests.plugin.conftest import Connect, MakeStub, Serve
from tests.plugin.harness import (
    CONTAINER,
    LONG,
    POD,
    PluginWith,
    RawRuntime,
    Recorder,
    configuration,
    encoded,
    eventually,
    request,
)

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[2]
RUN_POD = nri_pb2.RunPodSandboxRequest(pod=POD)
CREATE = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
INVALID_ARGUMENT = 3
RESOURCE_EXHAUSTED = 8


class Dialed:
    """A stub whose connections the test is the runtime of, byte by byte."""

    def __init__(self, plugin: object, **options: Any) -> None:
        self._connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._all: list[socket.socket] = []
        self.stub = nri_sync.Stub(plugin, name="test", idx=10, dialer=self._dial, **options)
        self.outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def _dial(self, path: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._all.append(theirs)
        self._connections.put(theirs)
        return ours

    def begin(self) -> RawRuntime:
        """Let the stub start; returns the runtime's end of its connection."""

        def start() -> None:
            try:
                self.stub.start(LONG)
            except BaseException as error:
                self.outcomes.put(error)
            else:
                self.outcomes.put(None)

        threading.Thread(target=start, name="starter").start()
        return self.connection()

    def connection(self) -> RawRuntime:
        """The runtime's end of the next connection that was dialed."""
        return RawRuntime(self._connections.get(timeout=LONG))

    def outcome(self) -> BaseException | None:
        """The outcome of the start."""
        return self.outcomes.get(timeout=LONG)

    def start(self) -> RawRuntime:
        """The same, up to where the plugin is configured; with stream 1."""
        runtime = self.begin()
        runtime.accept_registration()
        runtime.call(1, "Configure", configuration())
        assert not runtime.response(1).HasField("status")
        assert self.outcome() is None
        return runtime

    def close(self) -> None:
        self.stub.stop()
        for sock in self._all:
            sock.close()


@pytest.fixture
def dialed() -> Iterator[Any]:
    made: list[Dialed] = []

    def make(plugin: object, **options: Any) -> Dialed:
        made.append(Dialed(plugin, **options))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_d1_data_before_the_end_is_delivered(dialed: Any) -> None:
    plugin = Recorder()
    item = dialed(plugin)
    failed = nri_pb2.UpdateContainersResponse(failed=[nri_pb2.ContainerUpdate(container_id="c")])
    answer = envelope_pb2.Response(payload=failed.SerializeToString()).SerializeToString()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(30):
        runtime = item.start()
        plugin.expect("configure")
        updater = threading.Thread(target=lambda: results.put(item.stub.update_containers()))
        updater.start()
        _, message = runtime.next()
        # An answer, a request, and the end, in one go.
        runtime.sock.sendall(
            encoded(2, 2, message.stream_id, answer)
            + encoded(1, 1, 3, request("RunPodSandbox", RUN_POD.SerializeToString()))
        )
        runtime.sock.close()
        assert results.get(timeout=LONG) == list(failed.failed)
        assert plugin.expect("run_pod_sandbox") == (POD,)
        assert item.stub.wait(LONG)
        updater.join(LONG)


def test_d2_data_messages_do_no_harm(dialed: Any) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(pod: object) -> None:
        entered.set()
        go_on.wait(LONG)

    runtime = dialed(PluginWith(run_pod_sandbox=slow)).start()
    # For a stream that no request has opened.
    runtime.send(1, 3, 99, b"data")
    assert runtime.response(99).status.code == INVALID_ARGUMENT
    # For a stream that is being served, and is not one that takes data.
    runtime.call(101, "RunPodSandbox", RUN_POD)
    assert entered.wait(LONG)
    runtime.send(1, 3, 101, b"data")
    assert runtime.response(101).status.code == INVALID_ARGUMENT
    go_on.set()
    runtime.call(103, "StopPodSandbox", nri_pb2.StopPodSandboxRequest())
    assert not runtime.response(103).HasField("status")


def test_d3_an_oversized_response_fails_one_request(dialed: Any) -> None:
    huge = nri_pb2.ContainerAdjustment(args=["x" * 5_000_000])
    item = dialed(Recorder(create_container=huge))
    runtime = item.start()
    runtime.call(3, "CreateContainer", CREATE)
    assert runtime.response(3).status.code == RESOURCE_EXHAUSTED
    runtime.call(5, "RunPodSandbox", RUN_POD)
    assert not runtime.response(5).HasField("status")
    assert item.stub.started


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0\0\1\xff\xff\xff\xff", b"\0\0\0\2\x7f\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"],
)
def test_d4_unreadable_bytes_end_the_connection(dialed: Any, garbage: bytes) -> None:
    closed: queue.SimpleQueue[nri_sync.Stub] = queue.SimpleQueue()
    item = dialed(Recorder(), on_close=closed.put)
    runtime = item.start()
    runtime.sock.sendall(garbage)
    assert runtime.at_end()
    assert closed.get(timeout=LONG) is item.stub
    reason = item.stub.close_reason
    assert reason is not None
    assert isinstance(reason.__cause__, errors.RemoteProtocolError)


def test_d5_a_name_that_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/nri/plugins/10-from-file"])
    stub = nri_sync.Stub(Recorder(), name="given")
    assert stub.name == "10-given"
    monkeypatch.setenv("NRI_PLUGIN_NAME", "from-env")
    assert nri_sync.Stub(Recorder()).name == "10-from-env"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/plugin"])
    with pytest.raises(errors.IdentityError, match="the plugin has no index: pass idx="):
        nri_sync.Stub(Recorder(), name="given")


@pytest.mark.parametrize(("name", "idx"), [("a b", "10"), ("a/b", "10"), ("", "10"), ("a", "5")])
def test_d6_name_and_index_are_checked_early(name: str, idx: str) -> None:
    with pytest.raises(errors.IdentityError, match="the runtime would refuse it"):
        nri_sync.Stub(Recorder(), name=name, idx=idx)


def test_d7_callbacks_of_the_application_replace_nothing(serve: Serve, make_stub: MakeStub) -> None:
    closed: queue.SimpleQueue[str] = queue.SimpleQueue()
    go_on = threading.Event()

    def on_close(stub: nri_sync.Stub) -> None:
        closed.put(stub.state.value)
        go_on.wait(LONG)

    runtime = serve()
    stub = make_stub(Recorder(), on_close=on_close)
    stub.start()
    runtime.peer().close()
    # While the application's is still running, the stub's own part is done.
    assert closed.get(timeout=LONG) == "idle"
    assert stub.wait(0)
    stub.start()
    go_on.set()
    assert stub.started


def test_d8_a_negative_descriptor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NRI_PLUGIN_SOCKET", "-1")
    with pytest.raises(errors.IdentityError, match="NRI_PLUGIN_SOCKET=-1 is not an open file"):
        nri_sync.Stub(Recorder(), name="test", idx=10)


def test_d9_a_loss_before_configure_fails_the_start(dialed: Any) -> None:
    closed: queue.SimpleQueue[nri_sync.Stub] = queue.SimpleQueue()
    item = dialed(Recorder(), on_close=closed.put)
    runtime = item.begin()
    runtime.accept_registration()
    runtime.sock.close()
    outcome = item.outcome()
    assert isinstance(outcome, errors.StartError)
    assert outcome.phase == "configure"
    # Nothing hangs.
    assert not item.stub.started
    assert item.stub.wait(0)
    item.stub.stop()
    item.start()
    assert closed.empty()


def test_d10_waiting_for_configure_is_bounded_and_can_be_ended(dialed: Any) -> None:
    item = dialed(Recorder(), registration_timeout=1.0)
    with pytest.raises(errors.StartTimeout, match="waiting"):
        item.stub.start()
    item.connection()
    runtime = item.begin()
    runtime.accept_registration()
    item.stub.stop()
    assert isinstance(item.outcome(), errors.StubStopped)


def test_d11_configure_may_stop(serve: Serve, make_stub: MakeStub) -> None:
    waited: list[State] = []

    def configure(config: str, runtime: str, version: str) -> None:
        assert not stub.started
        assert stub.state is State.STARTING
        stub.stop()
        waited.append(stub.state)

    runtime = serve(synchronize=False)
    stub = make_stub(PluginWith(configure=configure))
    with pytest.raises(errors.StubStopped):
        stub.start()
    assert waited == [State.STOPPING]
    # The runtime has got its answer first.
    assert runtime.peer().events


def test_d12_a_failed_start_is_followed_by_a_new_connection(dialed: Any) -> None:
    item = dialed(Recorder())
    for _ in range(3):
        item.begin().sock.close()
        assert isinstance(item.outcome(), errors.StartError)
    item.start()
    assert item.stub.started


@pytest.mark.parametrize("repetition", range(10))
def test_d13_a_stop_in_a_handler_sends_the_reply_first(connect: Connect, repetition: int) -> None:
    def create_container(pod: object, container: object) -> Any:
        stub.stop()
        return nri_pb2.ContainerAdjustment(args=["x" * 100_000])

    stub, peer = connect(PluginWith(create_container=create_container))
    response = peer.call("CreateContainer", CREATE, LONG)
    assert len(response.adjust.args[0]) == 100_000
    assert peer.wait_closed(LONG)
    assert stub.wait(LONG)
    assert stub.close_reason is None


def test_d14_an_inherited_descriptor_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    monkeypatch.setenv("NRI_PLUGIN_SOCKET", str(fd))
    stub = nri_sync.Stub(Recorder(), name="test", idx=10)
    assert "NRI_PLUGIN_SOCKET" not in os.environ
    ours.close()
    with pytest.raises(errors.StartError):
        stub.start(LONG)
    # The number may belong to something else by now, which is left alone.
    null = os.open(os.devnull, os.O_RDONLY)
    if null != fd:
        os.dup2(null, fd)
        os.close(null)
    with pytest.raises(errors.ConnectionSpent, match="exit, and let the runtime launch it again"):
        stub.start()
    os.close(fd)


def test_d15_the_end_of_a_session_does_not_touch_the_next(
    serve: Serve, make_stub: MakeStub
) -> None:
    closed: queue.SimpleQueue[nri_sync.Stub] = queue.SimpleQueue()
    runtime = serve()
    stub = make_stub(Recorder(), on_close=closed.put)
    for _ in range(50):
        stub.start()
        stub.stop()
    stub.start()
    # The runtime may have failed with those that were stopped before it was done with them.
    eventually(lambda: runtime.peers.qsize() + runtime.failures.qsize() == 51)
    while not runtime.peers.empty():
        peer = runtime.peer()
    peer.call("RunPodSandbox", RUN_POD, LONG)
    assert stub.started
    assert closed.empty()


def test_d16_timeouts_that_are_not_sent_keep_their_defaults(
    serve: Serve, make_stub: MakeStub
) -> None:
    runtime = serve(config=configuration(registration_timeout=0, request_timeout=0))
    stub = make_stub(Recorder())
    for _ in range(2):
        with stub:
            runtime.peer()
            assert (stub.registration_timeout, stub.request_timeout) == (5.0, 2.0)


def test_d17_configure_is_answered_any_number_of_times(connect: Connect) -> None:
    stub, peer = connect(Recorder())
    for _ in range(20):
        peer.configure(configuration(), LONG)
    assert stub.started


def test_d18_everything_may_be_read_while_it_changes(serve: Serve, make_stub: MakeStub) -> None:
    runtime = serve()
    stub = make_stub(Recorder())
    over = threading.Event()
    wrong: list[Any] = []
    reads = [0]

    def read() -> None:
        while not over.is_set():
            facts = stub._lifecycle.facts
            if facts.runtime_name and facts.runtime_version != f"v{facts.request_timeout:g}":
                wrong.append(facts)
            seen = (
                stub.state, stub.started, stub.events, stub.request_timeout, stub.runtime_name,
                stub.runtime_version, stub.counters, stub.close_reason, repr(stub),
            )  # fmt: skip
            if None in seen[:7]:
                wrong.append(seen)
            reads[0] += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 9):
        runtime.config = configuration(runtime_version=f"v{number}", request_timeout=number * 1000)
        with stub:
            runtime.peer()
            assert stub.runtime_version == f"v{number}"
    over.set()
    for reader in readers:
        reader.join(LONG)
    assert not wrong
    assert reads[0] > 0


def test_d19_the_default_mask_is_trimmed_for_old_runtimes(connect: Connect) -> None:
    config = configuration(runtime_name="containerd", runtime_version="v1.7.20", NRI_version="")
    stub, peer = connect(Recorder(), config=config)
    # The events of this runtime; it refuses a plugin that subscribes to more.
    assert stub.events == peer.events == EventMask(0x7FF)


@pytest.mark.parametrize("version", ["1.34.2", "v1.34.2"])
def test_d20_versions_need_no_leading_v(connect: Connect, version: str) -> None:
    config = configuration(runtime_name="cri-o", runtime_version=version, NRI_version="")
    stub, _ = connect(Recorder(), config=config)
    assert stub.runtime_nri_version == "v0.10.0"


def test_d21_parts_of_the_state_do_not_outlive_their_session(dialed: Any) -> None:
    plugin = Recorder()
    item = dialed(plugin)

    def part(*ids: str, more: bool) -> nri_pb2.SynchronizeRequest:
        return nri_pb2.SynchronizeRequest(pods=[nri_pb2.PodSandbox(id=i) for i in ids], more=more)

    runtime = item.begin()
    runtime.accept_registration()
    runtime.call(1, "Synchronize", part("old", more=True))
    assert not runtime.response(1).HasField("status")
    runtime.sock.close()
    assert isinstance(item.outcome(), errors.StartError)
    runtime = item.start()
    plugin.expect("configure")
    runtime.call(3, "Synchronize", part("new", more=False))
    assert plugin.expect("synchronize") == ([nri_pb2.PodSandbox(id="new")], [])


def test_d22_without_a_session_updates_are_not_connected(serve: Serve, make_stub: MakeStub) -> None:
    runtime = serve(update_containers=lambda updates, evictions: [])
    stub = make_stub(Recorder())
    for _ in range(2):
        with pytest.raises(errors.NotConnected):
            stub.update_containers([])
        with stub:
            runtime.peer()
            assert stub.update_containers([]) == []
    with pytest.raises(errors.NotConnected):
        stub.update_containers([])


def test_d23_updates_have_a_deadline(serve: Serve, make_stub: MakeStub) -> None:
    go_on = threading.Event()
    runtime = serve(
        config=configuration(request_timeout=100),
        update_containers=lambda updates, evictions: go_on.wait(LONG) and [],
    )
    stub = make_stub(Recorder())
    stub.start()
    runtime.peer()
    with pytest.raises(CallFailed) as caught:
        stub.update_containers([])
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    go_on.set()
    assert stub.started


@pytest.mark.parametrize("text", [" all", "container ", "\tpod\n", " All , runpodsandbox "])
def test_d24_names_of_groups_are_trimmed(text: str) -> None:
    assert EventMask.parse(text) == EventMask.parse(text.replace(" ", "").strip())


def test_d25_helpers_raise_or_do_it_right() -> None:
    adjustment = api.Adjustment()
    with pytest.raises(ValueError, match="-5"):
        adjustment.set_cpu(period=-5)
    cpu = nri_pb2.LinuxCPU()
    for value, error in (("1", TypeError), (-1, ValueError), (2**64, ValueError)):
        with pytest.raises(error):
            api.optional.put(cpu, "shares", value)
    assert api.optional.get(cpu, "shares") is None
    one = nri_pb2.LinuxDevice(path="/dev/a", type="c", major=1, minor=3)
    assert api.same_device(one, nri_pb2.LinuxDevice(path="/dev/a", type="c", major=1, minor=3))
    options = nri_pb2.Mount(destination="/d", options=["ro", "bind"])
    assert api.same_mount(options, nri_pb2.Mount(destination="/d", options=["bind", "ro"]))
    assert not api.same_mount(options, nri_pb2.Mount(destination="/d", options=["rw", "bind"]))


# The table


def table() -> dict[int, list[str]]:
    """The tests that docs/defects.md names, by the number of the defect."""
    rows: dict[int, list[str]] = {}
    for line in (ROOT / "docs" / "defects.md").read_text().splitlines():
        row = re.match(r"\|\s*D(\d+)\s*\|", line)
        if row:
            assert int(row[1]) not in rows, f"D{row[1]} is there twice"
            rows[int(row[1])] = re.findall(r"`(test_d\d+_\w+)`", line)
    return rows


def names_of_tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_d\d+_\w+)\(", path.read_text(), re.MULTILINE)
    }


def test_the_table_has_every_defect_and_a_test_of_it() -> None:
    rows = table()
    assert sorted(rows) == list(range(1, 26))
    for number, names in rows.items():
        assert names, f"D{number} has no test"
        assert all(name.startswith(f"test_d{number}_") for name in names), names


def test_the_table_and_the_tests_agree() -> None:
    assert {name for names in table().values() for name in names} == names_of_tests()
