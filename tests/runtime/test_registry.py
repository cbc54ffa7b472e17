"""Many plugins at once: slow, silent and hostile ones, connected and launched ones."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, NoAnswer, RequestFailed, RuntimeStopped, StartError
from nri_sync.net import sockets
from nri_sync.runtime import Runtime
from tests.plugin.harness import eventually
from tests.runtime.rig import (
    CONTAINER,
    LONG,
    OTHER,
    POD,
    SHORT,
    Figures,
    Host,
    Never,
    PluginWith,
    RawPlugin,
    on_thread,
    set_request_timeout,
    update_of,
)

__all__: list[str] = []

Start = Callable[..., Runtime]
Connect = Callable[..., nri_sync.Stub]
Raw = Callable[..., RawPlugin]

ROOT = Path(__file__).resolve().parent.parent.parent


def _ends(plugin: RawPlugin) -> None:
    assert plugin.lost.wait(Deadline(LONG))


class TestArrival:
    def test_registered_configured_synchronized(self, start_runtime: Start, raw: Raw) -> None:
        runtime = start_runtime(registration_timeout=5.005, request_timeout=LONG)
        plugin = raw().register()
        plugin.expect("Configure", "Synchronize")
        assert plugin.configured == nri_pb2.ConfigureRequest(
            runtime_name="test", runtime_version="v1.2.3", NRI_version=api.NRI_VERSION,
            registration_timeout=5005, request_timeout=round(LONG * 1000),
        )  # fmt: skip
        assert runtime.wait_for_plugins(lambda names: names == ("10-raw",), LONG)

    def test_the_state_is_sent_and_updates_are_returned(
        self, start_runtime: Start, connect: Connect, host: Host
    ) -> None:
        runtime = start_runtime()
        # The synchronization of the start, without plugins.
        assert host.synchronized.get(timeout=LONG) == []
        told: list[Any] = []

        def synchronize(pods: Any, containers: Any) -> Any:
            told.append((pods, containers))
            return [update_of("ctr0")]

        connect(runtime, PluginWith(synchronize=synchronize))
        assert told == [([POD], [OTHER])]
        assert host.synchronized.get(timeout=LONG) == [update_of("ctr0")]

    def test_in_the_order_of_index_then_arrival(
        self, start_runtime: Start, connect: Connect
    ) -> None:
        runtime = start_runtime()
        order: list[str] = []
        for name in ("20-z", "99-b", "00-c", "20-a", "20-m"):
            connect(runtime, PluginWith(run_pod_sandbox=lambda pod, n=name: order.append(n)), name)
        expected = ["00-c", "20-z", "20-a", "20-m", "99-b"]
        assert runtime.plugins == tuple(expected)
        runtime.run_pod_sandbox(POD)
        assert order == expected

    def test_two_plugins_of_one_name_both_get_events(self, start_runtime: Start, join: Any) -> None:
        runtime = start_runtime()
        first = join(runtime)
        second = join(runtime)
        assert runtime.wait_for_plugins(lambda names: names == ("10-raw", "10-raw"), LONG)
        runtime.run_pod_sandbox(POD)
        for plugin in (first, second):
            plugin.expect("Configure", "Synchronize", "RunPodSandbox")

    def test_a_silent_plugin_delays_no_other_and_is_closed(
        self, start_runtime: Start, connect: Connect, raw: Raw
    ) -> None:
        runtime = start_runtime(registration_timeout=LONG)
        silent = [raw() for _ in range(5)]
        never = Never()
        slow = raw(Configure=lambda request, context: never() or b"").register("slow")
        connect(runtime, PluginWith(run_pod_sandbox=lambda pod: None), "20-good")
        runtime.run_pod_sandbox(POD)
        assert runtime.plugins == ("20-good",)
        never.release.set()
        for plugin in (*silent, slow):
            plugin.close()

    def test_silence_ends_at_the_registration_timeout(
        self, start_runtime: Start, raw: Raw, caplog: pytest.LogCaptureFixture
    ) -> None:
        start_runtime(registration_timeout=SHORT)
        _ends(raw())
        eventually(lambda: "has not registered within 0.05 s" in caplog.text)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"events": 0x4000}, "unknown events"),
            ({"Configure": lambda request, context: 1 / 0}, "failed to register plugin 10-raw"),
            (
                {"Synchronize": lambda request, context: 1 / 0},
                "failed to synchronize plugin 10-raw",
            ),
        ],
    )
    def test_a_plugin_that_fails_is_closed(
        self,
        options: Any,
        text: str,
        start_runtime: Start,
        raw: Raw,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        runtime = start_runtime()
        plugin = raw(**options).register()
        _ends(plugin)
        eventually(lambda: text in caplog.text)
        assert runtime.plugins == ()

    def test_a_refused_plugin_gets_the_reason_and_is_closed(
        self, start_runtime: Start, raw: Raw
    ) -> None:
        # The reference keeps the connection open, and applies updates from it.
        start_runtime()
        plugin = raw()
        with pytest.raises(CallFailed, match="invalid plugin name"):
            plugin.register("foo,bar")
        _ends(plugin)

    def test_a_failing_callback_closes_the_plugin(
        self, start_runtime: Start, raw: Raw, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        start_runtime()
        host.pods = None  # type: ignore[assignment]
        plugin = raw().register()
        _ends(plugin)
        assert isinstance(host.synchronized.get(timeout=LONG), list)
        assert isinstance(host.synchronized.get(timeout=LONG), RequestFailed)
        eventually(lambda: "failed to synchronize plugin 10-raw" in caplog.text)

    def test_a_callback_may_swallow_that_a_plugin_fails(
        self, make_runtime: Start, raw: Raw
    ) -> None:
        failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()

        def synchronize(sync: Any) -> None:
            try:
                sync([], [])
            except Exception as error:
                failures.put(error)

        runtime = make_runtime(synchronize=synchronize)
        with runtime:
            holder: list[RawPlugin] = []
            plugin = raw(Synchronize=lambda request, context: holder[0].session.link.close())
            holder.append(plugin)
            plugin.register()
            assert isinstance(failures.get(timeout=LONG), NoAnswer)
            _ends(plugin)
            assert runtime.plugins == ()

    def test_a_plugin_that_leaves(self, start_runtime: Start, join: Any) -> None:
        figures = Figures()
        runtime = start_runtime(metrics=figures)
        plugin = join(runtime)
        assert figures.counts.get(timeout=LONG) == 1
        plugin.close()
        assert figures.counts.get(timeout=LONG) == 0
        assert runtime.plugins == ()
        runtime.run_pod_sandbox(POD)


class TestBlocking:
    def test_no_synchronization_during_a_block(
        self, start_runtime: Start, raw: Raw, host: Host
    ) -> None:
        runtime = start_runtime()
        with runtime.block_plugin_sync():
            plugin = raw().register()
            plugin.expect("Configure")
            with runtime.block_plugin_sync(LONG):
                assert runtime.plugins == ()
                assert plugin.calls.empty()
        plugin.expect("Synchronize")
        assert runtime.wait_for_plugins(lambda names: len(names) == 1, LONG)

    def test_a_block_waits_for_a_running_synchronization(
        self, start_runtime: Start, raw: Raw
    ) -> None:
        runtime = start_runtime()
        never = Never()
        raw(Synchronize=lambda request, context: never() or b"").register()
        assert never.called.wait(LONG)
        block = on_thread(runtime.block_plugin_sync)
        with pytest.raises(TimeoutError):
            runtime.block_plugin_sync(0.01)
        never.release.set()
        block().unblock()
        assert runtime.plugins == ("10-raw",)

    def test_a_slow_synchronization_holds_up_no_other(
        self, start_runtime: Start, raw: Raw, connect: Connect
    ) -> None:
        runtime = start_runtime()
        never = Never()
        raw(Synchronize=lambda request, context: never() or b"").register()
        assert never.called.wait(LONG)
        connect(runtime, PluginWith(run_pod_sandbox=lambda pod: None), "20-good")
        never.release.set()

    def test_stopping_ends_the_waiting(self, start_runtime: Start, raw: Raw) -> None:
        runtime = start_runtime()
        block = runtime.block_plugin_sync()
        plugin = raw().register()
        plugin.expect("Configure")
        runtime.stop()
        _ends(plugin)
        block.unblock()
        with pytest.raises(RuntimeStopped):
            runtime.block_plugin_sync()


class TestHostility:
    """A misbehaving connection does not affect the others."""

    @pytest.fixture
    def good(self, start_runtime: Start, connect: Connect) -> Callable[[], None]:
        """A runtime with a plugin. The returned function checks that both work."""
        calls: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.runtime = start_runtime(max_unregistered=4)
        connect(self.runtime, PluginWith(run_pod_sandbox=lambda pod: calls.put(pod.id)), "50-good")

        def works() -> None:
            self.runtime.run_pod_sandbox(POD)
            assert calls.get(timeout=LONG) == POD.id

        return works

    def test_garbage(self, good: Callable[[], None], raw: Raw) -> None:
        for data in (b"\0" * 100, b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000)):
            plugin = raw()
            plugin.session.link.send([data])
            good()
            plugin.close()

    def test_an_oversized_frame(self, good: Callable[[], None], raw: Raw) -> None:
        plugin = raw()
        plugin.session.link.send([(2).to_bytes(4, "big") + b"\xff" * 4])
        _ends(plugin)
        good()

    def test_a_thousand_connections_that_never_register(
        self, good: Callable[[], None], socket_dir: Path, connect: Connect
    ) -> None:
        before = threading.active_count()
        socks = []
        for _ in range(1000):
            socks.append(sockets.connect(str(socket_dir / "nri.sock"), Deadline(LONG)))
        connect(self.runtime, PluginWith(run_pod_sandbox=lambda pod: None), "60-late")
        good()
        # Four unregistered connections have threads, and a few threads are about to end.
        eventually(lambda: threading.active_count() - before < 40, "the end of their threads")
        for sock in socks:
            sock.close()

    def test_connections_of_one_process_do_not_displace_those_of_another(
        self, good: Callable[[], None], socket_dir: Path, raw: Raw
    ) -> None:
        path = str(socket_dir / "nri.sock")
        code = (
            "import socket, sys\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "print(flush=True); s.recv(1); print('closed', flush=True)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            ours = [raw() for _ in range(5)]
            _ends(ours[0])
            assert other.poll() is None
            raw()
            _ends(ours[1])
            other.kill()
        good()

    def test_an_oversized_answer_fails_that_request_only(
        self, good: Callable[[], None], join: Any
    ) -> None:
        join(self.runtime, "10-huge", CreateContainer=lambda request, context: b"x" * (5 << 20))
        for _ in range(2):
            with pytest.raises(RequestFailed, match="10-huge"):
                self.runtime.create_container(POD, CONTAINER)
        good()
        assert self.runtime.plugins == ("10-huge", "50-good")

    def test_an_undecodable_answer_drops_the_plugin(
        self, good: Callable[[], None], join: Any
    ) -> None:
        plugin = join(self.runtime, "10-mad", CreateContainer=lambda request, context: b"\xff" * 9)
        self.runtime.create_container(POD, CONTAINER)
        _ends(plugin)
        good()

    def test_a_flood_of_updates(
        self, good: Callable[[], None], host: Host, join: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        never = Never()
        monkeypatch.setattr(host, "failing", _Iterated(never))
        plugin = join(self.runtime, "10-flood")
        client, path = plugin.session.client, "/nri.pkg.api.v1alpha1.Runtime/UpdateContainers"
        pending = [client.start(path, b"", deadline=Deadline(LONG)) for _ in range(3000)]
        assert never.called.wait(LONG)
        good()
        never.release.set()
        for call in pending:
            client.wait(call)
        codes = {call.status.code for call in pending}
        assert codes <= {StatusCode.OK, StatusCode.RESOURCE_EXHAUSTED}
        assert never.calls <= 3000
        good()

    def test_a_plugin_that_does_not_read(
        self, good: Callable[[], None], socket_dir: Path, join: Any
    ) -> None:
        never = Never()
        plugin = join(self.runtime, "10-deaf")
        plugin.session.receive = lambda data, jobs: never()  # the reader of that connection
        pod = nri_pb2.PodSandbox(id=POD.id, annotations={"padding": "x" * 3_000_000})
        set_request_timeout(self.runtime, 0.2)
        self.runtime.stop_pod_sandbox(pod)  # the good plugin is not subscribed to this
        set_request_timeout(self.runtime, LONG)
        assert self.runtime.wait_for_plugins(lambda names: names == ("50-good",), LONG)
        never.release.set()
        good()


class _Iterated:
    """Updates that make a call wait."""

    def __init__(self, never: Never) -> None:
        self._never = never

    def __iter__(self) -> Any:
        self._never()
        return iter(())


PLUGIN = """#!{python}
import os, sys
sys.path.insert(0, {root!r})
import nri_sync
from nri_sync import api

class Plugin(nri_sync.Plugin):
    def configure(self, config, runtime, version):
        print("config", repr(config), flush=True)

    def create_container(self, pod, container):
        return api.Adjustment().add_env("PID", str(os.getpid()))

nri_sync.Stub(Plugin()).run()
"""


class TestLaunched:
    @pytest.fixture
    def install(self, socket_dir: Path) -> Callable[..., None]:
        (socket_dir / "plugins").mkdir()
        (socket_dir / "conf.d").mkdir()

        def install(name: str, text: str, config: str | None = None) -> None:
            path = socket_dir / "plugins" / name
            path.write_text(text.format(python=sys.executable, root=str(ROOT)))
            path.chmod(0o755)
            if config is not None:
                (socket_dir / "conf.d" / f"{name}.conf").write_text(config)

        return install

    def test_a_launched_plugin_is_configured_gets_events_and_is_ended(
        self, make_runtime: Start, install: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "nri_sync.runtime")
        install("10-py", PLUGIN, config="key: value")
        install("20-py", PLUGIN)
        runtime = make_runtime(exit_grace=LONG)
        with runtime:
            assert runtime.plugins == ("10-py", "20-py")
            with pytest.raises(nri_sync.errors.ConflictError):
                runtime.create_container(POD, CONTAINER)
        assert "10-py: config 'key: value'" in caplog.messages
        assert "20-py: config ''" in caplog.messages
        ended = [m for m in caplog.messages if "exited with status" in m or "ended by" in m]
        assert len(ended) == 2
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_a_launched_plugin_that_dies_is_removed_and_reaped(
        self, make_runtime: Start, install: Any
    ) -> None:
        install("10-py", PLUGIN)
        with make_runtime(exit_grace=LONG) as runtime:
            [env] = runtime.create_container(POD, CONTAINER).adjust.env
            os.kill(int(env.value), signal.SIGKILL)
            assert runtime.wait_for_plugins(lambda names: names == (), LONG)
            assert len(runtime.create_container(POD, CONTAINER).adjust.env) == 0
            eventually(lambda: not os.path.exists(f"/proc/{env.value}"), "the end of its process")

    def test_launched_plugins_that_fail_are_logged_and_reaped(
        self, make_runtime: Start, install: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        install("20-gone", "#!/bin/sh\nexit 1\n")
        install("30-bad", "#!/nowhere\n")
        install("40-py", PLUGIN)
        install("50-wasm", "\0asm\x01\0\0\0")
        with make_runtime() as runtime:
            assert runtime.plugins == ("40-py",)
        for text in (
            "failed to register plugin 20-gone: 20-gone: the peer closed the connection",
            "cannot launch plugin 30-bad: ",
            "cannot launch plugin 50-wasm: ",
        ):
            assert text in caplog.text
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_a_silent_launched_plugin_is_ended(
        self, make_runtime: Start, install: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        install("10-silent", "#!/bin/sh\nexec sleep 60\n")
        with make_runtime(registration_timeout=SHORT, exit_grace=SHORT) as runtime:
            assert runtime.plugins == ()
        text = "failed to register plugin 10-silent: 10-silent has not registered within 0.05 s"
        assert text in caplog.text
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_a_bad_name_fails_the_start(
        self, make_runtime: Start, install: Any, socket_dir: Path
    ) -> None:
        install("foo", "")
        runtime = make_runtime()
        with pytest.raises(StartError, match=r"cannot launch .*foo") as error:
            runtime.start()
        assert error.value.phase == "discover"
        (socket_dir / "plugins" / "foo").unlink()
        runtime.start()

    def test_without_launching(self, make_runtime: Start, install: Any) -> None:
        install("foo", "")
        with make_runtime(plugin_path=None):
            pass


class TestStart:
    def test_of_plugins_in_this_process_then_of_launched_ones_and_all_at_once(
        self, make_runtime: Start, host: Host
    ) -> None:
        def plugin(name: str) -> Any:
            return PluginWith(synchronize=lambda pods, containers: [update_of(name)])

        names = ["20-b", "10-a", "30-c"]
        runtime = make_runtime(plugins={name: plugin(name) for name in names})
        with runtime:
            # In the given order, without merging.
            updates = host.synchronized.get(timeout=LONG)
            assert [update.container_id for update in updates] == names
            assert host.synchronized.empty()
            assert runtime.plugins == ("10-a", "20-b", "30-c")

    def test_a_plugin_that_cannot_be_synchronized_is_dropped(
        self, make_runtime: Start, host: Host
    ) -> None:
        def synchronize(pods: Any, containers: Any) -> Any:
            raise ValueError("of the test")

        plugins = {
            "10-a": PluginWith(synchronize=synchronize),
            "20-b": PluginWith(synchronize=lambda pods, containers: None),
        }
        with make_runtime(plugins=plugins) as runtime:
            assert runtime.plugins == ("20-b",)
            assert host.synchronized.get(timeout=LONG) == []

    def test_a_plugin_that_cannot_be_configured_fails_the_start(self, make_runtime: Start) -> None:
        def configure(config: str, runtime: str, version: str) -> EventMask:
            return EventMask.RUN_POD_SANDBOX

        runtime = make_runtime(plugins={"10-a": PluginWith(configure=configure)})
        with pytest.raises(StartError, match=r"in-process plugin 10-a: .*no handler") as error:
            runtime.start()
        assert error.value.phase == "plugins"
        assert not runtime.started

    def test_a_failing_callback_fails_the_start(
        self, make_runtime: Start, socket_dir: Path
    ) -> None:
        def synchronize(sync: Any) -> None:
            raise ValueError("of the test")

        shut: list[str] = []
        plugin = PluginWith(shutdown=lambda: shut.append("shut"))
        runtime = make_runtime(synchronize=synchronize, plugins={"10-a": plugin})
        with pytest.raises(StartError, match="of the test") as error:
            runtime.start()
        assert error.value.phase == "synchronize"
        assert isinstance(error.value.__cause__, ValueError)
        assert shut == ["shut"]
        assert not (socket_dir / "nri.sock").exists()

    def test_without_a_socket(self, make_runtime: Start, socket_dir: Path) -> None:
        with make_runtime(socket_path=None) as runtime:
            stub = nri_sync.Stub(
                PluginWith(run_pod_sandbox=lambda pod: None), name="a", idx="10",
                socket_path=str(socket_dir / "nri.sock"),
            )  # fmt: skip
            with pytest.raises(StartError):
                stub.start(LONG)
            runtime.run_pod_sandbox(POD)

    def test_a_socket_with_another_listener_fails_the_start(self, make_runtime: Start) -> None:
        with make_runtime():
            with pytest.raises(StartError) as error:
                make_runtime().start()
            assert error.value.phase == "listen"

    def test_a_stop_from_within(self, make_runtime: Start) -> None:
        runtime: Any = None

        def synchronize(sync: Any) -> None:
            runtime.stop()

        runtime = make_runtime(synchronize=synchronize)
        with pytest.raises(RuntimeStopped, match="stopped meanwhile"):
            runtime.start()
        assert not runtime.started
